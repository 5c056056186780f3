//! Backups: save, look at, restore.

use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvprocess::data_dir::DataDir;
use kvprocess::size::Size;
use kvprocess::snapshot_file::{NewSnapshotFile, SnapshotFileError, verify};
use kvproto::snapshot::{RESTORE_FILE, Verified, Verifier};
use serde_json::{Value, json};

use crate::cli::Snapshot;
use crate::commands::{Session, acting_primary};
use crate::output::Failure;

/// To whom a data directory belongs in which a server finds what to begin with.
const OWNER: &str = "kvserver";

pub(crate) async fn run(session: &Session, verb: Snapshot) -> Result<(), Failure> {
    match verb {
        Snapshot::Save { file, server, force } => save(session, &file, server, force).await,
        Snapshot::Inspect { file } => inspect(session, file).await,
        Snapshot::Restore { file, data_dir } => restore(session, file, data_dir).await,
    }
}

async fn save(
    session: &Session,
    path: &Path,
    server: Option<String>,
    force: bool,
) -> Result<(), Failure> {
    let began = Instant::now();
    let mut file = NewSnapshotFile::create(path, force).map_err(|error| match error {
        SnapshotFileError::Exists(_) => Failure::failed(format!("{error}; --force replaces it")),
        error => failed(error),
    })?;
    let server = match server {
        Some(server) => server,
        None => acting_primary(&session.client.status().await?)?,
    };
    let mut snapshot = session.client.snapshot(Some(&server)).await?;
    let bar = bar("saving", "keys");
    let mut arrived = Verifier::default();
    while let Some(piece) = snapshot.next().await? {
        file.write(&piece).map_err(failed)?;
        // Here only to tell how far it is, and not to fill a disk with what is worth nothing.
        arrived.push(piece).map_err(|malformed| {
            Failure::failed(format!("what {server} sends is no snapshot: {malformed}"))
        })?;
        if let Some(head) = arrived.head() {
            bar.set_length(head.keys);
        }
        bar.set_position(arrived.counts().keys);
    }
    bar.finish_and_clear();
    let written = blocking(move || file.finish(|_| {})).await?;
    let took = began.elapsed();
    let text = || {
        let (what, took) = (sentence(&written), took.as_secs_f64());
        format!("saved {} from {server}: {what}, {took:.1} s", path.display()).into_bytes()
    };
    session.output.print(text, || {
        let mut json = as_json(path, &written);
        json["server"] = json!(server);
        json["seconds"] = json!(took.as_secs_f64());
        json
    })
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
    let start = format!("kvserver --data-dir {} --vs {}", data_dir.display(), session.vs);
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
    verify_shown(from).map_err(failed)?;
    if let Some(name) =
        first_name(to).map_err(|error| refused(format!("cannot read it: {error}")))?
    {
        return Err(refused(format!(
            "it is not empty (there is {name}): restore into a new directory"
        )));
    }
    let dir = DataDir::open(to, OWNER).map_err(|error| Failure::failed(error.to_string()))?;
    let mut file =
        NewSnapshotFile::create(&dir.path().join(RESTORE_FILE), false).map_err(failed)?;
    copy(from, &mut file)?;
    let restored = file.finish(|_| {}).map_err(failed)?;
    Ok(restored)
}

fn copy(from: &Path, to: &mut NewSnapshotFile) -> Result<(), Failure> {
    let unreadable =
        |error| Failure::failed(format!("{}: cannot read it: {error}", from.display()));
    let mut from_file = std::fs::File::open(from).map_err(unreadable)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        match from_file.read(&mut piece).map_err(unreadable)? {
            0 => return Ok(()),
            size => to.write(&piece[..size]).map_err(failed)?,
        }
    }
}

/// What is in a directory, if it is there and anything is.
fn first_name(dir: &Path) -> io::Result<Option<String>> {
    let mut entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let first = entries.next().transpose()?;
    Ok(first.map(|entry| entry.file_name().to_string_lossy().into_owned()))
}

fn verify_shown(path: &Path) -> Result<Verified, SnapshotFileError> {
    let bar = bar("verifying", "bytes");
    if let Ok(metadata) = path.metadata() {
        bar.set_length(metadata.len());
    }
    let verified = verify(path, |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    verified
}

/// On a terminal; elsewhere nothing is drawn.
fn bar(doing: &'static str, of: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let count =
        if of == "bytes" { "{bytes}/{total_bytes}" } else { "{human_pos}/{human_len} keys" };
    let style = ProgressStyle::with_template(&format!("{{msg}} {{wide_bar}} {count} {{eta}}"));
    bar.set_style(style.expect("a template of ours"));
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
        ("bytes of keys and values", counts.bytes.to_string()),
        ("sessions", counts.sessions.to_string()),
        ("answers remembered", counts.answers.to_string()),
        ("size of the file", bytes.to_string()),
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
