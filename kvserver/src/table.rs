//! The committed table: what doors read without asking the node. Shell: shared by many tasks, and
//! decides nothing but whether what it read may be answered.
//!
//! The node alone writes it, with what the replica publishes; the ordered store stays the only truth.
//! A reader sees one state, that between two steps of the replica: while the table is written a
//! counter is odd, and a reader that finds it odd or moved has read nothing. (Lamport, Concurrent
//! reading and writing, 1977.) Whether this server still led is looked at after the values were
//! read, by the clock, for each read.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use dashmap::{DashMap, Entry};
use kvproto::{Generation, LogPoint, OpNumber, Query, Record, Reply, Timestamp};

use crate::replica::effect::{Published, Serves};
use crate::store::{Item, Publication};

/// Many, because a shard that grows is moved at once: with ten million keys 40,000 of them, some
/// milliseconds.
const SHARDS: usize = 256;

/// Committed values, and until when they may be answered.
#[derive(Debug)]
pub struct Table {
    items: DashMap<Item, ()>,
    /// Odd while the table is written.
    writes: AtomicU64,
    generation: AtomicU64,
    op: AtomicU64,
    /// Nanoseconds of the clock before which reads may be answered; `u64::MAX` for ever.
    serves_before: AtomicU64,
}

impl Default for Table {
    fn default() -> Self {
        Table {
            items: DashMap::with_shard_amount(SHARDS),
            writes: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            op: AtomicU64::new(0),
            serves_before: AtomicU64::new(0),
        }
    }
}

impl Table {
    /// Takes over what a step of the replica has changed. Only the node calls this.
    pub fn publish(&self, published: Published) {
        self.writes.fetch_add(1, SeqCst);
        for change in published.changes {
            match change {
                Publication::Cleared => self.items.clear(),
                Publication::Set(item) => match self.items.entry(item) {
                    Entry::Occupied(old) => drop(old.replace_entry(())),
                    Entry::Vacant(place) => drop(place.insert(())),
                },
                Publication::Removed(item) => drop(self.items.remove(item.key())),
            }
        }
        self.generation.store(published.at.generation.0, SeqCst);
        self.op.store(published.at.op.0, SeqCst);
        let before = match published.serves {
            Serves::No => 0,
            Serves::Before(end) => end.as_nanos().min(u64::MAX - 1),
            Serves::Always => u64::MAX,
        };
        self.serves_before.store(before, SeqCst);
        self.writes.fetch_add(1, SeqCst);
    }

    /// The answer to a query, if this server may give it at the moment that `now` tells, which is
    /// asked for last. `None` says nothing: the node knows.
    pub fn read(&self, query: &Query, now: impl FnOnce() -> Timestamp) -> Option<Reply> {
        let writes = self.writes.load(SeqCst);
        if !writes.is_multiple_of(2) {
            return None;
        }
        let Query::Get(keys) = query;
        let records: Vec<Option<Record>> = keys.iter().map(|key| self.get(key)).collect();
        let at = LogPoint {
            generation: Generation(self.generation.load(SeqCst)),
            op: OpNumber(self.op.load(SeqCst)),
        };
        let serves_before = self.serves_before.load(SeqCst);
        if self.writes.load(SeqCst) != writes || now().as_nanos() >= serves_before {
            return None;
        }
        Some(Reply::Records { at, records })
    }

