//! What a primary knows of one other copy: its stream, how far it is, and what it leaves
//! unanswered. Decides nothing.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use kvproto::ids::{Nonce, OpNumber, Position, Revision, StreamNumber};
use kvproto::message::Digest;
use kvproto::rules::{Rule, keeps};
use kvproto::time::Timestamp;

use crate::store::ScanId;

/// First delay before a broken stream is opened again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(320);

/// Where the bringing up of a copy stands.
#[derive(Clone, Hash, Debug)]
pub enum Phase {
    /// No stream; the next one is opened at this moment.
    Down {
        /// When to try again.
        retry_at: Timestamp,
    },
    /// The stream is opened, and the copy has not yet said what it holds.
    Opening,
    /// The log alone cannot bring it up: it waits for a full transfer, or for being left out.
    NeedsTransfer,
    /// A full copy is on its way.
    Transferring(Transfer),
    /// Entries flow.
    Streaming {
        /// The next op to send.
        next: OpNumber,
    },
}

/// A full copy on its way.
#[derive(Clone, Hash, Debug)]
pub struct Transfer {
    /// The scan of the store.
    pub scan: ScanId,
    /// The op at which the copy is taken.
    pub at: Position,
    /// Digest of the store at that op.
    pub digest: Digest,
    /// Chunks sent.
    pub sent: u64,
    /// Chunks received by the copy.
    pub received: u64,
    /// Sizes of the chunks sent and not yet received.
    pub in_flight: VecDeque<usize>,
    /// The end was sent; entries flow once the copy has acknowledged the whole.
    pub ended: bool,
}

impl Transfer {
    /// A chunk goes out; returns its number.
    pub fn note_sent(&mut self, bytes: usize) -> u64 {
        self.sent += 1;
        self.in_flight.push_back(bytes);
        self.sent
    }

    /// The copy has received everything up to this chunk. Says whether that is news.
    pub fn note_received(&mut self, chunk: u64) -> bool {
        let news = (self.received + 1..=self.sent).contains(&chunk);
        while news && self.received < chunk {
            self.received += 1;
            self.in_flight.pop_front();
        }
        news
    }

    /// Whether as much is in flight as there should be. Bytes count, and not chunks alone: a chunk
    /// takes at least one record, however large that is.
    #[must_use]
    pub fn is_full(&self, chunks_max: u64, bytes_max: usize) -> bool {
        self.sent - self.received >= chunks_max || self.in_flight.iter().sum::<usize>() >= bytes_max
    }
}

/// Entries sent and not yet acknowledged.
#[derive(Clone, Hash, Debug)]
struct InFlight {
    last: OpNumber,
    bytes: usize,
    sent_at: Timestamp,
}

/// So many of something, and the bytes of their keys and values or of what carries them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// How much.
    pub bytes: u64,
}

/// What was sent to a copy since its stream was opened. For people: nothing is decided by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Keys of a full transfer, and what its chunks took.
    pub transfer: Option<Amount>,
    /// Entries of the log.
    pub entries: Amount,
}

