//! What doors read without asking the node: the table of the store, and until when it may be answered
//! from. Shell: shared by many tasks, and decides nothing but whether what it read may be answered.
//!
//! The items are the store's own, which a step of the replica changes one after the other. A reader
//! sees one state, that between two steps: from the beginning of a step until what it publishes has
//! been taken over a counter is odd, and a reader that finds it odd or moved has read nothing.
//! (Lamport, Concurrent reading and writing, 1977.) Whether this server still led is looked at after
//! the values were read, by the clock, for each read.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use kvproto::{Generation, LogPoint, OpNumber, Query, Record, Reply, Timestamp};

use crate::replica::effect::{Effect, Published, Serves};
use crate::store::{Item, Items};

/// Committed values, and until when they may be answered.
#[derive(Debug)]
pub struct Table {
    items: Items,
    /// Odd while the items and what follows here belong to no state.
    writes: AtomicU64,
    generation: AtomicU64,
    op: AtomicU64,
    /// Nanoseconds of the clock before which reads may be answered; `u64::MAX` for ever.
    serves_before: AtomicU64,
}

impl Table {
    /// Shows these items, once it is published that they may be answered.
    #[must_use]
    pub fn new(items: Items) -> Table {
        Table {
            items,
            writes: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            op: AtomicU64::new(0),
            serves_before: AtomicU64::new(0),
        }
    }

    /// The items, for the store that writes them.
    #[must_use]
    pub fn items(&self) -> &Items {
        &self.items
    }

    /// Has the replica make a step that adds to these effects, of which there are none yet. If the
    /// first is to publish something nobody reads until that is done. Only the node calls this.
    pub fn step(&self, effects: &mut Vec<Effect>, step: impl FnOnce(&mut Vec<Effect>)) {
        self.close();
        step(effects);
        if !matches!(effects.first(), Some(Effect::Publish(_))) {
            self.open();
        }
    }

    /// Takes over what a step of the replica has published. Only the node calls this.
    pub fn publish(&self, Published { at, serves }: Published) {
        self.close();
        self.generation.store(at.generation.0, SeqCst);
        self.op.store(at.op.0, SeqCst);
        let before = match serves {
            Serves::No => 0,
            Serves::Before(end) => end.as_nanos().min(u64::MAX - 1),
            Serves::Always => u64::MAX,
        };
        self.serves_before.store(before, SeqCst);
        self.open();
    }

    /// The answer to a query, if this server may give it at the moment that `now` tells, which is
    /// asked for last. `None` says nothing: the node knows.
    pub fn read(&self, query: &Query, now: impl FnOnce() -> Timestamp) -> Option<Reply> {
        let writes = self.writes.load(SeqCst);
        if is_closed(writes) {
            return None;
        }
        let Query::Get(keys) = query;
        let record = |key| self.items.get(key).map(Item::into_record);
        let records: Vec<Option<Record>> = keys.iter().map(|key| record(key)).collect();
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

    /// From here on readers find nothing. There is one writer, so nobody comes in between.
    fn close(&self) {
        if !is_closed(self.writes.load(SeqCst)) {
            self.writes.fetch_add(1, SeqCst);
        }
    }

    fn open(&self) {
        self.writes.fetch_add(1, SeqCst);
    }
}

fn is_closed(writes: u64) -> bool {
    !writes.is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use bytes::Bytes;
    use kvproto::command::{Action, Change, Command, Entry};
    use kvproto::ids::{Epoch, Position, ViewNumber};
    use kvproto::time::LogTime;

    use super::*;
    use crate::store::{Store, StoreLimits};

    const LIMITS: StoreLimits = StoreLimits { value_size_max: 100, sessions_max: 1 };

    /// A store and the table that shows its items.
    struct Shown {
        store: Store,
        table: Arc<Table>,
    }

    impl Shown {
        fn new() -> Shown {
            let table = Arc::new(Table::new(Items::of_a_server()));
            Shown { store: Store::new(LIMITS, table.items().clone()), table }
        }

        /// A step in which the replica applies one op, and its effects are performed.
        fn step(&mut self, op: u64, changes: &[(&str, Option<&str>)]) {
            let change = |(key, value): &(&str, Option<&str>)| {
                let action =
                    value.map(|value| Action::Put(Bytes::copy_from_slice(value.as_bytes())));
                let key = Bytes::copy_from_slice(key.as_bytes());
                Change { key, action: action.unwrap_or(Action::Delete) }
            };
            let command = Command::Batch(changes.iter().map(change).collect());
            let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(1) };
            let position = Position { epoch, op: OpNumber(op) };
            let entry = Entry { position, at: LogTime::default(), id: None, command };
            let mut effects = Vec::new();
            self.table.step(&mut effects, |effects| {
                self.store.apply(&entry);
                effects.push(Effect::Publish(always(op)));
            });
            for effect in effects {
                let Effect::Publish(published) = effect else { unreachable!("{effect:?}") };
                self.table.publish(published);
            }
        }

        fn values(&self, keys: &[&str]) -> Vec<Option<Bytes>> {
            values(self.table.read(&get(keys), || nanos(1)).expect("it serves"))
        }
    }