    /// Whether it holds exactly these items. For checks.
    pub fn holds<'a>(&self, items: impl Iterator<Item = &'a Item>) -> bool {
        let mut count = 0;
        let same = |item: &Item| {
            let held = self.items.get(item.key());
            held.is_some_and(|held| held.key().contents() == item.contents())
        };
        items.inspect(|_| count += 1).all(same) && count == self.items.len()
    }

    fn get(&self, key: &[u8]) -> Option<Record> {
        // The copy of the reference, not the work on it, is what happens under the lock.
        let item = self.items.get(key).map(|found| found.key().clone())?;
        Some(item.record())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use bytes::Bytes;
    use kvproto::Version;

    use super::*;

    fn at(op: u64) -> LogPoint {
        LogPoint { generation: Generation(1), op: OpNumber(op) }
    }

    fn set(key: &str, value: &str, op: u64) -> Publication {
        Publication::Set(Item::new(key.as_bytes(), value.as_bytes(), Version(op)))
    }

    fn get(keys: &[&str]) -> Query {
        Query::Get(keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect())
    }

    fn values(reply: Reply) -> Vec<Option<Bytes>> {
        let Reply::Records { records, .. } = reply else { panic!("{reply:?}") };
        records.into_iter().map(|record| record.map(|record| record.value)).collect()
    }

    fn nanos(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[test]
    fn the_table_holds_what_was_published_last() {
        let table = Table::default();
        let changes = vec![set("a", "1", 1), set("b", "2", 2), set("a", "3", 3)];
        table.publish(Published { changes, at: at(3), serves: Serves::Always });
        let reply = table.read(&get(&["a", "b", "c"]), || nanos(1)).expect("it serves");
        assert!(matches!(&reply, Reply::Records { at: point, .. } if *point == at(3)));
        assert_eq!(values(reply), [Some("3".into()), Some("2".into()), None]);
        let removed = Publication::Removed(Item::new(b"a", b"", Version(0)));
        table.publish(Published { changes: vec![removed], at: at(4), serves: Serves::Always });
        let reply = table.read(&get(&["a", "b"]), || nanos(1)).expect("it serves");
        assert_eq!(values(reply), [None, Some("2".into())]);
        let changes = vec![Publication::Cleared, set("c", "5", 5)];
        table.publish(Published { changes, at: at(5), serves: Serves::Always });
        let reply = table.read(&get(&["b", "c"]), || nanos(1)).expect("it serves");
        assert_eq!(values(reply), [None, Some("5".into())]);
    }

    #[test]
    fn nothing_is_answered_from_the_moment_on_at_which_the_lease_ends() {
        let table = Table::default();
        assert_eq!(table.read(&get(&["a"]), || nanos(0)), None, "nobody said that it serves");
        table.publish(Published { changes: vec![], at: at(1), serves: Serves::Before(nanos(50)) });
        assert!(table.read(&get(&["a"]), || nanos(49)).is_some());
        assert_eq!(table.read(&get(&["a"]), || nanos(50)), None);
        table.publish(Published { changes: vec![], at: at(1), serves: Serves::No });
        assert_eq!(table.read(&get(&["a"]), || nanos(0)), None);
    }

    /// The reader was held up after it had read, and another primary serves by now.
    #[test]
    fn a_read_during_which_the_server_was_deposed_is_not_answered() {
        let table = Table::default();
        table.publish(Published { changes: vec![], at: at(1), serves: Serves::Before(nanos(50)) });
        let reply = table.read(&get(&["a"]), || {
            table.publish(Published { changes: vec![], at: at(1), serves: Serves::No });
            nanos(60)
        });
        assert_eq!(reply, None);
    }

    #[test]
    fn readers_see_all_of_a_step_or_nothing_of_it() {
        let table = Arc::new(Table::default());
        let done = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (table, done) = (Arc::clone(&table), Arc::clone(&done));
                std::thread::spawn(move || {
                    let mut answered = 0;
                    while !done.load(SeqCst) || answered == 0 {
                        let Some(reply) = table.read(&get(&["a", "b"]), || nanos(1)) else {
                            continue;
                        };
                        let Reply::Records { at, .. } = &reply else { panic!("{reply:?}") };
                        let op = at.op.0.to_string();
                        let values = values(reply);
                        assert_eq!(values[0], values[1], "the halves of two steps");
                        assert!(values[0].as_ref().is_none_or(|value| *value == op), "of op {op}");
                        answered += 1;
                    }
                })
            })
            .collect();
        for op in 1..20_000_u64 {
            let value = op.to_string();
            let changes = vec![set("a", &value, op), set("b", &value, op)];
            table.publish(Published { changes, at: at(op), serves: Serves::Always });
        }
        done.store(true, SeqCst);
        readers.into_iter().for_each(|reader| reader.join().expect("no reader saw a half"));
    }
}
