//! What is committed, as an onlooker who sees every server knows it, and everything that follows
//! from it. Pure.
//!
//! Each generation has a ledger of its own: the one that an operator forces begins with what the
//! server of the operator's choice knew to be committed. What must never repeat, over all
//! generations, is in [`Ledgers`].

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kvproto::message::Digest;
use kvproto::{
    Action, Change, Command, Entry, Epoch, Generation, LogPoint, Member, OpNumber, Outcome,
    Position, Query, Record, Refusal, RequestNumber, SessionId, Settings,
};
use kvserver::store::{Item, Items, Store, StoreLimits};

use super::histories::Beginning;

/// The committed log of one generation.
#[derive(Debug)]
pub struct Ledger {
    log: Vec<Arc<Entry>>,
    digests: Vec<Digest>,
    /// The generation that it was forced from, and the op through which it holds that one's log.
    forced_from: Option<LogPoint>,
    reference: Store,
    history: BTreeMap<Bytes, Vec<(u64, Option<Record>)>>,
    answers: BTreeMap<(SessionId, RequestNumber), (u64, Outcome)>,
    plain: BTreeMap<u64, Outcome>,
    /// The newest epoch in which something was committed first.
    pub(super) committed_in: Epoch,
}

impl Ledger {
    fn new(settings: &Settings) -> Ledger {
        Ledger {
            log: Vec::new(),
            digests: vec![Digest::default()],
            forced_from: None,
            reference: Store::new(StoreLimits::from(settings), Items::default()),
            history: BTreeMap::new(),
            answers: BTreeMap::new(),
            plain: BTreeMap::new(),
            committed_in: Epoch::default(),
        }
    }

    /// The highest op committed anywhere.
    pub(super) fn committed(&self) -> u64 {
        self.log.len() as u64
    }

    pub(super) fn at(&self, op: u64) -> Option<&Arc<Entry>> {
        self.log.get(usize::try_from(op.checked_sub(1)?).ok()?)
    }

    pub(super) fn digest_at(&self, op: u64) -> Option<Digest> {
        self.digests.get(usize::try_from(op).ok()?).copied()
    }

    /// What a request of a session was answered, and by which op first.
    pub(super) fn answer(
        &self,
        session: SessionId,
        number: RequestNumber,
    ) -> Option<&(u64, Outcome)> {
        self.answers.get(&(session, number))
    }

    /// What an op without a session did.
    pub(super) fn plain_answer(&self, op: u64) -> Option<&Outcome> {
        self.plain.get(&op)
    }

    /// The record of a key after an op.
    pub(super) fn value_at(&self, key: &Bytes, op: u64) -> Option<Record> {
        let history = self.history.get(key)?;
        let before = history.partition_point(|(at, _)| *at <= op);
        history.get(before.checked_sub(1)?)?.1.clone()
    }

    /// How long the value of a key is.
    pub(super) fn length_of(&self, key: &Bytes) -> usize {
        let history = self.history.get(key).and_then(|history| history.last());
        history.and_then(|(_, record)| record.as_ref()).map_or(0, |record| record.value.len())
    }

    /// Whether an op had an effect of its own.
    fn did_something(&self, op: u64) -> bool {
        let outcome = match self.at(op).and_then(|entry| entry.id) {
            Some(id) => {
                let answer = self.answers.get(&(id.session, id.number));
                answer.filter(|(first, _)| *first == op).map(|(_, outcome)| outcome)
            }
            None => self.plain.get(&op),
        };
        outcome.is_some_and(|outcome| !matches!(outcome, Outcome::Refused(_)))
    }

    /// What was committed after an op.
    pub(super) fn after(&self, op: u64) -> impl Iterator<Item = &Arc<Entry>> {
        self.log.iter().skip(usize::try_from(op).unwrap_or(usize::MAX))
    }

    /// Every key that exists.
    fn items(&self) -> impl Iterator<Item = Item> {
        self.reference.items()
    }

