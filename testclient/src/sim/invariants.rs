//! What must hold after every event of a simulation, and in the end, each with its name. Pure.
//!
//! - **OneOrder**: a position names one entry, and one entry stands before it, on all servers.
//! - **OneCommittedLog**: within a generation the committed logs of all servers are prefixes of one
//!   log.
//! - **ForcedTailIsDone**: what had been done in a generation is done in the one that was forced too,
//!   if its server has it in its tail. *(ledger)*
//! - **StampsAreNew**: versions and session ids are given out once, over all generations.
//! - **PrimaryCommitsFirst**: only a server that acts as primary commits what nobody had committed,
//!   and none does in an epoch older than one that has committed.
//! - **EligibleIsComplete**: every live server that the law calls eligible holds every committed op.
//! - **CommittedIsKept**: nothing committed anywhere is truncated, no committed position falls.
//! - **CopiesAgree**: at one op all copies have one digest, and no primary says otherwise.
//! - **AckedIsKept**: what is answered as done is committed, and did what the answer says.
//! - **ExactlyOnce**: a request has one answer, and its effect is there once.
//! - **Linearizable**: a read returns the state at one op that is not older than anything committed
//!   when the read began. (Stronger than linearizability, and true of this protocol: there is one
//!   server at most that can commit, and only it may answer.)
//! - **DoneIsDone**: what the client logic takes for done is committed with that answer. *(clients)*
//! - **NotDoneIsNever**: what the client logic takes for certainly not done never happens, at any
//!   time. *(ledger)*
//! - **AckedIsSafe**: a copy acknowledges, and a primary answers, only what its journal has finished.
//!   *(servers)*
//! - **PublishedFirst**: at the moment at which a server answers that an op is done it may be read
//!   from its table, and when it says that it has stopped nothing may. *(doors)*
//! - **LeaseIsGranted**: no session expires before the lease is over that its client was last told of.
//!   *(ledger)*
//! - **NoNonsense**: over streams that keep their order no server is sent what makes no sense.
//!   *(servers)*
//! - **OneReply**: a server answers a request once. *(doors)*
//! - **OneEnd**, **CallsEnd**: the client logic ends a call once, and by its deadline. *(clients)*
//! - **LiveIsNotReplaced**: no life of a server is ended by a newer one while it is heard. *(views)*
//!
//! After everything has healed *(world)*:
//! - **Progress**: a new write is done soon; **Forced**: if need be after an operator could force.
//! - **Redundancy**: soon all copies are complete that can be.

use std::sync::Arc;

use kvproto::{
    Command, Entry, Epoch, Generation, LogPoint, OpNumber, Outcome, Position, Query, Refusal,
    Reply, Role,
};
use kvserver::journal::Work;
use kvserver::replica::Replica;
use kvserver::replica::effect::Effect;
use kvserver::replica::event::Operation;

use super::doors::Asked;
use super::ledger::{Committed, Ledger, gives_up};
use super::network::Node;
use super::visits::Path;
use super::world::World;

/// The log of one server as its effects tell it.
#[derive(Debug)]
pub struct Shadow {
    base: Position,
    entries: Vec<Arc<Entry>>,
    committed: u64,
    /// The generation whose ledger the committed part is a prefix of.
    generation: Generation,
    acting_in: Option<Epoch>,
}

impl Default for Shadow {
    fn default() -> Shadow {
        Shadow {
            base: Position::default(),
            entries: Vec::new(),
            committed: 0,
            generation: Generation(1),
            acting_in: None,
        }
    }
}

impl Shadow {
    /// Of a server that begins with what its disk held.
    pub(super) fn of(replica: &Replica) -> Shadow {
        let log = replica.log();
        let generation = log.last().epoch.generation;
        Shadow {
            base: log.base(),
            entries: log.from(log.base().op.next(), usize::MAX),
            committed: replica.committed().0,
            generation: generation.max(Generation(1)),
            acting_in: None,
        }
    }

    fn last(&self) -> Position {
        self.entries.last().map_or(self.base, |entry| entry.position)
    }

