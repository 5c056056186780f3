//! `kvserver journal …` on the directory of a stopped server, as an operator meets it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvprocess::data_dir::DataDir;
use kvprocess::snapshot_file::verify;
use kvproto::{
    Action, Change, ClusterId, Entry, Epoch, Generation, LogTime, Member, OpNumber, Position,
    Settings, StorageId, View, ViewNumber,
};
use kvserver::journal::engine::{Engine, Options};
use kvserver::journal::files::Files;
use kvserver::journal::layout::is_kept;
use kvserver::journal::log::Sizes;
use kvserver::journal::writer::{self, DiskJournal};
use kvserver::journal::{Journal, Work};
use kvserver::storage::Storage;
use kvserver::store::Items;
use tempfile::TempDir;

const OPTIONS: Options = Options {
    storage: StorageId([3; 16]),
    seed: 7,
    sizes: Sizes { min: 4096, max: 4096 },
    retain: 0,
    reserve: 0,
};

/// What a server showed before it was stopped it can show again, or it does not start.
#[test]
fn the_newest_record_outlives_the_process_and_is_not_guessed() {
    let (_dir, path) = server();
    let open = || Engine::open(Files::new(&path), OPTIONS);
    let record = View::none(ClusterId([9; 16]), Settings::default());
    let newer = View { revision: kvproto::Revision(7), ..record.clone() };
    let (mut engine, _) = open().expect("it can be used");
    assert_eq!(engine.newest_record(), None);
    for record in [record, newer.clone()] {
        engine.record(Box::new(record));
    }
    assert_eq!(engine.newest_record(), None, "nothing is safe before it is flushed");
    assert!(engine.flush().expect("the disk is sound"));
    assert_eq!(engine.newest_record(), Some(&newer));
    drop(engine);
    let (engine, _) = open().expect("it can be used");
    assert_eq!(engine.newest_record(), Some(&newer));
    drop(engine);
    let file = path.join("record");
    let mut bytes = fs::read(&file).expect("it is there");
    bytes[40] ^= 1;
    fs::write(&file, bytes).expect("it can be written");
    let why = open().map(drop).expect_err("nobody can tell what it knew").to_string();
    assert!(why.contains("record is damaged"), "{why}");
}

fn kvserver(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvserver"));
    let output = command.args(args).env_remove("KVSERVER_DATA_DIR").output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("not killed"), text(output.stdout), text(output.stderr))
}

fn entry(view: u64, op: u64) -> Arc<Entry> {
    let epoch = Epoch { generation: Generation(1), primary_since: ViewNumber(view) };
    let key = Bytes::from(format!("key {op}"));
    let command =
        kvproto::Command::Change(Change { key, action: Action::Put(vec![b'v'; 500].into()) });
    let position = Position { epoch, op: OpNumber(op) };
    Arc::new(Entry { position, at: LogTime::from_millis(op), id: None, command })
}

/// The directory of a server whose log ends with op 20, of which 15 are known to be committed. Ops 13
/// and 14 took the place of others.
fn server() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("data");
    let _owned = DataDir::open(&path, "kvserver", is_kept).expect("it is new");
    let (mut engine, _) = Engine::open(Files::new(&path), OPTIONS).expect("it can be used");
    engine.claim(ClusterId([9; 16])).expect("it belongs to nobody");
    let flush = |engine: &mut Engine<Files>| {
        assert!(engine.flush().expect("the disk is sound"), "and has room");
    };
    for op in 1..=14 {
        engine.append(&[entry(1, op)]);
        flush(&mut engine);
    }
    engine.adopt(entry(4, 13).position.epoch);
    engine.append(&[entry(4, 13), entry(4, 14)]);
    flush(&mut engine);
    engine.append(&[entry(4, 15)]);
    flush(&mut engine);
    engine.committed(OpNumber(15));
    for op in 16..=20 {
        engine.append(&[entry(4, op)]);
        flush(&mut engine);
    }
    (dir, path)
}

/// The segments of the log, in order.
fn segments(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("era-000001")).expect("the first era");
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "journal"));
    files.sort();
    files
}

fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for file in fs::read_dir(dir).expect("a folder") {
        let path = file.expect("a name").path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => found.push((path.clone(), fs::read(&path).expect("a file"))),
        }
    }
    found.sort();
    found
}

