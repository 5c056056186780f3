//! What goes wrong in one round of a torture, as a seed decides it. Pure: the seed decides the plan;
//! where in its work each process is at that moment is up to the machine.

use std::time::Duration;

use crate::cluster::Machine;
use crate::random::Random;

/// In so many of a thousand rounds the power goes for all; in the others only for some.
const ALL_PERMILLE: u64 = 750;

/// In so many of a thousand rounds the power goes again while everything comes back.
const AGAIN_PERMILLE: u64 = 250;

/// One loss of power, and the return from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// How long it works before.
    pub after: Duration,
    /// Whom it hits, in this order; never nobody.
    pub victims: Vec<Machine>,
    /// How long it stays dark.
    pub dark: Duration,
    /// The victims in the order in which they are started again, each after a pause.
    pub starts: Vec<(Duration, Machine)>,
}

/// One round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// One after the other; what the first ones hit is about to come back when the next one comes.
    pub cuts: Vec<Cut>,
}

impl Plan {
    /// Draws a round for so many servers.
    #[must_use]
    pub fn draw(random: &mut Random, servers: usize) -> Plan {
        let first = Cut::draw(random, servers, 700);
        let mut cuts = vec![first];
        if random.chance(AGAIN_PERMILLE) {
            cuts.push(Cut::draw(random, servers, 1_000));
        }
        Plan { cuts }
    }
}

impl Cut {
    /// Whether it hits the view service and all of so many servers.
    #[must_use]
    pub fn hits_all(&self, servers: usize) -> bool {
        self.victims.len() == servers + 1
    }

    fn draw(random: &mut Random, servers: usize, after_ms: u64) -> Cut {
        let mut all = vec![Machine::Views];
        all.extend((0..servers).map(Machine::Server));
        let mut victims = shuffled(random, all);
        if !random.chance(ALL_PERMILLE) {
            victims.truncate(1 + random.below(servers));
        }
        let millis =
            |random: &mut Random, low, high| Duration::from_millis(random.between(low, high));
        let after = millis(random, 0, after_ms);
        let dark = millis(random, 50, 300);
        let starts = shuffled(random, victims.clone());
        let starts = starts.into_iter().map(|one| (millis(random, 0, 200), one)).collect();
        Cut { after, victims, dark, starts }
    }
}

/// Fisher and Yates.
fn shuffled(random: &mut Random, mut machines: Vec<Machine>) -> Vec<Machine> {
    for end in (1..machines.len()).rev() {
        machines.swap(end, random.below(end + 1));
    }
    machines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_loses_power_is_started_again_once() {
        let mut random = Random::new(1);
        let (mut all, mut some, mut again) = (0, 0, 0);
        for _ in 0..1_000 {
            let plan = Plan::draw(&mut random, 3);
            again += usize::from(plan.cuts.len() > 1);
            for cut in &plan.cuts {
                let mut hit = cut.victims.clone();
                let mut started: Vec<Machine> = cut.starts.iter().map(|(_, one)| *one).collect();
                hit.sort_unstable();
                started.sort_unstable();
                assert_eq!(hit, started);
                hit.dedup();
                assert_eq!(hit.len(), started.len());
                match hit.len() {
                    4 => all += 1,
                    1..=3 => some += 1,
                    other => panic!("{other} processes are hit"),
                }
            }
        }
        assert!(all > 700 && some > 200 && again > 200, "{all} {some} {again}");
    }
}
