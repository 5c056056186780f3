//! Checks a history against the servers' own account of it: the versions and log points that
//! answers carry. Pure; `O(n log n)` while few outcomes are unknown, so it takes millions of calls.
//!
//! A version names one op, and ops have one order. If the account is true, then for every key, in
//! the order of versions: each version is one write; each value follows from the one before; and
//! nothing that comes later in this order had already returned when something earlier was invoked.
//! Reads that never go back, and clients that read their own writes, are cases of the last rule.
//!
//! This blames single calls exactly, but believes the account: a system that answers wrongly and
//! numbers its wrong answers consistently passes. The search in `linearizability` believes nothing
//! and is slow; a history should pass both. Answers without a version are left to the search, and so
//! is whether an unknown call could really have done what it excuses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;
use kvproto::{Action, Change, Changed, Expect, LogPoint, Record, Timestamp, Version};

use crate::history::format::of_version;
use crate::history::{Answer, Call, End, History, NO_VERSION, Operation, name, shown};

/// A rule that calls broke, with all it takes to see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Of which key.
    pub key: Bytes,
    /// What is wrong.
    pub what: String,
    /// The calls that show it, as indices of the history.
    pub calls: Vec<usize>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls: Vec<_> = self.calls.iter().map(|call| format!("#{}", call + 1)).collect();
        write!(f, "key {}: {} (calls {})", name(&self.key), self.what, calls.join(", "))
    }
}

/// All faults of a history, key by key.
#[must_use]
pub fn check(history: &History) -> Vec<Fault> {
    let by_key = history.by_key();
    by_key.iter().flat_map(|(key, calls)| Witness::new(key, calls).check()).collect()
}

/// A write whose version is told by its own answer.
struct Write<'a> {
    call: usize,
    changes: &'a [Change],
    results: &'a [Changed],
}

/// Something was seen of the key: by a read, or by a compare-and-set that was refused.
struct Sight<'a> {
    call: usize,
    record: Option<&'a Record>,
    at: Option<LogPoint>,
}

/// When something happened, and where the servers say it stands.
struct Event {
    call: usize,
    /// The version that it made, or the one that it saw or that precedes what it saw.
    version: Version,
    /// Writes come before what sees them.
    is_sight: bool,
    invoked: Timestamp,
    returned: Timestamp,
}

struct Witness<'a> {
    key: &'a Bytes,
    times: BTreeMap<usize, (Timestamp, Timestamp)>,
    writes: BTreeMap<Version, Write<'a>>,
    sights: Vec<Sight<'a>>,
    /// Unknown writes.
    open: Vec<(usize, &'a Call)>,
    faults: Vec<Fault>,
}

