//! The other copies: streams to them, what is sent, what they answer, who is counted in and who is
//! left out.

use std::collections::VecDeque;
use std::sync::Arc;

use kvproto::command::Entry;
use kvproto::ids::{Member, OpNumber};
use kvproto::message::{Ack, Append, Body, Message, Opened};
use kvproto::rules::{Rule, keeps};
use kvproto::snapshot::SnapshotEnd;
use kvproto::time::Timestamp;
use kvproto::{Batch, StreamNumber};

use super::Primary;
use crate::journal::Work;
use crate::replica::Reads;
use crate::replica::copy::Copy;
use crate::replica::effect::{Effect, Notice};
use crate::replica::progress::{Amount, CopyProgress, Phase, Transfer};

/// Ends a copy's stream; returns the effect if one was open.
pub(super) fn close(
    copy: &mut Copy,
    member: &Member,
    progress: &mut CopyProgress,
    now: Timestamp,
) -> Option<Effect> {
    let stream = progress.stream;
    let was_open = progress.is_connected();
    if let Some(scan) = progress.close(now) {
        copy.store.end_scan(scan);
    }
    was_open.then(|| Effect::CloseStream { to: member.clone(), stream })
}

/// The log no longer has what a copy lacks: that is found out anew, or the copy is filled anew, on another
/// stream, since each carries one transfer and this one may have had it.
fn outrun(
    copy: &mut Copy,
    now: Timestamp,
    member: &Member,
    progress: &mut CopyProgress,
    out: &mut Vec<Effect>,
) {
    progress.outrun += 1;
    out.push(Effect::Notice(Notice::Outrun { copy: member.clone() }));
    out.extend(close(copy, member, progress, now));
}

impl Primary {
    pub(in crate::replica) fn on_stream_broken(
        &mut self,
        copy: &mut Copy,
        now: Timestamp,
        peer: &Member,
        stream: StreamNumber,
    ) {
        if let Some(progress) = self.copies.get_mut(peer)
            && progress.stream == stream
        {
            // Nothing is left to close: the effect says only what the shell has told us.
            let _ = close(copy, peer, progress, now);
        }
    }

    /// More of what was sent to a copy has arrived there (REP-9).
    pub(in crate::replica) fn on_confirmed(
        &mut self,
        now: Timestamp,
        peer: &Member,
        stream: StreamNumber,
    ) {
        if let Some(progress) = self.copies.get_mut(peer)
            && progress.stream == stream
            && progress.is_connected()
        {
            progress.note_arrived(now);
        }
    }

    /// After a pause of this server itself: neither copies nor sessions are to blame for it.
    pub(in crate::replica) fn forgive(&mut self, now: Timestamp) {
        self.copies.values_mut().for_each(|progress| progress.forgive(now));
        self.outdone_since = self.outdone_since.map(|_| now);
        self.slowness.values_mut().for_each(|slowness| slowness.forgive(now));
        self.proposed.1 = now;
        self.sessions.values_mut().for_each(|alive_at| *alive_at = now);
    }

    /// The first op that some copy still has to be sent.
    pub(in crate::replica) fn keep_from(&self) -> Option<OpNumber> {
        let needed = self.copies.values().filter_map(|progress| match &progress.phase {
            Phase::Transferring(transfer) => Some(transfer.at.op.next()),
            Phase::Streaming { next } => Some(*next),
            _ => None,
        });
        needed.min()
    }

    pub(in crate::replica) fn on_message(
        &mut self,
        copy: &mut Copy,
        now: Timestamp,
        message: Message,
        out: &mut Vec<Effect>,
    ) {
        // Answers on a stream that is over say nothing any more, also before the next one is open.
        let speaks = |progress: &CopyProgress| {
            let newest = progress.stream == message.stream || !keeps(Rule::NewestStreamCounts);
            newest && progress.is_connected()
        };
        if !self.copies.get(&message.from).is_some_and(speaks) {
            return;
        }
        match message.body {
            Body::Opened(opened) => self.on_opened(copy, now, &message.from, &opened),
            Body::Ack(ack) => self.on_ack(copy, now, &message.from, &ack, out),
            _ => {}
        }
    }