    /// Takes the next committed entry: what became of it.
    fn commit(&mut self, entry: &Arc<Entry>) -> Committed {
        assert_eq!(entry.op().0, self.committed() + 1, "OneCommittedLog: contiguous");
        let outcome = self.reference.apply(entry);
        let refused = matches!(outcome, Outcome::Refused(_));
        self.log.push(Arc::clone(entry));
        self.digests.push(self.reference.digest());
        let op = entry.op().0;
        for change in entry.command.changes() {
            let query = Query::Get(vec![change.key.clone()]);
            let record = self.reference.query(&query).remove(0);
            if let (Change { action: Action::Append(suffix), .. }, Some(record)) = (change, &record)
            {
                let found = record.value.windows(suffix.len()).filter(|w| w == suffix).count();
                assert!(found <= 1, "ExactlyOnce: {suffix:?} stands {found} times at op {op}");
            }
            self.history.entry(change.key.clone()).or_default().push((op, record));
        }
        let Some(id) = entry.id else {
            self.plain.insert(op, outcome);
            return if refused { Committed::Nothing } else { Committed::Done };
        };
        let known = self.answers.get(&(id.session, id.number));
        match (known, gives_up(&outcome)) {
            (Some((first, answer)), false) => {
                assert_eq!(
                    *answer, outcome,
                    "ExactlyOnce: ops {first} and {op} answer request {id:?} differently"
                );
                Committed::Repetition
            }
            (None, false) => {
                self.answers.insert((id.session, id.number), (op, outcome));
                if refused { Committed::Nothing } else { Committed::Done }
            }
            (Some(_), true) => Committed::Repetition,
            (None, true) => Committed::Nothing,
        }
    }
}

/// What became of a committed entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Committed {
    /// It had its effect.
    Done,
    /// It was refused.
    Nothing,
    /// It repeats a request that was decided before.
    Repetition,
}

/// The value that a command writes: in a simulation each is written by one call only.
pub(super) fn value_of(command: &Command) -> Option<&Bytes> {
    command.changes().iter().find_map(|change| match &change.action {
        Action::Put(value) | Action::Append(value) => Some(value),
        Action::CompareAndSet { new_value, .. } => new_value.as_ref(),
        Action::Delete => None,
    })
}

/// Answers that say only that the real one is no longer remembered.
pub(super) fn gives_up(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Refused(
            Refusal::SessionExpired | Refusal::StaleRequest { .. } | Refusal::WindowFull
        )
    )
}

/// The ledgers of all generations, and what must be new in each.
#[derive(Debug)]
pub struct Ledgers {
    settings: Settings,
    of: BTreeMap<Generation, Ledger>,
    /// Every generation that has begun, in order.
    pub(super) beginnings: Vec<Beginning>,
    /// Every position ever appended anywhere, with its entry and what stood before it.
    positions: BTreeMap<Position, (Arc<Entry>, Position)>,
    /// Generation and op of what was committed: versions and session ids are made of them.
    stamps: BTreeMap<(Generation, OpNumber), Arc<Entry>>,
    /// Requests and values of calls that certainly did nothing and never will (NotDoneIsNever), in
    /// any generation, or in those that hold the op by which that was decided: what an operator
    /// gives up by forcing another one includes answers that were refusals.
    never_requests: BTreeMap<(SessionId, RequestNumber), Option<LogPoint>>,
    never_values: BTreeSet<Bytes>,
    /// When a session was last told that its lease begins anew, in microseconds.
    kept_alive: BTreeMap<SessionId, u64>,
    /// Sessions that were opened in a tail which was ordered anew, and the names that their clients
    /// know.
    first_names: BTreeMap<SessionId, SessionId>,
    /// What the newest generation that was forced must do (ForcedTailIsDone).
    owed: Option<Owed>,
    /// A generation was forced, and its server has not begun it yet.
    pub(super) beginning: Option<(Generation, Member)>,
}

/// What another server committed of the tail of the one that was forced.
#[derive(Debug)]
struct Owed {
    generation: Generation,
    /// By then it is done.
    through: OpNumber,
    /// The values that its ops write.
    values: BTreeSet<Bytes>,
}

impl Ledgers {
    pub(super) fn new(settings: &Settings) -> Ledgers {
        Ledgers {
            settings: settings.clone(),
            of: BTreeMap::from([(Generation(1), Ledger::new(settings))]),
            beginnings: vec![Beginning { generation: Generation(1), ..Beginning::default() }],
            positions: BTreeMap::new(),
            stamps: BTreeMap::new(),
            never_requests: BTreeMap::new(),
            never_values: BTreeSet::new(),
            kept_alive: BTreeMap::new(),
            first_names: BTreeMap::new(),
            owed: None,
            beginning: None,
        }
    }

