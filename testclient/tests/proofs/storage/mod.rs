//! The storage engine on a disk that loses, tears, fails and lies: what was acknowledged is there
//! after every crash, and damage is told from a torn end. Every life of an engine is decided by a
//! seed; a failing one is played again with `STORAGE_SEED=N cargo test --workspace --test proofs storage`.

mod access;
mod journal;
mod life;
mod real;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use kvserver::journal::Room;
use kvserver::journal::disk::Disk;
use kvserver::journal::engine::{Engine, Found, Options};
use kvserver::journal::layout::SET_ASIDE;
use kvserver::journal::log::Sizes;
use kvserver::replica::recovery;
use kvserver::store::Items;
use testclient::sim::disk::{Fault, Loss, SimulatedDisk};

use life::{Ended, Life, State, options, recover};

/// Runs a test for each seed, or for the one that is asked for, and names the seed that fails.
fn for_seeds(test: &str, seeds: std::ops::RangeInclusive<u64>, run: impl Fn(u64)) {
    let asked = std::env::var("STORAGE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = asked.map_or(seeds, |seed| seed..=seed);
    eprintln!("{test}: seeds {seeds:?}");
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("STORAGE_SEED={seed} cargo test --workspace --test proofs {test}");
            resume_unwind(panic);
        }
    }
}

const LOSSES: [Loss; 5] =
    [Loss::Everything, Loss::Nothing, Loss::Some(1), Loss::Some(2), Loss::Some(3)];

#[test]
fn whatever_happens_at_any_operation_of_the_disk_what_was_acknowledged_is_there() {
    let test = "whatever_happens_at_any_operation_of_the_disk_what_was_acknowledged_is_there";
    for_seeds(test, 1..=24, |seed| {
        let undisturbed = SimulatedDisk::default();
        assert_eq!(Life::new(seed, &undisturbed).run(), Ended::Whole);
        for operation in 1..=undisturbed.operations() {
            let loss = LOSSES[(operation % LOSSES.len() as u64) as usize];
            for fault in [Fault::PowerCut, Fault::Fails] {
                let disk = SimulatedDisk::default();
                disk.go_wrong(operation, fault);
                let mut life = Life::new(seed, &disk);
                life.run();
                disk.power_cycle(loss);
                life.check_recovery(&disk, &format!("{fault:?} at {operation}, {loss:?}"));
            }
        }
    });
}

#[test]
fn a_crash_while_recovering_from_a_crash_loses_nothing_either() {
    let test = "a_crash_while_recovering_from_a_crash_loses_nothing_either";
    for_seeds(test, 1..=40, |seed| {
        let disk = SimulatedDisk::default();
        let undisturbed = SimulatedDisk::default();
        Life::new(seed, &undisturbed).run();
        disk.go_wrong(1 + seed * 7919 % undisturbed.operations(), Fault::PowerCut);
        let mut life = Life::new(seed, &disk);
        life.run();
        disk.power_cycle(Loss::Some(seed));
        for at in 1..=6 {
            let again = disk.copy();
            again.go_wrong(at, Fault::PowerCut);
            let _ = Engine::open(again.clone(), options(seed));
            again.power_cycle(LOSSES[(at % LOSSES.len() as u64) as usize]);
            life.check_recovery(&again, &format!("second crash at {at}"));
        }
    });
}

/// A disk at the end of a life that nothing disturbed, and what it must hold.
fn undisturbed(seed: u64) -> (SimulatedDisk, Life) {
    let disk = SimulatedDisk::default();
    let mut life = Life::new(seed, &disk);
    assert_eq!(life.run(), Ended::Whole);
    disk.power_cycle(Loss::Nothing);
    (disk, life)
}

/// A log of so many ops, each in a write of its own.
fn with_log(disk: &SimulatedDisk, ops: u64) -> Engine<SimulatedDisk> {
    let (mut engine, _) = Engine::open(disk.clone(), options(1)).expect("ours");
    for op in 1..=ops {
        engine.append(&life::entries(1, op..=op));
        assert!(engine.flush().expect("nothing fails"));
    }
    engine
}

fn is_segment(path: &str) -> bool {
    path.ends_with(".journal")
}

fn is_read(path: &str) -> bool {
    !path.starts_with(SET_ASIDE)
}

