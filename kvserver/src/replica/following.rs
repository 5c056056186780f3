//! A copy under a primary: it accepts one stream at a time, matches its log with the primary's,
//! acknowledges what is matched and safe, applies what is committed, and takes full transfers.
//!
//! Keeps OnlyMatchedCounts and CommittedIsKept. It never truncates by itself: an old tail goes
//! when an entry of the primary takes its place (REP-7). Its caller has refused older epochs and
//! makes a new `Following` for each newer one.

use std::sync::Arc;

use bytes::Bytes;
use kvproto::command::Entry;
use kvproto::ids::{Member, Nonce, OpNumber, Position, StreamNumber};
use kvproto::message::{Ack, Append, Body, Message, Opened};
use kvproto::rules::{Rule, keeps};
use kvproto::snapshot::SnapshotEnd;
use kvproto::time::Timestamp;

use super::broken;
use super::copy::Copy;
use super::effect::{Effect, Notice};
use crate::journal::Work;

/// What a copy knows of the primary of its epoch.
#[derive(Clone, Hash, Debug, Default)]
pub struct Following {
    /// The open stream; only a higher number replaces it (REP-3).
    stream: StreamNumber,
    primary: Member,
    /// Everything through here equals the primary's log, and is never dropped in this epoch.
    matched: OpNumber,
    /// Highest nonce of the open stream, and the send time that came with it.
    nonce: Nonce,
    sent_at: Timestamp,
    /// Entries were appended whose acknowledgement waits for the journal.
    ack_owed: bool,
    receiving: Option<Receiving>,
    /// A transfer has begun on the open stream. There is never a second: a repeated start must not
    /// empty a copy that has been counted in since.
    filled: bool,
    /// Chunks of the last transfer received, and of them those that the journal has.
    chunks: u64,
    chunks_written: u64,
}

/// A transfer under way.
#[derive(Clone, Hash, Debug)]
struct Receiving {
    at: Position,
    began_at: Timestamp,
}

impl Following {
    /// Takes a message of the present epoch from its primary.
    pub(super) fn on_message(
        &mut self,
        copy: &mut Copy,
        now: Timestamp,
        message: Message,
        out: &mut Vec<Effect>,
    ) {
        if let Body::Open = message.body {
            if message.stream > self.stream || !keeps(Rule::NewestStreamCounts) {
                self.open(copy, message.from, message.stream, out);
            }
            return;
        }
        let open = message.stream == self.stream || !keeps(Rule::NewestStreamCounts);
        if !open || message.from != self.primary {
            return;
        }
        let done = match message.body {
            Body::Append(append) => self.append(copy, now, append, out),
            Body::TransferStart { at, keys } => self.begin_transfer(copy, now, at, keys, out),
            Body::TransferChunk { number, records } => self.receive(copy, number, &records, out),
            Body::TransferEnd(end) => self.end_transfer(copy, now, end, out),
            _ => Ok(()),
        };
        if let Err(what) = done {
            // The primary hears nothing, and opens a new stream when its patience ends.
            out.push(Effect::Notice(Notice::Nonsense { from: message.from, what }));
        }
    }

    fn open(
        &mut self,
        copy: &mut Copy,
        primary: Member,
        stream: StreamNumber,
        out: &mut Vec<Effect>,
    ) {
        if !keeps(Rule::PrimaryDropsTails) {
            copy.drop_after(copy.committed, out);
        }
        if !keeps(Rule::AppliedOnce) {
            broken::forget_last_applied(copy);
        }
        self.stream = stream;
        self.primary = primary;
        self.nonce = Nonce(0);
        self.sent_at = Timestamp::default();
        self.receiving = None;
        self.filled = false;
        self.ack_owed = false;
        let opened = Opened {
            epochs: copy.log.epochs().to_vec(),
            last: copy.log.last().op,
            committed: copy.committed,
            complete: copy.complete,
        };
        self.answer(copy, Body::Opened(opened), out);
    }