impl<'a> Witness<'a> {
    fn new(key: &'a Bytes, calls: &'a [(usize, Call)]) -> Witness<'a> {
        let mut witness = Witness {
            key,
            times: BTreeMap::new(),
            writes: BTreeMap::new(),
            sights: Vec::new(),
            open: Vec::new(),
            faults: Vec::new(),
        };
        for (index, call) in calls {
            witness.sort_in(*index, call);
        }
        witness
    }

    fn sort_in(&mut self, index: usize, call: &'a Call) {
        let End::Done { returned, answer, at } = &call.end else {
            self.open.push((index, call));
            return;
        };
        self.times.insert(index, (call.invoked, *returned));
        match (&call.operation, answer) {
            (Operation::Write(changes), Answer::Changed(results)) => {
                let Some(version) = results.first().map(|result| result.version) else { return };
                if results.iter().any(|result| result.version != version) {
                    self.fault("one write made several versions".to_owned(), vec![index]);
                }
                if version == NO_VERSION {
                    // It may be anywhere, like one whose outcome is unknown.
                    self.open.push((index, call));
                    return;
                }
                let write = Write { call: index, changes, results };
                if let Some(other) = self.writes.insert(version, write) {
                    let what = format!("two writes made version {}", of_version(version));
                    self.fault(what, vec![other.call, index]);
                }
            }
            (Operation::Read(_), Answer::Records(records)) => {
                for record in records {
                    self.sights.push(Sight { call: index, record: record.as_ref(), at: *at });
                }
            }
            (_, Answer::Refused { record, .. }) => {
                self.sights.push(Sight { call: index, record: record.as_ref(), at: *at });
            }
            _ => {}
        }
    }

    fn fault(&mut self, what: String, calls: Vec<usize>) {
        self.faults.push(Fault { key: self.key.clone(), what, calls });
    }

    fn check(mut self) -> Vec<Fault> {
        let seen = self.values_seen();
        self.match_strangers(&seen);
        self.follow_values(&seen);
        self.check_sights();
        self.check_real_time();
        self.faults
    }

    /// The value of each version that was seen, with who saw it.
    fn values_seen(&mut self) -> BTreeMap<Version, (&'a Bytes, usize)> {
        let mut seen: BTreeMap<Version, (&'a Bytes, usize)> = BTreeMap::new();
        let mut disagree = Vec::new();
        for Sight { call, record, .. } in &self.sights {
            let Some(Record { value, version }) = record else { continue };
            if *version == NO_VERSION {
                continue;
            }
            let (other, by) = *seen.entry(*version).or_insert((value, *call));
            if other != value {
                let what = format!(
                    "version {} was seen as {} and as {}",
                    of_version(*version),
                    shown(other),
                    shown(value)
                );
                disagree.push((what, vec![by, *call]));
            }
        }
        disagree.into_iter().for_each(|(what, calls)| self.fault(what, calls));
        seen
    }

    /// A version that no answered write made must be that of an open write, each of which made one
    /// at most: every such version is matched with one of its own.
    fn match_strangers(&mut self, seen: &BTreeMap<Version, (&'a Bytes, usize)>) {
        let mut takers: BTreeMap<usize, Version> = BTreeMap::new();
        let mut faults = Vec::new();
        for (version, (value, call)) in seen {
            if self.writes.contains_key(version) {
                continue;
            }
            if !self.find_open(*version, seen, &mut takers, &mut BTreeSet::new()) {
                let (version, value) = (of_version(*version), shown(value));
                let what = format!("nobody wrote {value}, seen as version {version}");
                faults.push((what, vec![*call]));
            }
        }
        faults.into_iter().for_each(|(what, calls)| self.fault(what, calls));
    }

    /// Finds an open write for a version; one that is taken is left to it if its taker finds another.
    fn find_open(
        &self,
        version: Version,
        seen: &BTreeMap<Version, (&'a Bytes, usize)>,
        takers: &mut BTreeMap<usize, Version>,
        asked: &mut BTreeSet<usize>,
    ) -> bool {
        let (value, call) = seen[&version];
        let until = self.times[&call].1;
        for (open, write) in &self.open {
            if write.invoked > until || !may_have_made(write, value) || !asked.insert(*open) {
                continue;
            }
            let taker = takers.get(open).copied();
            if taker.is_none_or(|taker| self.find_open(taker, seen, takers, asked)) {
                takers.insert(*open, version);
                return true;
            }
        }
        false
    }

    /// Goes through the versions in order, and compares what each write says with what was there.
    fn follow_values(&mut self, seen: &BTreeMap<Version, (&'a Bytes, usize)>) {
        let mut versions: Vec<Version> = self.writes.keys().chain(seen.keys()).copied().collect();
        versions.sort_unstable();
        versions.dedup();
        // An open write may stand unseen before any that ended after it began.
        let first_open = self.open.iter().map(|(_, call)| call.invoked).min();
        let mut before: Option<Before> =
            Some(Before { version: NO_VERSION, value: None, by: None });
        let mut faults = Vec::new();
        for version in versions {
            let mut after = None;
            let mut by = seen.get(&version).map(|(_, call)| *call);
            if let Some(write) = self.writes.get(&version) {
                let complete = first_open.is_none_or(|open| self.times[&write.call].1 < open);
                let known = before.as_ref().filter(|_| complete);
                let (value, problem) = replay(write, known);
                by = Some(write.call);
                if let Some(what) = problem {
                    let calls = known.and_then(|before| before.by).into_iter();
                    faults.push((what, calls.chain([write.call]).collect()));
                }
                after = value.map(|value| Before { version, value, by });
            }
            if let Some((value, call)) = seen.get(&version) {
                if let Some(Before { value: made, .. }) = &after
                    && made.as_deref() != Some(&value[..])
                {
                    let made = made.as_ref().map_or("nothing".to_owned(), |made| shown(made));
                    let (version, value) = (of_version(version), shown(value));
                    let what = format!("version {version} is {made} and was seen as {value}");
                    faults.push((what, by.into_iter().chain([*call]).collect()));
                }
                after = Some(Before { version, value: Some(value.to_vec()), by });
            }
            before = after;
        }
        faults.into_iter().for_each(|(what, calls)| self.fault(what, calls));
    }

    /// A sight with a log point shows the newest version up to it.
    fn check_sights(&mut self) {
        let mut faults = Vec::new();
        for Sight { call, record, at } in &self.sights {
            let Some(at) = at.map(|at| Version::of_change_at(at.generation, at.op)) else {
                continue;
            };
            let saw = record.map_or(NO_VERSION, |record| record.version);
            if record.is_some() && saw == NO_VERSION {
                continue;
            }
            if saw > at {
                let (at, saw) = (of_version(at), of_version(saw));
                faults.push((format!("an answer as of {at} shows version {saw}"), vec![*call]));
                continue;
            }
            let Some((newest, write)) = self.writes.range(..=at).next_back() else { continue };
            let gone = record.is_none() && (write.deletes() || self.may_be_deleted(*call));
            let missed = *newest > saw && !gone;
            if missed {
                let what = format!(
                    "an answer as of {} misses version {}",
                    of_version(at),
                    of_version(*newest)
                );
                faults.push((what, vec![write.call, *call]));
            }
        }
        faults.into_iter().for_each(|(what, calls)| self.fault(what, calls));
    }

    /// Nothing returned before something of an earlier place in the order was invoked.
    fn check_real_time(&mut self) {
        let mut events: Vec<Event> = Vec::new();
        for (version, write) in &self.writes {
            let (invoked, returned) = self.times[&write.call];
            events.push(Event {
                call: write.call,
                version: *version,
                is_sight: false,
                invoked,
                returned,
            });
        }
        for Sight { call, record, .. } in &self.sights {
            let (invoked, returned) = self.times[call];
            let version = record.map_or(NO_VERSION, |record| record.version);
            if version != NO_VERSION {
                events.push(Event { call: *call, version, is_sight: true, invoked, returned });
            }
        }
        events.sort_by_key(|event| (event.version, event.is_sight, event.invoked));
        // By culprit, so that one stale read does not accuse everything before it.
        let mut faults: BTreeMap<usize, (String, usize)> = BTreeMap::new();
        // The call of an earlier place in the order that was invoked last.
        let mut latest: Option<&Event> = None;
        for group in events.chunk_by(|a, b| (a.version, a.is_sight) == (b.version, b.is_sight)) {
            for event in group {
                if let Some(latest) = latest.filter(|latest| event.returned < latest.invoked) {
                    faults.insert(latest.call, (too_early(event, latest), event.call));
                }
            }
            latest = group.iter().chain(latest).max_by_key(|event| event.invoked);
        }
        events.retain(|event| !faults.contains_key(&event.call));
        for (culprit, (what, other)) in faults {
            self.fault(what, vec![other, culprit]);
        }
        self.check_absences(&events);
    }

    /// Nothing was there in the beginning and after each deletion, until the next write. One of
    /// these gaps must lie between what was known when a sight of nothing began and what began
    /// after it ended.
    fn check_absences(&mut self, events: &[Event]) {
        let mut by_return: Vec<&Event> = events.iter().collect();
        by_return.sort_by_key(|event| event.returned);
        let mut newest = Vec::new();
        for event in &by_return {
            newest.push(newest.last().map_or(*event, |last: &&Event| newer(last, event)));
        }
        let mut by_invocation: Vec<&Event> = events.iter().collect();
        by_invocation.sort_by_key(|event| event.invoked);
        let mut oldest: Vec<&Event> = Vec::new();
        for event in by_invocation.iter().rev() {
            oldest.push(oldest.last().map_or(*event, |last| older(last, event)));
        }
        oldest.reverse();
        let versions: BTreeSet<Version> = events.iter().map(|event| event.version).collect();
        let mut gaps = vec![NO_VERSION];
        let deletions = self.writes.iter().filter(|(_, write)| write.deletes());
        gaps.extend(deletions.map(|(version, _)| *version));
        let mut faults = Vec::new();
        for Sight { call, record, .. } in &self.sights {
            if record.is_some() || self.may_be_deleted(*call) {
                continue;
            }
            let (invoked, returned) = self.times[call];
            let before = by_return.partition_point(|event| event.returned < invoked);
            let Some(known) = before.checked_sub(1).and_then(|last| newest.get(last)) else {
                continue;
            };
            let after = by_invocation.partition_point(|event| event.invoked <= returned);
            let end = oldest.get(after).map(|event| event.version);
            let gap = gaps.iter().rev().find(|gap| end.is_none_or(|end| **gap < end));
            let next = gap
                .and_then(|gap| versions.range((Bound::Excluded(*gap), Bound::Unbounded)).next());
            if next.is_some_and(|next| *next <= known.version) {
                let version = of_version(known.version);
                let what = format!("nothing was seen after version {version} was known");
                faults.push((what, vec![known.call, *call]));
            }
        }
        faults.into_iter().for_each(|(what, calls)| self.fault(what, calls));
    }

    /// Whether an open write may have removed the key before this sight ended.
    fn may_be_deleted(&self, sight: usize) -> bool {
        let until = self.times[&sight].1;
        self.open.iter().any(|(_, call)| {
            call.invoked <= until
                && matches!(&call.operation, Operation::Write(changes)
                    if changes.iter().any(|change| removes(&change.action)))
        })
    }
}

fn newer<'e>(a: &'e Event, b: &'e Event) -> &'e Event {
    if b.version > a.version { b } else { a }
}

fn older<'e>(a: &'e Event, b: &'e Event) -> &'e Event {
    if b.version < a.version { b } else { a }
}

/// `event` returned before `latest` was invoked, yet stands after it in the order.
fn too_early(event: &Event, latest: &Event) -> String {
    let (mine, other) = (of_version(event.version), of_version(latest.version));
    if latest.is_sight {
        format!("version {other} was still seen after version {mine} was known")
    } else if event.version == latest.version {
        format!("version {mine} was seen before its write began")
    } else {
        format!("version {mine} was known before the write of version {other} began")
    }
}

/// What the key held before a write.
struct Before {
    version: Version,
    value: Option<Vec<u8>>,
    by: Option<usize>,
}

impl Write<'_> {
    fn deletes(&self) -> bool {
        self.changes.last().is_some_and(|change| removes(&change.action))
    }
}

fn removes(action: &Action) -> bool {
    matches!(action, Action::Delete | Action::CompareAndSet { new_value: None, .. })
}

/// The value after the write, where it can be known (`Some(None)`: the key is gone), and what its
/// answer has wrong.
fn replay(write: &Write<'_>, before: Option<&Before>) -> (Option<Option<Vec<u8>>>, Option<String>) {
    let mut value: Option<Option<Vec<u8>>> = before.map(|before| before.value.clone());
    let mut problem = None;
    for (change, result) in write.changes.iter().zip(write.results) {
        let of = of_version(result.version);
        if let Some(value) = &value
            && value.is_some() != result.existed
        {
            let (was, said) =
                if result.existed { ("missing", "there") } else { ("there", "missing") };
            problem
                .get_or_insert(format!("the key was {was} before {of}, which says it was {said}"));
        }
        if let Action::CompareAndSet { expect, .. } = &change.action
            && let Some(before) = before
            && !holds(expect, value.as_ref().and_then(Option::as_ref), before)
        {
            problem.get_or_insert(format!("{of} was made although its condition did not hold"));
        }
        value = match &change.action {
            Action::Put(new) => Some(Some(new.to_vec())),
            Action::Delete => Some(None),
            Action::CompareAndSet { new_value, .. } => Some(new_value.as_ref().map(|v| v.to_vec())),
            Action::Append(suffix) => match value {
                None if !result.existed => Some(Some(suffix.to_vec())),
                value => value.map(|value| Some([&value.unwrap_or_default()[..], suffix].concat())),
            },
        };
        if let Some(value) = &value {
            let length = value.as_ref().map_or(0, Vec::len) as u64;
            if length != result.length {
                let said = result.length;
                problem.get_or_insert(format!("{of} is {length} bytes long and says {said}"));
            }
        }
    }
    (value, problem)
}

fn holds(expect: &Expect, value: Option<&Vec<u8>>, before: &Before) -> bool {
    match (expect, value) {
        (Expect::Missing, value) => value.is_none(),
        (Expect::Value(expected), Some(value)) => value[..] == expected[..],
        (Expect::Version(expected), Some(_)) => before.version == *expected,
        (Expect::Renamed(expected), Some(_)) => before.version == expected.now,
        (_, None) => false,
    }
}

/// Whether an open write may have left this value.
fn may_have_made(call: &Call, value: &Bytes) -> bool {
    let Operation::Write(changes) = &call.operation else { return false };
    match changes.last().map(|change| &change.action) {
        Some(Action::Put(put)) => put == value,
        Some(Action::Append(suffix)) => value.ends_with(suffix),
        Some(Action::CompareAndSet { new_value, .. }) => new_value.as_ref() == Some(value),
        Some(Action::Delete) | None => false,
    }
}
