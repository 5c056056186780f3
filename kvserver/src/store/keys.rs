//! The keys and their items: puts, deletes, appends, compare-and-set, alone or in batches. Pure.
//!
//! A command is first planned against the present items and then written: a plan that fails anywhere
//! has changed nothing (AllOrNone). Key and value are copied once, when the plan is complete, into an
//! item of exactly their size, so that a small value never keeps the network buffer alive in which it
//! arrived.
//!
//! The items are in a table without order; the order is a set of names beside it, which changes only
//! when a key comes or goes. So a write of a known key costs two looks into the table, however many
//! keys there are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use kvproto::command::{Action, Change, Changed, Expect, Refusal};
use kvproto::digest::{self, Rolling};
use kvproto::ids::Version;

use super::item::Item;
use super::items::Items;
use super::names::{self, Names};

/// Why it is certain that a name is found.
const NAMED: &str = "a name stands for an item in the table";

/// Items that are looked up together on a walk.
const LOOK_AHEAD: usize = 64;

/// All keys.
#[derive(Debug)]
pub(super) struct Keys {
    items: Items,
    /// Those that are in the table.
    names: Names,
    rolling: Rolling,
    bytes: u64,
}

/// A clone has a table of its own.
impl Clone for Keys {
    fn clone(&self) -> Self {
        let Keys { items, names, rolling, bytes } = self;
        Keys { items: items.copied(), names: names.clone(), rolling: *rolling, bytes: *bytes }
    }
}

/// Items hash by their keys alone; two states with other values are two states.
impl Hash for Keys {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Keys { items: _, names, rolling, bytes: _ } = self;
        names.len().hash(state);
        self.iter().for_each(|item| item.contents().hash(state));
        rolling.hash(state);
    }
}

/// The last state of a key that a command names.
#[derive(Debug)]
pub(super) enum Write<'a> {
    Set(&'a [u8], Item),
    Remove(&'a [u8]),
}

/// What a command will write, and one result per change, in the order of the command.
pub(super) type Plan<'a> = (Vec<Write<'a>>, Vec<Changed>);

impl Keys {
    /// No keys. Forgets what is in the table.
    pub(super) fn new(items: Items) -> Keys {
        items.clear();
        Keys { items, names: Names::default(), rolling: Rolling::default(), bytes: 0 }
    }

    /// The table of the items.
    pub(super) fn items(&self) -> &Items {
        &self.items
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Item> {
        self.items.get(key)
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Item> {
        self.names.after(None).map(|name| self.get(name).expect(NAMED))
    }

    pub(super) fn rolling(&self) -> Rolling {
        self.rolling
    }

    /// Memory taken, by estimate.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Memory that a key and a value of so many bytes take.
    pub(super) fn bytes_for(key_length: usize, value_length: usize) -> u64 {
        Item::bytes_for(key_length + value_length) + names::bytes_for(key_length)
    }

    /// Has somebody walk through the items after this key, or through all.
    pub(super) fn walk_after(
        &self,
        key: Option<&[u8]>,
        walk: impl FnOnce(&mut dyn Iterator<Item = &Item>),
    ) {
        let mut names = self.names.after(key);
        self.items.read(|find| {
            let some = || Some(names.by_ref().take(LOOK_AHEAD).collect::<Vec<_>>());
            let batches = std::iter::from_fn(some).take_while(|names| !names.is_empty());
            let found = batches.flat_map(|names| find(&names));
            walk(&mut found.map(|item| item.expect(NAMED)));
        });
    }

    /// Checks one change and says what it comes to.
    pub(super) fn plan_one<'a>(
        &self,
        change: &'a Change,
        version: Version,
        value_size_max: u64,
    ) -> Result<(Write<'a>, Changed), Refusal> {
        let stored = self.get(&change.key);
        let stored = stored.as_ref();
        let rules = Rules { stored, index: 0, version, value_size_max };
        let mut present = stored.map(Staged::of_item);
        let changed = rules.make(change, &mut present)?;
        Ok((Staged::write(&change.key, present), changed))
    }

    /// Checks the changes one after the other, each seeing what the earlier ones would do, and says
    /// what they come to.
    pub(super) fn plan<'a>(
        &self,
        changes: &'a [Change],
        version: Version,
        value_size_max: u64,
    ) -> Result<Plan<'a>, Refusal> {
        let stored: Vec<_> = changes.iter().map(|change| self.get(&change.key)).collect();
        let mut staged: BTreeMap<&[u8], Option<Staged<'_>>> = BTreeMap::new();
        let mut changed = Vec::with_capacity(changes.len());
        for (index, (change, stored)) in changes.iter().zip(&stored).enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let stored = stored.as_ref();
            let present = staged.entry(&change.key).or_insert_with(|| stored.map(Staged::of_item));
            changed.push(Rules { stored, index, version, value_size_max }.make(change, present)?);
        }
        let writes = staged.into_iter().map(|(key, last)| Staged::write(key, last));
        Ok((writes.collect(), changed))
    }

    /// Puts the item of a key in its place, and returns the one that was there.
    pub(super) fn set(&mut self, key: &[u8], item: Item) -> Option<Item> {
        self.rolling.add(digest::of_contents(item.contents()));
        self.bytes += item.bytes();
        let old = self.items.set(item);
        match &old {
            Some(old) => self.forget(old),
            None => {
                self.names.insert(key);
                self.bytes += names::bytes_for(key.len());
            }
        }
        old
    }

    /// Removes a key, and returns its item.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Item> {
        let old = self.items.remove(key)?;
        self.forget(&old);
        self.names.remove(key);
        self.bytes -= names::bytes_for(key.len());
        Some(old)
    }

    fn forget(&mut self, old: &Item) {
        self.rolling.remove(digest::of_contents(old.contents()));
        self.bytes -= old.bytes();
    }

    /// Digest and memory computed from nothing, to compare with the rolling ones.
    ///
    /// # Panics
    /// If the names are not those of the items.
    pub(super) fn recomputed(&self) -> (Rolling, u64) {
        assert_eq!(self.names.len(), self.items.len(), "every item has a name");
        let (mut rolling, mut bytes) = (Rolling::default(), 0);
        for item in self.iter() {
            rolling.add(digest::of_contents(item.contents()));
            bytes += Keys::bytes_for(item.key().len(), item.value().len());
        }
        (rolling, bytes)
    }
}