#[test]
fn any_flipped_byte_is_survived_or_refused_and_never_read_as_other_data() {
    let test = "any_flipped_byte_is_survived_or_refused_and_never_read_as_other_data";
    for_seeds(test, 1..=6, |seed| {
        let (disk, life) = undisturbed(seed);
        let (mut survived, mut refused) = (0, 0);
        for path in disk.files().into_iter().filter(|path| is_read(path)) {
            let size = disk.open(&path).map(|file| life::size(&file)).unwrap_or(0);
            for at in 0..size {
                let flipped = disk.copy();
                let mask = [1, 0x80, 0xff][at % 3];
                flipped.tamper(&path, |bytes| bytes[at] ^= mask);
                match life.check_tampered(&flipped, &format!("{path} flipped at {at}")) {
                    true => survived += 1,
                    false => refused += 1,
                }
            }
        }
        assert!(survived > 0 && refused > 0, "{survived} survived, {refused} refused");
    });
}

#[test]
fn any_cut_of_any_file_is_survived_or_refused_and_never_read_as_other_data() {
    let test = "any_cut_of_any_file_is_survived_or_refused_and_never_read_as_other_data";
    for_seeds(test, 11..=16, |seed| {
        let (disk, life) = undisturbed(seed);
        for path in disk.files().into_iter().filter(|path| is_read(path)) {
            let size = disk.open(&path).map(|file| life::size(&file)).unwrap_or(0);
            for at in 0..size {
                let cut = disk.copy();
                cut.tamper(&path, |bytes| bytes.truncate(at));
                life.check_tampered(&cut, &format!("{path} cut at {at}"));
            }
        }
    });
}

/// Of the last segment nobody can know: a log that lacks it looks like one that had not begun it.
#[test]
fn any_file_of_an_era_that_is_gone_is_missed_and_the_rest_never_read_as_other_data() {
    let test = "any_file_of_an_era_that_is_gone_is_missed_and_the_rest_never_read_as_other_data";
    let (survived, refused) = (Cell::new(0), Cell::new(0));
    for_seeds(test, 1..=60, |seed| {
        let (disk, life) = undisturbed(seed);
        let files = disk.files();
        let last = files.iter().rfind(|path| path.starts_with("era-") && is_segment(path));
        for path in files.iter().filter(|path| path.starts_with("era-") && Some(*path) != last) {
            let without = disk.copy();
            without.remove(path).expect("it is there");
            let count = match life.check_tampered(&without, &format!("without {path}")) {
                true => &survived,
                false => &refused,
            };
            count.set(count.get() + 1);
        }
    });
    let (survived, refused) = (survived.get(), refused.get());
    assert!(survived > 0 && refused > 0, "{survived} survived, {refused} refused");
}

#[test]
fn a_log_that_ends_before_its_snapshot_is_damaged() {
    let disk = SimulatedDisk::default();
    let mut engine = with_log(&disk, 30);
    let state = State { ops: vec![life::epoch(1); 30], ..State::default() };
    let verified = life::write_snapshot(&disk, &state, 30).expect("nothing fails");
    assert!(engine.install(&verified).expect("nothing fails"));
    let segments: Vec<_> = disk.files().into_iter().filter(|path| is_segment(path)).collect();
    assert!(segments.len() > 1, "some are kept: {segments:?}");
    disk.remove(&segments[segments.len() - 1]).expect("it is there");
    let damage = recover(&disk, "without its end").expect_err("ops are missing");
    assert!(damage.contains("before its snapshot"), "{damage}");
}

/// Whatever is written, the record that says so after it finds room in the same segment.
#[test]
fn what_was_safe_when_the_log_came_to_rest_is_always_told_from_a_torn_end() {
    let disk = SimulatedDisk::default();
    let (mut engine, _) = Engine::open(disk.clone(), options(1)).expect("an empty disk");
    let mut next = 1;
    for step in 0..60 {
        let last = next + if step % 7 == 0 { 30 } else { step % 3 };
        engine.append(&life::entries(1, next..=last));
        assert!(engine.flush().expect("nothing fails"));
        let path = disk.files().into_iter().rfind(|path| is_segment(path)).expect("segments");
        let at = life::last_nonzero(&disk, &path);
        engine.mark().expect("nothing fails");
        let flipped = disk.copy();
        flipped.tamper(&path, |bytes| bytes[at] ^= 1);
        let damage = recover(&flipped, "flipped").expect_err("it was safe");
        assert!(damage.contains("it was synced"), "ops {next} to {last}: {damage}");
        next = last + 1;
    }
}

