//! The exactly-once table: which sessions exist, and what their requests were answered. Pure.
//!
//! The answer of a request is recorded in the same op as its effect, and forgotten when its client
//! raises the floor past it, or the session ends. An entry that is decided by the table (a repeated
//! request, a stale or reused number, a full window) changes nothing, the table included.
//!
//! Answers are kept exact: that of a failed condition holds the record that stood in the way. Its
//! value is shared with the store while the key keeps it, and stays in memory until the answer is
//! forgotten.

use std::collections::{BTreeMap, VecDeque};

use kvproto::command::{Command, Outcome, Refusal, RequestId, SESSION_WINDOW};
use kvproto::digest::{self, Rolling};
use kvproto::ids::{RequestNumber, SessionId};
use kvproto::message::{AnswerRecord, SessionRecord};
use kvproto::rules::{Rule, keeps};

/// All sessions.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Sessions {
    table: BTreeMap<SessionId, Session>,
    rolling: Rolling,
    /// Memory taken, by estimate.
    bytes: u64,
}

/// One session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Session {
    /// Requests below are forgotten. Never falls.
    pub(super) floor: RequestNumber,
    /// Answers of requests from the floor to less than the window above it, in order.
    answers: VecDeque<(RequestNumber, AnswerRecord)>,
}

/// What a session takes in memory beside its answers, by estimate.
const SESSION_BYTES: u64 = 160;

/// What an answer takes in memory, by estimate: its place in a queue that may be half full, and what
/// it holds. A value that is still shared with the store counts in both.
fn bytes_of(answer: &AnswerRecord) -> u64 {
    bytes_for(answer.weight())
}

fn bytes_for(weight: usize) -> u64 {
    (size_of::<(RequestNumber, AnswerRecord)>() + weight) as u64
}

impl Session {
    fn new(floor: RequestNumber) -> Self {
        Session { floor, answers: VecDeque::new() }
    }

    pub(super) fn answers(&self) -> impl Iterator<Item = &(RequestNumber, AnswerRecord)> {
        self.answers.iter()
    }

    pub(super) fn bytes(&self) -> u64 {
        SESSION_BYTES + self.answers.iter().map(|(_, answer)| bytes_of(answer)).sum::<u64>()
    }

    fn digest(&self, id: SessionId) -> Rolling {
        let mut rolling = Rolling::default();
        rolling.add(digest::of_session(id, self.floor));
        for (number, answer) in &self.answers {
            rolling.add(digest::of_answer(id, *number, answer));
        }
        rolling
    }

    fn remembered(&self, number: RequestNumber, command: &Command) -> Option<Outcome> {
        let (_, answer) = &self.answers[self.find(number).ok()?];
        Some(if answer.command_hash == digest::of_command(command) {
            answer.outcome.clone()
        } else {
            Outcome::Refused(Refusal::RequestReused)
        })
    }

    /// Where the answer of a request is, or would be.
    fn find(&self, number: RequestNumber) -> Result<usize, usize> {
        self.answers.binary_search_by_key(&number, |(number, _)| *number)
    }

    /// Whether a number lies between the floor and the end of the window above it.
    fn covers(&self, number: RequestNumber) -> bool {
        number.0.checked_sub(self.floor.0).is_some_and(|ahead| ahead < SESSION_WINDOW)
    }
}

/// The floor that a request asks for. A client that claims to have closed the very request it sends
/// is taken at its number.
fn floor_wanted(id: &RequestId) -> RequestNumber {
    id.first_open.min(id.number)
}

impl Sessions {
    /// Memory that a new session takes.
    pub(super) const BYTES_OF_ONE: u64 = SESSION_BYTES;

    /// Most memory that the answer to a command with so many changes takes, if its conditions meet
    /// no value of more bytes than `met`.
    pub(super) fn answer_bytes_max(changes: usize, met: usize) -> u64 {
        bytes_for(AnswerRecord::weight_max(changes, met))
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.table.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.table.keys().copied()
    }

