//! Backups: save, look at, restore.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use kvprocess::data_dir::{DataDir, LOCK_FILE, first_other};
use kvprocess::size::Size;
use kvprocess::snapshot_file::{NewSnapshotFile, SnapshotFileError, verify};
use kvproto::snapshot::{RESTORE_FILE, SnapshotHead, Verified, Verifier};
use kvproto::{OpNumber, View};
use serde_json::{Value, json};

use crate::cli::{Snapshot, is_typed};
use crate::commands::{Session, acting_primary};
use crate::output::Failure;

/// To whom a data directory belongs in which a server finds what to begin with.
const OWNER: &str = "kvserver";

pub(crate) async fn run(session: &Session, verb: Snapshot) -> Result<(), Failure> {
    match verb {
        Snapshot::Save { file, server, any_copy, force } => {
            save(session, &file, Source { server, any_copy }, force).await
        }
        Snapshot::Inspect { file } => inspect(session, file).await,
        Snapshot::Restore { file, data_dir } => restore(session, file, data_dir).await,
    }
}

/// Whose copy is saved.
struct Source {
    /// The acting primary's without a name.
    server: Option<String>,
    any_copy: bool,
}

async fn save(session: &Session, path: &Path, source: Source, force: bool) -> Result<(), Failure> {
    let began = Instant::now();
    let mut file = NewSnapshotFile::create(path, force).map_err(failed)?;
    let Source { server, any_copy } = source;
    let (server, view, is_primary) = match server {
        // Without a view service it is not known, which is no reason not to save.
        Some(server) => (server, session.client.view().await.ok(), false),
        None => (acting_primary(&session.client.status().await?)?, None, true),
    };
    let mut snapshot = session.client.snapshot(Some(&server)).await?;
    let mut progress = ProgressBar::hidden();
    let mut arrived = Verifier::default();
    let (mut complete, mut size) = (None, 0);
    while let Some(piece) = snapshot.next().await? {
        file.write(&piece).map_err(failed)?;
        size += piece.len() as u64;
        // Here only to tell how far it is, and not to fill a disk with what is worth nothing.
        arrived.push(piece).map_err(|malformed| {
            Failure::failed(format!("what {server} sends is no snapshot: {malformed}"))
        })?;
        if let Some(head) = arrived.head().filter(|_| complete.is_none()) {
            progress = bar("saving", head.keys, |at, of| format!("{at} of {of} keys"));
            holds_data(&server, head)?;
            let is = if is_primary { Complete::Yes } else { judge(view.as_ref(), &server, head) };
            if let Complete::No { others } = &is
                && !any_copy
            {
                return Err(Failure::failed(format!(
                    "the copy of {server} is not known to be complete: the view counts {others}; \
                     save from one of these, or what {server} has with --any-copy"
                )));
            }
            complete = Some(is);
        }
        progress.set_position(arrived.counts().keys);
    }
    progress.finish_and_clear();
    let bar = bar_of_bytes("verifying", size);
    let read = bar.clone();
    let written = blocking(move || file.finish(|bytes| read.inc(bytes))).await?;
    bar.finish_and_clear();
    let took = began.elapsed();
    if complete == Some(Complete::Unknown) {
        session.output.remark(&format!(
            "no view service of its cluster says whether the copy of {server} is complete: compare \
             it with those of the other servers"
        ));
    }
    let text = || {
        let (what, took) = (sentence(&written), took.as_secs_f64());
        format!("saved {} from {server}: {what}, {took:.1} s", path.display()).into_bytes()
    };
    session.output.print(text, || {
        let mut json = as_json(path, &written);
        json["server"] = json!(server);
        json["complete"] = match &complete {
            Some(Complete::Yes) => json!(true),
            Some(Complete::No { .. }) => json!(false),
            Some(Complete::Unknown) | None => Value::Null,
        };
        json["seconds"] = json!(took.as_secs_f64());
        json
    })
}

/// Whether a copy holds everything that was acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Complete {
    Yes,
    No {
        /// Those that do, in words.
        others: String,
    },
    /// Nobody answers who would know.
    Unknown,
}

