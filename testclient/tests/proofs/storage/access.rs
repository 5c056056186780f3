//! What a disk does not let a process do now, told from what is wrong with it: a start that may not read
//! a file, a process with too many files open, a directory that cannot be renamed.

use kvserver::journal::engine::{Engine, Found};
use kvserver::journal::layout::SET_ASIDE;
use testclient::sim::disk::{Fault, Loss, SimulatedDisk};

use super::life::{self, options, recover};
use super::{is_segment, undisturbed, with_log};

/// A server whose log belonged to another user took it for damaged, joined empty, and set it aside.
#[test]
fn a_start_that_may_not_read_a_file_is_refused_and_changes_nothing() {
    let (disk, _) = undisturbed(3);
    let files = disk.files();
    let is_looked_at = |path: &&String| super::is_read(path) && !path.ends_with(".new");
    for path in files.iter().filter(is_looked_at) {
        disk.deny(Some(path));
        let operations = disk.operations();
        let refused = Engine::open(disk.clone(), options(7)).expect_err("it cannot be read now");
        let said = refused.to_string();
        let names = said.contains(path.as_str()) && said.contains("stays as it is");
        assert!(names && said.contains("permission denied"), "{said}");
        assert_eq!((disk.operations(), disk.files()), (operations, files.clone()), "{path}");
    }
    disk.deny(None);
    recover(&disk, "as it was").expect("nothing is damaged");
}

/// Also where something before it is damaged: what is needed may be in the file that cannot be read.
#[test]
fn damage_in_one_file_says_nothing_of_another_that_may_not_be_read() {
    let mut refusals = 0;
    for seed in 1..=40 {
        let (disk, _) = undisturbed(seed);
        let mut segments = disk.files();
        segments.retain(|path| is_segment(path) && super::is_read(path));
        let [first, .., last] = &segments[..] else {
            continue;
        };
        disk.tamper(first, |bytes| bytes[20] ^= 1);
        let covered = matches!(
            Engine::find(disk.clone(), options(7)).expect("it can be read").1,
            Found::Sound(_)
        );
        disk.deny(Some(last));
        let found = Engine::find(disk.clone(), options(7)).map(|(_, found)| found);
        match found {
            Err(refused) => {
                assert!(refused.to_string().contains(last.as_str()), "{refused}");
                refusals += 1;
            }
            // What is damaged is needed, whatever the other holds.
            Ok(found) => assert!(matches!(found, Found::Damaged(_)) && !covered, "{found:?}"),
        }
    }
    assert!(refusals > 0, "a snapshot covers the damage of some");
}

/// The view service may not want this server, or another may turn out to hold its place.
#[test]
fn to_find_out_what_a_directory_holds_changes_nothing_in_it() {
    for seed in 1..=20 {
        let disk = SimulatedDisk::default();
        let whole = SimulatedDisk::default();
        life::Life::new(seed, &whole).run();
        disk.go_wrong(1 + seed * 7919 % whole.operations(), Fault::PowerCut);
        life::Life::new(seed, &disk).run();
        disk.power_cycle(Loss::Some(seed));
        let (operations, files) = (disk.operations(), disk.files());
        let _ = Engine::find(disk.clone(), options(seed));
        assert_eq!((disk.operations(), disk.files()), (operations, files), "seed {seed}");
    }
}

/// Whichever operation of a log that grows finds no handle: it is waited out as a full disk is.
#[test]
fn too_many_open_files_are_waited_out_and_nothing_is_lost_or_in_doubt() {
    const OPS: u64 = 40;
    let undisturbed = SimulatedDisk::default();
    drop(with_log(&undisturbed, OPS));
    let mut waited = 0;
    for operation in 1..=undisturbed.operations() {
        let disk = SimulatedDisk::default();
        // The first operations make the directory what it is: a start that finds no handle is refused.
        let Ok((mut engine, _)) = Engine::open(disk.clone(), options(1)) else {
            panic!("nothing is wrong yet");
        };
        if operation <= disk.operations() {
            continue;
        }
        disk.go_wrong(operation, Fault::NoHandle);
        for op in 1..=OPS {
            engine.append(&life::entries(1, op..=op));
            if !engine.flush().expect("it can be tried again") {
                waited += 1;
                let obstacle = engine.obstacle().expect("it is told why");
                assert!(obstacle.contains("open files"), "{obstacle}");
                assert!(engine.flush().expect("nothing is wrong any more"));
            }
        }
        drop(engine);
        disk.power_cycle(Loss::Everything);
        let found = recover(&disk, &format!("no handle at {operation}")).expect("sound");
        assert_eq!(found.ops.len() as u64, OPS);
    }
    assert!(waited > 1, "segments are made again and again");
}

/// As on an overlay file system: `rename` of a directory of its lower layer is answered with EXDEV.
#[test]
fn an_era_is_moved_away_file_by_file_where_a_directory_cannot_be_renamed() {
    let damaged = SimulatedDisk::default();
    drop(with_log(&damaged, 40));
    let path = damaged.files().into_iter().find(|path| is_segment(path)).expect("segments");
    damaged.tamper(&path, |bytes| bytes[20] ^= 1);
    damaged.keep_directories();
    let set_aside = format!("{SET_ASIDE}/era-000001.damaged/");
    let old: Vec<_> = damaged.files().into_iter().filter(|path| is_segment(path)).collect();
    let begin = |disk: &SimulatedDisk| -> bool {
        let Ok((mut engine, _)) = Engine::open(disk.clone(), options(9)) else {
            return false;
        };
        engine.append(&life::entries(50, 1..=2));
        engine.flush().is_ok_and(|flushed| flushed)
    };
    let whole = damaged.copy();
    assert!(begin(&whole));
    for operation in damaged.operations() + 1..=whole.operations() {
        for loss in [Loss::Everything, Loss::Nothing, Loss::Some(operation)] {
            let disk = damaged.copy();
            disk.go_wrong(operation, Fault::PowerCut);
            let acknowledged = begin(&disk);
            disk.power_cycle(loss);
            if acknowledged {
                let state = recover(&disk, "after it was acknowledged").expect("sound");
                assert_eq!(state.ops.len(), 2, "{loss:?} at {operation}");
            }
            // Whatever the crash left, the next start ends with all of the old era in one place.
            if !recover(&disk, "the next start").is_ok_and(|state| state.ops.len() == 2) {
                assert!(begin(&disk), "{loss:?} at {operation}");
            }
            let files = disk.files();
            for path in &old {
                let moved = path.replace("era-000001/", &set_aside);
                assert!(files.contains(&moved), "{loss:?} at {operation}: {files:?}");
                assert!(!files.contains(path), "{loss:?} at {operation}: {files:?}");
            }
        }
    }
}