    /// Finds the common point, from which the log goes on; without one in the retained log only a
    /// full transfer helps.
    fn on_opened(&mut self, copy: &Copy, now: Timestamp, from: &Member, opened: &Opened) {
        let Some(progress) = self.copies.get_mut(from) else {
            return;
        };
        if !matches!(progress.phase, Phase::Opening) {
            return;
        }
        progress.recorded = progress.recorded.max(opened.recorded);
        let common = copy.log.common_point(opened);
        let usable = opened.complete && !progress.lacks_everything;
        // What is no longer in memory may still be on disk.
        let on_disk =
            copy.options.durable && common > OpNumber(0) && copy.log.position_at(common).is_some();
        let reachable = common >= copy.log.base().op || on_disk;
        // VIEW-7: a tail that was given up is set aside as a whole, not dropped like another epoch's.
        let last_epoch = opened.epochs.last().map(|start| start.epoch);
        let given_up = copy.options.durable
            && opened.last > common
            && last_epoch.is_some_and(|epoch| epoch.generation < self.epoch.generation);
        progress.phase = if usable && common >= opened.committed && reachable && !given_up {
            progress.held = common;
            Phase::Streaming { next: common.next() }
        } else {
            Phase::NeedsTransfer
        };
        progress.note_answer(now);
    }

    fn on_ack(
        &mut self,
        copy: &mut Copy,
        now: Timestamp,
        from: &Member,
        ack: &Ack,
        out: &mut Vec<Effect>,
    ) {
        let Some(progress) = self.copies.get_mut(from) else {
            return;
        };
        if ack.matched > copy.log.last().op || ack.nonce > progress.nonce_sent {
            let what = "an acknowledgement of what was never sent";
            out.push(Effect::Notice(Notice::Nonsense { from: from.clone(), what }));
            return;
        }
        progress.disk_full = ack.disk_full;
        progress.recorded = progress.recorded.max(ack.recorded);
        match &mut progress.phase {
            Phase::Transferring(transfer) => {
                if transfer.note_received(ack.chunks) {
                    progress.note_answer(now);
                } else if transfer.ended && ack.matched >= transfer.at.op {
                    progress.phase = Phase::Streaming { next: transfer.at.op.next() };
                    progress.note_acked(now, ack.matched, ack.nonce);
                }
            }
            Phase::Streaming { .. } => {
                progress.note_acked(now, ack.matched, ack.nonce);
                if ack.nonce > kvproto::Nonce(0) {
                    let sent_at = ack.sent_at.min(now);
                    let from = if keeps(Rule::LeaseFromSendTime) { sent_at } else { now };
                    progress.lease_from = progress.lease_from.max(Some(from));
                }
                if let Some(digest) = ack.digest {
                    self.on_digest(copy, now, from, ack.applied, digest, out);
                }
            }
            _ => {}
        }
    }

    /// Opens streams that are due, begins transfers that are allowed, and sends what the windows
    /// take. Nothing is sent before the barrier is safe: until then this epoch could vanish.
    pub(super) fn feed_copies(&mut self, copy: &mut Copy, now: Timestamp, out: &mut Vec<Effect>) {
        if copy.safe < self.barrier {
            return;
        }
        let acting = self.is_acting(copy);
        let mut copies = std::mem::take(&mut self.copies);
        let mut newest = Batch::default();
        for (member, progress) in &mut copies {
            let eligible =
                copy.view.eligible.contains(member) && keeps(Rule::FreeByTheNewestRecord);
            let counted_on = self.is_required(member) || eligible;
            let free = !counted_on || !keeps(Rule::FreeBeforeTransfer);
            match &progress.phase {
                Phase::Down { retry_at } if now >= *retry_at => {
                    copy.last_stream = copy.last_stream.next();
                    progress.open(now, copy.last_stream);
                    let (to, stream) = (member.clone(), progress.stream);
                    out.push(Effect::OpenStream { to, stream });
                    let open = Body::Open { began: copy.view.began };
                    out.push(copy.send(self.epoch, member.clone(), stream, open));
                }
                Phase::NeedsTransfer if free && acting => {
                    self.begin_transfer(copy, member, progress, out);
                }
                _ => {}
            }
            self.send_chunks(copy, now, member, progress, out);
            // Also right after the last chunk: the log may have gone on while they were sent.
            let behind =
                matches!(progress.phase, Phase::Streaming { next } if next <= copy.log.base().op);
            if behind && !copy.options.durable {
                outrun(copy, now, member, progress, out);
            }
            self.send_entries(copy, now, member, progress, &mut newest, out);
        }
        self.copies = copies;
    }

