//! Servers on a disk that hangs: every write waits, and no error is told. It is a file system of its own
//! on a loop device, in a mount namespace of its own, which is frozen and thawed again. Freezing takes
//! root: as root these tests run, and a machine that lets root mount nothing fails them.
//!
//! A process with a thread that waits for such a disk does not end, whatever is done to it, before the
//! disk answers. What counts is that nobody is kept waiting by it.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use testclient::cluster::{Options, listens, wait_for};

use crate::common::{PATIENCE, Running, check, prepared, put};

/// A file system, there as long as a process that mounted it for itself.
struct HangingDisk {
    holder: Child,
    mounted_at: tempfile::TempDir,
}

impl HangingDisk {
    fn new() -> HangingDisk {
        let mounted_at = tempfile::tempdir().expect("a folder");
        let script = "truncate -s 700M \"$0.image\" && mkfs.ext4 -q -F \"$0.image\" \
                      && mount -o loop \"$0.image\" \"$0\" && rm \"$0.image\" && echo mounted \
                      && exec sleep 600";
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(mounted_at.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare, of util-linux");
        let mut said = String::new();
        let stdout = holder.stdout.take().expect("it was piped");
        BufReader::new(stdout).read_line(&mut said).expect("it can be read");
        assert_eq!(said, "mounted\n", "root must be allowed to mount a loop device: see above");
        HangingDisk { holder, mounted_at }
    }

    /// Where everybody else finds it.
    fn path(&self) -> PathBuf {
        let inside = self.mounted_at.path().strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside)
    }

    /// Until what is returned is dropped, also by a test that fails: then processes can end.
    fn hang(&self) -> Hangs {
        let path = self.path();
        assert!(fsfreeze("-f", &path), "root must be allowed to freeze it: see above");
        Hangs(path)
    }
}

impl Drop for HangingDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

struct Hangs(PathBuf);

impl Drop for Hangs {
    fn drop(&mut self) {
        fsfreeze("-u", &self.0);
    }
}

fn fsfreeze(how: &str, path: &Path) -> bool {
    let done = Command::new("fsfreeze").arg(how).arg(path).status();
    done.expect("fsfreeze, of util-linux").success()
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("not run: only root can freeze a file system");
    }
    is_root
}

/// A durable cluster of three servers and two copies: s1 leads, s2 is its backup. The data of one of its
/// programs is on the disk.
async fn formed(disk: &HangingDisk, label: &str) -> (tempfile::TempDir, Running) {
    let data = tempfile::tempdir().expect("a folder");
    let there = disk.path().join(label);
    std::fs::create_dir(&there).expect("a folder");
    std::os::unix::fs::symlink(&there, data.path().join(label)).expect("a link");
    let options = Options {
        servers: 3,
        durable: true,
        data_dir: Some(data.path().to_owned()),
        ..Options::default()
    };
    let mut cluster = prepared(options).await;
    cluster.start_view_service().expect("start the view service");
    for index in 0..3 {
        cluster.start_server(index).expect("start a server");
        cluster.wait_until_redundant().await.expect("it finds its place");
    }
    (data, cluster)
}

/// A connection on which nothing was said yet, to hear of its end.
fn listen_in(address: &str) -> TcpStream {
    let connection = TcpStream::connect(address).expect("it listens");
    connection.set_read_timeout(Some(PATIENCE)).expect("a socket");
    connection
}

/// Whoever talked to this address, or would, hears that nobody is there, while the disk still hangs.
async fn is_silent_and_refuses(address: &str, mut connection: TcpStream) {
    wait_for("its address to refuse", PATIENCE, async || {
        (!listens(address)).then_some(()).ok_or("it listens".to_owned())
    })
    .await
    .expect("it stops listening, though the process cannot end");
    let ended = tokio::task::spawn_blocking(move || connection.read_to_end(&mut Vec::new()));
    let ended = ended.await.expect("it does not panic");
    let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    assert!(!ended.as_ref().is_err_and(timed_out), "connections end too: {ended:?}");
}