    /// The ledger of a generation, once it has begun.
    pub(super) fn of(&self, generation: Generation) -> Option<&Ledger> {
        self.of.get(&generation)
    }

    fn newest(&self) -> (Generation, &Ledger) {
        let newest = self.of.last_key_value();
        let (generation, ledger) = newest.expect("the first generation is there from the start");
        (*generation, ledger)
    }

    /// The newest ledger.
    pub(super) fn present(&self) -> &Ledger {
        self.newest().1
    }

    /// The newest op committed anywhere.
    pub(super) fn point(&self) -> LogPoint {
        let (generation, ledger) = self.newest();
        LogPoint { generation, op: OpNumber(ledger.committed()) }
    }

    /// A position names one entry, and one entry stands before it (OneOrder).
    pub(super) fn note_position(&mut self, node: usize, entry: &Arc<Entry>, before: Position) {
        let at = entry.position;
        let known = self.positions.entry(at).or_insert_with(|| (Arc::clone(entry), before));
        assert_eq!(known.0, *entry, "OneOrder: s{node} has another entry at {at}");
        assert_eq!(known.1, before, "OneOrder: s{node} has another op before {at}");
    }

    /// A server that was in one generation begins another, and orders its tail anew in it.
    pub(super) fn note_forced_tail(
        &mut self,
        from: Generation,
        tail: &[Arc<Entry>],
        anew: &[Arc<Entry>],
    ) {
        let opened = |entry: &&Arc<Entry>| entry.command == Command::OpenSession;
        let session = |entry: &Arc<Entry>| {
            SessionId::allocated_at(entry.position.epoch.generation, entry.op())
        };
        for (old, new) in tail.iter().filter(opened).zip(anew.iter().filter(opened)) {
            let first = self.first_name(session(old));
            self.first_names.insert(session(new), first);
        }
        let Some(last) = anew.last() else {
            return;
        };
        let before = self.of.get(&from);
        let is_owed = |entry: &&Arc<Entry>| {
            let op = entry.op().0;
            before.is_some_and(|ledger| ledger.at(op) == Some(*entry) && ledger.did_something(op))
        };
        let values = tail.iter().filter(is_owed).filter_map(|entry| value_of(&entry.command));
        let values = values.cloned().collect();
        let generation = last.position.epoch.generation;
        self.owed = Some(Owed { generation, through: last.op(), values });
    }

    /// The name by which its client knows a session.
    pub(super) fn first_name(&self, session: SessionId) -> SessionId {
        self.first_names.get(&session).copied().unwrap_or(session)
    }

    /// ForcedTailIsDone: an entry was committed in this generation.
    fn settle(&mut self, generation: Generation, entry: &Entry, committed: Committed) {
        let Some(owed) = self.owed.as_mut().filter(|owed| owed.generation == generation) else {
            return;
        };
        if committed == Committed::Done
            && let Some(value) = value_of(&entry.command)
        {
            owed.values.remove(value);
        }
        assert!(
            entry.op() < owed.through || owed.values.is_empty(),
            "ForcedTailIsDone: {:?} was done in the generation before, and was in the tail",
            owed.values
        );
    }

    /// A client is sure that this request did nothing: by an answer taken from the log through
    /// this point, or because it was never ordered.
    pub(super) fn never_request(
        &mut self,
        request: (SessionId, RequestNumber),
        answered: Option<LogPoint>,
    ) {
        let decided = answered.map(|at| {
            let answer =
                self.of.get(&at.generation).and_then(|ledger| ledger.answers.get(&request));
            LogPoint { op: answer.map_or(at.op, |(op, _)| at.op.min(OpNumber(*op))), ..at }
        });
        let done = |ledger: &Ledger| {
            let named = self.first_names.iter().filter(|(_, first)| **first == request.0);
            let mut names = named.map(|(session, _)| *session).chain([request.0]);
            names.any(|session| {
                let answer = ledger.answers.get(&(session, request.1));
                answer.is_some_and(|(_, outcome)| !matches!(outcome, Outcome::Refused(_)))
            })
        };
        let mut bound = self.of.iter().filter(|(of, _)| self.is_bound(**of, decided));
        assert!(
            !bound.any(|(_, ledger)| done(ledger)),
            "NotDoneIsNever: {request:?} was done before"
        );
        self.never_requests.insert(request, decided);
    }

