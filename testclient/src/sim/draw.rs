//! What kind of world a seed makes: settings, windows, clocks, how much goes wrong. Pure.

use std::time::Duration;

use kvproto::{Settings, Timestamp};
use kvserver::replica::{Reads, ReplicaOptions, Tuning};

use super::Kind;
use super::faults::{Fault, Faults};
use super::world::MS;
use crate::random::Random;

/// A clock: nanoseconds at the beginning, and how many of its microseconds pass in a second.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it shows at the beginning, in nanoseconds.
    pub offset: u64,
    /// Its microseconds in a real second.
    pub ppm: u64,
}

impl Clock {
    /// What it shows at a moment of virtual time.
    #[must_use]
    pub fn at(&self, now: u64) -> Timestamp {
        let nanos = u128::from(now) * 1000 * u128::from(self.ppm) / 1_000_000;
        Timestamp::from_nanos(self.offset + u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The first moment of virtual time at which it shows this.
    #[must_use]
    pub fn when(&self, shown: Timestamp) -> u64 {
        let nanos = u128::from(shown.as_nanos().saturating_sub(self.offset));
        u64::try_from(nanos * 1_000_000 / u128::from(self.ppm) / 1000).unwrap_or(u64::MAX) + 1
    }
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Settings of the cluster.
    pub settings: Settings,
    /// Of every server.
    pub options: ReplicaOptions,
    /// When each server is started first, in microseconds, if by itself.
    pub starts: Vec<Option<u64>>,
    /// Each a machine with the same address as the server of this number.
    pub twins: Vec<usize>,
    /// Whether their address leads only to those servers, not to them.
    pub astray: bool,
    /// How many clients.
    pub clients: usize,
    /// One clock per machine, twins included, then that of the view service, then the clients'.
    pub clocks: Vec<Clock>,
    /// Microseconds that a piece of journal work takes at most.
    pub journal_delay: u64,
    /// Microseconds that a message takes at most, most of the time.
    pub delay_max: u64,
    /// Streams in a thousand that lag behind the others.
    pub laggards: u64,
    /// Bytes that a link between two servers takes in a millisecond, if it is narrow.
    pub bytes_per_ms: Option<u64>,
    /// What goes wrong.
    pub faults: Faults,
    /// When everything heals.
    pub chaos_until: u64,
}

/// The world of a seed.
pub(super) fn chaos(kind: Kind, random: &mut Random) -> Plan {
    let settings = settings(random);
    let servers = random.between(2, 6) as usize;
    let reads = if random.chance(700) { Reads::Lease } else { Reads::Confirm };
    let durable = kind == Kind::OnDisks;
    let options = ReplicaOptions { reads, tuning: tuning(random), durable };
    let chaos_until = random.between(4000, 14_000) * MS;
    let late = random.chance(300);
    let starts = (0..servers)
        .map(|node| {
            let later = late && node > 0 && random.chance(400);
            Some(random.between(0, if later { chaos_until } else { 400 * MS }))
        })
        .collect();
    let twins = if random.chance(250) { vec![random.below(servers)] } else { Vec::new() };
    let clients = random.between(2, 4) as usize;
    let machines = servers + twins.len();
    let clocks = (0..machines + 1 + clients)
        .map(|node| Clock {
            offset: random.between(1, 1_000_000) * 1_000_000,
            // Leases rest on the servers' rates; the others only on hope.
            ppm: match node < machines {
                true => random.between(991_000, 1_009_000),
                false => random.between(950_000, 1_050_000),
            },
        })
        .collect();
    let mut plan = Plan {
        settings,
        options,
        starts,
        twins,
        astray: false,
        clients,
        clocks,
        journal_delay: random.pick(&[1, 500, 5 * MS, 60 * MS]).unwrap_or(1),
        delay_max: random.pick(&[500, 2 * MS, 2 * MS, 30 * MS]).unwrap_or(500),
        laggards: random.pick(&[0, 50, 300]).unwrap_or(0),
        bytes_per_ms: None,
        faults: faults(random),
        chaos_until,
    };
    plan.astray = random.chance(500);
    if durable {
        // Drawn last, so that the worlds in memory are what they are.
        let tuning = &mut plan.options.tuning;
        tuning.snapshot_after_bytes = random.between(1, 60) * 1000;
        for fault in Fault::OF_DISKS {
            if random.chance(600) {
                plan.faults.weights.push((fault, random.between(1, 10)));
            }
        }
    }
    // Drawn aside, so that worlds without these are what they were.
    let mut aside = random.clone();
    if aside.chance(150) {
        plan.bytes_per_ms = aside.pick(&[1, 5, 20]);
    }
    if aside.chance(200) {
        plan.faults.weights.push((Fault::Flap, aside.between(1, 4)));
    }
    plan
}

fn settings(random: &mut Random) -> Settings {
    let copies = u32::try_from(random.pick(&[1, 2, 2, 2, 3, 3, 4, 5]).unwrap_or(2)).unwrap_or(2);
    let mut settings = Settings {
        copies,
        min_copies: if copies > 1 && random.chance(100) { 2 } else { 1 },
        ..Settings::default()
    };
    if random.chance(500) {
        settings.session_lease = Duration::from_millis(3200);
        if random.chance(300) {
            settings.sessions_max = random.between(3, 5);
        }
    }
    if random.chance(200) {
        settings.value_size_max = random.between(20, 200);
    }
    if random.chance(500) {
        let ms = Duration::from_millis;
        settings.heartbeat_interval = ms(random.pick(&[20, 50, 100]).unwrap_or(100));
        settings.lease = settings.heartbeat_interval * random.between(3, 6) as u32;
        // Short ones lead to early evictions.
        let longer = if random.chance(300) { 1 } else { random.between(1, 500) };
        settings.stall_after = settings.lease + ms(longer);
        settings.ping_interval = ms(random.pick(&[100, 300, 500]).unwrap_or(500));
        settings.dead_after = (settings.ping_interval * 3).max(settings.lease + ms(1));
    }
    settings.validate().expect("settings that make sense");
    settings
}

/// Windows and budgets are drawn in pieces of so many bytes: some seventy make an entry.
const PIECE: usize = 3;

fn tuning(random: &mut Random) -> Tuning {
    let mut tuning = Tuning::default();
    if random.chance(600) {
        tuning.window_bytes = random.between(100, 2000) as usize * PIECE;
        tuning.window_appends = random.between(1, 4) as usize;
        tuning.batch_bytes = random.between(100, 600) as usize * PIECE;
    }
    if random.chance(600) {
        tuning.chunk_bytes = random.between(1, 400) as usize;
        tuning.chunks_in_flight = random.between(1, 3);
    }
    if random.chance(500) {
        tuning.retain_bytes = random.between(0, 3000) as usize * PIECE;
        tuning.retain_bytes_max = tuning.retain_bytes + random.between(0, 4000) as usize * PIECE;
    }
    if random.chance(100) {
        tuning.uncommitted_bytes_max = 2000 * PIECE;
        tuning.waiting_reads_max = 4;
    }
    tuning
}

fn faults(random: &mut Random) -> Faults {
    let weights = Fault::ALL
        .into_iter()
        .filter_map(|fault| {
            let rare = matches!(fault, Fault::Vanish | Fault::CarelessForce);
            let weight = random.between(1, if rare { 2 } else { 10 });
            random.chance(600).then_some((fault, weight))
        })
        .collect();
    Faults {
        weights,
        every_max: random.pick(&[150, 500, 1000, 2500]).unwrap_or(500),
        merciless: random.chance(180),
        lost_records: random.pick(&[0, 0, 100]).unwrap_or(0),
        slow_records: random.pick(&[0, 200, 500]).unwrap_or(0),
        views_die: random.pick(&[0, 0, 50]).unwrap_or(0),
        false_refusals: random.pick(&[0, 0, 200]).unwrap_or(0),
        lost_requests: random.pick(&[0, 20, 100]).unwrap_or(0),
        doubled: random.pick(&[0, 0, 0, 30]).unwrap_or(0),
        ambush: random.pick(&[0, 300, 800]).unwrap_or(0),
        over: false,
    }
}
