//! The items that are present, by key: the one table that the store writes and everybody reads. Not
//! pure: it is shared and locked, so that doors may move to threads of their own.
//!
//! A handle, cheap to clone; only the store can write through it. It keeps no order and gives none
//! away: nobody walks it but whoever copies it. What is read together and must belong together is
//! the business of its readers (see [`Table`](crate::table::Table)): here every call stands alone.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::hint::black_box;
use std::sync::Arc;

use dashmap::{DashMap, Entry};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::item::Item;

/// Many, because a shard that grows is moved at once: with ten million keys 40,000 of them, some
/// milliseconds.
const SHARDS_OF_A_SERVER: usize = 256;
/// The fewest that there can be: stores of tests and simulations are small, many, and often copied.
const SHARDS_OF_A_TEST: usize = 2;

/// A handle of the table.
#[derive(Clone)]
pub struct Items(Arc<DashMap<Item, (), KeyHash>>);

/// Finds the items of these keys.
pub(super) type Lookup<'a> = &'a dyn Fn(&[&[u8]]) -> Vec<Option<&'a Item>>;

impl Items {
    /// An empty table for many keys.
    #[must_use]
    pub fn of_a_server() -> Items {
        Items::new(SHARDS_OF_A_SERVER)
    }

    fn new(shards: usize) -> Items {
        Items(Arc::new(DashMap::with_hasher_and_shard_amount(KeyHash::random(), shards)))
    }

    /// The item of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Item> {
        // The copy of the pointer, not the work on the item, is what happens under the lock.
        self.0.get(key).map(|found| found.key().clone())
    }

    /// Lets `read` look items up, many at a time, which makes the scan of a million keys 2.6 times as
    /// fast: shards are locked once for all, and the processor waits for the memory of several items at
    /// once, as long as it need not know one before it can look for the next. So their places are
    /// guessed first and compared afterwards.
    pub(super) fn read<R>(&self, read: impl FnOnce(Lookup<'_>) -> R) -> R {
        let shards: Vec<_> = self.0.shards().iter().map(|shard| shard.read()).collect();
        let place = |key: &[u8]| {
            let hash = self.0.hasher().hash_one(key);
            (&shards[self.0.determine_shard(hash as usize)], hash)
        };
        let guess = |key: &&[u8]| {
            let (shard, hash) = place(key);
            shard.get(hash, |_| true).map(|(item, _)| item)
        };
        let find = |key: &[u8]| {
            let (shard, hash) = place(key);
            shard.get(hash, |(item, _)| item.key() == key).map(|(item, _)| item)
        };
        read(&|keys| {
            let guesses: Vec<_> = keys.iter().map(guess).collect();
            let right = |guess: Option<&Item>, key| guess.is_none_or(|item| item.key() == key);
            let sure = |(guess, key)| if right(guess, key) { guess } else { find(key) };
            guesses.into_iter().zip(keys.iter().copied()).map(sure).collect()
        })
    }

    /// Has the processor fetch the places of these keys, many at a time, before each is written.
    pub(super) fn fetch(&self, keys: &[&[u8]]) {
        self.read(|find| drop(black_box(find(keys))));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts an item in the place of its key, and returns the one that was there.
    pub(super) fn set(&self, item: Item) -> Option<Item> {
        match self.0.entry(item) {
            Entry::Occupied(old) => Some(old.replace_entry(()).0),
            Entry::Vacant(place) => {
                place.insert(());
                None
            }
        }
    }

    /// Removes a key, and returns its item.
    pub(super) fn remove(&self, key: &[u8]) -> Option<Item> {
        self.0.remove(key).map(|(item, ())| item)
    }

    /// Removes every key, for all holders of the handle.
    pub(super) fn clear(&self) {
        self.0.clear();
    }

    /// Makes room for so many keys, so that hardly anything has to move while they come.
    pub(super) fn reserve(&self, keys: usize) {
        let shards = self.0.shards();
        for shard in shards {
            let hash = |(item, _): &(Item, _)| self.0.hasher().hash_one(item);
            shard.write().reserve(keys / shards.len(), hash);
        }
    }

    /// A table of its own with the same items.
    pub(super) fn copied(&self) -> Items {
        let copy = Items::default();
        self.0.iter().for_each(|item| drop(copy.set(item.key().clone())));
        copy
    }
}

impl Default for Items {
    /// An empty table for few keys.
    fn default() -> Self {
        Items::new(SHARDS_OF_A_TEST)
    }
}

impl fmt::Debug for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items", self.len())
    }
}

/// Keys are chosen by strangers, so none of them may know which keys collide: the seed is random.
/// Nothing that anybody can see depends on it, because nobody sees an order.
#[derive(Clone)]
struct KeyHash {
    seed: u64,
}

impl KeyHash {
    fn random() -> KeyHash {
        KeyHash { seed: RandomState::new().hash_one(0) }
    }
}

impl BuildHasher for KeyHash {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(self.seed)
    }
}

/// Hashes one key in one piece.
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_usize(&mut self, _length: usize) {
        // Slices say their length first, which the hash of all their bytes knows.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use kvproto::ids::Version;

    use super::*;

    fn item(key: &str, value: &str) -> Item {
        Item::new(key.as_bytes(), value.as_bytes(), Version(1))
    }

    fn value(items: &Items, key: &str) -> Option<String> {
        let item = items.get(key.as_bytes())?;
        Some(String::from_utf8(item.value().to_vec()).expect("text"))
    }

    #[test]
    fn a_key_of_any_length_is_found() {
        let items = Items::of_a_server();
        let keys: Vec<String> = (0..600).map(|length| "k".repeat(length)).collect();
        for (length, key) in keys.iter().enumerate() {
            assert!(items.set(item(key, &length.to_string())).is_none());
        }
        for (length, key) in keys.iter().enumerate() {
            assert_eq!(value(&items, key), Some(length.to_string()));
            let old = items.set(item(key, "new")).expect("it was there");
            assert_eq!(old.value(), length.to_string().as_bytes());
            assert_eq!(value(&items, key).as_deref(), Some("new"));
        }
        assert_eq!(items.len(), keys.len());
    }

    /// Enough keys that places are guessed wrong.
    #[test]
    fn many_items_looked_up_together_are_those_looked_up_alone() {
        let items = Items::default();
        let keys: Vec<String> = (0..5000).map(|number| number.to_string()).collect();
        keys.iter().step_by(2).for_each(|key| drop(items.set(item(key, key))));
        let asked: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
        items.read(|find| {
            for (found, key) in find(&asked).into_iter().zip(&asked) {
                let alone = items.get(key);
                assert_eq!(found.map(Item::contents), alone.as_ref().map(Item::contents));
            }
        });
    }

    #[test]
    fn a_clone_is_the_same_table_and_a_copy_another() {
        let items = Items::default();
        items.set(item("a", "1"));
        let (same, other) = (items.clone(), items.copied());
        items.set(item("a", "2"));
        items.set(item("b", "2"));
        assert_eq!(items.remove(b"b").as_ref().map(Item::value), Some(&b"2"[..]));
        assert_eq!(value(&same, "a").as_deref(), Some("2"));
        assert_eq!(value(&other, "a").as_deref(), Some("1"));
        items.clear();
        assert_eq!((value(&same, "a"), value(&other, "a").as_deref()), (None, Some("1")));
    }
}
