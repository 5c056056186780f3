//! What must hold after every event of a simulation, each with its name. Pure.
//!
//! - **OneOrder**: a position names one entry, and one entry stands before it, on all servers.
//! - **OneCommittedLog**: the committed logs of all servers are prefixes of one log.
//! - **PrimaryCommitsFirst**: only a server that acts as primary commits what nobody had committed,
//!   and none does in an epoch older than one that has committed (NeverTwoPrimaries).
//! - **EligibleIsComplete**: every live server that the law calls eligible holds every committed op.
//! - **CommittedIsKept**: nothing committed anywhere is truncated, no committed position falls.
//! - **EqualStates**: at one op all copies have one digest.
//! - **AckedIsKept**: what is answered as done is committed, and did what the answer says.
//! - **ExactlyOnce**: a request has one answer, and its effect is there once.
//! - **Linearizable**: a read returns the state at one op that is not older than anything committed
//!   when the read began. (Stronger than linearizability, and true of this protocol: there is one
//!   server at most that can commit, and only it may answer.)
//! - **AckedIsSafe**: a copy acknowledges only what its journal has finished.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kvproto::message::Digest;
use kvproto::{
    Action, Change, Command, Entry, Epoch, OpNumber, Outcome, Position, Query, Record, Refusal,
    Reply, RequestNumber, Role, SessionId, Settings,
};
use kvserver::replica::Reads;
use kvserver::replica::effect::Effect;
use kvserver::replica::event::Operation;
use kvserver::store::{Store, StoreLimits};

use super::network::Node;
use super::workload::Attempt;
use super::world::World;

/// The log of one server as its effects tell it.
#[derive(Debug, Default)]
pub struct Shadow {
    base: Position,
    entries: Vec<Arc<Entry>>,
    committed: u64,
    acting_in: Option<Epoch>,
}

impl Shadow {
    fn last(&self) -> Position {
        self.entries.last().map_or(self.base, |entry| entry.position)
    }

    fn entry(&self, op: u64) -> Option<&Arc<Entry>> {
        self.entries.get(usize::try_from(op.checked_sub(self.base.op.0 + 1)?).ok()?)
    }
}

/// What is committed, and everything that follows from it.
#[derive(Debug)]
pub struct Ledger {
    log: Vec<Arc<Entry>>,
    digests: Vec<Digest>,
    reference: Store,
    history: BTreeMap<Bytes, Vec<(u64, Option<Record>)>>,
    positions: BTreeMap<Position, (Arc<Entry>, Position)>,
    answers: BTreeMap<(SessionId, RequestNumber), (u64, Outcome)>,
    plain: BTreeMap<u64, Outcome>,
    committed_in: Epoch,
}

impl Ledger {
    pub(super) fn new(settings: &Settings) -> Ledger {
        Ledger {
            log: Vec::new(),
            digests: vec![Digest::default()],
            reference: Store::new(StoreLimits::from(settings)),
            history: BTreeMap::new(),
            positions: BTreeMap::new(),
            answers: BTreeMap::new(),
            plain: BTreeMap::new(),
            committed_in: Epoch::default(),
        }
    }

    /// The highest op committed anywhere.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.log.len() as u64
    }

    fn at(&self, op: u64) -> Option<&Arc<Entry>> {
        self.log.get(usize::try_from(op.checked_sub(1)?).ok()?)
    }

    /// Takes the next committed entry. True when it repeats a request that was performed.
    fn commit(&mut self, entry: &Arc<Entry>) -> bool {
        assert_eq!(entry.op().0, self.committed() + 1, "OneCommittedLog: contiguous");
        let outcome = self.reference.apply(entry);
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
            return false;
        };
        let known = self.answers.get(&(id.session, id.number));
        match (known, gives_up(&outcome)) {
            (Some((first, answer)), false) => {
                assert_eq!(
                    *answer, outcome,
                    "ExactlyOnce: ops {first} and {op} answer request {id:?} differently"
                );
                true
            }
            (None, false) => {
                self.answers.insert((id.session, id.number), (op, outcome));
                false
            }
            (known, true) => known.is_some(),
        }
    }

    fn value_at(&self, key: &Bytes, op: u64) -> Option<Record> {
        let history = self.history.get(key)?;
        let before = history.partition_point(|(at, _)| *at <= op);
        history.get(before.checked_sub(1)?)?.1.clone()
    }
}

/// Answers that say only that the real one is no longer remembered.
fn gives_up(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Refused(
            Refusal::SessionExpired | Refusal::StaleRequest { .. } | Refusal::WindowFull
        )
    )
}

