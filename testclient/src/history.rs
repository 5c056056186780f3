//! What clients asked, what they were answered, and when: the food of both checkers. Pure.
//!
//! A call is a closed interval on one clock. Closed, because a clock ticks: when one call returns
//! in the tick in which another is invoked, nobody can say which was first, so the two count as
//! overlapping. A coarse clock thus hides faults but never invents one.
//!
//! Whoever records owes three things: the time of invocation is taken before the first attempt
//! leaves and that of the return after the answer arrived; every call that may have had an effect
//! is in the history, those without an answer as [`End::Unknown`]; and nobody else writes the keys.

pub mod format;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use kvproto::{Action, Change, Changed, Expect, LogPoint, Record, Timestamp, Version};

/// Calls in any order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// The calls.
    pub calls: Vec<Call>,
}

/// One call of one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// Who called, as a label for people: the order of calls follows from their times alone.
    pub process: u32,
    /// When it began.
    pub invoked: Timestamp,
    /// What was asked.
    pub operation: Operation,
    /// How it ended.
    pub end: End,
}

/// What can be asked. One change and a batch of one are the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// All these changes at once, or none.
    Write(Vec<Change>),
    /// The records of these keys at one moment.
    Read(Vec<Bytes>),
}

/// How a call ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// With an answer.
    Done {
        /// When the answer was there.
        returned: Timestamp,
        /// The answer.
        answer: Answer,
        /// The op that the answer says it reflects, if the recorder knows it.
        at: Option<LogPoint>,
    },
    /// It certainly had and will have no effect.
    NotDone {
        /// When that was known.
        returned: Timestamp,
        /// What the client was told.
        why: String,
    },
    /// Open for ever: it may take effect at any time from its invocation on, or never.
    Unknown,
}

/// What can be answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// All changes were made; one entry each.
    Changed(Vec<Changed>),
    /// A condition did not hold, and nothing was changed.
    Refused {
        /// Which change of the write had the condition, from 0.
        change: u32,
        /// What its key holds instead.
        record: Option<Record>,
    },
    /// One per key asked for.
    Records(Vec<Option<Record>>),
}

/// Stands in a record or a change whose version the recorder does not know; no real version is 0.
pub const NO_VERSION: Version = Version(0);

impl Call {
    /// The answer and when it was there, for a call that has one.
    #[must_use]
    pub fn answer(&self) -> Option<(Timestamp, &Answer)> {
        match &self.end {
            End::Done { returned, answer, .. } => Some((*returned, answer)),
            End::NotDone { .. } | End::Unknown => None,
        }
    }

    /// Whether the call had, or may have, a part in the order of things: it has an answer, or it is
    /// a write whose outcome is unknown.
    #[must_use]
    pub fn counts(&self) -> bool {
        match (&self.end, &self.operation) {
            (End::Done { .. }, _) => true,
            (End::NotDone { .. }, _) => false,
            (End::Unknown, operation) => matches!(operation, Operation::Write(_)),
        }
    }

    /// What is wrong with the call itself, whatever the others are.
    #[must_use]
    pub fn mistake(&self) -> Option<String> {
        let returned = match &self.end {
            End::Done { returned, .. } | End::NotDone { returned, .. } => *returned,
            End::Unknown => self.invoked,
        };
        if returned < self.invoked {
            return Some("the call returned before it was invoked".to_owned());
        }
        let parts = self.operation.parts();
        if parts == 0 {
            return Some("the call names no key".to_owned());
        }
        let (_, answer) = self.answer()?;
        let fits = match (&self.operation, answer) {
            (Operation::Write(_), Answer::Changed(changed)) => changed.len() == parts,
            (Operation::Write(changes), Answer::Refused { change, .. }) => changes
                .get(*change as usize)
                .is_some_and(|change| matches!(change.action, Action::CompareAndSet { .. })),
            (Operation::Read(_), Answer::Records(records)) => records.len() == parts,
            _ => false,
        };
        (!fits).then(|| "the answer does not fit the operation".to_owned())
    }

    /// The call with only the parts that concern one key; `None` when none does.
    ///
    /// Of a write refused for another key's condition nothing remains: it changed nothing, and that
    /// its conditions on this key held is forgotten here.
    #[must_use]
    pub fn on_key(&self, key: &[u8]) -> Option<Call> {
        let keep: Vec<usize> = self.operation.indices_of(key);
        if keep.is_empty() {
            return None;
        }
        let of = |index: &usize| keep.contains(index);
        let operation = match &self.operation {
            Operation::Write(changes) => Operation::Write(pick(changes, of)),
            Operation::Read(keys) => Operation::Read(pick(keys, of)),
        };
        let end = match &self.end {
            End::Done { returned, answer, at } => {
                let answer = match answer {
                    Answer::Changed(changed) => Answer::Changed(pick(changed, of)),
                    Answer::Records(records) => Answer::Records(pick(records, of)),
                    Answer::Refused { change, record } => {
                        let new = keep.iter().position(|index| *index == *change as usize)?;
                        Answer::Refused {
                            change: u32::try_from(new).unwrap_or(u32::MAX),
                            record: record.clone(),
                        }
                    }
                };
                End::Done { returned: *returned, answer, at: *at }
            }
            other => other.clone(),
        };
        Some(Call { process: self.process, invoked: self.invoked, operation, end })
    }
}

