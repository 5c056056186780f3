//! One server from its start to its end. Shell: it puts the parts together and takes them apart.
//!
//! If any part ends by itself the server ends with an error. Dropping the future of [`run`] is a
//! crash: nothing is handed over, and every task and thread ends soon after.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use kvprocess::listen::Listeners;
use kvprocess::machine;
use kvprocess::serve::{Diversion, serve};
use kvprocess::shutdown::Signals;
use kvprocess::size::Size;
use kvproto::wire::GREETING;
use kvproto::{LifeId, Role};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::api::{self, replication::ReplicationDoor};
use crate::config::{Config, Flags};
use crate::heartbeat::Heartbeat;
use crate::journal::MemoryJournal;
use crate::memory::Shares;
use crate::node::{self, Inputs, NodeHandle, NodeJournal, Parts, Standing};
use crate::peers::{InboundStreams, Peers};
use crate::replica::ReplicaOptions;
use crate::replica::event::Event;
use crate::replica::recovery::Recovered;
use crate::storage::{FoundDir, Storage};
use crate::store::Items;

/// Connections of other copies that wait to be let in.
const CONNECTIONS_QUEUED_MAX: usize = 16;
/// Wishes of the replica that wait for the heartbeat. It repeats what is lost.
const WISHES_QUEUED_MAX: usize = 64;
/// A directory that cannot be opened for want of handles is tried again this often, and told this often.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
const TELL_EVERY: Duration = Duration::from_secs(5);
/// After a hand-over clients are pointed to the new primary for this long.
const REDIRECT_FOR: Duration = Duration::from_millis(200);
/// The only copy looks this often whether somebody could take over by now. Each attempt that fails
/// doubles the pause, up to the second number: writes are refused while one lasts.
const LEAVE_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// With a disk that hangs an attempt to leave may take this long, and the disk is looked at this often.
const HANGING_LEAVES_WITHIN: Duration = Duration::from_millis(1500);
const HANGING_LOOKED_AT_EVERY: Duration = Duration::from_millis(100);

/// Runs a server on `listeners` until `token` is cancelled and it has left the cluster in order.
///
/// # Errors
/// When the view service refuses this server, when a part of it fails, or when it could not leave
/// in time. The message says what to do.
pub async fn run(
    config: Config,
    listeners: Listeners,
    token: CancellationToken,
) -> anyhow::Result<()> {
    run_watched(config, listeners, token, node::channel()).await
}

