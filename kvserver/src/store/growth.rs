//! How much memory a command may add to the state, reckoned before it is ordered. Pure.
//!
//! Never less than what it adds when it is applied to the present state. Of what ops that are ordered
//! and not yet applied will make of the same keys only the longest value is known: an append after
//! others is off by at most the step to which the allocator rounds its value.

use std::collections::BTreeMap;

use kvproto::command::{Action, Change, Command, RequestId};

use super::Store;
use super::keys::Keys;
use super::sessions::Sessions;

/// A key after a command, for all that is known.
#[derive(Clone, Copy, Default)]
struct After {
    /// Bytes of its value.
    value: usize,
    /// Memory that is given back, as far as it was looked up.
    replaced: u64,
}

impl Store {
    /// Most bytes that this command adds, if no value that is ordered and not yet applied is longer
    /// than `ordered_length_max`. A put counts in full, also where it replaces something:
    /// looking that up would cost every put more than it is worth.
    #[must_use]
    pub fn growth(
        &self,
        id: Option<&RequestId>,
        command: &Command,
        ordered_length_max: usize,
    ) -> u64 {
        if *command == Command::OpenSession {
            return Sessions::BYTES_OF_ONE;
        }
        let (keys, met) = self.growth_of_keys(command.changes());
        let Some(id) = id else {
            return keys;
        };
        let met = if command.has_condition() { met.max(ordered_length_max) } else { met };
        let answer = Sessions::answer_bytes_max(command.changes().len(), met);
        keys + answer + self.scans.growth_by_session(id.session, &self.sessions)
    }

    /// For the keys, and the longest value that a condition may meet: an answer that tells it is
    /// remembered.
    fn growth_of_keys(&self, changes: &[Change]) -> (u64, usize) {
        if let [Change { key, action: Action::Put(value) }] = changes
            && self.scans.is_empty()
        {
            return (Keys::bytes_for(key.len(), value.len()), 0);
        }
        let mut keys: BTreeMap<&[u8], After> = BTreeMap::new();
        let mut met = 0;
        for Change { key, action } in changes {
            match action {
                Action::Put(value) => keys.entry(key).or_default().value = value.len(),
                Action::Append(suffix) => {
                    keys.entry(key).or_insert_with(|| self.stored(key)).value += suffix.len();
                }
                Action::Delete => keys.entry(key).or_default().value = 0,
                Action::CompareAndSet { new_value, .. } => {
                    let stored = self.stored(key);
                    met = met.max(stored.value);
                    keys.entry(key).or_insert(stored).value =
                        new_value.as_ref().map_or(0, |value| value.len());
                }
            }
        }
        let of_key = |(key, after): (&[u8], After)| {
            let size = Keys::bytes_for(key.len(), after.value);
            size.saturating_sub(after.replaced) + self.growth_of_scans(key)
        };
        (keys.into_iter().map(of_key).sum(), met)
    }

    fn stored(&self, key: &[u8]) -> After {
        self.keys.get(key).map_or(After::default(), |item| {
            let value = item.value().len();
            After { value, replaced: Keys::bytes_for(key.len(), value) }
        })
    }

    /// Running scans that have yet to reach the key save how it is, or that it is not there.
    fn growth_of_scans(&self, key: &[u8]) -> u64 {
        match self.scans.that_would_save(key) {
            0 => 0,
            scans => scans * Keys::bytes_for(key.len(), self.stored(key).value),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kvproto::command::{Entry, Expect};
    use kvproto::ids::{Epoch, Generation, OpNumber, Position, RequestNumber, ViewNumber};
    use kvproto::time::LogTime;

    use super::super::{Items, StoreLimits};
    use super::*;

    const LIMITS: StoreLimits = StoreLimits { value_size_max: 8 << 20, sessions_max: 3 };

    fn change(key: usize, action: Action) -> Change {
        Change { key: Bytes::from(format!("key{key}").repeat(1 + key % 7)), action }
    }

    /// Changes of all kinds, with values around the sizes at which the allocator takes a step.
    fn changes(round: usize) -> Vec<Change> {
        let value = |size: usize| Bytes::from(vec![b'v'; size]);
        let size = [0, 1, 100, 4096, 65_500, 65_600, 1_000_000][round % 7];
        let key = round % 5;
        let cas = |expect| Action::CompareAndSet { expect, new_value: Some(value(size)) };
        match round % 4 {
            0 => vec![change(key, Action::Put(value(size)))],
            1 => vec![change(key, Action::Append(value(size)))],
            2 => vec![change(key, cas(Expect::Missing))],
            _ => vec![
                change(key, Action::Append(value(size))),
                change(key, Action::Append(value(30))),
                change(key + 1, Action::Put(value(size / 2))),
                change(key + 1, Action::Append(value(9))),
                change(key + 2, Action::Delete),
            ],
        }
    }

    #[test]
    fn no_command_adds_more_than_was_reckoned_before() {
        let mut store = Store::new(LIMITS, Items::default());
        let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(1) };
        let mut session = None;
        for round in 0..600_u64 {
            let number = RequestNumber(round);
            let first_open = RequestNumber(round.saturating_sub(9));
            let id = session.filter(|_| round % 3 > 0);
            let id = id.map(|session| RequestId { session, number, first_open });
            let command = match changes(round as usize) {
                _ if round == 0 => Command::OpenSession,
                one if one.len() == 1 => Command::Change(one[0].clone()),
                many => Command::Batch(many),
            };
            if round % 100 == 50 {
                store.begin_scan();
            }
            let most = store.bytes() + store.growth(id.as_ref(), &command, 0);
            let position = Position { epoch, op: OpNumber(round + 1) };
            let entry = Entry { position, at: LogTime::from_millis(1), id, command };
            let outcome = store.apply(&entry);
            assert!(store.bytes() <= most, "{} of {most}: {outcome:?}", store.bytes());
            session = session.or_else(|| store.sessions().next());
        }
        assert!(store.key_count() > 4 && store.bytes() > 1 << 20);
    }

    #[test]
    fn an_append_counts_for_what_it_adds() {
        let mut store = Store::new(LIMITS, Items::default());
        let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(1) };
        let command = |action| Command::Change(change(1, action));
        let put = command(Action::Put(Bytes::from(vec![b'v'; 1_000_000])));
        let position = Position { epoch, op: OpNumber(1) };
        let entry = Entry { position, at: LogTime::from_millis(1), id: None, command: put };
        store.apply(&entry);
        let append = command(Action::Append(Bytes::from_static(b"ten bytes!")));
        let growth = store.growth(None, &append, 0);
        assert!(growth < 300_000, "{growth}");
    }
}
