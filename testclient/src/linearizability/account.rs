//! Makes of a violation what a person can follow: the few calls that contradict each other. Pure.
//!
//! A call is weakened by leaving it out, if it is a read, or, if it is a write, by forgetting its
//! answer, or that it ended at all. That never turns a legal history into a violation, so whatever
//! remains is one for sure. Calls that began after the first one that fits nowhere had ended are left
//! out first: they cannot help it. Then all are weakened but that call, those that may have written
//! what it saw, and the few that returned last before it, if they are a violation by themselves; and
//! then whatever else is not needed.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use kvproto::{Action, Timestamp};

use super::decide;
use super::keys::{Held, Keys};
use super::search::{Model, Stuck, Verdict};
use crate::history::{Answer, Call, End, Operation, name};

/// Steps of each search while calls are left out. A search that needs more keeps its calls.
const STEPS_MAX: u64 = 400_000;

/// Searches while calls are left out, times the calls of each, at most.
const WORK_MAX: usize = 30_000;

/// Calls that a person takes in at once.
const EASY: usize = 5;

/// Other writes that are shown one by one at most.
const OTHERS_SHOWN: usize = 4;

/// Why some calls have no order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// The calls that contradict each other, by invocation.
    pub contradiction: Vec<Call>,
    /// Other writes that began before its end: none of them helps, wherever they are placed.
    pub others: Vec<Call>,
    /// Calls that have an order, until the contradiction.
    pub explained: usize,
    /// The first call that no order explains.
    pub blocked: Call,
    /// What its keys hold after those that have one, in words.
    pub held: String,
}

impl Account {
    /// The account of a violation among these calls.
    #[must_use]
    pub(super) fn of(calls: &[Call], stuck: &Stuck) -> Account {
        let blocked = calls[stuck.blocked].clone();
        let until = blocked.answer().map_or(blocked.invoked, |(returned, _)| returned);
        let in_time = |call: &&Call| call.invoked <= until;
        let cut: Vec<Call> = calls.iter().filter(in_time).cloned().collect();
        let core = core(&cut, &blocked);
        let (contradiction, others) =
            core.into_iter().partition(|call: &Call| call.answer().is_some());
        let held = held(calls, &stuck.order, &blocked);
        Account { contradiction, others, explained: stuck.order.len(), blocked, held }
    }
}