/// A new log never takes the number, and with it the place, of one that was set aside.
#[test]
fn a_new_log_is_told_from_those_that_were_set_aside() {
    let disk = SimulatedDisk::default();
    drop(with_log(&disk, 3));
    // As an operator may do with data that nobody is to use.
    disk.make_dir(SET_ASIDE).expect("nothing fails");
    disk.rename("era-000001", &format!("{SET_ASIDE}/era-000001.damaged")).expect("nothing fails");
    drop(with_log(&disk, 2));
    let files = disk.files();
    assert!(files.iter().any(|path| path.starts_with("era-000002/")), "{files:?}");
}

#[test]
fn what_was_acknowledged_outlives_a_power_cut_that_loses_whatever_it_may() {
    let disk = SimulatedDisk::default();
    let (mut engine, _) = Engine::open(disk.clone(), options(1)).expect("an empty disk");
    for op in 1..=9 {
        engine.append(&life::entries(1, op..=op));
        assert!(engine.flush().expect("nothing fails"));
        let cut = disk.copy_with_doubt();
        cut.power_cycle(Loss::Everything);
        let found = recover(&cut, "after the power cut").expect("sound");
        assert_eq!(found.ops.len() as u64, op);
    }
}

#[test]
fn a_record_that_was_synced_is_not_cut_off_like_a_torn_one() {
    let disk = SimulatedDisk::default();
    let (mut engine, _) = Engine::open(disk.clone(), options(1)).expect("an empty disk");
    for op in 1..=2 {
        engine.append(&life::entries(1, op..=op));
        assert!(engine.flush().expect("nothing fails"));
    }
    let path = disk.files().into_iter().find(|path| path.ends_with(".journal")).expect("segments");
    let at = life::last_nonzero(&disk, &path);
    // The end of the last record: nothing says that it was ever synced.
    let torn = disk.copy();
    torn.tamper(&path, |bytes| bytes[at] ^= 1);
    assert_eq!(recover(&torn, "torn").expect("cut").ops.len(), 1);
    // The same byte, when the next record says that it was.
    engine.mark().expect("nothing fails");
    disk.tamper(&path, |bytes| bytes[at] ^= 1);
    let damage = recover(&disk, "damaged").expect_err("nothing is cut off");
    assert!(damage.contains("it was synced"), "{damage}");
}

/// The only server left orders its tail anew, and the power goes while it writes: the old tail is
/// there, or all of the new one.
#[test]
fn entries_are_dropped_only_together_with_all_that_take_their_place() {
    let written = |disk: &SimulatedDisk| {
        let sizes = Sizes { min: 1 << 16, max: 1 << 16 };
        let (mut engine, _) =
            Engine::open(disk.clone(), Options { sizes, ..options(1) }).expect("ours");
        engine.append(&life::entries(1, 1..=10));
        assert!(engine.flush().expect("nothing fails"));
        engine.append(&life::entries(2, 6..=45));
        engine
    };
    let disk = SimulatedDisk::default();
    let mut engine = written(&disk);
    let before = disk.operations();
    assert!(engine.flush().expect("nothing fails"));
    let old = [life::epoch(1); 10];
    let new = [vec![life::epoch(1); 5], vec![life::epoch(2); 40]].concat();
    for operation in before + 1..=disk.operations() {
        for loss in LOSSES.into_iter().chain((4..40).map(Loss::Some)) {
            let disk = SimulatedDisk::default();
            let mut engine = written(&disk);
            disk.go_wrong(operation, Fault::PowerCut);
            assert!(engine.flush().is_err());
            disk.power_cycle(loss);
            let found = recover(&disk, "after it").expect("a power cut damages nothing").ops;
            assert!(found == old || found == new, "{operation}, {loss:?}: {found:?}");
        }
    }
}

