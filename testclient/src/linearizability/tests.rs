//! The checkers checked: wrong histories that they must refuse and odd ones that they must not, and
//! thousands of small random ones against trying every order there is.

use bytes::Bytes;
use kvproto::{Action, Change, Changed, Expect, Record, Timestamp, Version};

use super::{Finding, check, check_whole};
use crate::history::{Answer, Call, End, History, Operation};
use crate::witness;

mod random;
mod stories;

const STEPS: u64 = 1_000_000;

/// One call, as a story tells it: `p(1).at(10..20)` and then what it did.
#[derive(Clone)]
struct Told {
    process: u32,
    invoked: u64,
    returned: Option<u64>,
}

fn p(process: u32) -> Told {
    Told { process, invoked: 0, returned: None }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn change(key: &str, action: Action) -> Change {
    Change { key: bytes(key), action }
}

fn record(value: &str, version: u64) -> Record {
    Record { value: bytes(value), version: Version(version) }
}

/// An answer to a write: version, whether the key existed, length.
fn made(version: u64, existed: bool, length: u64) -> Changed {
    Changed { version: Version(version), existed, length }
}

impl Told {
    fn at(self, time: std::ops::Range<u64>) -> Told {
        Told { invoked: time.start, returned: Some(time.end), ..self }
    }

    /// It was invoked then and its outcome is unknown.
    fn from(self, time: u64) -> Told {
        Told { invoked: time, returned: None, ..self }
    }

    fn write(&self, changes: Vec<Change>, answer: Answer) -> Call {
        self.call(Operation::Write(changes), answer)
    }

    fn put(&self, value: &str, version: u64) -> Call {
        let answer = Answer::Changed(vec![made(version, version > 1, value.len() as u64)]);
        self.write(vec![change("k", Action::Put(bytes(value)))], answer)
    }

    fn append(&self, suffix: &str, version: u64, length: u64) -> Call {
        let existed = length > suffix.len() as u64;
        let answer = Answer::Changed(vec![made(version, existed, length)]);
        self.write(vec![change("k", Action::Append(bytes(suffix)))], answer)
    }

    fn delete(&self, version: u64) -> Call {
        let answer = Answer::Changed(vec![made(version, true, 0)]);
        self.write(vec![change("k", Action::Delete)], answer)
    }

    fn set(&self, expect: Expect, new: &str, answer: Answer) -> Call {
        let action = Action::CompareAndSet { expect, new_value: Some(bytes(new)) };
        self.write(vec![change("k", action)], answer)
    }

    fn get(&self, value: &str, version: u64) -> Call {
        let answer = Answer::Records(vec![Some(record(value, version))]);
        self.call(Operation::Read(vec![bytes("k")]), answer)
    }

    fn get_nothing(&self) -> Call {
        self.call(Operation::Read(vec![bytes("k")]), Answer::Records(vec![None]))
    }

    fn call(&self, operation: Operation, answer: Answer) -> Call {
        let at = Timestamp::from_nanos;
        let end = match self.returned {
            Some(returned) => End::Done { returned: at(returned * 1_000_000), answer, at: None },
            None => End::Unknown,
        };
        let invoked = at(self.invoked * 1_000_000);
        Call { process: self.process, invoked, operation, end }
    }
}

fn history(calls: impl IntoIterator<Item = Call>) -> History {
    History { calls: calls.into_iter().collect() }
}

/// Both checkers are content.
fn legal(calls: impl IntoIterator<Item = Call>) {
    let history = history(calls);
    let report = check(&history, STEPS);
    if let Some((_, account)) = report.violations().next() {
        panic!("refused:\n{account}");
    }
    assert!(report.is_ok(), "not decided");
    assert_eq!(check_whole(&history, STEPS), Finding::Ok);
    let faults: Vec<String> = witness::check(&history).iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "the witness refused:\n{}", faults.join("\n"));
}

/// The search refuses it, and its account consists of just these calls (by index).
fn illegal(calls: impl IntoIterator<Item = Call>, contradiction: &[usize]) -> String {
    let history = history(calls);
    let report = check(&history, STEPS);
    let (_, account) = report.violations().next().expect("a violation");
    // The account leaves away answers to writes where they add nothing.
    let call = |call: &Call| (call.process, call.invoked, call.operation.clone());
    let expected: Vec<_> = contradiction.iter().map(|&index| call(&history.calls[index])).collect();
    let found: Vec<_> = account.contradiction.iter().map(call).collect();
    assert_eq!(found, expected, "\n{account}");
    assert!(matches!(check_whole(&history, STEPS), Finding::Violation(_)));
    account.to_string()
}

/// The witness refuses it too, in these words.
fn refused_by_witness(calls: impl IntoIterator<Item = Call>, words: &str) {
    let faults = witness::check(&history(calls));
    let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert!(all.iter().any(|fault| fault.contains(words)), "{words:?} is not in {all:#?}");
}