    fn at(op: u64) -> LogPoint {
        LogPoint { generation: Generation(1), op: OpNumber(op) }
    }

    fn always(op: u64) -> Published {
        Published { at: at(op), serves: Serves::Always }
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
    fn readers_find_what_the_store_holds() {
        let mut shown = Shown::new();
        shown.step(3, &[("a", Some("1")), ("b", Some("2")), ("a", Some("3"))]);
        let reply = shown.table.read(&get(&["a", "b", "c"]), || nanos(1)).expect("it serves");
        assert!(matches!(&reply, Reply::Records { at: point, .. } if *point == at(3)));
        assert_eq!(values(reply), [Some("3".into()), Some("2".into()), None]);
        shown.step(4, &[("a", None)]);
        assert_eq!(shown.values(&["a", "b"]), [None, Some("2".into())]);
        shown.store.clear(LIMITS);
        assert_eq!(shown.values(&["a", "b"]), [None, None]);
        shown.step(5, &[("c", Some("5"))]);
        assert_eq!(shown.values(&["b", "c"]), [None, Some("5".into())]);
    }

    #[test]
    fn nothing_is_read_from_the_beginning_of_a_step_until_it_is_published() {
        let table = Table::new(Items::default());
        table.publish(always(1));
        let read = || table.read(&get(&["a"]), || nanos(1));
        let mut effects = Vec::new();
        table.step(&mut effects, |effects| {
            assert_eq!(read(), None);
            effects.push(Effect::Publish(always(2)));
        });
        assert_eq!(read(), None);
        table.publish(always(2));
        assert!(read().is_some());
        table.step(&mut Vec::new(), |_| assert_eq!(read(), None));
        assert!(read().is_some(), "there was nothing to publish");
    }

    #[test]
    fn nothing_is_answered_from_the_moment_on_at_which_the_lease_ends() {
        let table = Table::new(Items::default());
        assert_eq!(table.read(&get(&["a"]), || nanos(0)), None, "nobody said that it serves");
        table.publish(Published { at: at(1), serves: Serves::Before(nanos(50)) });
        assert!(table.read(&get(&["a"]), || nanos(49)).is_some());
        assert_eq!(table.read(&get(&["a"]), || nanos(50)), None);
        table.publish(Published { at: at(1), serves: Serves::No });
        assert_eq!(table.read(&get(&["a"]), || nanos(0)), None);
    }

    /// The reader was held up after it had read, and another primary serves by now.
    #[test]
    fn a_read_during_which_the_server_was_deposed_is_not_answered() {
        let table = Table::new(Items::default());
        table.publish(Published { at: at(1), serves: Serves::Before(nanos(50)) });
        let reply = table.read(&get(&["a"]), || {
            table.publish(Published { at: at(1), serves: Serves::No });
            nanos(60)
        });
        assert_eq!(reply, None);
    }

    #[test]
    fn readers_see_all_of_a_step_or_nothing_of_it() {
        let mut shown = Shown::new();
        shown.table.publish(always(0));
        let done = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (table, done) = (Arc::clone(&shown.table), Arc::clone(&done));
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
            shown.step(op, &[("a", Some(&value)), ("b", Some(&value))]);
        }
        done.store(true, SeqCst);
        readers.into_iter().for_each(|reader| reader.join().expect("no reader saw a half"));
    }
}
