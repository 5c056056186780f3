//! The keys and their records: puts, deletes, appends, compare-and-set, alone or in batches. Pure.
//!
//! A command is first planned against the present records and then written: a plan that fails
//! anywhere has changed nothing (AllOrNone). Keys and values are copied once, when they are
//! planned, into buffers of exactly their size, so that a small value never keeps the network
//! buffer alive in which it arrived. From then on the map, running scans and remembered answers
//! share them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use kvproto::command::{Action, Change, Changed, Expect, Record, Refusal};
use kvproto::ids::Version;

use super::digest::{self, Rolling};

/// All keys, ordered.
#[derive(Clone, Hash, Default, Debug)]
pub(super) struct Keys {
    map: BTreeMap<Bytes, Record>,
    rolling: Rolling,
}

/// What a command will write, complete and checked.
#[derive(Debug)]
pub(super) struct Plan {
    /// The last state of every key that the command names; `None` where it will be missing.
    pub(super) writes: Vec<(Bytes, Option<Record>)>,
    /// One per change, in the order of the command.
    pub(super) changed: Vec<Changed>,
}

impl Keys {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Record> {
        self.map.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Record)> {
        self.map.iter()
    }

    pub(super) fn rolling(&self) -> Rolling {
        self.rolling
    }

    /// The first key after `after`, or of all.
    pub(super) fn first_after(&self, after: Option<&[u8]>) -> Option<(&Bytes, &Record)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.map.range::<[u8], _>((from, Bound::Unbounded)).next()
    }

    /// Checks the changes one after the other, each seeing what the earlier ones would do, and says
    /// what they come to.
    pub(super) fn plan(
        &self,
        changes: &[Change],
        version: Version,
        value_size_max: u64,
    ) -> Result<Plan, Refusal> {
        let mut staged: BTreeMap<&[u8], Option<Staged<'_>>> = BTreeMap::new();
        let mut changed = Vec::with_capacity(changes.len());
        for (index, change) in changes.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let stored = self.map.get(&change.key);
            let present =
                staged.entry(&change.key).or_insert_with(|| stored.map(Staged::of_record));
            let existed = present.is_some();
            let length = present.as_ref().map_or(0, |present| present.value.len());
            let checked = |length: usize| match length as u64 {
                size if size > value_size_max => {
                    Err(Refusal::TooLarge { size, size_max: value_size_max, change: index })
                }
                _ => Ok(()),
            };
            match &change.action {
                Action::Put(value) => {
                    checked(value.len())?;
                    *present = Some(Staged::of_change(value, version));
                }
                Action::Delete => *present = None,
                Action::Append(suffix) => {
                    checked(length + suffix.len())?;
                    let grown = present.get_or_insert(Staged::of_change(&[], version));
                    grown.version = version;
                    grown.append(suffix);
                }
                Action::CompareAndSet { expect, new_value } => {
                    if !Staged::meets(present.as_ref(), expect) {
                        // What is there after this op is what was there before it, not what
                        // earlier changes of the batch would have made of it.
                        let record = stored.cloned();
                        return Err(Refusal::ConditionFailed { record, change: index });
                    }
                    checked(new_value.as_ref().map_or(0, Bytes::len))?;
                    *present = new_value.as_ref().map(|value| Staged::of_change(value, version));
                }
            }
            let length = present.as_ref().map_or(0, |present| present.value.len() as u64);
            changed.push(Changed { version, existed, length });
        }
        let writes = staged
            .into_iter()
            .map(|(key, staged)| (self.own_key(key), staged.map(Staged::into_record)))
            .collect();
        Ok(Plan { writes, changed })
    }

    /// Sets a key, or removes it.
    pub(super) fn write(&mut self, key: Bytes, record: Option<Record>) {
        if let Some(record) = &record {
            self.rolling.add(digest::of_key(&key, record));
        }
        let old = match record {
            Some(record) => self.map.insert(key.clone(), record),
            None => self.map.remove(&key),
        };
        if let Some(old) = old {
            self.rolling.remove(digest::of_key(&key, &old));
        }
    }

    /// The digest computed from nothing, to compare with the rolling one.
    pub(super) fn recomputed(&self) -> Rolling {
        let mut rolling = Rolling::default();
        self.map.iter().for_each(|(key, record)| rolling.add(digest::of_key(key, record)));
        rolling
    }

    /// The key as the map holds it, or a copy of exactly its size.
    fn own_key(&self, key: &[u8]) -> Bytes {
        match self.map.get_key_value(key) {
            Some((key, _)) => key.clone(),
            None => Bytes::copy_from_slice(key),
        }
    }
}

/// A record on its way: borrowed until something grows it, so that a batch of many small appends
/// to one large value copies that value once.
struct Staged<'a> {
    value: Cow<'a, [u8]>,
    version: Version,
}

impl<'a> Staged<'a> {
    fn of_record(record: &'a Record) -> Self {
        Self::of_change(&record.value, record.version)
    }

    fn of_change(value: &'a [u8], version: Version) -> Self {
        Staged { value: Cow::Borrowed(value), version }
    }

    fn append(&mut self, suffix: &[u8]) {
        match &mut self.value {
            // Exactly the room that a single append needs: the large values are copied once.
            Cow::Borrowed(value) => self.value = Cow::Owned([*value, suffix].concat()),
            Cow::Owned(value) => value.extend_from_slice(suffix),
        }
    }

    fn meets(present: Option<&Self>, expect: &Expect) -> bool {
        match (present, expect) {
            (None, Expect::Missing) => true,
            (Some(present), Expect::Value(value)) => *present.value == **value,
            (Some(present), Expect::Version(version)) => present.version == *version,
            _ => false,
        }
    }

    fn into_record(self) -> Record {
        let value = match self.value {
            Cow::Borrowed(value) => Bytes::copy_from_slice(value),
            // Boxed first: a grown buffer has room to spare that nobody would ever use.
            Cow::Owned(value) => Bytes::from(value.into_boxed_slice()),
        };
        Record { value, version: self.version }
    }
}
