//! A copy of the store at one op number, taken in small steps while writes go on. Pure.
//!
//! A scan walks the sessions, then the keys in key order. The old state of what changes before the
//! scan has reached it is saved, or that there was none (CopyAtOneOp). Sessions come first because
//! nearly every op touches one: early on, there is little to save. What is saved are references to
//! items, not copies; it is bounded by what is written during the scan, and given back as the scan
//! passes it. Whoever begins a scan and gives it up must end it.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use kvproto::convert::RecordsWriter;
use kvproto::ids::{SessionId, Version};
use kvproto::message::SessionRecord;
use kvproto::rules::{Rule, keeps};

use super::item::Item;
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

    /// Memory of what is saved, by estimate.
    pub(super) fn bytes(&self) -> u64 {
        self.running.values().map(|scan| scan.saved_bytes).sum()
    }

    /// How many scans would save how this key is, if it were written now.
    pub(super) fn that_would_save(&self, key: &[u8]) -> u64 {
        let would = |scan: &&Scan| scan.has_ahead(key) && !scan.saved_keys.contains_key(key);
        self.running.values().filter(would).count() as u64
    }

    /// Memory that would be saved if this session changed now.
    pub(super) fn growth_by_session(&self, id: SessionId, sessions: &Sessions) -> u64 {
        let would =
            |scan: &&Scan| scan.has_session_ahead(id) && !scan.saved_sessions.contains_key(&id);
        self.running.values().filter(would).count() as u64 * bytes_of(sessions.get(id))
    }

    /// To be called when a key was written, with the item that was there before.
    pub(super) fn written(&mut self, key: &[u8], old: Option<&Item>) {
        for scan in self.running.values_mut().filter(|scan| scan.has_ahead(key)) {
            scan.save_key(key, old);
        }
    }

    /// To be called before a session is opened, changed or dropped.
    pub(super) fn before_session(&mut self, id: SessionId, sessions: &Sessions) {
        for scan in self.running.values_mut().filter(|scan| scan.has_session_ahead(id)) {
            scan.save_session(id, sessions);
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
    ) -> Option<Bytes> {
        let scan = self.running.get_mut(&id)?;
        let mut chunk = RecordsWriter::new(bytes_max);
        scan.write_sessions(sessions, bytes_max, &mut chunk);
        scan.write_keys(keys, &mut chunk);
        let chunk = chunk.finish();
        if chunk.is_none() {
            self.end(id);
        }
        chunk
    }
}

#[derive(Clone, Default, Debug)]
struct Scan {
    passed: Passed,
    /// Parts of the session last passed, not yet handed out.
    pieces: VecDeque<SessionRecord>,
    /// Old states of keys that lie ahead and have been written since the scan began.
    saved_keys: BTreeMap<Item, Was>,
    /// The same for sessions; `None` for one that was not there.
    saved_sessions: BTreeMap<SessionId, Option<Session>>,
    saved_bytes: u64,
}

/// How a key was when the scan began.
#[derive(Clone, Copy, PartialEq, Hash, Debug)]
enum Was {
    /// As this item.
    There,
    /// Missing: the item only holds the key.
    Missing,
}

/// How far a scan has come.
#[derive(Clone, Debug)]
enum Passed {
    /// Through this session.
    Session(Option<SessionId>),
    /// All sessions, and through this key.
    Key(Option<Item>),
}

impl Default for Passed {
    fn default() -> Self {
        Passed::Session(None)
    }
}

/// Items hash by their keys alone; two scans that saved other values are two.
impl Hash for Scan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Scan { passed, pieces, saved_keys, saved_sessions, saved_bytes: _ } = self;
        match passed {
            Passed::Session(id) => (0, id).hash(state),
            Passed::Key(item) => (1, item).hash(state),
        }
        saved_keys.len().hash(state);
        saved_keys.iter().for_each(|(item, was)| (item.contents(), was).hash(state));
        (pieces, saved_sessions).hash(state);
    }
}