impl Hash for Sent {
    /// States that differ only here are one state to whoever explores them.
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// One other copy.
#[derive(Clone, Hash, Debug)]
pub struct CopyProgress {
    /// The newest stream; answers on older ones do not count (REP-3).
    pub stream: StreamNumber,
    /// Where it stands.
    pub phase: Phase,
    /// Sent on the newest stream.
    pub sent: Sent,
    /// Acknowledged on the newest stream.
    pub matched: OpNumber,
    /// Through here the copy has the primary's log, whatever of it was acknowledged. What overtakes
    /// entries continues the log from here.
    pub held: OpNumber,
    /// Highest nonce sent and highest nonce acknowledged on the newest stream.
    pub nonce_sent: Nonce,
    /// See `nonce_sent`.
    pub nonce_acked: Nonce,
    /// Send time of the newest append acknowledged: the lease it granted counts from here.
    pub lease_from: Option<Timestamp>,
    /// When the oldest thing that the copy leaves unanswered began to wait, or when it last made
    /// progress. Outlives streams: only progress ends it.
    pub waiting_since: Option<Timestamp>,
    /// When the first stream was opened.
    pub met_at: Option<Timestamp>,
    /// When the newest stream was opened.
    pub opened_at: Timestamp,
    /// Newest op at which its digest equalled the primary's.
    pub verified: Option<OpNumber>,
    /// Committed op at the moment from which commits wait for this joining copy.
    pub counted_from: Option<OpNumber>,
    /// Only a full transfer makes it a copy again: its digest differed, or what it lacks is no longer
    /// in the journal.
    pub lacks_everything: bool,
    /// How often the log no longer had what it lacked.
    pub outrun: u32,
    /// What it lacks is asked for from the journal, from this op on: memory no longer has it.
    pub reading: Option<OpNumber>,
    /// Its disk is nearly full.
    pub disk_full: bool,
    /// The newest record that is safe there, as far as it has said so. It outlives streams.
    pub recorded: Revision,
    /// When the view service was last asked to count it in.
    pub synced_wished_at: Option<Timestamp>,
    /// When the view service was last asked to leave it out.
    pub evict_wished_at: Option<Timestamp>,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// How long the entries that were acknowledged last on this stream had been under way.
    took: Option<Duration>,
    retry_after: Duration,
}

impl CopyProgress {
    /// A copy that was just named in a view.
    #[must_use]
    pub fn new(now: Timestamp) -> CopyProgress {
        CopyProgress {
            stream: StreamNumber(0),
            phase: Phase::Down { retry_at: now },
            sent: Sent::default(),
            matched: OpNumber(0),
            held: OpNumber(0),
            nonce_sent: Nonce(0),
            nonce_acked: Nonce(0),
            lease_from: None,
            waiting_since: Some(now),
            met_at: None,
            opened_at: now,
            verified: None,
            counted_from: None,
            lacks_everything: false,
            outrun: 0,
            reading: None,
            disk_full: false,
            recorded: Revision(0),
            synced_wished_at: None,
            evict_wished_at: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            took: None,
            retry_after: RETRY_MIN,
        }
    }

    /// Whether entries flow.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        matches!(self.phase, Phase::Streaming { .. })
    }