/// Tests of the tests: every rule about disks beside the story that must fail without it.
#[cfg(debug_assertions)]
#[test]
fn every_rule_about_disks_is_missed_by_a_named_story() {
    use kvproto::rules::{Rule, without};
    let stories: [(Rule, fn()); 5] = [
        (Rule::GoneIsNotSafe, journal::in_a_directory_that_is_gone_nothing_becomes_safe),
        (
            Rule::SyncedBeforeSafe,
            what_was_acknowledged_outlives_a_power_cut_that_loses_whatever_it_may,
        ),
        (
            Rule::FailedSyncIsFinal,
            after_a_failed_write_or_sync_nothing_is_acknowledged_and_the_next_start_is_told,
        ),
        (Rule::DamageIsNotCut, a_record_that_was_synced_is_not_cut_off_like_a_torn_one),
        (Rule::ReplacedAsOne, entries_are_dropped_only_together_with_all_that_take_their_place),
    ];
    for (rule, story) in stories {
        let broken = catch_unwind(|| without(&[rule], story));
        assert!(broken.is_err(), "nobody misses {rule:?}");
    }
}

#[test]
fn after_a_failed_write_or_sync_nothing_is_acknowledged_and_the_next_start_is_told() {
    let disk = SimulatedDisk::default();
    let (mut engine, _) = Engine::open(disk.clone(), options(1)).expect("an empty disk");
    engine.append(&life::entries(1, 1..=3));
    assert!(engine.flush().expect("nothing fails"));
    engine.append(&life::entries(1, 4..=4));
    disk.go_wrong(disk.operations() + 2, Fault::Fails);
    let error = engine.flush().expect_err("the sync fails");
    assert!(error.to_string().contains("simulated fault"), "{error}");
    engine.flush().expect_err("a failed sync is never tried again");
    engine.mark().expect_err("nor is anything else");
    disk.power_cycle(Loss::Everything);
    let (_, found) = Engine::open(disk, options(1)).expect("no other directory");
    let Found::Damaged(damage) = found else {
        panic!("{found:?}");
    };
    assert!(damage.to_string().contains("simulated fault"), "{damage}");
}

/// What was read may have been in the memory of the system alone, and is lost for the next start.
#[test]
fn a_sync_that_fails_at_a_start_is_told_to_the_next() {
    for operation in 1..=2 {
        let disk = SimulatedDisk::default();
        drop(with_log(&disk, 3));
        disk.power_cycle(Loss::Nothing);
        disk.go_wrong(disk.operations() + operation, Fault::Fails);
        let refused = Engine::open(disk.clone(), options(2)).expect_err("a sync fails");
        assert!(refused.to_string().contains("cannot sync"), "{refused}");
        disk.power_cycle(Loss::Everything);
        let damage = recover(&disk, "the next start").expect_err("it is told");
        assert!(damage.contains("simulated fault"), "{damage}");
    }
}

#[test]
fn a_damaged_log_stays_as_it_is_until_a_new_one_takes_its_place() {
    let (disk, life) = undisturbed(3);
    let path = disk.files().into_iter().find(|path| path.ends_with(".journal")).expect("segments");
    disk.tamper(&path, |bytes| bytes[20] ^= 1);
    // What was not finished is removed at every start.
    let kept =
        || disk.files().into_iter().filter(|path| !path.ends_with(".new")).collect::<Vec<_>>();
    let before = kept();
    let (mut engine, found) = Engine::open(disk.clone(), options(9)).expect("ours");
    assert!(matches!(found, Found::Damaged(_)), "{found:?}");
    assert_eq!(kept(), before, "nothing was touched");
    engine.adopt(life::epoch(50));
    assert!(engine.flush().expect("nothing fails"));
    assert_eq!(kept(), before, "nothing was touched");
    drop(life);
    engine.append(&life::entries(50, 1..=2));
    assert!(engine.flush().expect("nothing fails"));
    let era = path.split('/').next().expect("in an era");
    assert!(
        disk.files().iter().any(|path| path.starts_with(&format!("{SET_ASIDE}/{era}.damaged/"))),
        "{:?}",
        disk.files()
    );
    disk.power_cycle(Loss::Everything);
    let state = recover(&disk, "after the damage").expect("sound");
    assert_eq!((state.ops.len(), state.adopted), (2, life::epoch(50)));
}