#[test]
fn a_directory_is_described_verified_and_exported_without_being_changed() {
    let (dir, data) = server();
    let before = contents(&data);
    let place = data.to_str().expect("text");
    let (code, said, errors) = kvserver(&["journal", "inspect", "--data-dir", place]);
    assert_eq!((code, &errors[..]), (0, ""));
    for part in [
        "cluster    09090909",
        "log        through op 1.4/20; its last 5 ops are not known to be committed",
        "epoch      1.1 from op 1\n",
        "epoch      1.4 from op 13\n",
        "dropped    ops 13 to 1.1/14",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert!(segments(&data).len() > 1, "several segments: {said}");

    let (code, said, errors) = kvserver(&["journal", "verify", "--data-dir", place]);
    assert_eq!((code, &errors[..]), (0, ""));
    assert!(said.contains("sound through op 1.4/20: 20 keys"), "{said}");

    let file = dir.path().join("rescued");
    let name = file.to_str().expect("text");
    let (code, said, errors) = kvserver(&["journal", "export", name, "--data-dir", place]);
    assert_eq!((code, &errors[..]), (0, ""));
    assert!(said.contains("its last 5 ops are not known to be committed"), "{said}");
    let written = verify(&file, |_| {}).expect("it is sound");
    assert_eq!((written.counts.keys, written.head.at), (20, entry(4, 20).position));
    assert_eq!(written.head.cluster, ClusterId([9; 16]));
    let epochs: Vec<u64> = written.end.epochs.iter().map(|start| start.op.0).collect();
    assert_eq!(epochs, [1, 13]);
    let (code, _, errors) = kvserver(&["journal", "export", name, "--data-dir", place]);
    assert_eq!(code, 1);
    assert!(errors.contains("exists already; --force replaces it"), "{errors}");
    assert_eq!(contents(&data), before, "nothing in the directory was changed");
}

#[test]
fn damage_is_named_with_its_place_and_nothing_is_exported() {
    let (dir, data) = server();
    let first = segments(&data).remove(0);
    let mut bytes = fs::read(&first).expect("a segment");
    bytes[900] ^= 1;
    fs::write(&first, bytes).expect("it can be written");
    let (place, file) = (data.to_str().expect("text"), dir.path().join("rescued"));
    let (code, said, errors) = kvserver(&["journal", "verify", "--data-dir", place]);
    assert_eq!((code, &said[..]), (1, ""));
    let name = first.file_name().and_then(|name| name.to_str()).expect("text");
    assert!(errors.contains("damaged") && errors.contains(name), "{errors}");
    let name = file.to_str().expect("text");
    let (code, _, errors) = kvserver(&["journal", "export", name, "--data-dir", place]);
    assert_eq!(code, 1);
    assert!(errors.contains("damaged"), "{errors}");
    assert!(!file.exists());
    let args = ["journal", "export", name, "--data-dir", place, "--accept-data-loss"];
    let (code, said, errors) = kvserver(&args);
    assert_eq!((code, &errors[..]), (0, ""));
    assert!(said.contains("\nnot exported: everything from there on: "), "{said}");
    let written = verify(&file, |_| {}).expect("it is sound");
    assert_eq!(written.head.at, entry(1, 1).position, "what stands before the damage");
    let (code, said, _) = kvserver(&["journal", "inspect", "--data-dir", place]);
    assert_eq!(code, 0, "what can be said is said");
    assert!(said.contains("DAMAGE"), "{said}");
}

/// A failing disk would otherwise be noticed by nobody, until the next server on it begins.
#[test]
fn damage_that_the_snapshot_covers_is_told_and_fails_a_check() {
    let (_dir, data) = server();
    let place = data.to_str().expect("text");
    let snapshot = data.join("era-000001/00000000000000000020.snapshot");
    let name = snapshot.to_str().expect("text");
    assert_eq!(kvserver(&["journal", "export", name, "--data-dir", place]).0, 0);
    assert_eq!(kvserver(&["journal", "verify", "--data-dir", place]).0, 0);
    let first = segments(&data).remove(0);
    let mut bytes = fs::read(&first).expect("a segment");
    bytes[900] ^= 1;
    fs::write(&first, bytes).expect("it can be written");

    let (code, said, errors) = kvserver(&["journal", "verify", "--data-dir", place]);
    assert_eq!(code, 1);
    assert!(said.contains("sound through op 1.4/20: 20 keys"), "{said}");
    let name = first.file_name().and_then(|name| name.to_str()).expect("text");
    assert!(errors.contains("damaged: ") && errors.contains(name), "{errors}");
    assert!(errors.contains("nothing is lost") && errors.contains("this disk"), "{errors}");
    let (code, said, _) = kvserver(&["journal", "inspect", "--data-dir", place]);
    assert_eq!(code, 0);
    assert!(said.contains("DAMAGE") && said.contains("nothing is lost"), "{said}");
    assert!(said.contains(&format!("leftover   {name}, not needed any more")), "{said}");
}

/// Puts something that is no snapshot where the log would begin with one.
fn add_damaged_snapshot(data: &Path) {
    let path = data.join("era-000001/00000000000000000010.snapshot");
    fs::write(path, "no snapshot").expect("it can be written");
}

#[test]
fn a_log_that_reaches_back_to_its_beginning_needs_no_snapshot() {
    let (dir, data) = server();
    add_damaged_snapshot(&data);
    let (place, file) = (data.to_str().expect("text"), dir.path().join("rescued"));
    let (code, said, _) = kvserver(&["journal", "inspect", "--data-dir", place]);
    assert_eq!(code, 0);
    assert!(said.contains("what lies beyond the damage is not known"), "{said}");
    assert!(!said.contains("known to be committed"), "{said}");
    let name = file.to_str().expect("text");
    assert_eq!(kvserver(&["journal", "export", name, "--data-dir", place]).0, 1);
    let args = ["journal", "export", name, "--data-dir", place, "--accept-data-loss"];
    let (code, said, errors) = kvserver(&args);
    assert_eq!((code, &errors[..]), (0, ""));
    assert!(said.contains("read without the snapshot, which is damaged"), "{said}");
    assert!(!said.contains("not exported"), "{said}");
    let written = verify(&file, |_| {}).expect("it is sound");
    assert_eq!((written.counts.keys, written.head.at), (20, entry(4, 20).position));
}

#[test]
fn nothing_is_never_exported_as_a_backup() {
    let (dir, data) = server();
    add_damaged_snapshot(&data);
    fs::remove_file(segments(&data).remove(0)).expect("the first segment");
    let (place, file) = (data.to_str().expect("text"), dir.path().join("rescued"));
    let name = file.to_str().expect("text");
    let args = ["journal", "export", name, "--data-dir", place, "--accept-data-loss"];
    let (code, said, errors) = kvserver(&args);
    assert_eq!((code, &said[..]), (1, ""));
    assert!(errors.contains("nothing stands before the damage"), "{errors}");
    assert!(errors.contains("docs/backup.md"), "{errors}");
    assert!(!file.exists());
}

#[test]
fn the_log_of_a_directory_without_its_identity_can_still_be_saved() {
    let (dir, data) = server();
    fs::remove_file(data.join("identity")).expect("it is there");
    let (place, file) = (data.to_str().expect("text"), dir.path().join("rescued"));
    let name = file.to_str().expect("text");
    let (code, said, errors) = kvserver(&["journal", "verify", "--data-dir", place]);
    assert_eq!(code, 1, "no server begins with it");
    assert!(said.contains("sound through op 1.4/20"), "{said}");
    assert!(errors.contains("`kvserver journal export` saves what is here"), "{errors}");
    let (code, said, errors) = kvserver(&["journal", "export", name, "--data-dir", place]);
    assert_eq!((code, &errors[..]), (0, ""));
    assert!(said.contains("`identity` is missing or damaged"), "{said}");
    let written = verify(&file, |_| {}).expect("it is sound");
    assert_eq!((written.counts.keys, written.head.at), (20, entry(4, 20).position));
}

#[test]
fn a_directory_that_waits_for_its_first_start_is_verified_by_its_backup() {
    let (dir, data) = server();
    let place = data.to_str().expect("text");
    let restored = dir.path().join("restored");
    drop(DataDir::open(&restored, "kvserver", is_kept).expect("it is new"));
    let file = restored.join("restore.snapshot");
    let name = file.to_str().expect("text");
    assert_eq!(kvserver(&["journal", "export", name, "--data-dir", place]).0, 0);
    let args = ["journal", "verify", "--data-dir", restored.to_str().expect("text")];
    let (code, said, errors) = kvserver(&args);
    assert_eq!((code, &errors[..]), (0, ""));
    assert!(said.contains("sound: a backup through op 1.4/20"), "{said}");
    let (again, place) = (dir.path().join("again"), args[3]);
    let args_of_export = ["journal", "export", again.to_str().expect("text"), "--data-dir", place];
    let (code, _, errors) = kvserver(&args_of_export);
    assert_eq!(code, 1);
    assert!(errors.contains(name), "it names the backup that is there: {errors}");
    fs::write(&file, "no snapshot").expect("it can be written");
    assert_eq!(kvserver(&args).0, 1);
}

/// The view service has admitted this server.
fn begin(storage: Storage) {
    let cluster = storage.held().1.unwrap_or(ClusterId([1; 16]));
    let view = View::none(cluster, Settings::default());
    drop(storage.begin(&view, &Member::default()).expect("it can be used"));
}

/// A segment lies on a disk that is not mounted: that is no damage, and nothing is set aside for it.
#[test]
fn a_file_that_cannot_be_got_at_is_named_and_the_directory_stays_as_it_is() {
    let (dir, data) = server();
    let last = segments(&data).pop().expect("a segment");
    let elsewhere = dir.path().join("mounted");
    fs::rename(&last, &elsewhere).expect("it can be moved");
    std::os::unix::fs::symlink(&elsewhere, &last).expect("a link");
    let away = dir.path().join("away");
    fs::rename(&elsewhere, &away).expect("it can be moved");
    let refused = Storage::open(&data, Items::default(), 0).err().expect("it cannot be read");
    let said = format!("{refused:#}");
    let name = last.file_name().and_then(|name| name.to_str()).expect("text");
    assert!(said.contains(name) && said.contains("every disk mounted"), "{said}");
    assert!(said.contains("stays as it is") && !said.contains("damaged"), "{said}");
    let place = data.to_str().expect("text");
    let (code, _, errors) = kvserver(&["journal", "verify", "--data-dir", place]);
    assert_eq!(code, 1);
    assert!(errors.contains("every disk mounted") && !errors.contains("damaged"), "{errors}");
    fs::rename(&away, &elsewhere).expect("it can be moved");
    begin(Storage::open(&data, Items::default(), 0).expect("it is sound"));
    assert!(!data.join("set-aside").exists());
}

/// What a process that was killed left unfinished was taken for somebody else's.
#[test]
fn a_directory_that_has_lost_its_lock_file_is_taken_with_what_was_not_finished() {
    let (_dir, data) = server();
    fs::remove_file(data.join("process.lock")).expect("it is there");
    let unfinished = ["segment-3.new", "snapshot-2.new", "identity.new", "era-000002.new"]
        .map(|name| data.join(name));
    unfinished.iter().for_each(|file| fs::write(file, "half").expect("it can be written"));
    let storage = Storage::open(&data, Items::default(), 0).expect("it is sound");
    assert!(unfinished.iter().all(|file| file.exists()), "nobody has admitted this server yet");
    assert!(!data.join("process.lock").exists());
    let second = Storage::open(&data, Items::default(), 0).err().expect("it is held");
    assert!(second.to_string().contains("another process uses"), "{second:#}");
    begin(storage);
    assert!(unfinished.iter().all(|file| !file.exists()));
    fs::remove_file(data.join("process.lock")).expect("it is there again");
    fs::write(data.join("notes.new"), "somebody's").expect("it can be written");
    let refused = Storage::open(&data, Items::default(), 0).err().expect("it is not ours");
    assert!(refused.to_string().contains("notes.new"), "{refused:#}");
    assert!(data.join("notes.new").exists());
}

/// A process that ended between the two left the backup there for ever.
#[test]
fn a_backup_goes_when_its_data_is_in_place_also_after_a_crash_between_the_two() {
    let (dir, data) = server();
    let backup = dir.path().join("backup");
    let (name, place) = (backup.to_str().expect("text"), data.to_str().expect("text"));
    assert_eq!(kvserver(&["journal", "export", name, "--data-dir", place]).0, 0);
    let restored = dir.path().join("restored");
    drop(DataDir::open(&restored, "kvserver", is_kept).expect("it is new"));
    let there = restored.join("restore.snapshot");
    for start in ["the first", "after the crash"] {
        fs::copy(&backup, &there).expect("it is there");
        let storage = Storage::open(&restored, Items::default(), 0).expect("it is sound");
        assert_eq!(storage.held().0.last.op, OpNumber(20), "{start}");
        assert!(there.exists(), "{start}: not before this server is admitted");
        begin(storage);
        assert!(!there.exists(), "{start}");
    }
    fs::copy(&backup, data.join("restore.snapshot")).expect("it is there");
    begin(Storage::open(&data, Items::default(), 0).expect("it is sound"));
    assert!(data.join("restore.snapshot").exists(), "the data here did not begin with it");
}

#[test]
fn a_torn_end_is_sound() {
    let (_dir, data) = server();
    let last = segments(&data).pop().expect("a segment");
    let mut bytes = fs::read(&last).expect("a segment");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("records") + 1;
    bytes[end - 100..end].fill(0);
    fs::write(&last, bytes).expect("it can be written");
    let place = data.to_str().expect("text");
    let (code, said, errors) = kvserver(&["journal", "verify", "--data-dir", place]);
    assert_eq!((code, &errors[..]), (0, ""));
    assert!(said.contains("sound through op 1.4/19"), "{said}");
    assert!(said.contains("in the middle of a write") && said.contains("are left out"), "{said}");
}

#[test]
fn the_directory_of_a_running_server_and_what_is_none_are_left_alone() {
    let (dir, data) = server();
    let place = data.to_str().expect("text");
    let _running = DataDir::open(&data, "kvserver", is_kept).expect("nobody has it");
    let (code, said, errors) = kvserver(&["journal", "inspect", "--data-dir", place]);
    assert_eq!((code, &said[..]), (1, ""));
    assert!(errors.contains("another process uses this directory"), "{errors}");
    let other = dir.path().to_str().expect("text");
    let (code, _, errors) = kvserver(&["journal", "verify", "--data-dir", other]);
    assert_eq!(code, 1);
    assert!(errors.contains("no data of a kvserver"), "{errors}");
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing was put there");
    let missing = dir.path().join("missing");
    let args = ["journal", "inspect", "--data-dir", missing.to_str().expect("text")];
    let (code, _, errors) = kvserver(&args);
    assert_eq!(code, 1);
    assert!(errors.contains("does not exist"), "{errors}");
    let views = dir.path().join("views");
    drop(DataDir::open(&views, "viewservice", |_| false).expect("it is new"));
    let args = ["journal", "inspect", "--data-dir", views.to_str().expect("text")];
    let (code, _, errors) = kvserver(&args);
    assert_eq!(code, 1);
    assert!(errors.contains("belongs to a viewservice"), "{errors}");
}

/// Needs namespaces of users, as the tests of small disks do.
#[test]
fn a_directory_where_nothing_can_be_written_is_looked_at_all_the_same() {
    let (dir, data) = server();
    let place = data.to_str().expect("text");
    let file = dir.path().join("rescued");
    let name = file.to_str().expect("text");
    let read_only = |args: &[&str]| {
        let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, place]);
        command.arg(env!("CARGO_BIN_EXE_kvserver")).arg("journal").args(args);
        let output = command.args(["--data-dir", place]).output().expect("unshare, of util-linux");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    for args in [&["inspect"][..], &["verify"], &["export", name]] {
        let (code, said, errors) = read_only(args);
        assert_eq!((code, &errors[..]), (Some(0), ""), "{args:?}");
        assert!(said.contains("1.4/20") || said.contains("op 20 "), "{said}");
    }
    assert!(verify(&file, |_| {}).is_ok());
    // As somebody copied it who did not think of the lock.
    fs::remove_file(data.join("process.lock")).expect("it is there");
    let (code, _, errors) = read_only(&["verify"]);
    assert_eq!((code, &errors[..]), (Some(0), ""), "what is held is the directory itself");
}

/// It once waited for its other thread, which waited for the one that had panicked, while its heartbeat
/// went on: everybody took it for a server that stands still.
#[test]
fn a_journal_whose_thread_panicked_says_so_and_is_left_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut engine, _) = writer::find(dir.path()).expect("it can be used");
    engine.settle().expect("it can be used");
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // A mistake of ours, which nothing from outside could make: the log ends elsewhere.
        let mut journal = DiskJournal::start(engine, OpNumber(6)).expect("there are threads");
        journal.take(Work::Append(vec![entry(1, 7)]));
        journal.hand_over(false);
        while journal.failed().is_none() {
            assert_eq!(journal.poll(), None);
            std::thread::yield_now();
        }
        drop(journal);
        said.send(()).expect("somebody waits");
    });
    heard.recv_timeout(Duration::from_secs(30)).expect("it says so, and is left");
}
