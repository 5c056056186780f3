//! A cluster of real processes on this machine: for tests, drills and `testclient cluster`.
//!
//! Owns the processes it started and ends them, by their own handles, when it is dropped. Their
//! logs go to a directory of their own, which goes away with the cluster unless something failed;
//! then its path is printed. Never touches a process that it did not start.

mod ports;
mod process;
mod unreliable;

use std::fmt;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kvclient::{Client, ClusterStatus, ServerStatus};
use kvproto::{Role, View};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::calls::connect;

pub use ports::free_port;
pub use process::{Process, program};
pub use unreliable::Unreliable;

/// How long a cluster may take to come up or to repair itself before that counts as a failure.
/// Generous: a busy machine is slow, and nobody waits this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A process of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Machine {
    /// The view service.
    Views,
    /// A server, by index.
    Server(usize),
}

/// What cluster to build.
#[derive(Clone, Debug)]
pub struct Options {
    /// Key-value servers.
    pub servers: usize,
    /// Copies of the data, the primary included.
    pub copies: u32,
    /// Whether the servers keep their data on disk.
    pub durable: bool,
    /// Further flags of the view service, such as timings.
    pub view_service_flags: Vec<String>,
    /// Further flags of every key-value server.
    pub server_flags: Vec<String>,
    /// View service on this port and servers on the following ones; `None` takes free ports.
    pub first_port: Option<u16>,
    /// Where logs and process ids go; `None` takes a directory that goes away when all is well.
    pub log_dir: Option<PathBuf>,
    /// Where the processes keep their data, each in a directory of its own, from one cluster to the
    /// next; `None` takes a place beside the logs, which is empty at the beginning.
    pub data_dir: Option<PathBuf>,
    /// Whether all links to the servers, those between them included, lose calls, by which seed.
    pub unreliable: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: 3,
            copies: 2,
            durable: false,
            view_service_flags: Vec::new(),
            server_flags: Vec::new(),
            first_port: None,
            log_dir: None,
            data_dir: None,
            unreliable: None,
        }
    }
}

/// Who plays which part, by index of server; a name that is none of ours is left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// View number.
    pub number: u64,
    /// Whether its primary has activated it.
    pub activated: bool,
    /// The primary.
    pub primary: Option<usize>,
    /// Backups that hold everything, ascending.
    pub synced: Vec<usize>,
    /// Backups that are still being brought up, ascending.
    pub joining: Vec<usize>,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.activated { "activated" } else { "proposed" };
        let name = |index: &usize| format!("s{}", index + 1);
        let list = |indexes: &[usize]| indexes.iter().map(name).collect::<Vec<_>>().join(" ");
        write!(
            f,
            "view {} ({state}): primary [{}], synced [{}], joining [{}]",
            self.number,
            self.primary.iter().map(name).collect::<String>(),
            list(&self.synced),
            list(&self.joining),
        )
    }
}

/// The processes, and what is needed to talk to them.
pub struct Cluster {
    view_service: Process,
    /// What the view service keeps.
    views: PathBuf,
    servers: Vec<Process>,
    view_service_addr: String,
    names: Vec<String>,
    copies: usize,
    client: Client,
    unreliable: Option<Unreliable>,
    logs: Logs,
}

enum Logs {
    Kept(PathBuf),
    Temporary(Option<tempfile::TempDir>),
}

impl Logs {
    fn path(&self) -> &Path {
        match self {
            Logs::Kept(path) => path,
            Logs::Temporary(dir) => dir.as_ref().map_or(Path::new("."), |dir| dir.path()),
        }
    }
}

