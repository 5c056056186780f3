//! A cluster for a test, and clients of it. At most two clusters run at once in a test program:
//! more of them starve each other on two cores.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use kvclient::Client;
use testclient::calls;
use testclient::cluster::{Cluster, Options};
use tokio::sync::{Semaphore, SemaphorePermit};

const SLOTS_COUNT: u32 = 2;
static SLOTS: Semaphore = Semaphore::const_new(SLOTS_COUNT as usize);

/// For a program that starts clusters of its own: none of ours runs meanwhile.
pub(crate) async fn alone() -> SemaphorePermit<'static> {
    SLOTS.acquire_many(SLOTS_COUNT).await.expect("never closed")
}

/// How long a call tries: longer than any failover on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster that holds its slot until it is gone.
pub(crate) struct Running {
    // Dropped in this order: the processes end before the slot is free.
    cluster: Cluster,
    _slot: SemaphorePermit<'static>,
}

impl Deref for Running {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Running {
    /// A client whose calls try for [`PATIENCE`].
    pub(crate) async fn client(&self) -> Client {
        calls::connect(self.view_service_addr(), PATIENCE).await.expect("connect")
    }
}

/// A cluster of which nothing runs yet.
pub(crate) async fn prepared(options: Options) -> Running {
    let slot = SLOTS.acquire().await.expect("never closed");
    let cluster = Cluster::new(&options).await.expect("prepare a cluster");
    Running { cluster, _slot: slot }
}

/// A cluster whose view service and first servers run, in this order: the first is the primary,
/// the following ones its backups.
pub(crate) async fn running(options: Options, servers: usize) -> Running {
    let mut cluster = prepared(options).await;
    cluster.start_view_service().expect("start the view service");
    for index in 0..servers {
        cluster.start_server(index).expect("start a server");
        cluster.wait_until_redundant().await.expect("it finds its place");
    }
    cluster
}

/// The value of a key, which must be readable.
pub(crate) async fn get(client: &Client, key: &str) -> Option<String> {
    calls::get(client, key).await.unwrap_or_else(|error| panic!("get {key}: {error}"))
}

/// A put that must succeed.
pub(crate) async fn put(client: &Client, key: &str, value: &str) {
    calls::put(client, key, value)
        .await
        .unwrap_or_else(|error| panic!("put {key}={value}: {error}"));
}

/// An append that must succeed.
pub(crate) async fn append(client: &Client, key: &str, bytes: &str) {
    calls::append(client, key, bytes)
        .await
        .unwrap_or_else(|error| panic!("append {bytes} to {key}: {error}"));
}

/// Asserts what a key holds.
pub(crate) async fn check(client: &Client, key: &str, expected: &str) {
    assert_eq!(get(client, key).await.as_deref(), Some(expected), "key {key}");
}