    /// Whether a stream is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !matches!(self.phase, Phase::Down { .. })
    }

    /// Begins a stream: whatever was acknowledged on older ones no longer counts.
    pub fn open(&mut self, now: Timestamp, stream: StreamNumber) {
        self.stream = stream;
        self.opened_at = now;
        if self.met_at.is_none() {
            // What the primary itself took until now is not the copy's fault.
            self.met_at = Some(now);
            self.waiting_since = Some(now);
        }
        self.phase = Phase::Opening;
        self.sent = Sent::default();
        self.forget_answers();
    }

    /// Ends the stream. Returns the scan of a transfer that was under way.
    pub fn close(&mut self, now: Timestamp) -> Option<ScanId> {
        let down = Phase::Down { retry_at: now + self.retry_after };
        self.retry_after = (self.retry_after * 2).min(RETRY_MAX);
        self.waiting_since.get_or_insert(now);
        self.forget_answers();
        match std::mem::replace(&mut self.phase, down) {
            Phase::Transferring(transfer) => Some(transfer.scan),
            _ => None,
        }
    }

    fn forget_answers(&mut self) {
        self.matched = OpNumber(0);
        self.held = OpNumber(0);
        self.nonce_sent = Nonce(0);
        self.nonce_acked = Nonce(0);
        self.lease_from = None;
        self.verified = None;
        self.counted_from = None;
        self.reading = None;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.took = None;
    }

    /// Something was sent that wants an answer.
    pub fn note_sent(&mut self, now: Timestamp, nonce: Nonce, last: OpNumber, bytes: usize) {
        self.nonce_sent = nonce;
        if bytes > 0 {
            self.in_flight.push_back(InFlight { last, bytes, sent_at: now });
            self.in_flight_bytes += bytes;
        }
        self.waiting_since.get_or_insert(now);
    }

    /// The copy acknowledged entries and nonces. Waiting ends when nothing is left unanswered, and
    /// begins anew when there was progress: ops made safe, or while none is owed an answered heartbeat.
    pub fn note_acked(&mut self, now: Timestamp, matched: OpNumber, nonce: Nonce) {
        let (more, answered) = (matched > self.matched, nonce > self.nonce_acked);
        self.matched = self.matched.max(matched);
        self.held = self.held.max(matched);
        self.nonce_acked = self.nonce_acked.max(nonce);
        while self.in_flight.front().is_some_and(|sent| sent.last <= self.matched) {
            if let Some(sent) = self.in_flight.pop_front() {
                self.in_flight_bytes -= sent.bytes;
                self.took = Some(now.since(sent.sent_at));
            }
        }
        let owed_since = self.in_flight.front().map(|sent| sent.sent_at);
        if more || answered && (owed_since.is_none() || !keeps(Rule::HeartbeatIsNoProgress)) {
            self.note_answer(now);
        } else if answered {
            // It lives, but stands still since these entries went out.
            self.waiting_since = self.waiting_since.max(owed_since);
        }
    }

    /// More of what was sent has arrived at the copy, which proves nothing but that it goes on.
    pub fn note_arrived(&mut self, now: Timestamp) {
        if !keeps(Rule::PieceIsNoAck) {
            self.matched = self.in_flight.back().map_or(self.matched, |sent| sent.last);
        }
        if self.waiting_since.is_some() && keeps(Rule::ProgressIsBytes) {
            self.waiting_since = Some(now);
        }
    }

    /// The copy answered something.
    pub fn note_answer(&mut self, now: Timestamp) {
        self.retry_after = RETRY_MIN;
        let unanswered = match &self.phase {
            Phase::Transferring(transfer) => transfer.ended || transfer.sent > transfer.received,
            _ => !self.in_flight.is_empty() || self.nonce_sent > self.nonce_acked,
        };
        self.waiting_since = unanswered.then_some(now);
    }

    /// Bytes and appends in flight.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        (self.in_flight_bytes, self.in_flight.len())
    }

    /// How long the copy has left something unanswered.
    #[must_use]
    pub fn silent_for(&self, now: Timestamp) -> Duration {
        self.waiting_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Whether it was sent entries that it has not acknowledged.
    #[must_use]
    pub fn owes_entries(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether it acknowledges within this time what it is sent, as far as it was seen.
    #[must_use]
    pub fn is_within(&self, now: Timestamp, time: Duration) -> bool {
        let oldest = self.in_flight.front().map_or(Duration::ZERO, |sent| now.since(sent.sent_at));
        self.took.is_some_and(|took| took.max(oldest) <= time)
    }

    /// Counts all waiting from now.
    pub fn forgive(&mut self, now: Timestamp) {
        self.waiting_since = self.waiting_since.map(|_| now);
        self.met_at = self.met_at.map(|_| now);
        self.in_flight.iter_mut().for_each(|sent| sent.sent_at = now);
    }
}

/// How much a copy has kept commits waiting of late, while it made no progress. A little is forgiven
/// as time passes; who takes more is slow, also if each silence of it is short.
#[derive(Clone, Hash, Debug)]
pub struct Slowness {
    debt: Duration,
    judged_at: Timestamp,
}

/// So many times longer than it stood still a copy must go on for that to be forgotten.
const FORGIVEN: u32 = 10;

impl Slowness {
    /// Of a copy that has done nothing wrong.
    #[must_use]
    pub fn none(now: Timestamp) -> Slowness {
        Slowness { debt: Duration::ZERO, judged_at: now }
    }

    /// Time has passed, and the copy has made no progress since this moment with what it owes. Nobody
    /// minds as much as a fifth of `patience` at a time; the debt is never more than `patience`.
    pub fn judge(&mut self, now: Timestamp, owing_since: Option<Timestamp>, patience: Duration) {
        let stalled = owing_since
            .map_or(Duration::ZERO, |since| now.since(self.judged_at.max(since + grain(patience))));
        let forgiven = now.since(self.judged_at) / FORGIVEN;
        self.debt = (self.debt + stalled).saturating_sub(forgiven).min(patience);
        self.judged_at = now;
    }

    /// Whether all is forgiven.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.debt.is_zero()
    }

    /// Whether commits have waited for it too long.
    #[must_use]
    pub fn is_too_much(&self, patience: Duration) -> bool {
        self.debt >= patience
    }

    /// Whether commits had better not wait for it yet.
    #[must_use]
    pub fn is_doubtful(&self, patience: Duration) -> bool {
        self.debt > patience / 2
    }

    /// After a pause of the primary itself.
    pub fn forgive(&mut self, now: Timestamp) {
        self.judged_at = now;
    }
}

/// A copy that takes no longer than this for an answer is not slow.
#[must_use]
pub fn grain(patience: Duration) -> Duration {
    patience / 5
}