    fn begin_transfer(
        &self,
        copy: &mut Copy,
        member: &Member,
        progress: &mut CopyProgress,
        out: &mut Vec<Effect>,
    ) {
        let at = copy.log.position_at(copy.committed).expect("the epoch of a committed op is kept");
        let keys = copy.store.key_count() as u64;
        let digest = copy.store.digest();
        let scan = copy.store.begin_scan();
        progress.lacks_everything = false;
        let (sent, received, in_flight, ended) = (0, 0, VecDeque::new(), false);
        let transfer = Transfer { scan, at, digest, sent, received, in_flight, ended };
        progress.phase = Phase::Transferring(transfer);
        progress.sent.transfer = Some(Amount { count: keys, bytes: 0 });
        progress.waiting_since = None;
        out.push(Effect::Notice(Notice::TransferStarted { to: member.clone(), keys, at: at.op }));
        let start = Body::TransferStart { at, keys };
        out.push(copy.send(self.epoch, member.clone(), progress.stream, start));
    }

    /// Sends chunks as the window allows, and the end after the last one.
    fn send_chunks(
        &self,
        copy: &mut Copy,
        now: Timestamp,
        member: &Member,
        progress: &mut CopyProgress,
        out: &mut Vec<Effect>,
    ) {
        let (window, chunk_bytes) =
            (copy.options.tuning.chunks_in_flight, copy.options.tuning.chunk_bytes);
        let window_bytes =
            chunk_bytes.saturating_mul(usize::try_from(window).unwrap_or(usize::MAX));
        while let Phase::Transferring(transfer) = &mut progress.phase {
            if transfer.ended || transfer.is_full(window, window_bytes) {
                return;
            }
            progress.waiting_since.get_or_insert(now);
            if let Some(records) = copy.store.next_chunk(transfer.scan, chunk_bytes) {
                let number = transfer.note_sent(records.len());
                let amount = progress.sent.transfer.get_or_insert_default();
                amount.bytes += records.len() as u64;
                let chunk = Body::TransferChunk { number, records };
                out.push(copy.send(self.epoch, member.clone(), progress.stream, chunk));
                continue;
            }
            copy.store.end_scan(transfer.scan);
            transfer.ended = true;
            let end = SnapshotEnd {
                epochs: copy.log.epochs_through(transfer.at.op),
                log_time: copy.log_time,
                digest: transfer.digest,
                chunks: transfer.sent,
            };
            out.push(copy.send(
                self.epoch,
                member.clone(),
                progress.stream,
                Body::TransferEnd(end),
            ));
        }
    }

    fn send_entries(
        &mut self,
        copy: &Copy,
        now: Timestamp,
        member: &Member,
        progress: &mut CopyProgress,
        newest: &mut Batch,
        out: &mut Vec<Effect>,
    ) {
        let tuning = &copy.options.tuning;
        while let Phase::Streaming { next } = progress.phase {
            let (bytes, appends) = progress.in_flight();
            let full = bytes >= tuning.window_bytes || appends >= tuning.window_appends;
            if full || next > copy.log.last().op {
                return;
            }
            if next <= copy.log.base().op {
                if progress.reading.is_none() {
                    progress.reading = Some(next);
                    let bytes_max = tuning.batch_bytes as u64;
                    out.push(Effect::Journal(Work::Read { from: next, bytes_max }));
                }
                return;
            }
            // Copies in step get the very same batch, which is encoded once.
            if newest.first().is_none_or(|first| first.op() != next) {
                *newest = copy.log.from(next, tuning.batch_bytes).into();
            }
            self.send_append(copy, now, member, progress, newest.clone(), out);
        }
    }