/// As [`run`], on a channel to the node of which the caller keeps a handle, to see how the server
/// stands.
///
/// # Errors
/// As [`run`].
pub async fn run_watched(
    config: Config,
    listeners: Listeners,
    token: CancellationToken,
    (node, inputs): (NodeHandle, Inputs),
) -> anyhow::Result<()> {
    let halt = CancellationToken::new();
    let _halt_at_the_end = halt.clone().drop_guard();
    let name = config.name(listeners.port());
    let life = LifeId(rand::random());
    let inbound = Arc::new(InboundStreams::default());
    let (wishes, wishes_out) = mpsc::channel(WISHES_QUEUED_MAX);
    let (registered, registration) = oneshot::channel();
    let node_task = TaskTracker::new();

    let (services, reporter) = api::services(&node, life, config.calls)?;
    info!(
        "memory: {} (--max-memory), of which {} are for data",
        Size(config.memory_max),
        Size(config.tuning.data_max)
    );
    if let Some(there_is) = machine::memory().filter(|all| *all < config.memory_max) {
        warn!(
            "--max-memory is more than the {} that this machine or its control group has: the \
             kernel would end this server before it refuses writes",
            Size(there_is)
        );
    }
    let retain_bytes = config.tuning.retain_bytes;
    let storage = match config.data_dir(listeners.port()) {
        Some(path) => {
            // Reading all of it takes a while; the signal to stop is heard meanwhile.
            let open = open_storage(path, inputs.items(), retain_bytes);
            match token.run_until_cancelled(open).await {
                Some(opened) => Some(opened?),
                None => return Ok(()),
            }
        }
        None => {
            info!("data in memory only");
            None
        }
    };
    let (to, from_copies) = mpsc::channel(CONNECTIONS_QUEUED_MAX);
    let diversion = Some(Diversion { first_byte: GREETING[0], to });
    let doors = serve(services, listeners, config.connections_max, diversion, halt.clone());
    let door =
        ReplicationDoor { node: node.clone(), inbound: Arc::clone(&inbound), halt: halt.clone() };
    tokio::spawn(door.attend(from_copies));
    let health = api::keep_health(reporter, node.clone());
    let held = storage.as_ref().map(Storage::held);
    let shown = storage.as_ref().and_then(Storage::shown);
    let durable = storage.is_some();
    let heartbeat = Heartbeat::new(
        (name, life),
        config.view_servers,
        (held, shown),
        node.clone(),
        wishes_out,
        registered,
    );
    let refusal = attend_apart(heartbeat, halt.clone())?;
    let sequencer = async {
        let Ok((me, view)) = registration.await else {
            // The heartbeat has ended, and says why.
            return std::future::pending().await;
        };
        let needed = Shares::memory_for_requests(&view.settings);
        if config.memory_max < needed {
            warn!(
                "with --max-memory below {} the largest requests that this cluster allows \
                 (--op-size-max) find no room here",
                Size(needed)
            );
        }
        // First of all events, so that the replica takes up its part.
        node.event(Event::View(Box::new(view.clone()))).await;
        let peers = Peers::new(Handle::current(), node.clone(), inbound, halt.clone());
        let (reads, tuning) = (config.reads, config.tuning);
        let (recovered, journal) = match storage {
            None => (Recovered::nothing(inputs.items()), NodeJournal::Memory(MemoryJournal::new())),
            Some(storage) => {
                let (recovered, journal, dir) = storage.begin(&view, &me)?;
                (recovered, NodeJournal::Disk(journal, dir))
            }
        };
        let options = ReplicaOptions { reads, tuning, durable };
        let halt = halt.clone();
        let parts = Parts { me, view, options, recovered, journal, peers, wishes, halt };
        node_task.spawn(node::run(parts, inputs)).await??;
        anyhow::Ok(())
    };

    tokio::pin!(doors);
    let outcome = tokio::select! {
        _ = &mut doors => Err(anyhow!("the doors have closed by themselves")),
        () = health => Err(anyhow!("the task that reports health has ended")),
        refused = refusal => Err(refused.context("the thread of the heartbeat has ended")?),
        ended = sequencer => match ended {
            Ok(()) => Err(anyhow!("the node has stopped by itself")),
            Err(cause) => Err(cause.context("the node has failed; the log says why")),
        },
        left = leave(&node, &token, config.leave_within, durable) => left,
        cause = without_directory(&node) => Err(cause),
    };
    halt.cancel();
    // What the journal was given is written before anybody else may have the directory.
    node_task.close();
    if outcome.is_ok() {
        // Open calls get their grace; what went wrong with the doors now no longer matters. They do not
        // wait for the disk.
        let (_, ()) = tokio::join!(doors, node_task.wait());
        info!("stopped");
    } else {
        node_task.wait().await;
    }
    outcome
}

/// Reads the data, as soon as there are handles to open its files with.
async fn open_storage(path: PathBuf, items: Items, retain_bytes: usize) -> anyhow::Result<Storage> {
    let mut told: Option<Instant> = None;
    let place = loop {
        let looked_at = path.clone();
        match spawn_blocking(move || FoundDir::find(&looked_at)).await? {
            Err(unusable) if unusable.passes_by_itself() => {
                if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                    warn!("waiting to start: {unusable}");
                    told = Some(Instant::now());
                }
                sleep(TRY_AGAIN_AFTER).await;
            }
            place => break place?,
        }
    };
    spawn_blocking(move || Storage::read(place, items, retain_bytes)).await?
}

/// Waits until nobody counts any more on a server whose data directory is gone. Only the last complete
/// copy never gets there: it stays, to be read and saved.
async fn without_directory(node: &NodeHandle) -> anyhow::Error {
    if node.stands(|now| now.directory_gone && now.left).await.is_none() {
        // The node has ended, and says why.
        return std::future::pending().await;
    }
    anyhow!(
        "the data directory is gone (deleted or replaced), and other copies hold everything: this server \
         stops; started again it begins with what is in the directory then, or an empty one"
    )
}

/// Attends at the view service from a thread of its own: whatever doors and node are busy with, the
/// view service hears that this server lives. The receiver hears of a refusal.
fn attend_apart(
    heartbeat: Heartbeat,
    halt: CancellationToken,
) -> anyhow::Result<oneshot::Receiver<anyhow::Error>> {
    let (refused, refusal) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime of the heartbeat")?;
    std::thread::Builder::new()
        .name("heartbeat".into())
        .spawn(move || {
            if let Some(cause) = runtime.block_on(halt.run_until_cancelled(heartbeat.attend())) {
                // Nobody listens any more when the whole server was dropped.
                let _ = refused.send(cause);
            }
        })
        .context("start the thread of the heartbeat")?;
    Ok(refusal)
}

