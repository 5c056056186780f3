//! What must hold in every state, whatever happened before. Pure.
//!
//! - **EligibleIsComplete**: every live eligible server holds every op that was ever committed.
//! - **OneOrder**: no position names two ops.
//! - **OneCommittedLog**: what the servers committed are prefixes of one log.
//! - **StoreIsItsLog**: a copy's data is what its committed log makes of it.
//! - **AckedIsKept**: a write is answered only when it is committed, in its place.
//! - **Linearizable**: a read returns committed data, and nothing older than what was committed
//!   anywhere when it began.
//! - **EligibleIsWhole**: no eligible copy is in the middle of a transfer.
//! - **CommittedIsSafe**: what an eligible copy committed has left its journal's hands.
//!
//! Looked at where they could break:
//! - **PrimaryIsEligible**: once a view was activated, none names another primary. *(state)*
//! - **CommittedIsKept**: no committed position falls but by a transfer. *(step)*
//! - **PrimaryCommitsFirst**: nobody takes for committed what nobody holds. *(step)*
//! - **CopiesAgree**: no copy is said to differ. *(step)*
//! - **Progress**: from here a new write can be done if everything heals. *(heal)*
//!
//! And whatever the production code asserts of itself. What the simulator looks at too has the same
//! name there.

use std::sync::Arc;

use kvproto::OpNumber;
use kvproto::command::{Action, Command, Entry, Query, Record};
use kvserver::journal::Completion;

use super::disk::completion;
use super::state::{KEY, OpenRead, Seen, Server, State};

/// Looks at everything that a state alone can show.
pub fn check(state: &State, seen: &mut Seen) {
    if state.doubts {
        return;
    }
    let eligible = &state.law.view().eligible;
    for server in state.servers.iter().flatten() {
        check_copy(server, &state.committed, seen);
        if eligible.contains(&server.member) {
            check_eligible(server, &state.committed, seen);
        }
    }
    check_positions(state, seen);
}

fn check_eligible(server: &Server, committed: &[Arc<Entry>], seen: &mut Seen) {
    if !server.replica.is_complete() {
        seen.broken(|| format!("EligibleIsWhole: {} is half transferred", server.member));
    }
    let (log, through) = (server.replica.log(), server.replica.committed());
    let appends = server.unfinished.iter().filter_map(|work| match completion(work) {
        Some(Completion::Safe(position)) => Some(position),
        _ => None,
    });
    let early = appends
        .into_iter()
        .find(|position| position.op <= through && log.position_at(position.op) == Some(*position));
    if let Some(position) = early {
        seen.broken(|| format!("CommittedIsSafe: {} has yet to write {position}", server.member));
    }
    for entry in committed {
        if !holds(server, entry) {
            seen.broken(|| {
                format!(
                    "EligibleIsComplete: {} lacks {}, which was committed",
                    server.member, entry.position
                )
            });
        }
    }
}

fn holds(server: &Server, entry: &Entry) -> bool {
    let log = server.replica.log();
    let same = |held: &Arc<Entry>| **held == *entry;
    log.position_at(entry.op()) == Some(entry.position) && log.get(entry.op()).is_none_or(same)
}

fn check_copy(server: &Server, committed: &[Arc<Entry>], seen: &mut Seen) {
    let through = server.replica.committed();
    let Some(prefix) = committed.get(..through.0 as usize) else {
        seen.broken(|| format!("OneCommittedLog: {} committed through {through}", server.member));
        return;
    };
    for entry in prefix {
        if !holds(server, entry) {
            seen.broken(|| {
                format!(
                    "OneCommittedLog: {} committed something else in the place of {}",
                    server.member, entry.position
                )
            });
        }
    }
    let query = Query::Get(vec![bytes::Bytes::from_static(KEY)]);
    let held = server.replica.store().query(&query).pop().flatten();
    let held = held.map(|record| record.value.to_vec());
    if server.replica.is_complete() && held != value_at(committed, through) {
        seen.broken(|| format!("StoreIsItsLog: {} holds {held:?}", server.member));
    }
}

/// No two servers hold different ops at one position.
fn check_positions(state: &State, seen: &mut Seen) {
    let mut logs = Vec::with_capacity(state.servers.len());
    for server in state.servers.iter().flatten() {
        let log = server.replica.log();
        for other in &logs {
            let other: &&kvserver::replica::log::Log = other;
            let mut op = log.base().op.max(other.base().op);
            while op < log.last().op.min(other.last().op) {
                op = op.next();
                // Of two pasts each may have an epoch of one name.
                let of_one_past = log.began(op) == other.began(op);
                if let (Some(one), Some(two)) = (log.get(op), other.get(op))
                    && one.position == two.position
                    && of_one_past
                    && one != two
                {
                    seen.broken(|| format!("OneOrder: {} names two ops", one.position));
                }
            }
        }
        logs.push(log);
    }
}

/// What the committed log makes of the one key, through an op: each request is done once, however
/// often it was ordered.
fn value_at(committed: &[Arc<Entry>], through: OpNumber) -> Option<Vec<u8>> {
    let mut value: Option<Vec<u8>> = None;
    for (index, entry) in committed.iter().enumerate() {
        if entry.op() <= through
            && !is_repeated(&committed[..index], entry)
            && let Command::Change(change) = &entry.command
            && let Action::Append(suffix) = &change.action
        {
            value.get_or_insert_default().extend_from_slice(suffix);
        }
    }
    value
}

/// Whether a request was ordered before.
fn is_repeated(earlier: &[Arc<Entry>], entry: &Entry) -> bool {
    entry.id.is_some() && earlier.iter().any(|other| other.id == entry.id)
}

/// A write was answered as done at an op: a repeated one at any op from its own on.
pub(super) fn check_acknowledged(state: &State, op: OpNumber, command: &Command, seen: &mut Seen) {
    let is_it = |entry: &&Arc<Entry>| entry.command == *command && entry.op() <= op;
    let found = state.committed.iter().find(is_it);
    let in_place = |entry: &Arc<Entry>| entry.id.is_some() || entry.op() == op;
    if !found.is_some_and(in_place) {
        seen.broken(|| format!("AckedIsKept: a write was answered, op {op} is another's"));
    }
}

/// A read was answered with what is there.
pub(super) fn check_read(state: &State, read: &OpenRead, record: Option<&Record>, seen: &mut Seen) {
    let value = record.map(|record| record.value.to_vec());
    let ops = read.floor.0..=state.committed.len() as u64;
    let mut possible = ops.map(|op| value_at(&state.committed, OpNumber(op)));
    if !possible.any(|possible| possible == value) {
        let text = value.map(|value| String::from_utf8_lossy(&value).into_owned());
        seen.broken(|| {
            format!(
                "Linearizable: a read returned {text:?}, but when it began op {} was committed",
                read.floor
            )
        });
    }
}