    fn entry(&self, op: u64) -> Option<&Arc<Entry>> {
        self.entries.get(usize::try_from(op.checked_sub(self.base.op.0 + 1)?).ok()?)
    }
}

impl World<'_> {
    /// Looks at what a step wants done, and at the server after it.
    pub(super) fn observe(&mut self, node: Node, effects: &[Effect]) {
        self.observe_forced_tail(node, effects);
        self.observe_generation(node, effects);
        for effect in effects {
            match effect {
                Effect::Journal(Work::Append(entries)) => {
                    for entry in entries {
                        self.observe_append(node, entry);
                    }
                }
                Effect::Journal(Work::Truncate { after }) => self.observe_truncate(node, *after),
                Effect::Journal(Work::Reset { base }) => self.observe_reset(node, *base),
                _ => {}
            }
        }
        let Some(replica) = self.replica(node) else {
            return;
        };
        let (acting, epoch) = (replica.is_acting(), replica.epoch());
        self.observe_commits(node);
        if acting {
            self.observe_acting(node, epoch);
        }
        self.check_eligible("a step");
    }

    pub(super) fn replica(&self, node: Node) -> Option<&Replica> {
        self.machines[node].process.as_ref()?.replica.as_ref()
    }

    fn shadow(&mut self, node: Node) -> &mut Shadow {
        let process = self.machines[node].process.as_mut();
        &mut process.expect("only live processes step").shadow
    }

    /// The ledger of the generation that a server is in; none before that generation has begun.
    fn ledger_of(&self, node: Node) -> Option<&Ledger> {
        self.ledgers.of(self.replica(node)?.epoch().generation)
    }

    /// VIEW-7: the server that the operator chose begins its generation with what it knows to be
    /// committed, or with nothing if it holds half a transfer.
    fn observe_generation(&mut self, node: Node, effects: &[Effect]) {
        let Some((generation, member)) = &self.ledgers.beginning else {
            return;
        };
        let generation = *generation;
        let process = self.machines[node].process.as_ref();
        let is_it = process.is_some_and(|process| process.member.as_ref() == Some(member));
        if !is_it || self.replica(node).is_none_or(|r| r.epoch().generation != generation) {
            return;
        }
        let emptied =
            effects.iter().any(|effect| matches!(effect, Effect::Journal(Work::Reset { .. })));
        let shadow = self.shadow(node);
        let base = if emptied { 0 } else { shadow.committed };
        let tail = !emptied && shadow.last().op.0 > base;
        let from = std::mem::replace(&mut shadow.generation, generation);
        if tail {
            self.visits.note(Path::ForcedTail);
        }
        self.note(|| format!("generation {generation} begins with s{node}'s ops through {base}"));
        self.ledgers.begin(self.now, generation, from, base);
    }

    /// VIEW-7: the tail that the server of a new generation drops, and what it orders in its place.
    fn observe_forced_tail(&mut self, node: Node, effects: &[Effect]) {
        let of_journal = effects.iter().filter_map(|effect| match effect {
            Effect::Journal(work) => Some(work),
            _ => None,
        });
        let work: Vec<_> = of_journal.collect();
        let pair = work.windows(2).find_map(|pair| match pair {
            [Work::Truncate { after }, Work::Append(anew)] => Some((*after, anew)),
            _ => None,
        });
        let leads = self.replica(node).is_some_and(|replica| replica.role() == Role::Primary);
        let Some((after, anew)) = pair.filter(|_| leads) else {
            return;
        };
        let shadow = self.shadow(node);
        let (from, base) = (shadow.generation, shadow.base.op);
        let skip = usize::try_from(after.0.saturating_sub(base.0)).unwrap_or(usize::MAX);
        let tail: Vec<_> = shadow.entries.iter().skip(skip).cloned().collect();
        self.ledgers.note_forced_tail(from, &tail, anew);
    }

    fn observe_append(&mut self, node: Node, entry: &Arc<Entry>) {
        let before = self.shadow(node).last();
        assert_eq!(entry.op(), before.op.next(), "OneOrder: s{node} has a gap");
        self.ledgers.note_position(node, entry, before);
        if entry.command == Command::Barrier {
            let committed = self.shadow(node).committed;
            let leads = self.replica(node).is_some_and(|replica| replica.role() == Role::Primary);
            if leads && before.op.0 > committed && before.epoch < entry.position.epoch {
                self.visits.note(Path::PromotionWithTail);
            }
        }
        if let Command::ExpireSession(session) = entry.command
            && !self.faults.over
            && self.random.chance(500)
        {
            // Its client comes back just now, too late.
            self.ask_directly(0, node, Operation::KeepAlive(session));
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
        let Some(ledger) = self.ledger_of(node) else {
            return;
        };
        for entry in dropped {
            assert!(
                ledger.at(entry.op().0) != Some(&entry) || !self.is_eligible(node),
                "CommittedIsKept: s{node} drops committed {}",
                entry.position
            );
        }
    }

    fn observe_reset(&mut self, node: Node, base: Position) {
        let generation = self.replica(node).map_or(Generation(1), |r| r.epoch().generation);
        let ledger = self.ledger_of(node).expect("nobody is filled before a generation begins");
        assert!(
            base.op.0 <= ledger.committed()
                && ledger.at(base.op.0).is_none_or(|entry| entry.position == base),
            "OneCommittedLog: s{node} takes a state at {base}, which is not committed"
        );
        // Who was forced and has not heard of it may still be emptied by a late message of the
        // generation that was given up.
        let counts = self.is_eligible(node) && self.ledgers.beginning.is_none();
        assert!(
            !counts || ledger.committed() == 0,
            "EligibleIsComplete: s{node} is emptied although it is eligible"
        );
        let shadow = self.shadow(node);
        shadow.base = base;
        shadow.entries.clear();
        shadow.committed = base.op.0;
        shadow.generation = generation;
    }

    fn is_eligible(&self, node: Node) -> bool {
        self.eligible_nodes().contains(&node)
    }

    fn observe_commits(&mut self, node: Node) {
        let Some(replica) = self.replica(node) else {
            return;
        };
        let (committed, base) = (replica.committed().0, replica.log().base().op);
        assert!(base.0 <= committed, "CommittedIsKept: s{node} forgets op {base} before commit");
        let (role, acting, epoch) = (replica.role(), replica.is_acting(), replica.epoch());
        let before = self.shadow(node).committed;
        assert!(committed >= before, "CommittedIsKept: s{node} falls to op {committed}");
        if committed > before {
            self.shadow(node).generation = epoch.generation;
        }
        let generation = self.shadow(node).generation;
        for op in before + 1..=committed {
            let entry = self.shadow(node).entry(op).cloned();
            let entry = entry.expect("OneCommittedLog: what is committed is in the log");
            let ledger = self.ledgers.of(generation);
            let ledger = ledger.expect("OneCommittedLog: a commit before its generation began");
            if let Some(known) = ledger.at(op) {
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
            // In a generation that was given up, a primary that stood still may yet hear of
            // acknowledgements of old: what it commits then is part of what the operator gave up.
            assert!(
                epoch >= ledger.committed_in,
                "PrimaryCommitsFirst: s{node} commits in {epoch}, after {}",
                ledger.committed_in
            );
            if let Command::ExpireSession(session) = entry.command {
                self.ledgers.expire(session, self.now);
            }
            if self.ledgers.commit(generation, epoch, &entry) == Committed::Repetition {
                self.visits.note(Path::DuplicateOrdered);
            }
        }
        self.shadow(node).committed = committed;
        if committed > 0
            && let (Some(replica), Some(ledger)) = (self.replica(node), self.ledgers.of(generation))
        {
            assert_eq!(
                Some(replica.store().digest()),
                ledger.digest_at(committed),
                "CopiesAgree: s{node} at op {committed}"
            );
        }
    }

    fn observe_acting(&mut self, node: Node, epoch: Epoch) {
        if self.shadow(node).acting_in.replace(epoch) != Some(epoch) {
            self.primaryships += 1;
            if self.primaryships > 1 {
                self.visits.note(Path::Failover);
            }
        }
    }

    pub(super) fn check_eligible(&mut self, when: &str) {
        let ledger = self.ledgers.present();
        let committed = ledger.committed();
        // A generation that was forced counts from when its server begins it.
        if self.ledgers.beginning.is_some() {
            return;
        }
        let Some(last) = ledger.at(committed).map(|entry| entry.position) else {
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

    /// Looks at an answer to what was asked.
    pub(super) fn check_reply(&mut self, node: Node, asked: &Asked, reply: &Reply) {
        let floor = asked.floor;
        match (reply, &asked.operation) {
            (Reply::Done { at, outcome }, Operation::Command { id, command }) => {
                let ledger = self.ledgers.of(at.generation);
                let ledger = ledger.expect("AckedIsKept: an answer of a generation never begun");
                assert!(
                    at.op.0 <= ledger.committed(),
                    "AckedIsKept: s{node} answers for op {}, which is not committed",
                    at.op
                );
                let Some(id) = id else {
                    let entry = ledger.at(at.op.0);
                    assert_eq!(
                        entry.map(|entry| &entry.command),
                        Some(command),
                        "AckedIsKept: op {} is another",
                        at.op
                    );
                    assert_eq!(ledger.plain_answer(at.op.0), Some(outcome), "AckedIsKept");
                    if let Outcome::SessionOpened(session) = outcome {
                        self.ledgers.keep_alive(*session, asked.sent_at);
                    }
                    return;
                };
                if gives_up(outcome) {
                    if id.session.0 >> 48 < at.generation.0
                        && *outcome == Outcome::Refused(Refusal::SessionExpired)
                    {
                        self.visits.note(Path::OldSessionRefused);
                    }
                    return;
                }
                let Some((op, known)) = ledger.answer(id.session, id.number) else {
                    panic!("AckedIsKept: {id:?} is answered and not committed");
                };
                assert!(*op <= at.op.0, "AckedIsKept: {id:?} is answered before op {op}");
                assert_eq!(known, outcome, "ExactlyOnce: two answers to {id:?}");
                let ordered_in = ledger.at(*op).map(|entry| entry.position.epoch);
                let first = LogPoint { generation: at.generation, op: OpNumber(*op) };
                if first <= floor {
                    self.visits.note(Path::DuplicateAnswered);
                } else if ordered_in < self.replica(node).map(Replica::epoch) {
                    self.visits.note(Path::DuplicateInTail);
                }
            }
            (Reply::Records { at, records }, Operation::Query(Query::Get(keys))) => {
                self.check_fresh(node, floor, *at);
                let ledger = self.ledgers.present();
                for (key, record) in keys.iter().zip(records) {
                    assert_eq!(
                        *record,
                        ledger.value_at(key, at.op.0),
                        "Linearizable: s{node} at op {} of {key:?}",
                        at.op
                    );
                }
            }
            (Reply::KeptAlive { at, .. }, Operation::KeepAlive(session)) => {
                self.check_fresh(node, floor, *at);
                // Not from the answer: a pause may lie between its proof and its leaving.
                self.ledgers.keep_alive(*session, asked.sent_at);
            }
            (Reply::Done { outcome: Outcome::Refused(_), at }, Operation::KeepAlive(_)) => {
                self.check_fresh(node, floor, *at);
            }
            (Reply::NotDone(_) | Reply::Unknown, _) => {}
            (reply, operation) => panic!("{operation:?} is answered with {reply:?}"),
        }
    }

    fn check_fresh(&self, node: Node, floor: LogPoint, at: LogPoint) {
        let newest = self.ledgers.point();
        assert!(
            (floor..=newest).contains(&at) && at.generation == newest.generation,
            "Linearizable: s{node} answers as of {at:?} what was asked after {floor:?} was committed"
        );
    }
}
