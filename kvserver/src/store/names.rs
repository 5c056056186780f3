//! The keys that exist, in order. Pure.
//!
//! Names stand in runs of neighbours, each run in one allocation. A tree of single names would take
//! half as much again, most of it when keys come in order, as they do in a transfer. Never knows what
//! a key stands for.

use std::collections::BTreeMap;
use std::ops::Bound;

use kvproto::memory::allocated;
use smallvec::SmallVec;

/// Bytes of a key that its name holds without an allocation: as many as fit into the space of the
/// pointer and the length that it would need otherwise.
const INLINE: usize = 16;

type Name = SmallVec<[u8; INLINE]>;

/// Runs grow by so many, so that few places stay empty. They take 504 bytes: any number of them fits
/// into a size that the allocator has.
const STEP: usize = 21;
/// Most names in a run: to insert one moves half of them, some 1.5 KB.
const RUN: usize = 6 * STEP;

/// What a name takes, at the 0.9 to which runs are full when keys come in no order.
const SHARE: u64 = 28;

/// All names.
#[derive(Clone, Default, Debug)]
pub(super) struct Names {
    /// Each by a bound: its names are not before it, and before that of the next run. A name before
    /// every bound begins a run at the empty name.
    runs: BTreeMap<Name, Vec<Name>>,
    len: usize,
}

impl Names {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The names after this key, or all.
    pub(super) fn after(&self, key: Option<&[u8]>) -> impl Iterator<Item = &[u8]> {
        let upto = |key| (Bound::Unbounded, Bound::Included(key));
        let first = key.and_then(|key| self.runs.range::<[u8], _>(upto(key)).next_back());
        let from = first.map_or(Bound::Unbounded, |(bound, _)| Bound::Included(&bound[..]));
        let runs = self.runs.range::<[u8], _>((from, Bound::Unbounded));
        let names = runs.flat_map(|(_, run)| run).map(|name| &name[..]);
        names.skip_while(move |name| key.is_some_and(|key| *name <= key))
    }

    /// Adds a name that is not there.
    pub(super) fn insert(&mut self, key: &[u8]) {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let run = match self.runs.range_mut::<[u8], _>(upto).next_back() {
            Some((_, run)) => run,
            None => self.runs.entry(Name::new()).or_default(),
        };
        let at = run.partition_point(|name| name[..] < *key);
        self.len += 1;
        let name = Name::from_slice(key);
        if run.len() < RUN {
            if run.len() == run.capacity() {
                run.reserve_exact(STEP - run.len() % STEP);
            }
            run.insert(at, name);
        } else if at == RUN {
            // Keys that come in order leave full runs behind.
            self.runs.insert(name.clone(), vec![name]);
        } else {
            let mut upper = run.split_off(RUN / 2);
            run.shrink_to(RUN / 2 + STEP);
            match at.checked_sub(RUN / 2) {
                Some(at) if at > 0 => upper.insert(at, name),
                _ => run.insert(at, name),
            }
            self.runs.insert(upper[0].clone(), upper);
        }
    }

    /// Removes a name that is there.
    pub(super) fn remove(&mut self, key: &[u8]) {
        let upto = (Bound::Unbounded, Bound::Included(key));
        let mut runs = self.runs.range_mut::<[u8], _>(upto);
        let (bound, run) = runs.next_back().expect("a name that is there is in a run");
        let at = run.binary_search_by(|name| name[..].cmp(key));
        run.remove(at.expect("a name that is there is found"));
        self.len -= 1;
        if run.capacity() - run.len() > STEP {
            run.shrink_to((run.len() / STEP + 1) * STEP);
        }
        if run.len() >= STEP {
            return;
        }
        // What is left of a run goes to the one before it, if there is room to spare.
        let before = runs.next_back().filter(|(_, before)| before.len() + run.len() <= RUN - STEP);
        if let Some((_, before)) = before {
            before.reserve_exact(run.len());
            before.append(run);
        }
        if run.is_empty() {
            let bound = bound.clone();
            self.runs.remove(&bound);
        }
    }
}

/// Memory that the name of a key of so many bytes takes, by estimate.
pub(super) fn bytes_for(key_length: usize) -> u64 {
    SHARE + if key_length > INLINE { allocated(key_length) as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The same names as a set of them, whatever comes and goes: few and many, in order and not.
    #[test]
    fn names_are_a_set_in_order() {
        let mut names = Names::default();
        let mut set: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut random = 1_u64;
        for step in 0..60_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // It grows to thousands, in order at first, shrinks to a few, and grows again.
            let grows = (step / 12_000).is_multiple_of(2);
            let number = if step < 6000 { step } else { (random >> 33) % 20_000 };
            let width = [1, 15, 16, 17][number as usize % 4];
            let key = format!("{number:0width$}").into_bytes();
            if grows && !set.contains(&key) {
                names.insert(&key);
                set.insert(key);
            } else if !grows && let Some(next) = set.range(key..).next().cloned() {
                names.remove(&next);
                set.remove(&next);
            }
            assert_eq!(names.len(), set.len());
            if step % 500 == 0 {
                assert!(names.after(None).eq(set.iter().map(Vec::as_slice)));
                let key = format!("{:016}", (random >> 20) % 20_000).into_bytes();
                let after = set.range((Bound::Excluded(key.clone()), Bound::Unbounded));
                assert!(names.after(Some(&key)).eq(after.map(Vec::as_slice)));
            }
        }
        set.iter().for_each(|key| names.remove(key));
        assert_eq!((names.len(), names.runs.len()), (0, 0), "nothing is left behind");
    }

    #[test]
    fn runs_are_full_when_names_come_in_order_and_few_when_most_have_gone() {
        let mut names = Names::default();
        let key = |number: usize| format!("{number:08}").into_bytes();
        (0..10 * RUN).for_each(|number| names.insert(&key(number)));
        assert_eq!(names.runs.len(), 10);
        assert!(names.runs.values().all(|run| run.capacity() == run.len()));
        (0..10 * RUN)
            .filter(|number| number % 10 > 0)
            .for_each(|number| names.remove(&key(number)));
        assert_eq!(names.len(), RUN);
        let places = names.runs.values().map(Vec::capacity).sum::<usize>();
        assert!(places <= 4 * RUN, "{places} places in {} runs", names.runs.len());
    }

    /// Deletes left runs with room for 126 names and a fifth of them in it.
    #[test]
    fn runs_give_back_the_room_of_names_that_are_gone() {
        let mut names = Names::default();
        let key = |number: usize| format!("job/{number:08}").into_bytes();
        (0..20_000).for_each(|number| names.insert(&key(number)));
        (0..20_000).filter(|number| number % 5 > 0).for_each(|number| names.remove(&key(number)));
        let room: usize = names.runs.values().map(Vec::capacity).sum();
        assert!(room < names.len() * 2 + names.runs.len(), "{room} for {}", names.len());
    }
}