/// Waits until the server shall stop, and takes it out of the cluster; an attempt may take `within`.
/// Of a second signal it knows nothing: that ends the process.
async fn leave(
    node: &NodeHandle,
    token: &CancellationToken,
    within: Duration,
    durable: bool,
) -> anyhow::Result<()> {
    token.cancelled().await;
    if node.standing().view.is_none() {
        return Ok(()); // never registered: nobody counts on this server
    }
    info!("stopping: leaving the cluster first");
    node.event(Event::Leave).await;
    let settled = async {
        tokio::select! {
            settled = timeout(within, node.stands(|now| now.left || now.only_copy)) => settled.is_ok(),
            () = hangs_for_long(node) => {
                warn!(
                    "leaving took more than {HANGING_LEAVES_WITHIN:?} while the disk hangs: this server \
                     stops as after a crash"
                );
                node.event(Event::NobodyToTakeOver).await;
                true
            }
        }
    };
    if !settled.await {
        let standing = node.standing();
        // What is on disk waits there: nobody needs to take over before this server stops.
        let durable = durable && !standing.directory_gone;
        let another = !durable && another_is_complete(&standing);
        if another && standing.role != Role::Primary {
            bail!(
                "leaving took more than {within:?}: the view service or the other copies do not \
                 answer; another copy holds everything, so this server stops as if it had crashed"
            );
        }
        if another {
            // The others may be asked to stop as well, and each would count on the next: the one
            // that leads stays.
            warn!(
                "leaving took more than {within:?}: the view service or the other copies do not \
                 answer, so nobody takes over: serving on; a second signal stops this server"
            );
            node.event(Event::Stay).await;
            hand_over_when_possible(node, within).await;
            sleep(REDIRECT_FOR).await;
            return Ok(());
        }
        if durable {
            warn!(
                "leaving took more than {within:?}: the view service or the other copies do not \
                 answer; everything acknowledged is on disk, so this server stops"
            );
        } else {
            warn!(
                "leaving took more than {within:?}: the view service does not answer, and it last \
                 named no other complete copy"
            );
        }
        // What the view service would say. The replica serves on, unless it holds nothing.
        node.event(Event::NobodyToTakeOver).await;
    }
    hand_over_when_possible(node, within).await;
    sleep(REDIRECT_FOR).await;
    Ok(())
}

/// Ends when a server that wants to stop was patient enough with a disk that hangs: others wait for its
/// end meanwhile, and the disk may never answer.
async fn hangs_for_long(node: &NodeHandle) {
    sleep(HANGING_LEAVES_WITHIN).await;
    loop {
        let stall_after = node.look(|now| now.view.as_ref().map(|view| view.settings.stall_after));
        let waits = node.progress().map(|progress| progress.disk_waits);
        if waits.is_some_and(|waits| stall_after.is_some_and(|most| waits >= most)) {
            return;
        }
        sleep(HANGING_LOOKED_AT_EVERY).await;
    }
}

/// The only copy goes on serving until it has handed over to somebody.
async fn hand_over_when_possible(node: &NodeHandle, within: Duration) {
    let mut pause = LEAVE_AGAIN.0;
    while timeout(pause, node.stands(|now| now.left)).await.is_err() {
        if !another_is_complete(&node.standing()) {
            continue;
        }
        node.event(Event::Leave).await;
        if timeout(within, node.stands(|now| now.left)).await.is_ok() {
            return;
        }
        pause = (pause * 2).min(LEAVE_AGAIN.1);
        warn!("nobody took over within {within:?}: serving on, next attempt in {pause:?}");
        node.event(Event::Stay).await;
    }
}

/// Whether the newest view names another copy that holds everything.
fn another_is_complete(standing: &Standing) -> bool {
    standing
        .view
        .as_ref()
        .is_some_and(|view| view.eligible.iter().any(|member| standing.me.as_ref() != Some(member)))
}

/// The whole program: listens, says so on stderr, and runs until a signal.
///
/// # Errors
/// As [`run`], and when the address cannot be listened at.
pub async fn main(flags: Flags, config: Config) -> anyhow::Result<()> {
    // What is acknowledged is on disk; in memory a crash would lose it.
    let signals = if !config.is_durable() {
        Signals::install()?
    } else {
        Signals::install_ending_what_stands_still()?
    };
    let listeners = kvprocess::listen::bind(&flags.addr, flags.insecure)?;
    let addresses: Vec<_> = listeners.addresses().iter().map(ToString::to_string).collect();
    let name = config.name(listeners.port());
    kvprocess::logging::say(format!("kvserver ready on {} as {name}", addresses.join(", ")));
    run(config, listeners, signals.token()).await
}
