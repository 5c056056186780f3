//! Comparing the digests of the copies, and who leaves when they differ (REP-8).

use std::collections::{BTreeMap, BTreeSet};

use kvproto::ids::{Member, OpNumber};
use kvproto::message::Digest;

/// Digests asked for and not yet judged.
const OPEN_MAX: usize = 64;

/// The primary's digests at some ops, and what the copies said of them.
#[derive(Clone, Hash, Debug, Default)]
pub struct Digests {
    open: BTreeMap<OpNumber, Votes>,
}

#[derive(Clone, Hash, Debug)]
struct Votes {
    own: Digest,
    others: BTreeMap<Member, Digest>,
}

/// What the digests at one op say, once every copy that counts has spoken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// These copies differ from the majority, which the primary is part of.
    MinorityDiffers(BTreeSet<Member>),
    /// The primary differs from the majority.
    PrimaryDiffers,
    /// There is no majority to go by; these copies differ from the primary.
    Undecided(BTreeSet<Member>),
}

impl Digests {
    /// Remembers the primary's own digest at an op that copies are asked about. One that has changed
    /// without an op is a fault of the primary's memory, and is compared anew.
    pub fn ask(&mut self, op: OpNumber, own: Digest) {
        if self.open.get(&op).is_none_or(|votes| votes.own != own) {
            self.open.insert(op, Votes { own, others: BTreeMap::new() });
        }
        while self.open.len() > OPEN_MAX {
            self.open.pop_first();
        }
    }

    /// What a copy said. `None` when nothing was asked at that op, otherwise whether it agrees with
    /// the primary.
    pub fn vote(&mut self, from: &Member, op: OpNumber, digest: Digest) -> Option<bool> {
        let votes = self.open.get_mut(&op)?;
        votes.others.insert(from.clone(), digest);
        Some(votes.own == digest)
    }

    /// Judges an op at which somebody differs. `None` until all of `required` have spoken.
    #[must_use]
    pub fn verdict(&self, op: OpNumber, required: &BTreeSet<Member>) -> Option<Verdict> {
        let votes = self.open.get(&op)?;
        let mut said = BTreeMap::<u128, usize>::from([(votes.own.0, 1)]);
        for member in required {
            *said.entry(votes.others.get(member)?.0).or_default() += 1;
        }
        let copies = required.len() + 1;
        let differing = required
            .iter()
            .filter(|member| votes.others.get(*member) != Some(&votes.own))
            .cloned()
            .collect();
        let majority = said.iter().find(|(_, count)| **count * 2 > copies);
        Some(match majority {
            Some((digest, _)) if *digest == votes.own.0 => Verdict::MinorityDiffers(differing),
            Some(_) => Verdict::PrimaryDiffers,
            None => Verdict::Undecided(differing),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvproto::ids::Incarnation;

    fn member(name: &str) -> Member {
        Member { name: name.into(), incarnation: Incarnation(1) }
    }

    fn verdict(own: u128, others: &[(&str, u128)]) -> Option<Verdict> {
        let mut digests = Digests::default();
        digests.ask(OpNumber(7), Digest(own));
        for (name, digest) in others {
            digests.vote(&member(name), OpNumber(7), Digest(*digest));
        }
        digests.verdict(OpNumber(7), &BTreeSet::from([member("b"), member("c")]))
    }

    #[test]
    fn with_three_copies_the_one_that_differs_leaves_even_if_it_is_the_primary() {
        let only_b = BTreeSet::from([member("b")]);
        assert_eq!(verdict(1, &[("b", 2), ("c", 1)]), Some(Verdict::MinorityDiffers(only_b)));
        assert_eq!(verdict(1, &[("b", 2), ("c", 2)]), Some(Verdict::PrimaryDiffers));
        let both = BTreeSet::from([member("b"), member("c")]);
        assert_eq!(verdict(1, &[("b", 2), ("c", 3)]), Some(Verdict::Undecided(both)));
        assert_eq!(verdict(1, &[("b", 2)]), None, "nobody is judged before all have spoken");
    }

    #[test]
    fn with_two_copies_nobody_can_tell_which_is_wrong() {
        let mut digests = Digests::default();
        digests.ask(OpNumber(1), Digest(1));
        assert_eq!(digests.vote(&member("b"), OpNumber(1), Digest(2)), Some(false));
        let required = BTreeSet::from([member("b")]);
        assert_eq!(
            digests.verdict(OpNumber(1), &required),
            Some(Verdict::Undecided(required.clone()))
        );
    }
}
