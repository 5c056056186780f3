//! What a correct store does with keys: the model that histories are held against. Pure.
//!
//! It is the same for one key and for the whole store; only the size of the state differs. It knows
//! nothing of the production store on purpose.
//!
//! An answer to a write that lists no results says that it was made, and nothing else.
//!
//! Two liberties keep states few, and neither changes a verdict:
//! - A value that is no beginning of any value ever observed (read, reported by a refusal, or
//!   expected by a compare-and-set) can only be told by its length from another such value, however
//!   it grows. It is kept as a length, or as less, when no answered append reveals lengths.
//! - Versions are the servers' own account, so they are left to the witness check; except where a
//!   compare-and-set expects a version, and with it the outcome depends on them. A version that no
//!   answer told is settled by whoever looks first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;
use kvproto::{Action, Change, Changed, Expect, Record, Version};

use super::search::Model;
use crate::history::{Answer, Call, NO_VERSION, Operation, shown};

/// The model for a given set of calls.
#[derive(Clone, Debug)]
pub struct Keys {
    /// `None`: keep every value as it is.
    observed: Option<BTreeSet<Bytes>>,
    lengths: bool,
    versions: bool,
    /// Bytes that unknown calls can add to a value at most.
    growth: u64,
}

/// What is there, by key.
pub type State = BTreeMap<Bytes, Held>;

/// What one key holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Held {
    /// The value.
    pub value: Value,
    /// Version of its last change, where versions matter and an answer told it.
    pub version: Option<Version>,
}

/// A value, as far as it can matter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Value {
    /// It may be, or become, one that was observed.
    Known(Bytes),
    /// Nobody ever observed it or what it grew into; of this length, where lengths matter.
    NeverSeen(u64),
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Known(value) => f.write_str(&shown(value)),
            Value::NeverSeen(_) => f.write_str("a value that no answer shows"),
        }
    }
}

impl Keys {
    /// The model that keeps every value as it is: for showing them.
    #[must_use]
    pub fn plain() -> Keys {
        Keys { observed: None, lengths: true, versions: false, growth: 0 }
    }

    /// The model for these calls: it has to know what may be observed.
    #[must_use]
    pub fn of<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Keys {
        let mut keys =
            Keys { observed: Some(BTreeSet::new()), lengths: false, versions: false, growth: 0 };
        for call in calls {
            let answer = call.answer().map(|(_, answer)| answer);
            match answer {
                Some(Answer::Records(records)) => {
                    records.iter().flatten().for_each(|record| keys.observe(&record.value));
                }
                Some(Answer::Refused { record: Some(record), .. }) => keys.observe(&record.value),
                _ => {}
            }
            let Operation::Write(changes) = &call.operation else { continue };
            for change in changes {
                match &change.action {
                    Action::Append(_) if answer.is_some() => {
                        keys.lengths |= answer != Some(&Answer::Changed(Vec::new()));
                    }
                    Action::Append(suffix) => keys.growth += suffix.len() as u64,
                    Action::CompareAndSet { expect: Expect::Value(value), .. } => {
                        keys.observe(value);
                    }
                    Action::CompareAndSet {
                        expect: Expect::Version(_) | Expect::Renamed(_),
                        ..
                    } => {
                        keys.versions = true;
                    }
                    _ => {}
                }
            }
        }
        keys
    }

    fn observe(&mut self, value: &Bytes) {
        if let Some(observed) = &mut self.observed {
            observed.insert(value.clone());
        }
    }

    fn value(&self, bytes: Bytes) -> Value {
        let may_be_observed = |observed: &BTreeSet<Bytes>| {
            let from = (Bound::Included(&bytes[..]), Bound::Unbounded);
            let next = observed.range::<[u8], _>(from).next();
            next.is_some_and(|next| next.starts_with(&bytes))
        };
        if self.observed.as_ref().is_none_or(may_be_observed) {
            Value::Known(bytes)
        } else {
            self.never_seen(bytes.len() as u64)
        }
    }

    fn never_seen(&self, length: u64) -> Value {
        Value::NeverSeen(if self.lengths { length } else { 0 })
    }

    fn grown(&self, held: Option<&Held>, suffix: &Bytes) -> Value {
        match held.map(|held| &held.value) {
            None => self.value(suffix.clone()),
            Some(Value::Known(value)) => self.value([&value[..], &suffix[..]].concat().into()),
            Some(Value::NeverSeen(length)) => self.never_seen(length + suffix.len() as u64),
        }
    }

