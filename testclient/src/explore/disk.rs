//! What a server's journal has on disk, as it outlives the server. Pure.

use std::sync::Arc;

use bytes::Bytes;
use kvproto::command::Entry;
use kvproto::snapshot::SnapshotEnd;
use kvproto::{Epoch, OpNumber, Position, Settings, StorageId, View};
use kvserver::journal::{Completion, Work};
use kvserver::replica::recovery::Recovered;
use kvserver::store::{Items, StoreLimits};

/// A log on disk, and a state that may become the beginning of the next one.
#[derive(Clone, Hash, Default, Debug)]
pub struct Disk {
    adopted: Epoch,
    record: Option<Box<View>>,
    begins: Option<Snapshot>,
    log: Vec<Arc<Entry>>,
    committed: OpNumber,
    /// The log was reset, and the next one has not begun.
    is_over: bool,
    receiving: Option<Snapshot>,
}

#[derive(Clone, Hash, Debug)]
struct Snapshot {
    at: Position,
    chunks: Vec<Bytes>,
    end: Option<SnapshotEnd>,
}

/// What is said when this work is done, if anything.
pub(super) fn completion(work: &Work) -> Option<Completion> {
    match work {
        Work::Append(entries) => entries.last().map(|entry| Completion::Safe(entry.position)),
        Work::Reset { base } => Some(Completion::Safe(*base)),
        Work::Adopt(epoch) => Some(Completion::Adopted(*epoch)),
        Work::Record(record) => Some(Completion::Recorded(record.order())),
        Work::SnapshotChunk(_) => Some(Completion::ChunksWritten(u64::MAX)),
        _ => None,
    }
}

impl Disk {
    /// The newest record of the view service.
    pub(super) fn record(&self) -> Option<&View> {
        self.record.as_deref()
    }

    /// The work is done.
    pub(super) fn take(&mut self, work: &Work) {
        match work {
            Work::Adopt(epoch) => self.adopted = *epoch,
            Work::Record(record) => self.record = Some(record.clone()),
            Work::Append(entries) => {
                if std::mem::take(&mut self.is_over) {
                    (self.begins, self.log) = (None, Vec::new());
                    self.committed = OpNumber(0);
                }
                self.log.extend(entries.iter().cloned());
            }
            Work::Truncate { after } => self.log.retain(|entry| entry.op() <= *after),
            Work::Committed { through } => self.committed = *through,
            Work::Reset { base } if base.op == OpNumber(0) => self.is_over = true,
            Work::Reset { base } => {
                let whole = self.receiving.take();
                let whole = whole.filter(|it| it.at == *base && it.end.is_some());
                self.begins = Some(whole.expect("a log begins after a whole snapshot"));
                self.log.clear();
                self.committed = base.op;
                self.is_over = false;
            }
            Work::BeginSnapshot { at, .. } => {
                self.receiving = Some(Snapshot { at: *at, chunks: Vec::new(), end: None });
            }
            Work::SnapshotChunk(records) => {
                if let Some(receiving) = &mut self.receiving {
                    receiving.chunks.push(records.clone());
                }
            }
            Work::EndSnapshot(end) => {
                if let Some(receiving) = &mut self.receiving {
                    receiving.end = Some(end.clone());
                }
            }
            Work::Read { .. } => {}
        }
    }

    /// Entries from this op on, if the log goes back so far: one, since batches are small.
    pub(super) fn read(&self, from: OpNumber) -> Completion {
        let found = self.log.iter().filter(|entry| entry.op() == from && !self.is_over);
        Completion::Read { from, entries: Ok(found.cloned().collect()) }
    }

    /// The server that wrote this is gone: what was not whole is of no use.
    pub(super) fn is_left(&mut self) {
        self.receiving = None;
        self.is_over = false;
    }

    /// What the next life finds.
    pub(super) fn recovered(&self, settings: &Settings, retain_bytes: usize) -> Recovered {
        let sound = "what was written can be read";
        let limits = StoreLimits::from(settings);
        let mut recovered = Recovered::new(limits, Items::default(), retain_bytes);
        recovered.adopt(self.adopted);
        self.record.iter().for_each(|record| recovered.recorded(record));
        if let Some(Snapshot { at, chunks, end: Some(end) }) = &self.begins {
            chunks.iter().for_each(|records| recovered.install(records).expect(sound));
            recovered.end_snapshot(*at, end).expect(sound);
        }
        recovered.append(self.log.iter().cloned()).expect(sound);
        recovered.commit(self.committed);
        recovered
    }
}

/// The identity of a server's disk.
pub(super) fn storage(server: usize) -> StorageId {
    StorageId([u8::try_from(server).expect("few servers"); 16])
}
