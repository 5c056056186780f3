//! Reads of committed state, and the proof that this primary still led after they arrived: a lease
//! that every required backup granted, or a fresh round of confirmations from all of them.

use kvproto::ids::{Member, Nonce, SessionId};
use kvproto::reply::{NotDone, NotReady, Reply};
use kvproto::rules::{Rule, keeps};
use kvproto::settings::Settings;
use kvproto::time::Timestamp;
use kvproto::{Outcome, Refusal};

use super::Primary;
use super::requests::refuse;
use crate::replica::Reads;
use crate::replica::broken;
use crate::replica::copy::Copy;
use crate::replica::effect::{Effect, Serves};
use crate::replica::event::{Operation, Token};

/// A read that waits for confirmations of appends sent after it arrived.
#[derive(Clone, Hash, Debug)]
pub(super) struct WaitingRead {
    pub(super) token: Token,
    operation: Operation,
    arrived_at: Timestamp,
    /// The newest nonce sent before the read arrived: only later ones prove anything.
    after: Nonce,
}

impl Primary {
    pub(super) fn on_read(
        &mut self,
        copy: &Copy,
        now: Timestamp,
        token: Token,
        operation: Operation,
        out: &mut Vec<Effect>,
    ) {
        let valid_until = match self.serves(copy) {
            Serves::Always => None,
            Serves::Before(end) if now < end => Some(end),
            _ => {
                if self.reads.len() >= copy.options.tuning.waiting_reads_max {
                    refuse(token, NotDone::Overloaded, out);
                } else {
                    let after = if keeps(Rule::FreshRound) { self.nonce } else { Nonce(0) };
                    self.reads.push_back(WaitingRead { token, operation, arrived_at: now, after });
                }
                return;
            }
        };
        let reply = self.evaluate(copy, now, &operation);
        out.push(Effect::Reply { token, reply, valid_until });
    }

    /// Whether reads of committed state may be answered as they come.
    pub(in crate::replica) fn serves(&self, copy: &Copy) -> Serves {
        let diverged = self.disagreement.as_ref().is_some_and(|wrong| wrong.own);
        if !self.is_acting(copy) || diverged {
            return Serves::No;
        }
        match self.proof(copy) {
            Serves::Before(_) if !keeps(Rule::LeaseIsChecked) => Serves::Always,
            Serves::Before(end) if !keeps(Rule::LeaseIsCheckedPerRead) => {
                let held = self.heartbeat_at < Some(end);
                if held { Serves::Always } else { Serves::No }
            }
            serves => serves,
        }
    }

    /// What the other copies' word is worth.
    fn proof(&self, copy: &Copy) -> Serves {
        let mut until = None;
        for member in self.provers() {
            let from = self.copies.get(member).and_then(|progress| progress.lease_from);
            let (Some(from), Reads::Lease) = (from, copy.options.reads) else {
                return Serves::No;
            };
            let held = from + Settings::lease_held(copy.view.settings.lease);
            until = Some(match until {
                Some(until) if keeps(Rule::ProofByEveryCopy) => held.min(until),
                Some(until) => held.max(until),
                None => held,
            });
        }
        until.map_or(Serves::Always, Serves::Before)
    }

    /// Every other copy whose word is needed.
    fn provers(&self) -> impl Iterator<Item = &Member> {
        let asked = self.asked.keys().filter(|_| keeps(Rule::ProofByTheAsked));
        self.required.iter().chain(asked)
    }

    /// Whether some read waits for a round that was not yet sent to a copy with this nonce.
    pub(super) fn wants_round_after(&self, sent: Nonce) -> bool {
        self.reads.back().is_some_and(|read| read.after >= sent)
    }

    /// Answers reads whose round is complete, and gives up on those that wait in vain.
    pub(super) fn answer_reads(&mut self, copy: &Copy, now: Timestamp, out: &mut Vec<Effect>) {
        if self.reads.is_empty() {
            return;
        }
        let acked = self
            .provers()
            .map(|member| self.copies.get(member).map_or(Nonce(0), |copy| copy.nonce_acked));
        let confirmed = if keeps(Rule::ProofByEveryCopy) { acked.min() } else { acked.max() };
        while let Some(read) = self.reads.front() {
            let proven = confirmed.is_none_or(|nonce| nonce > read.after);
            let hopeless = now.since(read.arrived_at) > copy.view.settings.stall_after;
            if !proven && !hopeless {
                break;
            }
            let Some(WaitingRead { token, operation, .. }) = self.reads.pop_front() else {
                break;
            };
            if proven {
                let reply = self.evaluate(copy, now, &operation);
                out.push(Effect::Reply { token, reply, valid_until: None });
            } else {
                refuse(token, NotDone::NotReady(NotReady::Unconfirmed), out);
            }
        }
    }

    fn evaluate(&mut self, copy: &Copy, now: Timestamp, operation: &Operation) -> Reply {
        let at = copy.point();
        match operation {
            Operation::Query(query) if !keeps(Rule::ReadIsCommitted) => {
                let (store, _) = broken::as_if_committed(copy);
                Reply::Records { at, records: store.query(query) }
            }
            Operation::Query(query) => Reply::Records { at, records: copy.store.query(query) },
            Operation::KeepAlive(session) => self.keep_alive(copy, now, *session),
            Operation::Command { .. } => unreachable!("commands are ordered, not evaluated"),
        }
    }

    fn keep_alive(&mut self, copy: &Copy, now: Timestamp, session: SessionId) -> Reply {
        let at = copy.point();
        if self.expiring.contains(&session) && keeps(Rule::OrderedExpiryStands) {
            // Ordered but not committed: whether it will be is not known yet.
            return Reply::NotDone(NotDone::NotReady(NotReady::Unconfirmed));
        }
        if !copy.store.has_session(session) {
            return Reply::Done { at, outcome: Outcome::Refused(Refusal::SessionExpired) };
        }
        self.note_session_alive(session, now);
        Reply::KeptAlive { at, lease: copy.view.settings.session_lease }
    }
}