impl Scan {
    fn has_ahead(&self, key: &[u8]) -> bool {
        match &self.passed {
            Passed::Session(_) => true,
            Passed::Key(passed) => passed.as_ref().is_none_or(|passed| key > passed.key()),
        }
    }

    fn has_session_ahead(&self, id: SessionId) -> bool {
        match &self.passed {
            Passed::Session(passed) => passed.is_none_or(|passed| id > passed),
            Passed::Key(_) => false,
        }
    }

    fn save_key(&mut self, key: &[u8], old: Option<&Item>) {
        if self.saved_keys.contains_key(key) {
            return;
        }
        let (item, was) = match old {
            Some(old) => (old.clone(), Was::There),
            None => (Item::new(key, &[], Version(0)), Was::Missing),
        };
        self.saved_bytes += item.bytes();
        self.saved_keys.insert(item, was);
    }

    fn save_session(&mut self, id: SessionId, sessions: &Sessions) {
        self.saved_sessions.entry(id).or_insert_with(|| {
            let session = sessions.get(id);
            self.saved_bytes += bytes_of(session);
            session.cloned()
        });
    }

    fn write_sessions(&mut self, sessions: &Sessions, bytes_max: usize, chunk: &mut RecordsWriter) {
        loop {
            while let Some(piece) = self.pieces.front() {
                if !chunk.session(piece) {
                    return;
                }
                self.pieces.pop_front();
            }
            match self.next_session(sessions) {
                Some(_) if !keeps(Rule::SessionsTravel) => {}
                Some((id, session)) => self.pieces = in_pieces(id, &session, bytes_max),
                None => break,
            }
        }
        if let Passed::Session(_) = self.passed {
            self.passed = Passed::Key(None);
        }
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
            self.saved_bytes -= bytes_of(session.as_ref());
            *passed = Some(id);
            if let Some(session) = session {
                return Some((id, session));
            }
        }
    }

    /// Walks on through the keys: the live ones, but for those that were saved.
    fn write_keys(&mut self, keys: &Keys, chunk: &mut RecordsWriter) {
        let Passed::Key(passed) = &mut self.passed else {
            return;
        };
        let from = passed.clone();
        let mut write = |item: &Item| chunk.key(item.key(), item.value(), item.version());
        keys.walk_after(from.as_ref().map(Item::key), |live| {
            let mut live = live.peekable();
            let mut last = None;
            loop {
                let saved = self.saved_keys.first_entry();
                let is_live = |item: &&Item| saved.as_ref().is_none_or(|saved| *item < saved.key());
                if let Some(item) = live.next_if(is_live) {
                    if !write(item) {
                        break;
                    }
                    last = Some(item);
                    continue;
                }
                let Some(saved) = saved else {
                    break;
                };
                if *saved.get() == Was::There && !write(saved.key()) {
                    break;
                }
                live.next_if(|item| *item == saved.key());
                let (item, _) = saved.remove_entry();
                self.saved_bytes -= item.bytes();
                *passed = Some(item);
                last = None;
            }
            if let Some(last) = last {
                *passed = Some(last.clone());
            }
        });
    }
}

fn bytes_of(session: Option<&Session>) -> u64 {
    session.map_or(0, Session::bytes)
}

/// A session as one record, or as several of about `bytes_max` each: 64 answers that hold the
/// largest value each would fit into no message.
fn in_pieces(id: SessionId, session: &Session, bytes_max: usize) -> VecDeque<SessionRecord> {
    let empty = || SessionRecord { id, floor: session.floor, answers: Vec::new() };
    let mut pieces = VecDeque::new();
    let (mut piece, mut bytes) = (empty(), 0);
    for (number, answer) in session.answers() {
        if !piece.answers.is_empty() && bytes + answer.weight() > bytes_max {
            pieces.push_back(std::mem::replace(&mut piece, empty()));
            bytes = 0;
        }
        bytes += answer.weight();
        piece.answers.push((*number, answer.clone()));
    }
    pieces.push_back(piece);
    pieces
}
