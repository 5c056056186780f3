//! Keeps the newest view record: asks at start, then listens to the stream of pushed views in the
//! background, from whichever view server answers. Decides nothing.

use std::sync::Arc;
use std::time::Duration;

use kvproto::pb::viewservice::{GetViewRequest, WatchViewRequest};
use kvproto::{ServerName, View};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::debug;

use crate::backoff::Backoff;
use crate::route::is_news;
use crate::servers::{Servers, failed, too_late, view_service};
use crate::wire;

/// A view server that has not answered after this is passed over for the next one.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A view service without pushed views is asked again whether it has them after this.
const UNSUPPORTED_RETRY: Duration = Duration::from_secs(30);

/// The newest record, as `None` until the first is heard.
pub(crate) type NewestView = watch::Receiver<Option<Arc<View>>>;

/// The view servers of a cluster, and what they said last.
pub(crate) struct Views {
    servers: Vec<ServerName>,
    connections: Servers,
    newest: watch::Sender<Option<Arc<View>>>,
    wanted: Notify,
}

impl Views {
    /// Starts to listen; the tasks end with `token`.
    pub(crate) fn start(servers: Vec<ServerName>, token: &CancellationToken) -> Arc<Self> {
        let views = Arc::new(Self {
            servers,
            connections: Servers::default(),
            newest: watch::Sender::new(None),
            wanted: Notify::new(),
        });
        tokio::spawn(token.clone().run_until_cancelled_owned(views.clone().watch()));
        tokio::spawn(token.clone().run_until_cancelled_owned(views.clone().answer()));
        views
    }

    /// Follows the newest record.
    pub(crate) fn subscribe(&self) -> NewestView {
        self.newest.subscribe()
    }

    /// The newest record heard.
    pub(crate) fn newest(&self) -> Option<Arc<View>> {
        self.newest.borrow().clone()
    }

    /// Asks the view service in the background; the answer arrives at the subscribers.
    pub(crate) fn refresh(&self) {
        self.wanted.notify_one();
    }

    /// Names of the view servers.
    pub(crate) fn servers(&self) -> &[ServerName] {
        &self.servers
    }

    /// Connections to the view servers.
    pub(crate) fn connections(&self) -> &Servers {
        &self.connections
    }

    /// Takes a record in, if it is news.
    pub(crate) fn heard(&self, view: View) {
        self.newest.send_if_modified(|newest| {
            let news = is_news(newest.as_deref(), &view);
            if news {
                *newest = Some(Arc::new(view));
            }
            news
        });
    }

    /// Asks one view server for its present record.
    pub(crate) async fn ask(&self, server: &ServerName) -> Result<View, String> {
        let asked = async {
            let channel = self.connections.connect(server).await?;
            let response = view_service(channel)
                .get_view(GetViewRequest {})
                .await
                .map_err(|status| failed(server, &status))?;
            wire::view(response.into_inner().view).map_err(|error| format!("{server}: {error}"))
        };
        let answer = timeout(ANSWER_WITHIN, asked).await.unwrap_or_else(|_| Err(too_late(server)));
        match &answer {
            Ok(view) => self.heard(view.clone()),
            Err(_) => self.connections.forget(server),
        }
        answer
    }

    /// Answers each wish for a refresh with one question, beginning with another server each time:
    /// the one asked last may be cut off from the others.
    async fn answer(self: Arc<Self>) {
        let mut first = 0;
        loop {
            self.wanted.notified().await;
            for offset in 0..self.servers.len() {
                let server = &self.servers[(first + offset) % self.servers.len()];
                match self.ask(server).await {
                    Ok(_) => break,
                    Err(error) => debug!("View service not asked: {error}"),
                }
            }
            first += 1;
        }
    }

    /// Listens to one view server after the other.
    async fn watch(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        for server in self.servers.iter().cycle() {
            let wait = match self.watch_at(server, &mut backoff).await {
                Code::Unimplemented => UNSUPPORTED_RETRY,
                _ => backoff.next_delay(rand::random()),
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Listens until the stream ends, and says how it ended.
    async fn watch_at(&self, server: &ServerName, backoff: &mut Backoff) -> Code {
        let opened = async {
            let channel = self.connections.connect(server).await.map_err(|error| {
                debug!("View service not reached: {error}");
                Code::Unavailable
            })?;
            let mut client = view_service(channel);
            match client.watch_view(WatchViewRequest {}).await {
                Ok(response) => Ok(response.into_inner()),
                Err(status) => Err(status.code()),
            }
        };
        let opened = timeout(ANSWER_WITHIN, opened).await;
        let mut stream = match opened.unwrap_or(Err(Code::DeadlineExceeded)) {
            Ok(stream) => stream,
            Err(code) => {
                self.connections.forget(server);
                return code;
            }
        };
        loop {
            match stream.message().await {
                Ok(Some(record)) => match wire::view(Some(record)) {
                    Ok(view) => {
                        *backoff = Backoff::default();
                        self.heard(view);
                    }
                    Err(error) => debug!("View from {server} not understood: {error}"),
                },
                Ok(None) => return Code::Ok,
                Err(status) => {
                    self.connections.forget(server);
                    return status.code();
                }
            }
        }
    }
}