    /// Whether a generation is bound by what was decided at this point, or never ordered.
    fn is_bound(&self, generation: Generation, decided: Option<LogPoint>) -> bool {
        let Some(decided) = decided else {
            return true;
        };
        let mut held = LogPoint { generation, op: OpNumber(u64::MAX) };
        while held.generation > decided.generation {
            let from = self.of.get(&held.generation).and_then(|ledger| ledger.forced_from);
            let Some(from) = from else {
                return false;
            };
            held = LogPoint { op: from.op.min(held.op), ..from };
        }
        held.generation == decided.generation && decided.op <= held.op
    }

    /// A client is sure that the only call with this value did nothing.
    pub(super) fn never_value(&mut self, value: Bytes) {
        let has = |entry: &Arc<Entry>| value_of(&entry.command) == Some(&value);
        let done = self.of.values().any(|ledger| ledger.log.iter().any(has));
        assert!(!done, "NotDoneIsNever: the call that writes {value:?} was done before");
        self.never_values.insert(value);
    }

    /// The next entry that is committed in a generation.
    pub(super) fn commit(
        &mut self,
        generation: Generation,
        epoch: Epoch,
        entry: &Arc<Entry>,
    ) -> Committed {
        let stamp = (entry.position.epoch.generation, entry.op());
        let first = self.stamps.entry(stamp).or_insert_with(|| Arc::clone(entry));
        assert_eq!(
            first.position, entry.position,
            "StampsAreNew: two ops that were committed would give out the same versions and \
             session ids"
        );
        let ledger = self.of.get_mut(&generation).expect("a generation commits after it began");
        ledger.committed_in = epoch;
        let committed = ledger.commit(entry);
        self.settle(generation, entry, committed);
        if committed == Committed::Done {
            let request = entry.id.map(|id| (self.first_name(id.session), id.number));
            let never = match (request, value_of(&entry.command)) {
                (Some(request), _) => {
                    let decided = self.never_requests.get(&request);
                    decided.is_some_and(|decided| self.is_bound(generation, *decided))
                }
                (None, Some(value)) => self.never_values.contains(value),
                (None, None) => false,
            };
            assert!(!never, "NotDoneIsNever: op {} was certainly not done", entry.op());
        }
        committed
    }

    /// A client was told that the lease of its session counts from no earlier than `at`.
    pub(super) fn keep_alive(&mut self, session: SessionId, at: u64) {
        let last = self.kept_alive.entry(session).or_default();
        *last = at.max(*last);
    }

    /// The expiry of a session is committed: by no clock of a server may it be too early.
    pub(super) fn expire(&self, session: SessionId, at: u64) {
        let lease = self.settings.session_lease.as_micros() as u64;
        let kept = self.kept_alive.get(&session).map_or(u64::MAX, |last| at.saturating_sub(*last));
        assert!(
            kept >= lease - lease / 25,
            "LeaseIsGranted: session {session} expires {kept} us after it was kept alive"
        );
    }

    /// A record of this generation is out, with this primary.
    pub(super) fn note_generation(&mut self, generation: Generation, primary: &Member) {
        let known = self.beginning.as_ref().map(|(generation, _)| *generation);
        // Whoever is to begin it may come back as a new life before it has.
        if generation > known.unwrap_or(self.newest().0) || known == Some(generation) {
            self.beginning = Some((generation, primary.clone()));
        }
    }

    /// A generation begins with what its server knew to be committed in an older one.
    pub(super) fn begin(&mut self, now: u64, generation: Generation, from: Generation, base: u64) {
        let before = self.of.get(&from).expect("only what was committed somewhere is known to be");
        let mut ledger = Ledger::new(&self.settings);
        ledger.forced_from = Some(LogPoint { generation: from, op: OpNumber(base) });
        for entry in before.log.iter().take(usize::try_from(base).unwrap_or(usize::MAX)) {
            ledger.commit(entry);
        }
        assert_eq!(ledger.committed(), base, "OneCommittedLog: what was never committed is kept");
        let records =
            ledger.items().map(|item| (Bytes::copy_from_slice(item.key()), item.into_record()));
        let records = records.collect();
        self.beginnings.push(Beginning { generation, at: now, base, records });
        self.of.insert(generation, ledger);
        self.beginning = None;
    }
}
