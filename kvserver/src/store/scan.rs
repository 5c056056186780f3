//! A copy of the store at one op number, taken in small steps while writes go on. Pure.
//!
//! A scan walks the sessions, then the keys in key order. A write to something that it has not yet
//! reached first saves the old state for it, or that there was none (CopyAtOneOp). Sessions come
//! first because nearly every op touches one: early on, there is little to save. What is saved are
//! references to values, not copies; it is bounded by what is written during the scan, and given
//! back as the scan passes it. Whoever begins a scan and gives it up must end it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kvproto::command::Record;
use kvproto::ids::SessionId;
use kvproto::message::{SessionRecord, StateRecord};
use kvproto::rules::{Rule, keeps};

use super::keys::Keys;
use super::sessions::{Session, Sessions};

/// Names a running scan of one store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ScanId(u64);

/// The running scans of a store.
#[derive(Clone, Hash, Default, Debug)]
pub(super) struct Scans {
    begun: u64,
    running: BTreeMap<ScanId, Scan>,
}

impl Scans {
    pub(super) fn begin(&mut self) -> ScanId {
        self.begun += 1;
        let id = ScanId(self.begun);
        self.running.insert(id, Scan::default());
        id
    }

    pub(super) fn end(&mut self, id: ScanId) {
        self.running.remove(&id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// To be called before a key is written.
    pub(super) fn before_write(&mut self, key: &Bytes, keys: &Keys) {
        for scan in self.running.values_mut().filter(|scan| scan.has_ahead(key)) {
            if !scan.saved_keys.contains_key(key) {
                scan.saved_keys.insert(key.clone(), keys.get(key).cloned());
            }
        }
    }

    /// To be called before a session is opened, changed or dropped.
    pub(super) fn before_session(&mut self, id: SessionId, sessions: &Sessions) {
        for scan in self.running.values_mut().filter(|scan| scan.has_session_ahead(id)) {
            scan.saved_sessions.entry(id).or_insert_with(|| sessions.get(id).cloned());
        }
    }

    /// The next records of a scan: at least one, and more up to `bytes_max` in all. `None` when the
    /// scan has finished or was ended; it is forgotten then.
    pub(super) fn next_chunk(
        &mut self,
        id: ScanId,
        bytes_max: usize,
        keys: &Keys,
        sessions: &Sessions,
    ) -> Option<Vec<StateRecord>> {
        let scan = self.running.get_mut(&id)?;
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while let Some(record) = scan.next_record(bytes_max, keys, sessions) {
            if !chunk.is_empty() && bytes + record.weight() > bytes_max {
                scan.pieces.push_front(record);
                break;
            }
            bytes += record.weight();
            chunk.push(record);
        }
        if chunk.is_empty() {
            self.end(id);
            return None;
        }
        Some(chunk)
    }
}

#[derive(Clone, Hash, Default, Debug)]
struct Scan {
    passed: Passed,
    /// Taken from the store but not yet handed out.
    pieces: VecDeque<StateRecord>,
    /// Old states of keys that lie ahead and have been written since the scan began.
    saved_keys: BTreeMap<Bytes, Option<Record>>,
    /// The same for sessions.
    saved_sessions: BTreeMap<SessionId, Option<Session>>,
}

/// How far a scan has come.
#[derive(Clone, Hash, Debug)]
enum Passed {
    /// Through this session.
    Session(Option<SessionId>),
    /// All sessions, and through this key.
    Key(Option<Bytes>),
}

impl Default for Passed {
    fn default() -> Self {
        Passed::Session(None)
    }
}

impl Scan {
    fn has_ahead(&self, key: &Bytes) -> bool {
        match &self.passed {
            Passed::Session(_) => true,
            Passed::Key(passed) => passed.as_ref().is_none_or(|passed| key > passed),
        }
    }

    fn has_session_ahead(&self, id: SessionId) -> bool {
        match &self.passed {
            Passed::Session(passed) => passed.is_none_or(|passed| id > passed),
            Passed::Key(_) => false,
        }
    }

    fn next_record(
        &mut self,
        bytes_max: usize,
        keys: &Keys,
        sessions: &Sessions,
    ) -> Option<StateRecord> {
        while self.pieces.is_empty() && matches!(self.passed, Passed::Session(_)) {
            match self.next_session(sessions) {
                Some(_) if !keeps(Rule::SessionsTravel) => {}
                Some((id, session)) => self.pieces = in_pieces(id, session, bytes_max).into(),
                None => self.passed = Passed::Key(None),
            }
        }
        if let Some(piece) = self.pieces.pop_front() {
            return Some(piece);
        }
        let (key, Record { value, version }) = self.next_key(keys)?;
        Some(StateRecord::Key { key, value, version })
    }

    fn next_session(&mut self, sessions: &Sessions) -> Option<(SessionId, Session)> {
        loop {
            let Passed::Session(passed) = &mut self.passed else {
                return None;
            };
            let live = sessions.first_after(*passed);
            let saved = self.saved_sessions.first_key_value().map(|(id, _)| *id);
            let live = live.filter(|(id, _)| saved.is_none_or(|saved| *id < saved));
            if let Some((id, session)) = live {
                *passed = Some(id);
                return Some((id, session.clone()));
            }
            let (id, session) = self.saved_sessions.pop_first()?;
            *passed = Some(id);
            if let Some(session) = session {
                return Some((id, session));
            }
        }
    }

    fn next_key(&mut self, keys: &Keys) -> Option<(Bytes, Record)> {
        loop {
            let Passed::Key(passed) = &mut self.passed else {
                return None;
            };
            let live = keys.first_after(passed.as_deref());
            let saved = self.saved_keys.first_key_value().map(|(key, _)| key);
            let live = live.filter(|(key, _)| saved.is_none_or(|saved| *key < saved));
            if let Some((key, record)) = live {
                *passed = Some(key.clone());
                return Some((key.clone(), record.clone()));
            }
            let (key, record) = self.saved_keys.pop_first()?;
            *passed = Some(key.clone());
            if let Some(record) = record {
                return Some((key, record));
            }
        }
    }
}

/// A session as one record, or as several of about `bytes_max` each: 64 answers that hold the
/// largest value each would fit into no message.
fn in_pieces(id: SessionId, session: Session, bytes_max: usize) -> Vec<StateRecord> {
    let mut pieces = Vec::new();
    let mut piece = SessionRecord { id, floor: session.floor, answers: Vec::new() };
    let mut bytes = 0;
    for (number, answer) in session.answers {
        if !piece.answers.is_empty() && bytes + answer.weight() > bytes_max {
            let next = SessionRecord { id, floor: session.floor, answers: Vec::new() };
            pieces.push(StateRecord::Session(std::mem::replace(&mut piece, next)));
            bytes = 0;
        }
        bytes += answer.weight();
        piece.answers.push((number, answer));
    }
    pieces.push(StateRecord::Session(piece));
    pieces
}