    /// Whether the key may be as this record says; settles its version.
    fn agrees(&self, state: &mut State, key: &Bytes, record: Option<&Record>) -> bool {
        match (state.get_mut(key), record) {
            (None, None) => true,
            (Some(held), Some(record)) => {
                held.value == Value::Known(record.value.clone())
                    && (!self.versions || settle(held, record.version))
            }
            _ => false,
        }
    }

    /// Whether a condition may have come out as `wanted`; settles a version.
    fn comes_out(&self, state: &mut State, key: &Bytes, expect: &Expect, wanted: bool) -> bool {
        match (state.get_mut(key), expect) {
            (None, expect) => (*expect == Expect::Missing) == wanted,
            (Some(_), Expect::Missing) => !wanted,
            (Some(held), Expect::Value(value)) => {
                (held.value == Value::Known((**value).clone())) == wanted
            }
            (Some(held), Expect::Version(version)) => version_is(held, *version, wanted),
            (Some(held), Expect::Renamed(renamed)) => version_is(held, renamed.now, wanted),
        }
    }

    /// Makes one change; false when it cannot have been made, or not with this result.
    fn change(&self, state: &mut State, change: &Change, result: Option<&Changed>) -> bool {
        let Change { key, action } = change;
        let existed = state.contains_key(key);
        if result.is_some_and(|result| result.existed != existed) {
            return false;
        }
        let value = match action {
            Action::Put(value) => Some(self.value(value.clone())),
            Action::Delete => None,
            Action::Append(suffix) => Some(self.grown(state.get(key), suffix)),
            Action::CompareAndSet { expect, new_value } => {
                if !self.comes_out(state, key, expect, true) {
                    return false;
                }
                new_value.clone().map(|value| self.value(value))
            }
        };
        if result.is_some_and(|result| Some(result.length) != self.length(action, value.as_ref())) {
            return false;
        }
        match value {
            None => state.remove(key),
            Some(value) => {
                let version = result.map(|result| result.version);
                let version = version.filter(|version| self.versions && *version != NO_VERSION);
                state.insert(key.clone(), Held { value, version })
            }
        };
        true
    }

    /// Length after a change.
    fn length(&self, action: &Action, value: Option<&Value>) -> Option<u64> {
        match action {
            Action::Put(value) => Some(value.len() as u64),
            Action::CompareAndSet { new_value, .. } => {
                Some(new_value.as_ref().map_or(0, |value| value.len() as u64))
            }
            Action::Delete => Some(0),
            Action::Append(_) => value.map(length_of),
        }
    }
}

/// Whether a version may be the one of a record or not, as wanted; settles it where it must be.
fn version_is(held: &mut Held, version: Version, wanted: bool) -> bool {
    if wanted { settle(held, version) } else { held.version != Some(version) }
}

/// Gives a held value this version if it has none yet; false when it has another.
fn settle(held: &mut Held, version: Version) -> bool {
    version == NO_VERSION || *held.version.get_or_insert(version) == version
}

fn length_of(value: &Value) -> u64 {
    match value {
        Value::Known(value) => value.len() as u64,
        Value::NeverSeen(length) => *length,
    }
}

impl Model for Keys {
    type State = State;
    type Operation = Operation;
    type Answer = Answer;

    fn initial(&self) -> State {
        State::new()
    }

    fn step(&self, state: &State, operation: &Operation, answer: Option<&Answer>) -> Option<State> {
        let mut next = state.clone();
        match (operation, answer) {
            (Operation::Read(keys), Some(Answer::Records(records))) => {
                let mut pairs = keys.iter().zip(records);
                pairs.all(|(key, record)| self.agrees(&mut next, key, record.as_ref()))
            }
            (Operation::Write(changes), None) => {
                changes.iter().all(|change| self.change(&mut next, change, None))
            }
            (Operation::Write(changes), Some(Answer::Changed(results))) => {
                let mut parts = changes.iter().enumerate();
                parts.all(|(part, change)| self.change(&mut next, change, results.get(part)))
            }
            (Operation::Write(changes), Some(Answer::Refused { change, record })) => {
                return self.refused(next, changes, *change as usize, record.as_ref());
            }
            _ => false,
        }
        .then_some(next)
    }