#[test]
fn a_full_disk_is_waited_for_and_nothing_is_lost_meanwhile() {
    let disk = SimulatedDisk::new(24 << 10);
    let (mut engine, _) = Engine::open(disk.clone(), options(1)).expect("an empty disk");
    let mut op = 0;
    while engine.flush().expect("want of room is no failure") {
        op += 1;
        engine.append(&life::entries(1, op..=op));
        assert!(op < 10_000, "the disk never fills");
    }
    assert_eq!(engine.room(Room::Enough).expect("the disk says"), Room::Full);
    assert!(!engine.flush().expect("still no failure"));
    assert_eq!(engine.read(kvproto::ids::OpNumber(1), 1).expect("reads go on")[0].op().0, 1);
    disk.set_capacity(1 << 20);
    assert_ne!(engine.room(Room::Full).expect("the disk says"), Room::Full);
    assert!(engine.flush().expect("there is room again"));
    disk.power_cycle(Loss::Everything);
    assert_eq!(recover(&disk, "after the wait").expect("sound").ops.len() as u64, op);
}

/// A server that was started again and again filled its disk: each life begins a segment, and so little
/// came into them that no snapshot was ever due.
#[test]
fn short_lives_count_as_what_their_files_take_and_go_with_a_snapshot() {
    let disk = SimulatedDisk::default();
    let files = || disk.files().iter().filter(|file| file.ends_with(".journal")).count() as u64;
    let mut before = 0;
    for op in 1..=40 {
        let (mut engine, found) = Engine::open(disk.clone(), options(op)).expect("sound");
        if let Found::Sound(found) = found {
            let read = recovery::read(&engine, &found, Items::default(), 0).expect("sound");
            assert!(read.unsaved_bytes() >= files() * options(op).sizes.min, "after {op} lives");
            assert!(read.unsaved_bytes() > before, "after {op} lives");
            before = read.unsaved_bytes();
        }
        engine.append(&life::entries(1, op..=op));
        assert!(engine.flush().expect("the disk is sound"), "and has room");
        if op == 40 {
            let state = State { ops: vec![life::epoch(1); 40], ..State::default() };
            let verified = life::write_snapshot(&disk, &state, 40).expect("the disk is sound");
            assert!(engine.install(&verified).expect("the disk is sound"), "and has room");
            assert_eq!(engine.bytes_after_snapshot(), options(op).sizes.min, "what is written to");
        }
    }
    let kept = options(1).retain / options(1).sizes.min + 1;
    assert!(files() <= kept, "{:?}", disk.files());
    disk.power_cycle(Loss::Everything);
    assert_eq!(recover(&disk, "after the last life").expect("sound").ops.len(), 40);
}

/// Somebody else had filled the disk of a primary that was then started again: its epoch could not begin,
/// and nobody could read.
#[test]
fn on_a_disk_that_is_full_but_for_a_little_an_epoch_can_still_begin() {
    let disk = SimulatedDisk::default();
    let (mut engine, _) = Engine::open(disk.clone(), options(1)).expect("an empty disk");
    engine.append(&life::entries(1, 1..=1));
    assert!(engine.flush().expect("the disk is sound"), "and has room");
    disk.set_capacity(disk.used() + options(1).sizes.min / 2);
    let (mut engine, _) = Engine::open(disk.clone(), options(2)).expect("sound");
    engine.adopt(life::epoch(2));
    engine.append(&life::entries(2, 2..=2));
    assert!(engine.flush().expect("want of room is no failure"), "there is enough for this");
    disk.power_cycle(Loss::Everything);
    assert_eq!(recover(&disk, "after it").expect("sound").adopted, life::epoch(2));
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let disk = SimulatedDisk::default();
    let (mut engine, _) = Engine::open(disk.clone(), options(1)).expect("an empty disk");
    engine.claim(kvproto::ClusterId([1; 16])).expect("it belongs to nobody yet");
    let (mut engine, _) = Engine::open(disk, options(2)).expect("ours");
    assert_eq!(engine.identity().storage, options(1).storage);
    engine.claim(kvproto::ClusterId([1; 16])).expect("the same");
    let refused = engine.claim(kvproto::ClusterId([2; 16])).expect_err("another");
    assert!(refused.to_string().contains("--data-dir"), "{refused}");
}
