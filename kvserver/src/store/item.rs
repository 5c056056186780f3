//! One key with its value and version in one allocation, shared by everybody who holds the item: the
//! table of the store, running scans, remembered answers, replies under way. Pure.
//!
//! An item never changes; a write makes a new one. Items are equal, ordered and hashed by their keys
//! alone, so that a set of them is a map from keys. Whoever means the whole item compares or hashes
//! [`contents`](Item::contents).

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use kvproto::command::Record;
use kvproto::ids::Version;
use kvproto::memory::allocated;
use triomphe::{Arc, ThinArc};

/// A key, its value and its version. A pointer of eight bytes: the length stands in the allocation.
///
/// Laid out as the version (8 bytes), the length of the key (4 bytes), the key, and the value to the
/// end. All of it is one run of bytes, so that the digest takes one hash.
#[derive(Clone)]
pub struct Item(ThinArc<(), u8>);

const KEY_AT: usize = 12;

/// What a table that fills and doubles takes for one item: nine bytes at a load from 0.44 to 0.88.
const SHARE_OF_TABLE: u64 = 15;

impl Item {
    /// Copies key and value into an allocation of exactly their size.
    #[must_use]
    pub fn new(key: &[u8], value: &[u8], version: Version) -> Item {
        Item::joined(key, [value, &[]], version)
    }

    /// An item whose value is these two parts, one after the other.
    pub(super) fn joined(key: &[u8], [head, tail]: [&[u8]; 2], version: Version) -> Item {
        let size = KEY_AT + key.len() + head.len() + tail.len();
        let key_length = u32::try_from(key.len()).expect("messages are far smaller than 4 GiB");
        // Zeros first: without unsafe code this is the only way to fill shared bytes in place.
        let mut item = ThinArc::from_header_and_iter((), (0..size).map(|_| 0));
        item.with_arc_mut(|bytes| {
            let fill = Arc::get_mut(bytes).expect("nobody else has seen it yet").slice_mut();
            fill[..8].copy_from_slice(&version.0.to_le_bytes());
            fill[8..KEY_AT].copy_from_slice(&key_length.to_le_bytes());
            let (key_room, fill) = fill[KEY_AT..].split_at_mut(key.len());
            key_room.copy_from_slice(key);
            let (head_room, tail_room) = fill.split_at_mut(head.len());
            head_room.copy_from_slice(head);
            tail_room.copy_from_slice(tail);
        });
        Item(item)
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.contents()[KEY_AT..self.value_at()]
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.contents()[self.value_at()..]
    }

    /// When the key was changed last.
    #[must_use]
    pub fn version(&self) -> Version {
        let (version, _) = self.contents().split_first_chunk().expect("an item has a head");
        Version(u64::from_le_bytes(*version))
    }

    /// Value and version. The value shares this item's memory.
    #[must_use]
    pub fn into_record(self) -> Record {
        let (version, value_at) = (self.version(), self.value_at());
        Record { value: Bytes::from_owner(self).slice(value_at..), version }
    }

    /// All of it: two items with the same contents have the same key, value and version.
    #[must_use]
    pub fn contents(&self) -> &[u8] {
        &self.0.slice
    }

    /// What an item takes in memory, by estimate: its allocation, and its share of a table.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        Item::bytes_for(self.contents().len() - KEY_AT)
    }

    /// What an item takes whose key and value have so many bytes together.
    pub(super) fn bytes_for(key_and_value: usize) -> u64 {
        // In front stand a counter and the length.
        SHARE_OF_TABLE + allocated(KEY_AT + key_and_value + 16) as u64
    }

    fn value_at(&self) -> usize {
        let (_, rest) = self.contents().split_first_chunk::<8>().expect("an item has a head");
        let (key_length, _) = rest.split_first_chunk().expect("an item has a head");
        KEY_AT + u32::from_le_bytes(*key_length) as usize
    }
}

impl AsRef<[u8]> for Item {
    fn as_ref(&self) -> &[u8] {
        self.contents()
    }
}

/// By key, as equality, order and hash are.
impl Borrow<[u8]> for Item {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl Hash for Item {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [key, value] = [self.key(), self.value()].map(Bytes::copy_from_slice);
        write!(f, "{key:?}: {value:?} at {:?}", self.version())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_item_gives_back_what_went_into_it() {
        for (key, value) in [("key", "value"), ("", ""), ("k", ""), ("", "v")] {
            let item = Item::new(key.as_bytes(), value.as_bytes(), Version(7));
            assert_eq!((item.key(), item.value()), (key.as_bytes(), value.as_bytes()));
            let value = Bytes::copy_from_slice(value.as_bytes());
            assert_eq!(item.into_record(), Record { value, version: Version(7) });
        }
        let joined = Item::joined(b"k", [b"one", b"+two"], Version(1));
        assert_eq!(joined.contents(), Item::new(b"k", b"one+two", Version(1)).contents());
    }

    #[test]
    fn a_record_shares_the_memory_of_its_item() {
        let item = Item::new(b"key", b"value", Version(1));
        let value = item.value().as_ptr();
        assert_eq!(item.clone().into_record().value.as_ptr(), value);
        assert_eq!(item.value().as_ptr(), value);
    }

    /// Every key costs a table its pointer, and the allocator the size that the item is rounded to.
    #[test]
    fn an_item_is_one_pointer_to_one_allocation_of_its_size() {
        assert_eq!(size_of::<Item>(), 8);
        assert_eq!(size_of::<Option<Item>>(), 8);
        let item = Item::new(&[1; 16], &[2; 100], Version(1));
        assert_eq!(item.bytes() - SHARE_OF_TABLE, 160);
    }

    #[test]
    fn a_set_of_items_is_a_map_from_keys() {
        let mut set = BTreeSet::from([Item::new(b"b", b"1", Version(1))]);
        set.insert(Item::new(b"a", b"9", Version(2)));
        let old = set.replace(Item::new(b"b", b"2", Version(3))).expect("it was there");
        assert_eq!(old.value(), b"1");
        assert_eq!(set.get(b"b".as_slice()).map(Item::value), Some(&b"2"[..]));
        assert!(set.iter().map(Item::key).eq([b"a", b"b"]));
    }
}
