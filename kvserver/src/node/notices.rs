//! What the log says when the replica has something to tell. Shell. The capitalised sentences are
//! fixed: people and scripts search for them.

use std::path::Path;

use kvprocess::size::Size;
use kvproto::{ServerName, View};
use tracing::{error, info, warn};

use crate::journal::writer;
use crate::replica::effect::Notice;
use crate::replica::progress::{Amount, Sent};

/// What a copy was sent until it was in sync. Scripts read it.
fn told(sent: &Sent) -> String {
    let Amount { count, bytes } = sent.entries;
    let by_log = format!("{count} entries, {} by the log", Size(bytes));
    match sent.transfer {
        None => by_log,
        Some(Amount { count, bytes }) => {
            format!("a full transfer of {count} keys, {}, then {by_log}", Size(bytes))
        }
    }
}

fn disk_of(dir: Option<&Path>) -> String {
    dir.map_or("the journal".to_owned(), |dir| format!("the disk of {}", dir.display()))
}

/// How full the disk of this directory is.
fn fullness(dir: Option<&Path>) -> String {
    let room = dir.and_then(|dir| Some((dir, writer::room(dir).ok()?)));
    room.map_or("the disk is nearly full".to_owned(), |(dir, (free, least))| {
        let dir = dir.display();
        let (free, least) = (Size(free), Size(least));
        format!("the disk of {dir} is nearly full, with {free} free and {least} to be kept free")
    })
}

/// Writes one notice to the log; `view` is the newest one adopted, `dir` that of the data, if it is
/// on disk.
pub(super) fn log(notice: &Notice, view: &View, dir: Option<&Path>) {
    match notice {
        Notice::ViewChanged => {
            let primary = view.primary_name().map_or("", ServerName::as_str);
            let backups: Vec<_> = view.backups.iter().map(|member| member.name.as_str()).collect();
            info!(
                "View changed: ViewNumber={}, Primary={primary}, Backup={}",
                view.number,
                backups.join(","),
            );
        }
        Notice::RoleChanged { from, to } => info!("Role changed from {from} to {to}"),
        Notice::TransferStarted { to, keys, at } => {
            info!("sending the whole state to {to}: {keys} keys at op {at}");
        }
        Notice::Outrun { copy } => {
            warn!("the log no longer has what {copy} lacks: it will be sent the whole state");
        }
        Notice::TransferReceived { keys, at, took } => {
            info!("State transfer completed successfully: {keys} keys at op {at} in {took:.2?}");
        }
        Notice::CopySynced { copy, through, sent } => {
            info!("{copy} holds everything through op {through} and is in sync: {}", told(sent));
        }
        Notice::TailDropped { first, last } => warn!(
            "dropped the unacknowledged tail {first} to {last}: the new primary does not have it"
        ),
        Notice::Serving { took } => info!("serving as primary, {took:.1?} after the appointment"),
        Notice::Deposed { open: 0 } => info!("another primary was appointed"),
        Notice::Deposed { open } => {
            warn!("another primary was appointed; what became of {open} requests is not known here")
        }
        Notice::Diverged { copy, at } => {
            error!("ALARM: {copy} and this server hold different data at op {at}");
        }
        Notice::OnlyCopy { keys } => warn!(
            "no other server can take over: stopping now would lose {keys} keys; start another \
             kvserver and wait, or send the signal a second time to stop anyway"
        ),
        Notice::OutOfMemory(memory) => warn!(
            "writes that grow the data are refused: it takes {} of the {} that there are for it; \
             delete keys, or start all servers with a larger --max-memory, one after the other",
            Size(memory.used),
            Size(memory.max)
        ),
        Notice::DiskFull(true) => {
            warn!("{}: writes are refused until there is more, reads go on", fullness(dir));
        }
        Notice::DiskFull(false) => info!("the disk has room again: writes go on"),
        Notice::DiskHangs(true) => warn!(
            "{} hangs: nothing that it was given is written, and no error is told; look after its volume",
            disk_of(dir)
        ),
        Notice::DiskHangs(false) => info!("{} moves again", disk_of(dir)),
        Notice::SnapshotSaved { at } => {
            info!("saved a snapshot of the data at op {at}: the next start begins with it");
        }
        Notice::SnapshotGivenUp => warn!(
            "the disk has no room for a snapshot of the data, or does not let this server write one, so \
             the log before it has to stay: make room, or the disk will be full"
        ),
        Notice::DirectoryGone { me } => error!(
            "the data directory {} is gone (deleted, replaced, or files in it deleted): this server \
             acknowledges nothing any more, and leaves as soon as another complete copy has its own. If \
             there is none it stays, and answers reads from memory: `kvctl snapshot save FILE --server \
             {me}` saves what it holds; do not stop it before",
            dir.map_or(Path::new("?"), |dir| dir).display()
        ),
        Notice::LogUnreadable { from, what } => error!(
            "the log on disk cannot be read from op {from} on: {what}. All of it is in memory too, and a \
             snapshot of that is taken now; look after the disk"
        ),
        Notice::RoomAgain(memory) => info!(
            "writes find room again: the data takes {} of {}",
            Size(memory.used),
            Size(memory.max)
        ),
        Notice::HandingOver => info!("leaving: asking for a view without this server"),
        Notice::Nonsense { from, what } => warn!("dropped a message of {from}: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_its_directory_and_figures() {
        let dir = tempfile::tempdir().unwrap();
        let said = fullness(Some(dir.path()));
        let (_, figures) = said.split_once(&dir.path().display().to_string()).expect("its name");
        assert!(figures.contains(" free and ") && figures.contains("kept free"), "{said}");
    }

    #[test]
    fn people_are_told_what_a_copy_was_sent() {
        let entries = Amount { count: 3, bytes: 1 << 20 };
        let by_log = Sent { transfer: None, entries };
        assert_eq!(told(&by_log), "3 entries, 1 MiB by the log");
        let whole = Sent { transfer: Some(Amount { count: 7, bytes: 15 }), entries };
        let wanted = "a full transfer of 7 keys, 15 bytes, then 3 entries, 1 MiB by the log";
        assert_eq!(told(&whole), wanted);
    }
}