/// Removes a directory with all that is in it, if there is one.
fn empty(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl Cluster {
    /// Chooses ports and a place for logs. Nothing runs yet.
    ///
    /// # Errors
    /// When a program has not been built, a port is taken or the log directory cannot be made.
    pub async fn new(options: &Options) -> Result<Cluster> {
        let (logs, host) = match &options.log_dir {
            Some(path) => {
                std::fs::create_dir_all(path)
                    .with_context(|| format!("make log directory {}", path.display()))?;
                (Logs::Kept(path.clone()), "localhost")
            }
            None => {
                let dir = tempfile::Builder::new()
                    .prefix("kv-cluster-")
                    .tempdir()
                    .context("make a temporary directory for logs")?;
                (Logs::Temporary(Some(dir)), "127.0.0.1")
            }
        };
        let data = match &options.data_dir {
            Some(path) => path.clone(),
            None => {
                let path = logs.path().join("data");
                empty(&path)?;
                path
            }
        };
        let addresses = (0..=options.servers)
            .map(|index| {
                let port = match options.first_port {
                    None => free_port()?,
                    Some(first) => {
                        let port = u16::try_from(index)
                            .ok()
                            .and_then(|offset| first.checked_add(offset))
                            .context("--first-port leaves no room for that many servers")?;
                        ports::check_free(host, port)?;
                        port
                    }
                };
                Ok(format!("{host}:{port}"))
            })
            .collect::<Result<Vec<_>>>()?;
        let (view_service_addr, listening) = addresses.split_first().expect("at least one address");
        let views = data.join("viewservice");
        let mut flags = vec![
            "--addr".to_owned(),
            view_service_addr.clone(),
            "--data-dir".to_owned(),
            views.display().to_string(),
            "--copies".to_owned(),
            options.copies.to_string(),
        ];
        flags.extend(options.view_service_flags.iter().cloned());
        let view_service = Process::new("viewservice", "viewservice", flags, logs.path())?;
        let unreliable = options.unreliable.map(Unreliable::new);
        let mut names = Vec::new();
        let mut servers = Vec::new();
        for (index, addr) in listening.iter().enumerate() {
            let name = match &unreliable {
                Some(links) => links.link(addr.clone()).await?,
                None => addr.clone(),
            };
            let flags = ["--addr", addr, "--advertise", &name, "--vs", view_service_addr];
            let mut flags: Vec<_> = flags.map(str::to_owned).into();
            let label = format!("s{}", index + 1);
            if options.durable {
                flags.extend(["--data-dir".to_owned(), data.join(&label).display().to_string()]);
            } else {
                flags.push("--in-memory".to_owned());
            }
            flags.extend(options.server_flags.iter().cloned());
            servers.push(Process::new("kvserver", &label, flags, logs.path())?);
            names.push(name);
        }
        Ok(Cluster {
            view_service,
            views,
            servers,
            client: connect(view_service_addr, Duration::from_secs(2)).await?,
            view_service_addr: view_service_addr.clone(),
            names,
            copies: options.copies as usize,
            unreliable,
            logs,
        })
    }

    /// Builds the cluster, starts everything and waits until every copy is in sync.
    ///
    /// # Errors
    /// As [`Cluster::new`], and when the cluster does not come up.
    pub async fn start(options: &Options) -> Result<Cluster> {
        let mut cluster = Cluster::new(options).await?;
        cluster.start_view_service()?;
        for index in 0..options.servers {
            cluster.start_server(index)?;
        }
        cluster.wait_until_redundant().await?;
        Ok(cluster)
    }

    /// Starts the view service.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start_view_service(&mut self) -> Result<()> {
        self.view_service.start()
    }

    /// Starts, or starts again, one server at its own address.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start_server(&mut self, index: usize) -> Result<()> {
        self.servers[index].start()
    }

    /// Ends a server at once, as a crash would (SIGKILL).
    pub fn kill(&mut self, index: usize) {
        self.servers[index].kill();
    }

    /// Ends these at once, all before any of them is waited for: as when the power goes (SIGKILL).
    pub fn cut_power(&mut self, victims: &[Machine]) {
        for end in [|process: &mut Process| process.end(Signal::KILL), Process::kill] {
            for &victim in victims {
                end(match victim {
                    Machine::Views => &mut self.view_service,
                    Machine::Server(index) => &mut self.servers[index],
                });
            }
        }
    }

    /// Asks a server to stop (SIGTERM). It goes on running until it has handed over.
    pub fn term(&mut self, index: usize) {
        self.servers[index].end(Signal::TERM);
    }

    /// Freezes a server (SIGSTOP), as a suspended machine would be.
    pub fn stop(&mut self, index: usize) {
        self.servers[index].signal(Signal::STOP);
    }

    /// Lets a frozen server go on (SIGCONT).
    pub fn cont(&mut self, index: usize) {
        self.servers[index].signal(Signal::CONT);
    }

    /// Asks the view service to stop (SIGTERM).
    pub fn term_view_service(&mut self) {
        self.view_service.end(Signal::TERM);
    }

    /// Ends the view service at once (SIGKILL).
    pub fn kill_view_service(&mut self) {
        self.view_service.kill();
    }

    /// Ends the view service at once, and its disk is lost with it.
    ///
    /// # Errors
    /// When its data cannot be removed.
    pub fn lose_view_service(&mut self) -> Result<()> {
        self.view_service.kill();
        empty(&self.views)
    }

    /// Waits until a server has ended, and returns its exit code (`None`: ended by a signal).
    ///
    /// # Errors
    /// When it is still running after [`PATIENCE`].
    pub async fn wait_for_exit(&mut self, index: usize) -> Result<Option<i32>> {
        let server = &mut self.servers[index];
        let name = server.label().to_owned();
        let status = wait_for(&format!("{name} to end"), PATIENCE, async || {
            server.exit_status().ok_or_else(|| "still running".to_owned())
        })
        .await?;
        Ok(status.code())
    }

    /// Waits until a server has written a sentence to its log, counted over all its lives.
    ///
    /// # Errors
    /// When it has not after [`PATIENCE`].
    pub async fn wait_for_log(&self, index: usize, sentence: &str) -> Result<()> {
        let server = &self.servers[index];
        wait_for(&format!("{} to say {sentence:?}", server.label()), PATIENCE, async || {
            let log = server.log().map_err(|error| format!("{error:#}"))?;
            log.contains(sentence).then_some(()).ok_or_else(|| "it has not".to_owned())
        })
        .await
    }

    /// Everything that a server has written to its log, in all its lives.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn server_log(&self, index: usize) -> Result<String> {
        self.servers[index].log()
    }

    /// Address of the view service.
    #[must_use]
    pub fn view_service_addr(&self) -> &str {
        &self.view_service_addr
    }

    /// Name, which is the address, of a server.
    #[must_use]
    pub fn server_name(&self, index: usize) -> &str {
        &self.names[index]
    }

    /// The links that lose calls, if they do.
    #[must_use]
    pub fn unreliable(&self) -> Option<&Unreliable> {
        self.unreliable.as_ref()
    }

    /// Number of servers, running or not.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.names.len()
    }

    /// Where the logs are while the cluster exists.
    #[must_use]
    pub fn log_dir(&self) -> &Path {
        self.logs.path()
    }

    /// What the view service says of every server.
    ///
    /// # Errors
    /// When the view service does not answer within 2 s.
    pub async fn status(&self) -> Result<ClusterStatus> {
        Ok(self.client.status().await?)
    }

    /// Who plays which part at this moment.
    ///
    /// # Errors
    /// As [`Cluster::status`].
    pub async fn layout(&self) -> Result<Layout> {
        Ok(self.layout_of(&self.status().await?.view))
    }

    fn layout_of(&self, view: &View) -> Layout {
        let with_role = |role: Role| {
            let members = view.members().filter(|member| view.role_of(member) == role);
            let mut indexes: Vec<usize> = members
                .filter_map(|member| {
                    self.names.iter().position(|name| name == member.name.as_str())
                })
                .collect();
            indexes.sort_unstable();
            indexes
        };
        Layout {
            number: view.number.0,
            activated: view.is_activated(),
            primary: with_role(Role::Primary).first().copied(),
            synced: with_role(Role::Backup),
            joining: with_role(Role::Joining),
        }
    }

    /// Waits until the activated view is one that `wanted` accepts.
    ///
    /// # Errors
    /// When that does not happen within [`PATIENCE`], or a process ended by itself.
    pub async fn wait_for_view(
        &mut self,
        reason: &str,
        wanted: impl Fn(&Layout) -> bool,
    ) -> Result<Layout> {
        self.wait_for_status(reason, |_, layout| layout.activated && wanted(layout)).await
    }

    /// Waits until every running server is alive in the view service's eyes and, as far as there
    /// are servers, every copy is in sync.
    ///
    /// # Errors
    /// As [`Cluster::wait_for_view`].
    pub async fn wait_until_redundant(&mut self) -> Result<Layout> {
        let running: Vec<String> = self
            .servers
            .iter()
            .zip(&self.names)
            .filter(|(server, _)| server.is_started())
            .map(|(_, name)| name.clone())
            .collect();
        let backups = self.copies.min(running.len()).saturating_sub(1);
        self.wait_for_status("every copy to be in sync", |status, layout| {
            let alive = |name: &String| {
                let is_it = |server: &ServerStatus| server.member.name.as_str() == name;
                status.servers.iter().any(|server| is_it(server) && server.state == "alive")
            };
            layout.activated
                && layout.primary.is_some()
                && layout.joining.is_empty()
                && layout.synced.len() == backups
                && running.iter().all(alive)
        })
        .await
    }

    /// Waits until the status is one that `wanted` accepts.
    ///
    /// # Errors
    /// As [`Cluster::wait_for_view`].
    pub async fn wait_for_status(
        &mut self,
        reason: &str,
        wanted: impl Fn(&ClusterStatus, &Layout) -> bool,
    ) -> Result<Layout> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.fail_if_one_ended_by_itself()?;
            let seen = match self.status().await {
                Ok(status) => {
                    let layout = self.layout_of(&status.view);
                    if wanted(&status, &layout) {
                        return Ok(layout);
                    }
                    layout.to_string()
                }
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                let kept = self.keep_logs();
                bail!(
                    "waited {PATIENCE:?} for {reason}; last seen: {seen}; logs in {}",
                    kept.display()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The first process that is no longer running although nobody ended it, in words.
    pub fn ended_by_itself(&mut self) -> Option<String> {
        std::iter::once(&mut self.view_service)
            .chain(&mut self.servers)
            .find_map(Process::ended_by_itself)
    }

    /// Starts again the processes that have ended although nobody ended them here. Returns what they
    /// are called, each with how its last life ended.
    ///
    /// # Errors
    /// When a program cannot be run.
    pub fn restart_ended(&mut self) -> Result<Vec<(String, String)>> {
        let mut restarted = Vec::new();
        for process in std::iter::once(&mut self.view_service).chain(&mut self.servers) {
            if let Some(what) = process.ended_by_itself() {
                process.start()?;
                restarted.push((process.label().to_owned(), what));
            }
        }
        Ok(restarted)
    }

    /// Process id of a server that runs.
    #[must_use]
    pub fn server_id(&self, index: usize) -> Option<u32> {
        self.servers[index].id()
    }

    fn fail_if_one_ended_by_itself(&mut self) -> Result<()> {
        match self.ended_by_itself() {
            None => Ok(()),
            Some(what) => {
                let kept = self.keep_logs();
                bail!("{what} (logs in {})", kept.display())
            }
        }
    }

    /// Keeps the logs beyond the life of the cluster, and returns where they are.
    pub fn keep_logs(&mut self) -> PathBuf {
        let path = self.logs.path().to_owned();
        if let Logs::Temporary(dir) = &mut self.logs
            && let Some(dir) = dir.take()
        {
            self.logs = Logs::Kept(dir.keep());
        }
        path
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.servers.iter_mut().chain([&mut self.view_service]) {
            process.kill();
        }
        if std::thread::panicking() {
            eprintln!("logs of the cluster: {}", self.keep_logs().display());
        }
    }
}

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `condition` gives a value; its `Err` says what it sees instead, for the message
/// when the deadline passes.
///
/// # Errors
/// When the deadline passes.
pub async fn wait_for<T>(
    reason: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match condition().await {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() > end => {
                bail!("waited {deadline:?} for {reason}; last seen: {seen}")
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Whether something listens at this address.
#[must_use]
pub fn listens(address: &str) -> bool {
    address.to_socket_addrs().is_ok_and(|mut addresses| {
        addresses.any(|address| std::net::TcpStream::connect(address).is_ok())
    })
}