#[tokio::test]
async fn writes_go_on_when_the_disk_of_the_primary_hangs_and_it_can_be_stopped() {
    if !is_root() {
        return;
    }
    let disk = HangingDisk::new();
    let (_data, mut cluster) = formed(&disk, "s1").await;
    let client = cluster.client().await;
    put(&client, "a", "1").await;

    let hangs = disk.hang();
    put(&client, "a", "2").await;
    put(&client, "b", "1").await;
    let view = cluster.wait_for_view("another to lead", |view| view.primary == Some(1)).await;
    view.expect("its backup does");
    check(&client, "a", "2").await;
    wait_for("status to tell whose disk hangs", PATIENCE, async || {
        let status = cluster.status().await.map_err(|error| error.to_string())?;
        let name = cluster.server_name(0);
        let server = status.servers.iter().find(|server| server.member.name.as_str() == name);
        let waits = server.map(|server| server.disk_waits).unwrap_or_default();
        (waits >= Duration::from_secs(1)).then_some(()).ok_or(format!("{waits:?}"))
    })
    .await
    .expect("it does");

    let address = cluster.server_name(0).to_owned();
    let connection = listen_in(&address);
    cluster.term(0);
    is_silent_and_refuses(&address, connection).await;
    put(&client, "c", "1").await;

    drop(hangs);
    assert_eq!(cluster.wait_for_exit(0).await.expect("the disk answers"), Some(0));
    cluster.start_server(0).expect("start it again");
    cluster.wait_until_redundant().await.expect("all in sync");
    for (key, value) in [("a", "2"), ("b", "1"), ("c", "1")] {
        check(&client, key, value).await;
    }
}

/// A copy that follows does lone writes on the thread that serves: that one hangs with the disk.
#[tokio::test]
async fn a_backup_whose_disk_hangs_is_left_out_and_can_be_stopped() {
    if !is_root() {
        return;
    }
    let disk = HangingDisk::new();
    let (_data, mut cluster) = formed(&disk, "s2").await;
    let client = cluster.client().await;
    for n in 0..20 {
        put(&client, "a", &n.to_string()).await;
    }
    let address = cluster.server_name(1).to_owned();
    let connection = listen_in(&address);
    let hangs = disk.hang();
    put(&client, "a", "last").await;
    cluster.term(1);
    is_silent_and_refuses(&address, connection).await;
    put(&client, "b", "1").await;
    drop(hangs);
    cluster.wait_for_exit(1).await.expect("the disk answers");
    cluster.start_server(1).expect("start it again");
    cluster.wait_until_redundant().await.expect("all in sync");
    check(&client, "a", "last").await;
}

/// It stands still with its disk, and the data plane goes on; when the disk answers it goes on too.
#[tokio::test]
async fn a_view_service_whose_disk_hangs_stands_still_and_can_be_stopped() {
    if !is_root() {
        return;
    }
    let disk = HangingDisk::new();
    let (_data, mut cluster) = formed(&disk, "viewservice").await;
    let client = cluster.client().await;
    put(&client, "a", "1").await;
    let hangs = disk.hang();
    for n in 0..50 {
        put(&client, "b", &n.to_string()).await;
    }
    cluster.kill(1);
    drop(hangs);
    cluster
        .wait_for_view("the failure to be repaired", |view| view.synced.contains(&2))
        .await
        .expect("it goes on");
    put(&client, "a", "2").await;

    let hangs = disk.hang();
    put(&client, "a", "3").await;
    let address = cluster.view_service_addr().to_owned();
    let connection = listen_in(&address);
    cluster.term_view_service();
    is_silent_and_refuses(&address, connection).await;
    check(&client, "a", "3").await;
    drop(hangs);
    cluster.kill_view_service();
    cluster.start_view_service().expect("start it again");
    cluster.start_server(1).expect("start it again");
    cluster.wait_until_redundant().await.expect("all in sync");
    check(&client, "a", "3").await;
    check(&client, "b", "49").await;
}
