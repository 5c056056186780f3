//! The replicated state: a deterministic function of the committed log. Pure, but for [`items`], the
//! table that readers share, whose random seed nobody can see: no I/O, clock, hash order or async.
//!
//! Owns the keys, the sessions with their remembered answers, the rolling digest of both, and the
//! scans that copy them. Never decides what is committed or who may ask. Others hold a handle of the
//! table: they see every write as it is made. Its caller applies each committed entry once, in order of op numbers, and accepts no entry into the log whose log time
//! lies before that of the entry in front of it.
//!
//! Keeps (docs/protocol.md):
//! - **ExactlyOnce**: a request is performed once, and its first answer is kept until its client
//!   gives it up or its session ends.
//! - **AnswersTravelWithData**: answers are recorded in the op that has the effect, count in the
//!   digest, and are part of every copy.
//! - **AllOrNone**: an op on several keys makes all its changes or none; a refused op changes no
//!   key.
//! - **VersionsAreNeverReused**: a version names the op of the change, in its generation.
//! - **TimeNeverFalls**: log time does not fall from one op to the next.
//! - **EqualStatesEqualDigests**: whatever the history, transfers included.
//! - **CopyAtOneOp**: a scan yields the state at the op at which it began.

mod growth;
pub mod item;
pub mod items;
mod keys;
mod names;
mod scan;
mod sessions;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use kvproto::command::{Command, Entry, Outcome, Query, Record, Refusal, RequestId};
use kvproto::convert::{Malformed, StateRecord, records};
use kvproto::ids::{OpNumber, Position, SessionId, Version};
use kvproto::message::Digest;
use kvproto::settings::Settings;
use kvproto::time::LogTime;

pub use item::Item;
pub use items::Items;
use keys::{Keys, Write};
pub use scan::ScanId;
use scan::Scans;
use sessions::Sessions;

/// Room for at most so many keys is made on another copy's word: some 150 MB.
const KEYS_RESERVED_MAX: u64 = 8 << 20;

/// Limits that ops meet when they are applied. All copies must have the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StoreLimits {
    /// Largest value in bytes, the result of an append included.
    pub value_size_max: u64,
    /// Most sessions open at once.
    pub sessions_max: u64,
}

impl From<&Settings> for StoreLimits {
    fn from(settings: &Settings) -> Self {
        StoreLimits { value_size_max: settings.value_size_max, sessions_max: settings.sessions_max }
    }
}

/// The replicated state of one copy.
#[derive(Clone, Hash, Debug)]
pub struct Store {
    limits: StoreLimits,
    keys: Keys,
    sessions: Sessions,
    scans: Scans,
    /// The last op applied here, 0 before the first; a store filled by a transfer starts at 0 too.
    applied: OpNumber,
    /// The highest log time applied here.
    log_time: LogTime,
}

impl Store {
    /// An empty store. What is in the table goes, and from now on only this store writes it.
    #[must_use]
    pub fn new(limits: StoreLimits, items: Items) -> Store {
        Store {
            limits,
            keys: Keys::new(items),
            sessions: Sessions::default(),
            scans: Scans::default(),
            applied: OpNumber(0),
            log_time: LogTime::default(),
        }
    }

    /// Forgets everything and begins anew with these limits. The table stays the same one: whoever
    /// reads it finds nothing any more.
    pub fn clear(&mut self, limits: StoreLimits) {
        *self = Store::new(limits, self.keys.items().clone());
    }

    /// Meets these limits from now on. All copies must do so at the same op.
    pub fn set_limits(&mut self, limits: StoreLimits) {
        self.limits = limits;
    }

    /// Applies the next committed entry and says what it did. Every entry has an outcome; one that
    /// is refused changes no key and ends no session.
    ///
    /// # Panics
    /// If the op is not after the last one applied, or its log time is before that of the last one:
    /// then the log itself is broken.
    pub fn apply(&mut self, entry: &Entry) -> Outcome {
        assert!(entry.op() > self.applied, "op {} after op {}", entry.op(), self.applied);
        assert!(
            entry.at >= self.log_time,
            "TimeNeverFalls: op {} at {:?} after {:?}",
            entry.op(),
            entry.at,
            self.log_time
        );
        self.applied = entry.op();
        self.log_time = entry.at;
        let Some(id) = &entry.id else {
            return self.perform(entry.position, &entry.command);
        };
        if let Some(outcome) = self.sessions.decide(id, &entry.command) {
            return outcome;
        }
        self.scans.before_session(id.session, &self.sessions);
        let outcome = self.perform(entry.position, &entry.command);
        self.sessions.record(id, &entry.command, &outcome);
        outcome
    }

    fn perform(&mut self, position: Position, command: &Command) -> Outcome {
        let version = Version::of_change_at(position.epoch.generation, position.op);
        let value_size_max = self.limits.value_size_max;
        match command {
            Command::Barrier(_) => Outcome::Barrier,
            Command::Change(change) => match self.keys.plan_one(change, version, value_size_max) {
                Ok((write, changed)) => {
                    self.write(write);
                    Outcome::Changed(changed)
                }
                Err(refusal) => Outcome::Refused(refusal),
            },
            Command::Batch(changes) => match self.keys.plan(changes, version, value_size_max) {
                Ok((writes, changed)) => {
                    writes.into_iter().for_each(|write| self.write(write));
                    Outcome::BatchChanged(changed)
                }
                Err(refusal) => Outcome::Refused(refusal),
            },
            Command::OpenSession => self.open_session(position),
            Command::CloseSession(id) | Command::ExpireSession(id) => {
                self.scans.before_session(*id, &self.sessions);
                Outcome::SessionClosed { existed: self.sessions.close(*id) }
            }
        }
    }

