//! What the tests of the shell share: servers in this process on free ports, and patience.

use std::time::Duration;

use bytes::Bytes;
use kvprocess::listen::Listeners;
use kvproto::convert::{Execute, ExecuteOperation};
use kvproto::pb::kvserver as pb;
use kvproto::pb::kvserver::kv_server_client::KvServerClient;
use kvproto::{Action, Change, ClusterId, Command, Query};
use kvserver::Config;
use kvserver::memory::Shares;
use kvserver::node::{NodeHandle, Standing};
use kvserver::replica::{Reads, Tuning};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Reached only when something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs in this process until it is stopped, or crashes when it is dropped.
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) stop: CancellationToken,
    node: NodeHandle,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub(crate) fn start(view_service: &str) -> Running {
        let listeners = kvprocess::listen::bind("localhost:0", false).expect("a free port");
        Running::start_on(listeners, view_service)
    }

    pub(crate) fn start_on(listeners: Listeners, view_service: &str) -> Running {
        Running::configured(listeners, view_service, |_| {})
    }

    /// A server that differs from the ordinary one as `change` says.
    pub(crate) fn start_with(view_service: &str, change: impl FnOnce(&mut Config)) -> Running {
        let listeners = kvprocess::listen::bind("localhost:0", false).expect("a free port");
        Running::configured(listeners, view_service, change)
    }

    fn configured(
        listeners: Listeners,
        view_service: &str,
        change: impl FnOnce(&mut Config),
    ) -> Running {
        if std::env::var_os("RUST_LOG").is_some() {
            kvprocess::logging::init(kvprocess::logging::LogFormat::Text);
        }
        let name = format!("localhost:{}", listeners.port());
        let mut config = Config {
            keeping: kvserver::config::Keeping::InMemory,
            view_servers: vec![view_service.to_owned()],
            advertise: name.clone(),
            reads: Reads::Lease,
            leave_within: PATIENCE,
            memory_max: 1 << 30,
            tuning: Tuning::default(),
            calls: Shares::of(1 << 30).calls,
            connections_max: 100,
        };
        change(&mut config);
        let stop = CancellationToken::new();
        let (node, inputs) = kvserver::node::channel();
        let watched = (node.clone(), inputs);
        let running = kvserver::server::run_watched(config, listeners, stop.clone(), watched);
        Running { name, stop, node, task: tokio::spawn(running) }
    }

    pub(crate) fn channel(&self) -> Channel {
        kvprocess::dial::channel(&self.name).expect("a name that was bound is an address")
    }

    pub(crate) fn client(&self) -> KvServerClient<Channel> {
        KvServerClient::new(self.channel())
    }

    /// Waits until the server stands as `wanted`; `what` is what a failure says was waited for.
    pub(crate) async fn stands(&self, what: &str, wanted: impl Fn(&Standing) -> bool) {
        let stands = timeout(PATIENCE, self.node.stands(wanted)).await;
        stands.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}")).expect("it runs");
    }

    /// Waits for the server to end by itself.
    pub(crate) async fn ended(mut self) -> anyhow::Result<()> {
        timeout(PATIENCE, &mut self.task)
            .await
            .expect("the server ends in time")
            .expect("the server does not panic")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks again until there is an answer; `what` is what a failure says was waited for.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match timeout(PATIENCE, ask()).await {
            Ok(Some(answer)) => return answer,
            Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(10)).await,
            _ => panic!("waited {PATIENCE:?} for {what}"),
        }
    }
}

/// Puts until the server accepts it: it is the primary then.
pub(crate) async fn put_eventually(server: &Running, key: &'static str, value: &'static str) {
    eventually(&format!("{} to accept {key}={value}", server.name), async || {
        let answer = server.client().put(put(key, value)).await;
        answer.ok().filter(|answer| answer.get_ref().ok)
    })
    .await;
}

pub(crate) fn put(key: &'static str, value: &'static str) -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
    }
}

pub(crate) fn get(key: &'static str) -> pb::GetRequest {
    pb::GetRequest { key: Bytes::from_static(key.as_bytes()) }
}

pub(crate) fn execute_put(key: &'static str, value: &'static str) -> pb::ExecuteRequest {
    let change = Change {
        key: Bytes::from_static(key.as_bytes()),
        action: Action::Put(Bytes::from_static(value.as_bytes())),
    };
    execute(Command::Change(change), None)
}

pub(crate) fn execute(command: Command, cluster: Option<ClusterId>) -> pb::ExecuteRequest {
    let operation = ExecuteOperation::Command { id: None, command };
    Execute { cluster, operation }.into()
}

pub(crate) fn execute_get(keys: &[&'static str]) -> pb::ExecuteRequest {
    let keys = keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
    let operation = ExecuteOperation::Query(Query::Get(keys));
    Execute { cluster: None, operation }.into()
}