/// What the view says of the copy of a server that begins a snapshot so. A view service that was
/// started anew knows nothing of the servers of the cluster before.
fn judge(view: Option<&View>, server: &str, head: &SnapshotHead) -> Complete {
    let Some(view) = view.filter(|view| view.cluster == head.cluster) else {
        return Complete::Unknown;
    };
    let names: Vec<_> = view.eligible.iter().map(|member| member.name.as_str()).collect();
    if names.contains(&server) {
        return Complete::Yes;
    }
    let others = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
    Complete::No { others }
}

/// A snapshot of nothing would pass for a backup.
fn holds_data(whose: &str, head: &SnapshotHead) -> Result<(), Failure> {
    if head.at.op > OpNumber(0) {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{whose} holds no data (it is a spare): name a server that `kvctl status` calls primary or \
         backup"
    )))
}

async fn inspect(session: &Session, path: PathBuf) -> Result<(), Failure> {
    let file = path.clone();
    let verified = blocking(move || verify_shown(&file)).await?;
    let json = || as_json(&path, &verified);
    session.output.print(|| table(&path, &verified).into_bytes(), json)
}

async fn restore(session: &Session, path: PathBuf, data_dir: PathBuf) -> Result<(), Failure> {
    let (from, to) = (path.clone(), data_dir.clone());
    let restored = tokio::task::spawn_blocking(move || put_into(&from, &to)).await;
    let restored = restored.map_err(|error| Failure::failed(error.to_string()))??;
    // The one that commands go to usually is still that of the old cluster.
    let vs = if is_typed("vs") { &session.vs } else { "NEW-VIEW-SERVICE" };
    let start = format!("kvserver --data-dir {} --vs {vs}", data_dir.display());
    let text = || {
        format!(
            "{} is ready in {}: {}\nstart it as the first server of a cluster whose view service is \
             new; the others join it:\n  {start}",
            path.display(),
            data_dir.display(),
            sentence(&restored)
        )
    };
    session.output.print(
        || text().into_bytes(),
        || {
            let mut json = as_json(&path, &restored);
            json["data_dir"] = json!(data_dir.display().to_string());
            json["start"] = json!(start);
            json
        },
    )
}

/// Makes of an empty directory one with which a server begins.
fn put_into(from: &Path, to: &Path) -> Result<Verified, Failure> {
    let refused = |what: String| Failure::failed(format!("--data-dir {}: {what}", to.display()));
    // First, so that a file that is worth nothing leaves no directory behind.
    let verified = verify_shown(from).map_err(failed)?;
    if verified.head.at.op == OpNumber(0) {
        let what = "it holds no data, not even the beginning of a cluster: restore another one";
        return Err(Failure::failed(format!("{}: {what}", from.display())));
    }
    // What a restore leaves that failed is in nobody's way.
    let partial = format!("{RESTORE_FILE}.partial");
    let other = first_other(to, |name| name == LOCK_FILE || name == partial);
    if let Some(name) = other.map_err(|error| refused(format!("cannot read it: {error}")))? {
        return Err(refused(format!(
            "it is not empty (there is {name}): restore into a new directory"
        )));
    }
    let dir = DataDir::open(to, OWNER, |name| name == partial)
        .map_err(|error| Failure::failed(error.to_string()))?;
    let mut file =
        NewSnapshotFile::create(&dir.path().join(RESTORE_FILE), false).map_err(failed)?;
    let bar = bar_of_bytes("copying", size_of(from));
    copy(from, &mut file, &bar)?;
    bar.finish_and_clear();
    let bar = bar_of_bytes("verifying the copy", size_of(from));
    let restored = file.finish(|bytes| bar.inc(bytes)).map_err(failed)?;
    bar.finish_and_clear();
    Ok(restored)
}

fn copy(from: &Path, to: &mut NewSnapshotFile, bar: &ProgressBar) -> Result<(), Failure> {
    let unreadable =
        |error| Failure::failed(format!("{}: cannot read it: {error}", from.display()));
    let mut from_file = std::fs::File::open(from).map_err(unreadable)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        match from_file.read(&mut piece).map_err(unreadable)? {
            0 => return Ok(()),
            size => {
                to.write(&piece[..size]).map_err(failed)?;
                bar.inc(size as u64);
            }
        }
    }
}