fn pick<T: Clone>(from: &[T], keep: impl Fn(&usize) -> bool) -> Vec<T> {
    from.iter().enumerate().filter(|(index, _)| keep(index)).map(|(_, part)| part.clone()).collect()
}

impl Operation {
    /// How many keys or changes it names.
    #[must_use]
    pub fn parts(&self) -> usize {
        match self {
            Operation::Write(changes) => changes.len(),
            Operation::Read(keys) => keys.len(),
        }
    }

    /// The keys it names, in its order, with repetitions.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let (changes, keys): (&[Change], &[Bytes]) = match self {
            Operation::Write(changes) => (changes, &[]),
            Operation::Read(keys) => (&[], keys),
        };
        changes.iter().map(|change| &change.key).chain(keys)
    }

    fn indices_of(&self, key: &[u8]) -> Vec<usize> {
        let named = self.keys().enumerate();
        named.filter(|(_, named)| **named == key).map(|(index, _)| index).collect()
    }
}

impl History {
    /// The calls that count, key by key, each reduced to the key and in the order of invocation,
    /// with their places in the history.
    #[must_use]
    pub fn by_key(&self) -> BTreeMap<Bytes, Vec<(usize, Call)>> {
        let mut by_key: BTreeMap<Bytes, Vec<(usize, Call)>> = BTreeMap::new();
        for (index, call) in self.calls.iter().enumerate().filter(|(_, call)| call.counts()) {
            let mut seen: Vec<&Bytes> = Vec::new();
            for key in call.operation.keys() {
                if seen.contains(&key) {
                    continue;
                }
                seen.push(key);
                if let Some(part) = call.on_key(key) {
                    by_key.entry(key.clone()).or_default().push((index, part));
                }
            }
        }
        for calls in by_key.values_mut() {
            calls.sort_by_key(|(_, call)| call.invoked);
        }
        by_key
    }
}

/// Bytes as people read them: text in quotes, shortened in the middle, anything else escaped.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 48;
    let text = String::from_utf8_lossy(bytes).escape_debug().collect::<String>();
    let count = text.chars().count();
    if count <= MOST {
        return format!("\"{text}\"");
    }
    let head: String = text.chars().take(MOST / 2).collect();
    let tail: String = text.chars().skip(count - MOST / 2).collect();
    format!("\"{head}…{tail}\" ({} bytes)", bytes.len())
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = match self {
            Operation::Write(changes) => changes.iter().map(shown_change).collect(),
            Operation::Read(keys) => keys.iter().map(|key| format!("get {}", name(key))).collect(),
        };
        f.write_str(&parts.join(" + "))
    }
}

fn shown_change(change: &Change) -> String {
    let key = name(&change.key);
    match &change.action {
        Action::Put(value) => format!("put {key} {}", shown(value)),
        Action::Delete => format!("delete {key}"),
        Action::Append(suffix) => format!("append {key} {}", shown(suffix)),
        Action::CompareAndSet { expect, new_value } => {
            let expect = match expect {
                Expect::Missing => "missing".to_owned(),
                Expect::Value(value) => shown(value),
                Expect::Version(version) => format!("version {}", format::of_version(*version)),
                Expect::Renamed(renamed) => {
                    format!("version {}", format::of_version(renamed.now))
                }
            };
            let new = new_value.as_ref().map_or("nothing".to_owned(), |value| shown(value));
            format!("set {key} from {expect} to {new}")
        }
    }
}

/// A key as people read it: bare when it is a plain word.
#[must_use]
pub fn name(key: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'"';
    match std::str::from_utf8(key) {
        Ok(text) if !key.is_empty() && key.len() <= 48 && key.iter().all(plain) => text.to_owned(),
        _ => shown(key),
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Changed(changed) if changed.is_empty() => f.write_str("ok"),
            Answer::Changed(changed) => {
                let parts: Vec<_> = changed.iter().map(shown_changed).collect();
                write!(f, "ok ({})", parts.join("; "))
            }
            Answer::Refused { record, .. } => {
                write!(f, "refused, it holds {}", shown_record(record.as_ref()))
            }
            Answer::Records(records) => {
                let parts: Vec<_> = records.iter().map(|r| shown_record(r.as_ref())).collect();
                f.write_str(&parts.join(", "))
            }
        }
    }
}

fn shown_changed(changed: &Changed) -> String {
    let before = if changed.existed { "was there" } else { "was missing" };
    let version = shown_version(changed.version);
    format!("{before}, now {} bytes{version}", changed.length)
}

fn shown_record(record: Option<&Record>) -> String {
    match record {
        None => "nothing".to_owned(),
        Some(record) => format!("{}{}", shown(&record.value), shown_version(record.version)),
    }
}

fn shown_version(version: Version) -> String {
    match version {
        NO_VERSION => String::new(),
        version => format!(" @{}", format::of_version(version)),
    }
}