impl World<'_> {
    /// Looks at what a step wants done, and at the server after it.
    pub(super) fn observe(&mut self, node: Node, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Append(entries) => {
                    for entry in entries {
                        self.observe_append(node, entry);
                    }
                }
                Effect::Truncate { after } => self.observe_truncate(node, *after),
                Effect::Reset { base } => self.observe_reset(node, *base),
                Effect::Trim { through } => {
                    let committed = self.replica_committed(node);
                    assert!(through.0 <= committed, "CommittedIsKept: trimmed before commit");
                }
                _ => {}
            }
        }
        let (role, acting, epoch) = {
            let Some(replica) =
                self.machines[node].process.as_ref().and_then(|p| p.replica.as_ref())
            else {
                return;
            };
            (replica.role(), replica.is_acting(), replica.epoch())
        };
        self.observe_commits(node, role, acting, epoch);
        if acting {
            self.observe_acting(node, epoch);
        }
        self.check_eligible("a step");
    }

    fn replica_committed(&self, node: Node) -> u64 {
        let process = self.machines[node].process.as_ref();
        let replica = process.and_then(|process| process.replica.as_ref());
        replica.map_or(0, |replica| replica.committed().0)
    }

    fn shadow(&mut self, node: Node) -> &mut Shadow {
        let process = self.machines[node].process.as_mut();
        &mut process.expect("only live processes step").shadow
    }

    fn observe_append(&mut self, node: Node, entry: &Arc<Entry>) {
        let before = self.shadow(node).last();
        assert_eq!(entry.op(), before.op.next(), "OneOrder: s{node} has a gap");
        let known = self
            .ledger
            .positions
            .entry(entry.position)
            .or_insert_with(|| (Arc::clone(entry), before));
        assert_eq!(known.0, *entry, "OneOrder: s{node} has another entry at {}", entry.position);
        assert_eq!(known.1, before, "OneOrder: s{node} has another op before {}", entry.position);
        if entry.command == Command::Barrier {
            let committed = self.shadow(node).committed;
            if before.op.0 > committed && before.epoch < entry.position.epoch {
                let process = self.machines[node].process.as_ref();
                let replica = process.and_then(|process| process.replica.as_ref());
                if replica.is_some_and(|replica| replica.role() == Role::Primary) {
                    self.visits.note("promotion with a tail");
                }
            }
        }
        self.shadow(node).entries.push(Arc::clone(entry));
    }

    fn observe_truncate(&mut self, node: Node, after: OpNumber) {
        let shadow = self.shadow(node);
        assert!(
            after.0 >= shadow.committed && after.0 >= shadow.base.op.0,
            "CommittedIsKept: s{node} truncates after op {after}, committed {}",
            shadow.committed
        );
        let keep = usize::try_from(after.0 - shadow.base.op.0).expect("an op of this log");
        let dropped = shadow.entries.split_off(keep.min(shadow.entries.len()));
        for entry in dropped {
            assert!(
                self.ledger.at(entry.op().0) != Some(&entry) || !self.is_eligible(node),
                "CommittedIsKept: s{node} drops committed {}",
                entry.position
            );
        }
    }

    fn observe_reset(&mut self, node: Node, base: Position) {
        assert!(
            base.op.0 <= self.ledger.committed()
                && self.ledger.at(base.op.0).is_none_or(|entry| entry.position == base),
            "OneCommittedLog: s{node} takes a state at {base}, which is not committed"
        );
        assert!(
            !self.is_eligible(node) || self.ledger.committed() == 0,
            "EligibleIsComplete: s{node} is emptied although it is eligible"
        );
        let shadow = self.shadow(node);
        shadow.base = base;
        shadow.entries.clear();
        shadow.committed = base.op.0;
    }

    fn is_eligible(&self, node: Node) -> bool {
        self.eligible_nodes().contains(&node)
    }

    fn observe_commits(&mut self, node: Node, role: Role, acting: bool, epoch: Epoch) {
        let committed = self.replica_committed(node);
        let before = self.shadow(node).committed;
        assert!(committed >= before, "CommittedIsKept: s{node} falls to op {committed}");
        for op in before + 1..=committed {
            let entry = self.shadow(node).entry(op).cloned();
            let entry = entry.expect("OneCommittedLog: what is committed is in the log");
            if let Some(known) = self.ledger.at(op) {
                assert_eq!(
                    known.position, entry.position,
                    "OneCommittedLog: s{node} commits another op {op}"
                );
                continue;
            }
            assert!(
                role == Role::Primary && acting,
                "PrimaryCommitsFirst: s{node}, {role}, commits op {op}, which nobody had"
            );
            assert!(
                epoch >= self.ledger.committed_in,
                "NeverTwoPrimaries: s{node} commits in {epoch}, after {}",
                self.ledger.committed_in
            );
            self.ledger.committed_in = epoch;
            if self.ledger.commit(&entry) {
                self.visits.note("duplicate ordered twice");
            }
        }
        self.shadow(node).committed = committed;
        if committed > before || committed > 0 {
            let process = self.machines[node].process.as_ref();
            let replica = process.and_then(|process| process.replica.as_ref());
            if let Some(replica) = replica {
                let index = usize::try_from(committed).expect("ops are few");
                assert_eq!(
                    replica.store().digest(),
                    self.ledger.digests[index],
                    "EqualStates: s{node} at op {committed}"
                );
            }
        }
    }

    fn observe_acting(&mut self, node: Node, epoch: Epoch) {
        if self.shadow(node).acting_in.replace(epoch) != Some(epoch) {
            self.primaryships += 1;
            if self.primaryships > 1 {
                self.visits.note("failover");
            }
        }
    }

    pub(super) fn check_eligible(&mut self, when: &str) {
        let committed = self.ledger.committed();
        let Some(last) = self.ledger.at(committed).map(|entry| entry.position) else {
            return;
        };
        for node in self.eligible_nodes() {
            let shadow = self.shadow(node);
            let holds = shadow.base == last
                || shadow.base.op > last.op
                || shadow.entry(committed).is_some_and(|entry| entry.position == last);
            let own = shadow.last();
            assert!(
                holds,
                "EligibleIsComplete: after {when} s{node} is eligible without committed {last}; its \
                 last op is {own}"
            );
        }
    }

    pub(super) fn check_reply(&mut self, node: Node, attempt: &Attempt, reply: &Reply) {
        let committed = self.ledger.committed();
        match (reply, &attempt.operation) {
            (Reply::Done { at, outcome }, Operation::Command { id, command }) => {
                assert!(at.op.0 <= committed, "AckedIsKept: s{node} answers for op {}", at.op);
                match id {
                    Some(id) if gives_up(outcome) => {
                        let _ = id;
                    }
                    Some(id) => {
                        let answer = self.ledger.answers.get(&(id.session, id.number));
                        let Some((op, known)) = answer else {
                            panic!("AckedIsKept: {id:?} is answered and not committed");
                        };
                        assert!(*op <= at.op.0, "AckedIsKept: {id:?} is answered before op {op}");
                        assert_eq!(known, outcome, "ExactlyOnce: two answers to {id:?}");
                        if *op < attempt.floor {
                            self.visits.note("duplicate answered");
                        }
                    }
                    None => {
                        let entry = self.ledger.at(at.op.0);
                        assert_eq!(
                            entry.map(|entry| &entry.command),
                            Some(command),
                            "AckedIsKept: op {} is another",
                            at.op
                        );
                        assert_eq!(self.ledger.plain.get(&at.op.0), Some(outcome), "AckedIsKept");
                    }
                }
            }
            (Reply::Records { at, records }, Operation::Query(Query::Get(keys))) => {
                self.check_fresh(node, attempt, at.op.0);
                for (key, record) in keys.iter().zip(records) {
                    assert_eq!(
                        *record,
                        self.ledger.value_at(key, at.op.0),
                        "Linearizable: s{node} at op {} of {key:?}",
                        at.op
                    );
                }
            }
            (Reply::KeptAlive { at, .. }, Operation::KeepAlive(_)) => {
                self.check_fresh(node, attempt, at.op.0);
            }
            (Reply::NotDone(_) | Reply::Unknown, _) => {}
            (Reply::Done { outcome: Outcome::Refused(_), at }, Operation::KeepAlive(_)) => {
                self.check_fresh(node, attempt, at.op.0);
            }
            (reply, operation) => panic!("{operation:?} is answered with {reply:?}"),
        }
    }

    fn check_fresh(&self, node: Node, attempt: &Attempt, op: u64) {
        assert!(
            (attempt.floor..=self.ledger.committed()).contains(&op),
            "Linearizable: s{node} answers as of op {op} what was asked after op {} was committed \
             ({:?} reads)",
            attempt.floor,
            match self.workload.reads {
                Reads::Lease => "lease",
                Reads::Confirm => "confirm",
            }
        );
    }
}