    /// The journal had this of what some copies lack. If it has nothing any more, only a full transfer
    /// helps them.
    pub(in crate::replica) fn on_entries_read(
        &mut self,
        copy: &mut Copy,
        now: Timestamp,
        from: OpNumber,
        entries: Vec<Arc<Entry>>,
        out: &mut Vec<Effect>,
    ) {
        let entries: Batch = entries.into();
        let mut copies = std::mem::take(&mut self.copies);
        for (member, progress) in &mut copies {
            if progress.reading != Some(from) {
                continue;
            }
            progress.reading = None;
            if !matches!(progress.phase, Phase::Streaming { next } if next == from) {
                continue;
            }
            let same =
                |entry: &Arc<Entry>| copy.log.position_at(entry.op()) == Some(entry.position);
            if entries.first().is_some_and(|first| first.op() == from) && entries.iter().all(same) {
                self.send_append(copy, now, member, progress, entries.clone(), out);
            } else {
                progress.lacks_everything = true;
                progress.note_answer(now);
                outrun(copy, now, member, progress, out);
            }
        }
        self.copies = copies;
    }

    /// Sends the next entries, or with none a heartbeat.
    fn send_append(
        &mut self,
        copy: &Copy,
        now: Timestamp,
        member: &Member,
        progress: &mut CopyProgress,
        entries: Batch,
        out: &mut Vec<Effect>,
    ) {
        let Phase::Streaming { next } = progress.phase else {
            return;
        };
        let sent = OpNumber(next.0 - 1);
        // A heartbeat overtakes entries, so it names what the copy has, not what was sent.
        let overtakes = entries.is_empty() && keeps(Rule::HeartbeatNamesWhatIsHeld);
        let before = if overtakes { progress.held } else { sent };
        let previous = copy.log.position_at(before).expect("entries go out only from the kept log");
        let last = entries.last().map_or(sent, |entry| entry.op());
        let bytes = entries.iter().map(|entry| entry.weight()).sum();
        progress.sent.entries.count += entries.len() as u64;
        progress.sent.entries.bytes +=
            entries.iter().map(|entry| entry.command.payload() as u64).sum::<u64>();
        self.nonce = self.nonce.next();
        let append = Append {
            previous,
            want_digest: entries.is_empty(),
            entries,
            committed: copy.committed,
            log_time: self.log_time(copy, now),
            nonce: self.nonce,
            sent_at: now,
            lease: match copy.options.reads {
                Reads::Lease => copy.view.settings.lease,
                Reads::Confirm => std::time::Duration::ZERO,
            },
        };
        progress.phase = Phase::Streaming { next: last.next() };
        progress.note_sent(now, self.nonce, last, bytes);
        out.push(copy.send(self.epoch, member.clone(), progress.stream, Body::Append(append)));
    }

    /// Sends a heartbeat to every copy when one is due, to a copy whose digest is wanted, and to
    /// those whose confirmation a waiting read needs.
    pub(super) fn heartbeat(&mut self, copy: &mut Copy, now: Timestamp, out: &mut Vec<Effect>) {
        let interval = copy.view.settings.heartbeat_interval;
        let due = self.heartbeat_at.is_none_or(|at| now.since(at) >= interval);
        let mut copies = std::mem::take(&mut self.copies);
        for (member, progress) in &mut copies {
            let answered = progress.nonce_acked == progress.nonce_sent;
            let joining = progress.counted_from.is_some_and(|op| progress.verified < Some(op));
            let wanted = joining || self.wants_round_after(progress.nonce_sent);
            if progress.is_streaming() && (due || (answered && wanted)) {
                self.digests.ask(copy.committed, copy.store.digest());
                self.send_append(copy, now, member, progress, Batch::default(), out);
            }
        }
        self.copies = copies;
        if due {
            self.heartbeat_at = Some(now);
        }
    }
}