    pub(super) fn first_after(&self, after: Option<SessionId>) -> Option<(SessionId, &Session)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.table.range((from, Unbounded)).next().map(|(id, session)| (*id, session))
    }

    pub(super) fn rolling(&self) -> Rolling {
        self.rolling
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was answered to a repeated request; `None` when the table knows nothing of its number.
    pub(super) fn remembered(&self, id: &RequestId, command: &Command) -> Option<Outcome> {
        self.table.get(&id.session)?.remembered(id.number, command)
    }

    /// The outcome of an entry that must not be performed; `None` for a new request that must.
    pub(super) fn decide(&self, id: &RequestId, command: &Command) -> Option<Outcome> {
        let Some(session) = self.table.get(&id.session) else {
            let over = keeps(Rule::UnknownSessionIsOver);
            return over.then_some(Outcome::Refused(Refusal::SessionExpired));
        };
        if id.number < session.floor && keeps(Rule::FloorIsKept) {
            return Some(Outcome::Refused(Refusal::StaleRequest { floor: session.floor }));
        }
        if let Some(outcome) = session.remembered(id.number, command)
            && keeps(Rule::RepeatsAreRecognised)
        {
            return Some(outcome);
        }
        let floor = session.floor.max(floor_wanted(id));
        (id.number.0.saturating_sub(floor.0) >= SESSION_WINDOW)
            .then_some(Outcome::Refused(Refusal::WindowFull))
    }

    /// Remembers the answer of a request that [`decide`](Self::decide) let pass, and forgets what
    /// its client no longer waits for. Nothing to do if the request ended its own session.
    pub(super) fn record(&mut self, id: &RequestId, command: &Command, outcome: &Outcome) {
        let Some(session) = self.table.get_mut(&id.session) else {
            return;
        };
        let floor = floor_wanted(id);
        if floor > session.floor {
            self.rolling.remove(digest::of_session(id.session, session.floor));
            self.rolling.add(digest::of_session(id.session, floor));
            session.floor = floor;
            let kept = session.find(floor).unwrap_or_else(|place| place);
            for (number, answer) in session.answers.drain(..kept) {
                self.rolling.remove(digest::of_answer(id.session, number, &answer));
                self.bytes -= bytes_of(&answer);
            }
        }
        let command_hash = digest::of_command(command);
        let answer = AnswerRecord { command_hash, outcome: outcome.clone() };
        let place = session.find(id.number);
        let place =
            place.expect_err("ExactlyOnce: a request was performed although it had an answer");
        self.rolling.add(digest::of_answer(id.session, id.number, &answer));
        self.bytes += bytes_of(&answer);
        session.answers.insert(place, (id.number, answer));
    }

    pub(super) fn open(&mut self, id: SessionId) {
        let session = Session::new(RequestNumber(1));
        self.rolling.add(digest::of_session(id, session.floor));
        self.bytes += session.bytes();
        let old = self.table.insert(id, session);
        assert!(old.is_none(), "session {id} was allocated twice");
    }

    /// True if the session was there.
    pub(super) fn close(&mut self, id: SessionId) -> bool {
        let Some(session) = self.table.remove(&id) else {
            return false;
        };
        self.rolling.remove_all(session.digest(id));
        self.bytes -= session.bytes();
        true
    }

    /// Adds a piece of a session that another copy sent. A session with large answers comes in
    /// several pieces. Answers outside the window cannot come from a sound copy: they are left out,
    /// and the digest will tell.
    pub(super) fn install(&mut self, record: SessionRecord) {
        let session = self.table.entry(record.id).or_insert_with(|| {
            let session = Session::new(record.floor);
            self.rolling.add(digest::of_session(record.id, record.floor));
            self.bytes += session.bytes();
            session
        });
        for (number, answer) in record.answers {
            if session.covers(number)
                && let Err(place) = session.find(number)
            {
                self.rolling.add(digest::of_answer(record.id, number, &answer));
                self.bytes += bytes_of(&answer);
                session.answers.insert(place, (number, answer));
            }
        }
    }

    /// Digest and memory computed from nothing, to compare with the rolling ones.
    pub(super) fn recomputed(&self) -> (Rolling, u64) {
        let mut rolling = Rolling::default();
        self.table.iter().for_each(|(id, session)| rolling.add_all(session.digest(*id)));
        (rolling, self.table.values().map(Session::bytes).sum())
    }

    /// Every answer lies in its session's window, in order.
    pub(super) fn windows_hold(&self) -> bool {
        self.table.values().all(|session| {
            let mut numbers = session.answers.iter().map(|(number, _)| *number);
            numbers.all(|number| session.covers(number))
                && session.answers.iter().is_sorted_by(|(one, _), (next, _)| one < next)
        })
    }
}
