//! The protocol cores and the client logic in a simulated cluster, many seeds of chaos and healing.
//! Other seeds than these, and the trace of one: `testclient sim --seed N --seeds M --trace`.

use indicatif::ProgressBar;
use testclient::sim::Kind;
use testclient::{sim, sweep};
use tokio_util::sync::CancellationToken;

/// About 15 s of processor time.
const SEEDS: u64 = 2000;

fn every_seed_passes(kind: Kind) {
    eprintln!("{kind:?}: seeds 1 to {SEEDS}");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (bar, stop) = (ProgressBar::hidden(), CancellationToken::new());
    let sweep = sweep::sweep(kind, 1, SEEDS, threads, &bar, &stop);
    eprintln!("{sweep}");
    assert!(sweep.failures.is_empty(), "{} seeds failed, see above", sweep.failures.len());
    let missing = sweep.visits.missing(kind);
    assert!(missing.is_empty(), "never visited, so these seeds prove too little: {missing:?}");
}

#[test]
fn a_cluster_keeps_its_promises_through_chaos_and_serves_again_after_it() {
    every_seed_passes(Kind::InMemory);
}

#[test]
fn a_cluster_on_disks_keeps_its_promises_through_power_cuts_and_disks_that_fail() {
    every_seed_passes(Kind::OnDisks);
}

#[test]
fn one_seed_walks_one_road() {
    let hash = |kind: Kind, seed: u64| {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut fold = |line: &str| {
            for byte in line.bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        sim::run(kind, seed, Some(&mut fold));
        hash
    };
    for seed in [1, 2, 3] {
        for kind in [Kind::InMemory, Kind::OnDisks] {
            assert_eq!(hash(kind, seed), hash(kind, seed), "{kind:?} seed {seed}");
        }
    }
    assert_ne!(hash(Kind::InMemory, 1), hash(Kind::InMemory, 2));
}
