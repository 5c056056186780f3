//! Servers on a file system of a few MiB, which is easily full.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kvclient::{Client, Error};
use testclient::cluster::{Options, wait_for};

use crate::common::{PATIENCE, check, get, prepared, put};

const DISK_SIZE: usize = 32 << 20;
const VALUE_SIZE: usize = 64 << 10;

/// A file system in memory, there as long as a process that mounted it for itself.
struct SmallDisk {
    holder: Child,
    mounted_at: tempfile::TempDir,
}

impl SmallDisk {
    fn new() -> SmallDisk {
        let mounted_at = tempfile::tempdir().expect("a folder");
        let script = "mount -t tmpfs -o size=\"$1\" tmpfs \"$0\" && echo mounted && exec sleep 600";
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(mounted_at.path())
            .arg(DISK_SIZE.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare, of util-linux");
        let mut said = String::new();
        let stdout = holder.stdout.take().expect("it was piped");
        BufReader::new(stdout).read_line(&mut said).expect("it can be read");
        assert_eq!(said, "mounted\n", "the kernel must allow namespaces of users: see above");
        SmallDisk { holder, mounted_at }
    }

    /// Where everybody else finds it.
    fn path(&self) -> PathBuf {
        let inside = self.mounted_at.path().strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Lets a file grow until hardly anything is free.
fn take_what_is_free(ballast: &Path) {
    let mut file = OpenOptions::new().create(true).append(true).open(ballast).expect("a file");
    let space = rustix::fs::fstatvfs(&file).expect("it is mounted");
    let free = usize::try_from(space.f_bavail * space.f_frsize).expect("a few MiB");
    // A server may have been faster.
    let _ = file.write_all(&vec![1; free - free / 16]);
}

async fn try_put(client: &Client, key: &str, number: usize) -> Result<(), Error> {
    let value = format!("{number} {}", "x".repeat(VALUE_SIZE));
    client.put(key.to_owned(), value).await.map(drop)
}

#[tokio::test]
async fn a_small_disk_is_used_again_and_again_and_what_does_not_fit_is_refused() {
    let disk = SmallDisk::new();
    let data = tempfile::tempdir().expect("a folder");
    // The view service has a disk of its own.
    for server in ["s1", "s2"] {
        let there = disk.path().join(server);
        std::fs::create_dir(&there).expect("a folder");
        std::os::unix::fs::symlink(&there, data.path().join(server)).expect("a link");
    }
    let options = Options {
        servers: 2,
        durable: true,
        data_dir: Some(data.path().to_owned()),
        ..Options::default()
    };
    let mut cluster = prepared(options).await;
    cluster.start_view_service().expect("start the view service");
    for index in 0..2 {
        cluster.start_server(index).expect("start a server");
        cluster.wait_until_redundant().await.expect("it finds its place");
    }
    let client = cluster.client().await;

    // The logs of both come to several times the disk. What is in them is mostly outdated.
    let times = 2 * DISK_SIZE / VALUE_SIZE;
    for number in 0..times {
        let key = format!("key {}", number % 10);
        wait_for("room for a value", PATIENCE, async || {
            try_put(&client, &key, number).await.map_err(|error| error.to_string())
        })
        .await
        .expect("the log makes room by itself");
    }

    // Then somebody else takes the room, also what the servers give back meanwhile.
    put(&client, "before", "1").await;
    let ballast = disk.path().join("ballast");
    let hasty = client.with_timeout(Duration::from_secs(1));
    let refusal = wait_for("a write to be refused", PATIENCE, async || {
        take_what_is_free(&ballast);
        match try_put(&hasty, "meanwhile", 0).await {
            Ok(()) => Err("it was done".to_owned()),
            Err(refusal) => Ok(refusal.to_string()),
        }
    });
    let refusal = refusal.await.expect("the disk is nearly full");
    assert!(refusal.contains("disk") && refusal.contains("full"), "{refusal}");
    check(&client, "before", "1").await;
    std::fs::remove_file(&ballast).expect("it is there");
    wait_for("a write to be done", PATIENCE, async || {
        try_put(&client, "after", 1).await.map_err(|error| error.to_string())
    })
    .await
    .expect("there is room again");

    // And nothing is lost of what was acknowledged.
    for index in 0..2 {
        cluster.kill(index);
    }
    for index in 0..2 {
        cluster.start_server(index).expect("start it again");
    }
    cluster.wait_until_redundant().await.expect("both come back");
    for number in times - 10..times {
        let value = get(&client, &format!("key {}", number % 10)).await.expect("it was written");
        assert!(value.starts_with(&format!("{number} ")), "an older value than {number}");
    }
    check(&client, "before", "1").await;
}