    fn only_looks(&self, _: &Operation, answer: &Answer) -> bool {
        // Where versions matter, a look may settle one.
        !self.versions && !matches!(answer, Answer::Changed(_))
    }

    fn may_help(
        &self,
        before: &State,
        after: &State,
        operation: &Operation,
        answer: Option<&Answer>,
    ) -> bool {
        // Several parts: anything may help.
        if operation.parts() != 1 {
            return true;
        }
        let Some(key) = operation.keys().next() else { return true };
        // An unknown batch that matters elsewhere cannot be left out for what it does to this key, nor
        // made later, when it would overwrite it.
        let at_others = |(other, _): &(&Bytes, &Held)| *other != key;
        if before.iter().filter(at_others).ne(after.iter().filter(at_others)) {
            return true;
        }
        let (before, after) = (before.get(key), after.get(key));
        before != after
            && match (operation, answer) {
                (Operation::Read(_), Some(Answer::Records(records))) => records
                    .iter()
                    .all(|record| self.may_become(after, record.as_ref().map(|r| &r.value))),
                (Operation::Write(_), Some(Answer::Refused { record, .. })) => {
                    self.may_become(after, record.as_ref().map(|record| &record.value))
                }
                (Operation::Write(changes), answer) => changes
                    .iter()
                    .all(|change| self.helps_change(before, after, &change.action, answer)),
                _ => true,
            }
    }
}

impl Keys {
    /// The changes before the refused one were possible, and it was not; nothing has changed.
    fn refused(
        &self,
        mut state: State,
        changes: &[Change],
        refused: usize,
        record: Option<&Record>,
    ) -> Option<State> {
        let (earlier, refused) = (changes.get(..refused)?, changes.get(refused)?);
        let Action::CompareAndSet { expect, .. } = &refused.action else { return None };
        // The record is what was there before the whole write.
        if !self.agrees(&mut state, &refused.key, record) {
            return None;
        }
        let mut staged = state.clone();
        let holds = earlier.iter().all(|change| self.change(&mut staged, change, None))
            && self.comes_out(&mut staged, &refused.key, expect, false);
        holds.then_some(state)
    }

    /// Whether what is held is this value, or may grow into it.
    fn may_become(&self, held: Option<&Held>, value: Option<&Bytes>) -> bool {
        match (held.map(|held| &held.value), value) {
            (held, None) => held.is_none(),
            (None, Some(value)) => value.len() as u64 <= self.growth,
            (Some(Value::Known(held)), Some(value)) => {
                value.starts_with(held) && (value.len() - held.len()) as u64 <= self.growth
            }
            (Some(Value::NeverSeen(_)), Some(_)) => false,
        }
    }

    /// As [`Model::may_help`], for one change of one key that is not the same before and after.
    fn helps_change(
        &self,
        before: Option<&Held>,
        after: Option<&Held>,
        action: &Action,
        answer: Option<&Answer>,
    ) -> bool {
        let result = match answer {
            Some(Answer::Changed(results)) => results.first(),
            _ => None,
        };
        let appears_or_goes = before.is_some() != after.is_some();
        match (action, result) {
            (Action::CompareAndSet { expect: Expect::Missing, .. }, _) => after.is_none(),
            (Action::CompareAndSet { expect: Expect::Value(value), .. }, _) => {
                self.may_become(after, Some(value))
            }
            (Action::CompareAndSet { .. }, _) => true,
            // It is possible anyway, but what it makes of the value may be observed.
            (Action::Append(_), None) if answer.is_some() => {
                let may_be_seen = matches!(after, Some(Held { value: Value::Known(_), .. }));
                may_be_seen || appears_or_goes || self.lengths || self.versions
            }
            // Without a condition and a result it is possible anyway.
            (_, None) => false,
            // It shows whether the key was there, and nothing else of what was before.
            (Action::Put(_) | Action::Delete, Some(result)) => {
                appears_or_goes && after.is_some() == result.existed
            }
            (Action::Append(suffix), Some(result)) => {
                let length = after.map_or(0, |held| length_of(&held.value));
                let missing = result.length.checked_sub(length + suffix.len() as u64);
                let in_reach = missing.is_some_and(|missing| missing <= self.growth);
                in_reach && (result.existed || after.is_none())
            }
        }
    }
}