    fn write(&mut self, write: Write<'_>) {
        match write {
            Write::Set(key, item) => {
                let old = self.keys.set(key, item);
                self.scans.written(key, old.as_ref());
            }
            Write::Remove(key) => {
                if let Some(old) = self.keys.remove(key) {
                    self.scans.written(key, Some(&old));
                }
            }
        }
    }

    fn open_session(&mut self, at: Position) -> Outcome {
        let sessions_max = self.limits.sessions_max;
        if self.sessions.len() as u64 >= sessions_max {
            return Outcome::Refused(Refusal::TooManySessions { sessions_max });
        }
        let id = SessionId::allocated_at(at.epoch.generation, at.op);
        self.scans.before_session(id, &self.sessions);
        self.sessions.open(id);
        Outcome::SessionOpened(id)
    }

    /// Answers a question about the state as it is now, between two ops.
    #[must_use]
    pub fn query(&self, query: &Query) -> Vec<Option<Record>> {
        let Query::Get(keys) = query;
        keys.iter().map(|key| self.keys.get(key).map(Item::into_record)).collect()
    }

    /// What a repeated request was answered, or that its number was used for another command.
    /// `None` when the table has no record of the number: then it must be ordered, and `apply`
    /// decides.
    #[must_use]
    pub fn remembered(&self, id: &RequestId, command: &Command) -> Option<Outcome> {
        self.sessions.remembered(id, command)
    }

    /// All sessions, in the order in which they were opened.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.ids()
    }

    /// Whether a session exists.
    #[must_use]
    pub fn has_session(&self, id: SessionId) -> bool {
        self.sessions.get(id).is_some()
    }

    /// Sessions that exist.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Keys that exist.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The digest of keys, sessions and answers. That of an empty store is zero.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.keys.rolling().with(self.sessions.rolling())
    }

    /// Memory that the state takes, by estimate: items with their shares of the table and of the set of
    /// names, sessions with their answers, and what running scans have saved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.keys.bytes() + self.sessions.bytes() + self.scans.bytes()
    }

    /// The highest log time applied here; zero in a store that was only filled by a transfer.
    #[must_use]
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// Begins a copy of the state as it is now. It costs memory for what is written meanwhile,
    /// until it has finished or [`end_scan`](Self::end_scan) gives it up.
    pub fn begin_scan(&mut self) -> ScanId {
        self.scans.begin()
    }

    /// The next records of a copy, as [`records`] reads them: at least one, and more up to
    /// `bytes_max` in all. `None` when the copy is complete, or was given up.
    pub fn next_chunk(&mut self, scan: ScanId, bytes_max: usize) -> Option<Bytes> {
        self.scans.next_chunk(scan, bytes_max, &self.keys, &self.sessions)
    }

    /// Gives up a copy. Does nothing for one that has finished.
    pub fn end_scan(&mut self, scan: ScanId) {
        self.scans.end(scan);
    }

    /// Makes room for so many keys, which [`install`](Self::install) will bring.
    pub fn reserve(&mut self, keys: u64) {
        let keys = keys.min(KEYS_RESERVED_MAX);
        self.keys.items().reserve(usize::try_from(keys).unwrap_or(usize::MAX));
    }

    /// Adds records that another copy's scan yielded to a store that began empty. What makes no
    /// sense as state shows in the digest.
    ///
    /// # Errors
    /// If the bytes are no records. The store is then worth nothing.
    ///
    /// # Panics
    /// If ops were applied or a scan is running: a store is filled before it is used.
    pub fn install(&mut self, chunk: &[u8]) -> Result<(), Malformed> {
        assert!(
            self.applied == OpNumber(0) && self.scans.is_empty(),
            "a store is filled before it is used"
        );
        let key = |record| match record {
            Ok(StateRecord::Key { key, .. }) => Some(key),
            _ => None,
        };
        self.keys.items().fetch(&records(chunk).filter_map(key).collect::<Vec<_>>());
        for record in records(chunk) {
            match record? {
                StateRecord::Key { key, value, version } => {
                    self.keys.set(key, Item::new(key, value, version));
                }
                StateRecord::Session(session) => self.sessions.install(session),
            }
        }
        Ok(())
    }

    /// Every item, in key order.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        self.keys.iter()
    }

    /// Checks that the parts of the state agree with each other. Cheap in release builds; with
    /// debug assertions small stores are checked from the ground up.
    ///
    /// # Panics
    /// If an invariant does not hold.
    pub fn check_invariants(&self) {
        if self.key_count() == 0 && self.session_count() == 0 {
            assert_eq!(self.digest(), Digest::default(), "EqualStatesEqualDigests: empty");
        }
        // Larger stores are left to the comparison between copies, or every step of a long test
        // would walk all the data.
        let small = self.key_count() + self.session_count() <= 1000;
        if cfg!(debug_assertions) && small {
            let (keys, sessions) = (self.keys.recomputed(), self.sessions.recomputed());
            assert_eq!(
                self.digest(),
                keys.0.with(sessions.0),
                "EqualStatesEqualDigests: the rolling digest has drifted"
            );
            assert_eq!((self.keys.bytes(), self.sessions.bytes()), (keys.1, sessions.1), "memory");
            assert!(self.sessions.windows_hold(), "ExactlyOnce: an answer outside its window");
        }
    }
}
