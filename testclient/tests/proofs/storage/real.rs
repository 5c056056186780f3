//! The journal of a server on the file system of this machine.

use std::path::Path;

use kvprocess::shutdown::Signals;
use kvproto::ids::{OpNumber, Position};
use kvserver::journal::engine::{Engine, Found};
use kvserver::journal::files::Files;
use kvserver::journal::survey::Refused;
use kvserver::journal::writer::{DiskJournal, find};
use kvserver::journal::{Completion, Journal, Work};

use super::life::{State, entries, epoch, give_snapshot};

/// As a server does that is admitted at once.
fn open(root: &Path) -> Result<(Engine<Files>, Found), Refused> {
    let (mut engine, found) = find(root)?;
    engine.settle()?;
    Ok((engine, found))
}

async fn until(journal: &mut DiskJournal, wanted: Completion) {
    journal.hand_over(true);
    loop {
        while let Some(completion) = journal.poll() {
            if completion == wanted {
                return;
            }
        }
        assert!(journal.failed().is_none(), "{:?}", journal.failed());
        journal.changed().await;
    }
}

fn ops(root: &Path) -> (u64, u64) {
    let (engine, found) = open(root).expect("ours");
    let Found::Sound(recovered) = found else {
        panic!("{found:?}");
    };
    let base = recovered.snapshot.map_or(0, |snapshot| snapshot.head.at.op.0);
    let mut next = base + 1;
    loop {
        let read = engine.read(OpNumber(next), 1 << 20).expect("it was checked");
        let Some(last) = read.last() else {
            break;
        };
        assert_eq!(read[..], entries(1, next..=last.op().0)[..]);
        next = last.op().next().0;
    }
    assert_eq!(recovered.last.op.0 + 1, next);
    (base, recovered.last.op.0)
}

#[tokio::test]
async fn a_journal_on_a_real_disk_is_found_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (engine, found) = open(dir.path()).expect("it is empty");
    assert!(matches!(found, Found::Nothing), "{found:?}");
    let state = State { ops: vec![epoch(1); 2000], ..State::default() };
    let mut journal = DiskJournal::start(engine, OpNumber(0)).expect("threads");
    journal.take(Work::Adopt(epoch(1)));
    for first in (1..=1991).step_by(10) {
        journal.take(Work::Append(entries(1, first..=first + 9)));
    }
    until(&mut journal, Completion::Safe(state.position(2000))).await;
    let at = give_snapshot(&mut journal, state.snapshot(1500));
    until(&mut journal, Completion::Snapshot(at)).await;
    journal.take(Work::Append(entries(1, 2001..=2001)));
    drop(journal);
    assert_eq!(ops(dir.path()), (1500, 2001), "its end waits for what was called");

    let (engine, _) = open(dir.path()).expect("ours");
    let mut journal = DiskJournal::start(engine, OpNumber(2001)).expect("threads");
    journal.take(Work::Reset { base: Position::default() });
    let at = give_snapshot(&mut journal, state.snapshot(40));
    journal.take(Work::Reset { base: at });
    until(&mut journal, Completion::Safe(at)).await;
    journal.take(Work::Append(entries(1, 41..=50)));
    until(&mut journal, Completion::Safe(state.position(50))).await;
    drop(journal);
    assert_eq!(ops(dir.path()), (40, 50));
}

/// Set for a process that finds no room for a file of any use; the directory.
const LIMITED: &str = "STORAGE_LIMITED";

#[test]
fn where_files_may_not_grow_nothing_is_acknowledged_and_nothing_fails() {
    if let Ok(dir) = std::env::var(LIMITED) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        // As the program does: then it is told by its writes, instead of ended by a signal.
        let _signals = runtime.block_on(async { Signals::install() }).expect("handlers");
        let (mut engine, _) = open(Path::new(&dir)).expect("what it needs at first is small");
        engine.append(&entries(1, 1..=2000));
        assert!(!engine.flush().expect("want of room is no failure"));
        assert!(!engine.flush().expect("nor is it the second time"));
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let me = std::env::current_exe().expect("a program");
    let limited = "ulimit -f 64; exec \"$0\" --exact \"$1\"";
    let name = "storage::real::where_files_may_not_grow_nothing_is_acknowledged_and_nothing_fails";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", limited]).arg(me).arg(name).env(LIMITED, dir.path());
    let done = shell.output().expect("a shell");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
    let (mut engine, found) = open(dir.path()).expect("ours");
    let Found::Sound(found) = found else {
        panic!("{found:?}");
    };
    assert_eq!(found.last, Position::default(), "a log has begun, and nothing is in it");
    engine.append(&entries(1, 1..=2000));
    assert!(engine.flush().expect("there is room"));
}

#[test]
fn a_flipped_byte_on_a_real_disk_is_noticed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut engine, _) = open(dir.path()).expect("it is empty");
    for op in 1..=3 {
        engine.append(&entries(1, op..=op));
        assert!(engine.flush().expect("the disk works"));
    }
    drop(engine);
    let name = dir.path().join("era-000001/000001-00000000000000000000.journal");
    let mut bytes = std::fs::read(&name).expect("the segment");
    bytes[150] ^= 1;
    std::fs::write(&name, &bytes).expect("the segment");
    let (_, found) = open(dir.path()).expect("ours");
    let Found::Damaged(damage) = found else {
        panic!("{found:?}");
    };
    assert!(damage.to_string().contains(".journal at byte 104"), "{damage}");
}