/// What the keys of `shown` hold after the calls in this order.
fn held(calls: &[Call], order: &[usize], shown: &Call) -> String {
    let model = Keys::plain();
    let state = order.iter().fold(model.initial(), |state, &call| {
        let Call { operation, .. } = &calls[call];
        let answer = calls[call].answer().map(|(_, answer)| answer);
        model.step(&state, operation, answer).unwrap_or(state)
    });
    let keys: BTreeSet<_> = shown.operation.keys().collect();
    let one = |key: &Bytes| {
        let held = state.get(key).map_or("nothing".to_owned(), Held::to_string);
        format!("{} = {held}", name(key))
    };
    keys.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The call without its end: a write that may happen at any time or never, or no read at all.
fn weakened(call: &Call) -> Option<Call> {
    match call.operation {
        Operation::Write(_) => Some(Call { end: End::Unknown, ..call.clone() }),
        Operation::Read(_) => None,
    }
}

fn is_violation(calls: &[Call]) -> bool {
    let verdict = decide(calls, &mut |steps| steps < STEPS_MAX);
    matches!(verdict, Verdict::Violation(_))
}

/// A small violation among these calls. What was acknowledged in which order is the easiest to
/// follow; where that takes many calls, what writes were answered may say it in fewer.
fn core(calls: &[Call], blocked: &Call) -> Vec<Call> {
    let answered = |core: &Vec<Call>| core.iter().filter(|call| call.answer().is_some()).count();
    let blind: Vec<Call> = calls.iter().map(without_answer).collect();
    let blind = narrowed(&blind, blocked).map(reduce);
    match blind {
        Some(core) if answered(&core) <= EASY => core,
        blind => {
            let sighted = narrowed(calls, blocked).map(reduce);
            let smallest = blind.into_iter().chain(sighted).min_by_key(answered);
            smallest.unwrap_or_else(|| calls.to_vec())
        }
    }
}

/// Keeps the blocked call, those that may have written what it saw, and as few others as may do, the
/// last to return first, and those that overlap the blocked one last.
fn narrowed(calls: &[Call], blocked: &Call) -> Option<Vec<Call>> {
    let returned = |i: &usize| calls[*i].answer().map(|(returned, _)| returned);
    let mut others: Vec<usize> = (0..calls.len()).filter(|i| returned(i).is_some()).collect();
    others.sort_by_key(|i| {
        let overlaps = returned(i).is_some_and(|returned| returned >= blocked.invoked);
        (overlaps, std::cmp::Reverse(returned(i)))
    });
    let is_blocked = |call: &Call| {
        (call.process, call.invoked, &call.operation)
            == (blocked.process, blocked.invoked, &blocked.operation)
    };
    let mut most = 1;
    while most < 2 * others.len() {
        let kept = &others[..most.min(others.len())];
        let few: Vec<Call> = calls
            .iter()
            .enumerate()
            .filter_map(|(i, call)| {
                let keep = is_blocked(call) || kept.contains(&i) || may_have_written(call, blocked);
                if keep { Some(call.clone()) } else { weakened(call) }
            })
            .collect();
        if is_violation(&few) {
            return Some(few);
        }
        most *= 2;
    }
    None
}

/// The call with nothing but its end, if it is a write that was made.
fn without_answer(call: &Call) -> Call {
    let mut call = call.clone();
    if let End::Done { answer: Answer::Changed(results), .. } = &mut call.end {
        results.clear();
    }
    call
}

/// Whether the value that `reader` was shown may come from this write.
fn may_have_written(call: &Call, reader: &Call) -> bool {
    let Operation::Write(changes) = &call.operation else { return false };
    let seen: Vec<&Bytes> = match reader.answer() {
        Some((_, Answer::Records(records))) => records.iter().flatten().map(|r| &r.value).collect(),
        Some((_, Answer::Refused { record: Some(record), .. })) => vec![&record.value],
        _ => return false,
    };
    changes.iter().any(|change| match &change.action {
        Action::Put(new) | Action::CompareAndSet { new_value: Some(new), .. } => {
            seen.iter().any(|seen| seen.starts_with(new))
        }
        Action::Append(suffix) => {
            let within = |seen: &[u8]| seen.windows(suffix.len().max(1)).any(|w| w == suffix);
            seen.iter().any(|seen| within(seen))
        }
        _ => false,
    })
}

/// Weakens calls in ever smaller groups, from the earliest on, while a violation remains.
fn reduce(mut calls: Vec<Call>) -> Vec<Call> {
    calls.sort_by_key(|call| call.invoked);
    let mut work = 0;
    let mut size = calls.len().next_power_of_two() / 2;
    while size > 0 {
        let mut from = 0;
        loop {
            let answered = (0..calls.len()).filter(|&i| calls[i].answer().is_some());
            let group: BTreeSet<usize> = answered.skip(from).take(size).collect();
            if group.is_empty() {
                break;
            }
            work += calls.len();
            if work > WORK_MAX {
                return calls;
            }
            let fewer: Vec<Call> = calls
                .iter()
                .enumerate()
                .filter_map(|(i, call)| match group.contains(&i) {
                    true => weakened(call),
                    false => Some(call.clone()),
                })
                .collect();
            if is_violation(&fewer) {
                calls = fewer;
            } else {
                from += group.len();
            }
        }
        size /= 2;
    }
    for i in 0..calls.len() {
        let mut fewer = calls.clone();
        fewer[i] = without_answer(&calls[i]);
        work += calls.len();
        if work <= WORK_MAX && fewer[i] != calls[i] && is_violation(&fewer) {
            calls = fewer;
        }
    }
    calls
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "These calls have no order:")?;
        let few = self.others.len() <= OTHERS_SHOWN;
        let others: &[Call] = if few { &self.others } else { &[] };
        let mut calls: Vec<&Call> = self.contradiction.iter().chain(others).collect();
        calls.sort_by_key(|call| call.invoked);
        let Some(start) = calls.first().map(|call| call.invoked) else { return Ok(()) };
        let rows: Vec<[String; 3]> = calls.iter().map(|call| row(call, start)).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let (who_width, what_width) = (width(0), width(1));
        for ([who, what, answer], bar) in rows.iter().zip(bars(&calls)) {
            writeln!(f, "  {bar}  {who:<who_width$}  {what:<what_width$}  -> {answer}")?;
        }
        if !few {
            let others = self.others.len();
            writeln!(f, "It does not help to place {others} other writes anywhere, or nowhere.")?;
        }
        let Call { process, operation, .. } = &self.blocked;
        let (explained, held) = (self.explained, &self.held);
        write!(
            f,
            "{explained} calls fit, and leave {held}; the next to end, of process {process} \
             ({operation}), fits nowhere."
        )
    }
}

fn row(call: &Call, start: Timestamp) -> [String; 3] {
    let millis = |at: Timestamp| format!("{:.3}", at.since(start).as_secs_f64() * 1e3);
    let invoked = millis(call.invoked);
    let (when, answer) = match call.answer() {
        Some((returned, answer)) => {
            (format!("{invoked}..{}", millis(returned)), answer.to_string())
        }
        None => (format!("{invoked}.."), "at any time, or never".to_owned()),
    };
    let who = format!("process {} [{when} ms]", call.process);
    [who, call.operation.to_string(), answer]
}

/// One bar for each call: where they overlap on the page, they overlapped in time. Only the order of
/// beginnings and ends is drawn, not distances.
fn bars(calls: &[&Call]) -> Vec<String> {
    /// More columns than this do not fit beside the text.
    const COLUMNS: usize = 40;
    let end = |call: &Call| call.answer().map(|(returned, _)| returned);
    let moments: BTreeSet<Timestamp> =
        calls.iter().flat_map(|call| [Some(call.invoked), end(call)]).flatten().collect();
    let last = moments.len().saturating_sub(1).max(1);
    let width = (2 * last).min(COLUMNS);
    let column = |at: Timestamp| moments.range(..at).count() * width / last;
    let bar = |call: &Call| {
        let from = column(call.invoked);
        let to = end(call).map_or(width, column);
        let mut bar = " ".repeat(from) + "|" + &"-".repeat(to - from) + &" ".repeat(width - to);
        let last = if end(call).is_some() { "|" } else { ">" };
        if to > from {
            bar.replace_range(to..=to, last);
        }
        bar
    };
    calls.iter().map(|call| bar(call)).collect()
}