    fn append(
        &mut self,
        copy: &mut Copy,
        now: Timestamp,
        append: Append,
        out: &mut Vec<Effect>,
    ) -> Result<(), &'static str> {
        if !copy.complete {
            return Err("entries for a copy that is not complete");
        }
        let held = copy.log.position_at(append.previous.op);
        let matches = held == Some(append.previous);
        if !matches && (held.is_none() || keeps(Rule::PreviousIsMatched)) {
            return Err("entries that do not continue this log");
        }
        let mut through = append.previous;
        for entry in append.entries.iter() {
            let epochs = through.epoch..=copy.epoch;
            if entry.op() != through.op.next() || !epochs.contains(&entry.position.epoch) {
                return Err("entries out of order");
            }
            through = entry.position;
        }
        let fresh = self.take_place(copy, &append.entries, out)?;
        let appended = !fresh.is_empty();
        copy.append(fresh, out);
        self.matched = self.matched.max(through.op);
        if keeps(Rule::HeartbeatsCarryLogTime) {
            copy.log_time = copy.log_time.max(append.log_time);
        }
        let matched = self.counts_as_matched(copy);
        let committed =
            if keeps(Rule::AppliedIsCommitted) { append.committed } else { copy.log.last().op };
        copy.commit(committed.min(matched), |_, _| {});
        if !append.lease.is_zero() {
            copy.promises.promise(&self.primary, copy.epoch, now + append.lease);
        }
        self.nonce = self.nonce.max(append.nonce);
        self.sent_at = self.sent_at.max(append.sent_at);
        if appended {
            self.ack_owed = true;
        } else {
            let digest = append.want_digest.then(|| copy.store.digest());
            self.acknowledge(copy, digest, out);
        }
        Ok(())
    }

    /// Skips entries that this log holds already, drops an old tail where the primary's differ, and
    /// returns those to append.
    fn take_place(
        &mut self,
        copy: &mut Copy,
        entries: &[Arc<Entry>],
        out: &mut Vec<Effect>,
    ) -> Result<Vec<Arc<Entry>>, &'static str> {
        let held = entries
            .iter()
            .take_while(|entry| copy.log.position_at(entry.op()) == Some(entry.position))
            .take_while(|_| keeps(Rule::MatchedIsNotDropped))
            .count();
        let fresh = &entries[held..];
        let Some(first) = fresh.first() else {
            return Ok(Vec::new());
        };
        let keep = OpNumber(first.op().0 - 1);
        let dropped = keep < self.matched && keeps(Rule::MatchedIsNotDropped);
        if keep < copy.committed || dropped {
            return Err(
                "entries that contradict committed ones: this copy or the primary is wrong",
            );
        }
        let mut at = copy.log.get(keep).map_or(copy.store.log_time(), |entry| entry.at);
        for entry in fresh {
            if entry.at < at {
                return Err("entries whose log time falls");
            }
            at = entry.at;
        }
        if let Some((first, last)) = copy.drop_after(keep, out) {
            out.push(Effect::Notice(Notice::TailDropped { first, last }));
        }
        Ok(fresh.to_vec())
    }

    /// Whether the journal has not taken all chunks of the transfer under way.
    pub(super) fn owes_chunks(&self) -> bool {
        self.receiving.is_some() && self.chunks_written < self.chunks
    }

    /// Chunks of a transfer received under this primary.
    pub(super) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Acknowledges what has become safe since entries were appended.
    pub(super) fn acknowledge_safe(&mut self, copy: &Copy, out: &mut Vec<Effect>) {
        if self.ack_owed && copy.adopted >= copy.epoch {
            self.ack_owed = copy.safe < self.matched;
            self.acknowledge(copy, None, out);
        }
    }

    /// Acknowledges chunks of a transfer that the journal has taken: the primary sends no faster
    /// than they are written.
    pub(super) fn acknowledge_chunks(&mut self, copy: &Copy, written: u64, out: &mut Vec<Effect>) {
        if self.receiving.is_some() {
            self.chunks_written = written.min(self.chunks);
            self.acknowledge(copy, None, out);
        }
    }

    fn acknowledge(&mut self, copy: &Copy, digest: Option<kvproto::Digest>, out: &mut Vec<Effect>) {
        if copy.adopted < copy.epoch {
            self.ack_owed = true;
            return;
        }
        let safe = if keeps(Rule::AckWaitsForJournal) { copy.safe } else { copy.log.last().op };
        let ack = Ack {
            matched: self.counts_as_matched(copy).min(safe),
            applied: copy.committed,
            nonce: self.nonce,
            sent_at: self.sent_at,
            digest,
            chunks: self.chunks_written,
            disk_full: copy.disk_full(),
        };
        self.answer(copy, Body::Ack(ack), out);
    }

    /// What may be acknowledged and applied.
    fn counts_as_matched(&self, copy: &Copy) -> OpNumber {
        if keeps(Rule::OnlyMatchedCounts) { self.matched } else { copy.log.last().op }
    }

    fn answer(&self, copy: &Copy, body: Body, out: &mut Vec<Effect>) {
        out.push(copy.send(copy.epoch, self.primary.clone(), self.stream, body));
    }

    fn begin_transfer(
        &mut self,
        copy: &mut Copy,
        now: Timestamp,
        at: Position,
        keys: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), &'static str> {
        if std::mem::replace(&mut self.filled, true) {
            return Err("a second transfer on one stream");
        }
        copy.become_empty(out);
        // Hardly any takes less than a hundred bytes, so more would not fit.
        copy.store.reserve(keys.min(copy.options.tuning.data_max / 100));
        copy.complete = false;
        self.matched = OpNumber(0);
        self.chunks = 0;
        self.chunks_written = 0;
        self.receiving = Some(Receiving { at, began_at: now });
        out.push(Effect::Journal(Work::BeginSnapshot { at, keys }));
        Ok(())
    }

    fn receive(
        &mut self,
        copy: &mut Copy,
        number: u64,
        records: &Bytes,
        out: &mut Vec<Effect>,
    ) -> Result<(), &'static str> {
        if self.receiving.is_none() || number != self.chunks + 1 {
            return Err("a chunk out of order");
        }
        if let Err(malformed) = copy.store.install(records) {
            self.receiving = None;
            return Err(malformed.what);
        }
        self.chunks = number;
        out.push(Effect::Journal(Work::SnapshotChunk(records.clone())));
        Ok(())
    }

    fn end_transfer(
        &mut self,
        copy: &mut Copy,
        now: Timestamp,
        end: SnapshotEnd,
        out: &mut Vec<Effect>,
    ) -> Result<(), &'static str> {
        let Some(receiving) = self.receiving.take() else {
            return Err("the end of no transfer");
        };
        if end.chunks != self.chunks || end.digest != copy.store.digest() {
            return Err("a transfer that does not add up");
        }
        out.push(Effect::Journal(Work::EndSnapshot(end.clone())));
        copy.begin_at(receiving.at, end.epochs, out);
        if copy.log.position_at(receiving.at.op) != Some(receiving.at) {
            return Err("a transfer whose epochs do not lead to its op");
        }
        copy.complete = true;
        copy.log_time = copy.log_time.max(end.log_time);
        self.matched = receiving.at.op;
        out.push(Effect::Notice(Notice::TransferReceived {
            keys: copy.store.key_count() as u64,
            at: receiving.at.op,
            took: now.since(receiving.began_at),
        }));
        self.ack_owed = true;
        Ok(())
    }
}