/// What one change may do: it finds `stored` before the op, and is this one of its command.
struct Rules<'a> {
    stored: Option<&'a Item>,
    index: u32,
    version: Version,
    value_size_max: u64,
}

impl Rules<'_> {
    /// Makes of the key what the change wants, from what earlier changes of the command made of it.
    fn make<'a>(
        &self,
        change: &'a Change,
        present: &mut Option<Staged<'a>>,
    ) -> Result<Changed, Refusal> {
        let version = self.version;
        let existed = present.is_some();
        match &change.action {
            Action::Put(value) => *present = Some(Staged::new(value, version)),
            Action::Delete => *present = None,
            Action::Append(suffix) => {
                let grown = present.get_or_insert(Staged::new(&[], version));
                grown.version = version;
                grown.append(suffix);
            }
            Action::CompareAndSet { expect, new_value } => {
                if !Staged::meets(present.as_ref(), expect) {
                    // What is there after this op is what was there before it, not what earlier
                    // changes of the batch would have made of it.
                    let record = self.stored.cloned().map(Item::into_record);
                    return Err(Refusal::ConditionFailed { record, change: self.index });
                }
                *present = new_value.as_ref().map(|value| Staged::new(value, version));
            }
        }
        let length = self.checked(present.as_ref().map_or(0, Staged::len))?;
        Ok(Changed { version, existed, length })
    }

    fn checked(&self, length: usize) -> Result<u64, Refusal> {
        let (size, size_max) = (length as u64, self.value_size_max);
        if size > size_max {
            return Err(Refusal::TooLarge { size, size_max, change: self.index });
        }
        Ok(size)
    }
}

/// A value on its way, in two parts that are joined when the item is made: so an append copies the
/// value once, and so does a batch of many appends to one value.
struct Staged<'a> {
    head: &'a [u8],
    tail: Cow<'a, [u8]>,
    version: Version,
}

impl<'a> Staged<'a> {
    fn new(value: &'a [u8], version: Version) -> Self {
        Staged { head: value, tail: Cow::Borrowed(&[]), version }
    }

    fn of_item(item: &'a Item) -> Self {
        Staged::new(item.value(), item.version())
    }

    fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    fn append(&mut self, suffix: &'a [u8]) {
        if self.tail.is_empty() {
            self.tail = Cow::Borrowed(suffix);
        } else {
            self.tail.to_mut().extend_from_slice(suffix);
        }
    }

    fn meets(present: Option<&Self>, expect: &Expect) -> bool {
        match (present, expect) {
            (None, Expect::Missing) => true,
            (Some(present), Expect::Value(value)) => {
                value.strip_prefix(present.head) == Some(&*present.tail)
            }
            (Some(present), Expect::Version(version)) => present.version == *version,
            (Some(present), Expect::Renamed(renamed)) => present.version == renamed.now,
            _ => false,
        }
    }

    fn write<'k>(key: &'k [u8], last: Option<Self>) -> Write<'k> {
        match last {
            Some(Staged { head, tail, version }) => {
                Write::Set(key, Item::joined(key, [head, &tail], version))
            }
            None => Write::Remove(key),
        }
    }
}
