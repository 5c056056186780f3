//! Is there one order of all calls that a store on a single machine could have answered like this,
//! with every call at some moment between its invocation and its return? Pure.
//! (Herlihy and Wing, Linearizability: A Correctness Condition for Concurrent Objects, 1990.)
//!
//! - [`search`](mod@search) finds such an order, or that there is none, for any [`Model`]
//! - [`keys`] is the model of our store
//! - [`account`] makes of a violation the few calls that contradict each other
//!
//! A history is checked key by key: for calls that name one key that is all there is to check
//! (linearizability is local). Of a batch or a read of several keys each key gets its part; that
//! every part fits is necessary, not sufficient. [`check_whole`] checks a history with all keys at
//! once, which is exact but only feasible when it is small.

pub mod account;
pub mod keys;
pub mod search;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use account::Account;
pub use search::Model;

use crate::history::{Call, History};
use keys::Keys;
use search::{Timed, Verdict};

/// What became of one key, or of a whole history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Linearizable.
    Ok,
    /// Not linearizable, and this is why.
    Violation(Box<Account>),
    /// Given up before that was known. Not a pass.
    NotDecided,
}

/// The findings, key by key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// By key, with the number of calls that count for it.
    pub keys: Vec<(Bytes, usize, Finding)>,
}

impl Report {
    /// Whether every key is linearizable.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.keys.iter().all(|(.., finding)| *finding == Finding::Ok)
    }

    /// The violations.
    pub fn violations(&self) -> impl Iterator<Item = (&Bytes, &Account)> {
        self.keys.iter().filter_map(|(key, _, finding)| match finding {
            Finding::Violation(account) => Some((key, &**account)),
            _ => None,
        })
    }

    /// Keys that are not decided.
    pub fn not_decided(&self) -> impl Iterator<Item = &Bytes> {
        let open = self.keys.iter().filter(|(.., finding)| *finding == Finding::NotDecided);
        open.map(|(key, ..)| key)
    }
}

/// Checks every key with at most `steps_max` steps each (about a million a second).
#[must_use]
pub fn check(history: &History, steps_max: u64) -> Report {
    let mut report = Report::default();
    for (key, calls) in history.by_key() {
        let (_, calls): (Vec<usize>, Vec<Call>) = calls.into_iter().unzip();
        let finding = check_calls(&calls, &mut |steps| steps < steps_max);
        report.keys.push((key, calls.len(), finding));
    }
    report
}

/// Checks a history as one, all its keys together.
#[must_use]
pub fn check_whole(history: &History, steps_max: u64) -> Finding {
    let counts = |call: &&Call| call.counts();
    let calls: Vec<Call> = history.calls.iter().filter(counts).cloned().collect();
    check_calls(&calls, &mut |steps| steps < steps_max)
}

/// Checks calls that count ([`Call::counts`]), of one key or of several together, for as long as
/// `go_on` says. It is asked again and again with the steps made so far; a clock in it makes a
/// time-out.
#[must_use]
pub fn check_calls(calls: &[Call], go_on: &mut dyn FnMut(u64) -> bool) -> Finding {
    match decide(calls, go_on) {
        Verdict::Linearizable(_) => Finding::Ok,
        Verdict::NotDecided => Finding::NotDecided,
        Verdict::Violation(stuck) => Finding::Violation(Box::new(Account::of(calls, &stuck))),
    }
}

fn decide(calls: &[Call], go_on: &mut dyn FnMut(u64) -> bool) -> Verdict {
    let model = Keys::of(calls);
    let timed: Vec<Timed<'_, Keys>> = calls
        .iter()
        .map(|call| Timed {
            invoked: call.invoked.as_nanos(),
            operation: &call.operation,
            answered: call.answer().map(|(returned, answer)| (returned.as_nanos(), answer)),
        })
        .collect();
    search::search(&model, &timed, go_on)
}
