//! Servers that announce an address at which they are not: a copied configuration, a wrong port, a
//! network that translates addresses.

use tempfile::TempDir;
use testclient::cluster::{Options, PATIENCE, Process, free_port, wait_for};

use crate::common::{Running, check, prepared, put, running};

/// A server at an address of its own that announces another one.
struct Astray {
    process: Process,
    _dir: TempDir,
}

impl Astray {
    fn start(cluster: &Running, advertise: &str) -> Astray {
        let dir = tempfile::tempdir().expect("a folder");
        let data = dir.path().join("data").display().to_string();
        let at = format!("127.0.0.1:{}", free_port().expect("a free port"));
        let vs = cluster.view_service_addr();
        let flags = ["--addr", &at, "--advertise", advertise, "--vs", vs, "--data-dir", &data]
            .map(str::to_owned);
        let process = Process::new("kvserver", "astray", flags.into(), dir.path());
        let mut process = process.expect("it was built");
        process.start().expect("it runs");
        Astray { process, _dir: dir }
    }

    async fn until_it_says(&self, sentence: &str) {
        wait_for(sentence, PATIENCE, async || match self.process.log() {
            Ok(log) if log.contains(sentence) => Ok(()),
            Ok(log) => Err(log),
            Err(error) => Err(format!("{error:#}")),
        })
        .await
        .expect("it says so");
    }
}

fn durable() -> Options {
    Options { durable: true, ..Options::default() }
}

async fn status_says(cluster: &mut Running, what: &str) {
    cluster
        .wait_for_status(what, |status, _| {
            status.servers.iter().any(|server| server.not_met.contains(what))
        })
        .await
        .expect("status says why");
}

/// It was taken into the view and left out of it twice a second, for ever.
#[tokio::test]
async fn a_second_server_that_announces_a_dead_address_changes_no_view() {
    let mut cluster = running(durable(), 1).await;
    let client = cluster.client().await;
    let before = client.view().await.expect("a view").number;
    let dead = format!("127.0.0.1:{}", free_port().expect("a free port"));
    let mut astray = Astray::start(&cluster, &dead);
    astray.until_it_says(&format!("announces {dead}, where nobody answers")).await;
    status_says(&mut cluster, "nobody answers").await;
    put(&client, "a", "1").await;
    assert_eq!(client.view().await.expect("a view").number, before);
    assert!(astray.process.ended_by_itself().is_none(), "its operator may open the way to it");
    cluster.start_server(1).expect("start a good one");
    cluster.wait_until_redundant().await.expect("it has a part");
}

/// It became the first primary, which nobody reached, and nobody else could.
#[tokio::test]
async fn a_first_server_that_announces_a_dead_address_leads_nobody() {
    let mut cluster = prepared(durable()).await;
    cluster.start_view_service().expect("start the view service");
    let dead = format!("127.0.0.1:{}", free_port().expect("a free port"));
    let astray = Astray::start(&cluster, &dead);
    astray.until_it_says(&format!("announces {dead}, where nobody answers")).await;
    status_says(&mut cluster, "nobody answers").await;
    cluster.start_server(0).expect("start a good one");
    put(&cluster.client().await, "a", "1").await;
}

/// When the first one died it took its name, empty, and kept it from it.
#[tokio::test]
async fn a_server_that_announces_the_address_of_another_does_not_get_its_name() {
    let mut cluster = running(durable(), 1).await;
    put(&cluster.client().await, "a", "1").await;
    let name = cluster.server_name(0).to_owned();
    let astray = Astray::start(&cluster, &name);
    astray.until_it_says("another server answers").await;
    put(&cluster.client().await, "b", "2").await;
    cluster.kill(0);
    astray.until_it_says("nobody answers").await;
    cluster.start_server(0).expect("start it again");
    let client = cluster.client().await;
    check(&client, "a", "1").await;
    check(&client, "b", "2").await;
    assert!(!astray.process.log().expect("a log").contains("registered as"));
}