fn verify_shown(path: &Path) -> Result<Verified, SnapshotFileError> {
    let bar = bar_of_bytes("verifying", size_of(path));
    let verified = verify(path, |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    verified
}

/// The size of a file; 0 where nobody knows, which only a bar shows.
fn size_of(file: &Path) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

fn bar_of_bytes(doing: &'static str, size: u64) -> ProgressBar {
    bar(doing, size, |at, of| format!("{} of {}", Size(at), Size(of)))
}

/// On a terminal; elsewhere, and for nothing, nothing is drawn. How long it takes is said once
/// anything is done.
fn bar(doing: &'static str, size: u64, shown: fn(u64, u64) -> String) -> ProgressBar {
    if size == 0 {
        return ProgressBar::hidden();
    }
    let how_far = move |state: &ProgressState, out: &mut dyn fmt::Write| {
        let left = match state.pos() {
            0 => String::new(),
            _ => format!(", {:#} left", HumanDuration(state.eta())),
        };
        // A line that cannot be drawn is not worth a failure.
        let _ = write!(out, "{}{left}", shown(state.pos(), size));
    };
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg} {wide_bar} {how_far}");
    bar.set_style(style.expect("a template of ours").with_key("how_far", how_far));
    bar.set_message(doing);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Runs what waits for disks where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotFileError> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::failed(error.to_string()))?.map_err(failed)
}

fn failed(error: SnapshotFileError) -> Failure {
    Failure::failed(error.to_string())
}

fn sentence(snapshot: &Verified) -> String {
    let Verified { head, end, counts, bytes } = snapshot;
    format!(
        "op {} of generation {}, {} keys, {} sessions, {}, digest {}",
        head.at.op,
        head.at.epoch.generation,
        counts.keys,
        counts.sessions,
        Size(*bytes),
        end.digest
    )
}

fn rows(path: &Path, snapshot: &Verified) -> Vec<(&'static str, String)> {
    let Verified { head, end, counts, bytes } = snapshot;
    vec![
        ("file", path.display().to_string()),
        ("cluster", head.cluster.to_string()),
        ("generation", head.at.epoch.generation.to_string()),
        ("primary since view", head.at.epoch.primary_since.to_string()),
        ("op", head.at.op.to_string()),
        ("log time", format!("{:?}", Duration::from_millis(end.log_time.millis))),
        ("keys", counts.keys.to_string()),
        ("keys and values", Size(counts.bytes).to_string()),
        ("sessions", counts.sessions.to_string()),
        ("answers remembered", counts.answers.to_string()),
        ("size of the file", Size(*bytes).to_string()),
        ("digest", end.digest.to_string()),
        ("verified", "whole and sound".to_owned()),
    ]
}

fn table(path: &Path, snapshot: &Verified) -> String {
    let rows = rows(path, snapshot);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines = rows.iter().map(|(name, value)| format!("{name:width$}  {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn as_json(path: &Path, snapshot: &Verified) -> Value {
    let Verified { head, end, counts, bytes } = snapshot;
    json!({
        "file": path.display().to_string(),
        "cluster": head.cluster.to_string(),
        "generation": head.at.epoch.generation.0,
        "primary_since": head.at.epoch.primary_since.0,
        "op": head.at.op.0,
        "log_time_ms": end.log_time.millis,
        "keys": counts.keys,
        "data_bytes": counts.bytes,
        "sessions": counts.sessions,
        "answers": counts.answers,
        "bytes": bytes,
        "digest": end.digest.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use kvproto::{ClusterId, Incarnation, Member, Position, Settings};

    use super::*;

    #[test]
    fn a_copy_is_complete_if_the_view_of_its_own_cluster_says_so() {
        let head = |cluster| SnapshotHead {
            cluster: ClusterId([cluster; 16]),
            at: Position::default(),
            keys: 0,
        };
        let member = Member { name: "s1:1".into(), incarnation: Incarnation(1) };
        let mut view = View::none(ClusterId([1; 16]), Settings::default());
        view.eligible = [member].into();
        assert_eq!(judge(Some(&view), "s1:1", &head(1)), Complete::Yes);
        let others = "s1:1".to_owned();
        assert_eq!(judge(Some(&view), "s2:1", &head(1)), Complete::No { others });
        assert_eq!(judge(Some(&view), "s2:1", &head(2)), Complete::Unknown, "begun anew");
        assert_eq!(judge(None, "s1:1", &head(1)), Complete::Unknown);
    }
}
