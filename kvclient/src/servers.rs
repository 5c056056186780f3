//! Connections to servers, one per name, shared by all calls. Decides nothing.
//!
//! Connecting is a step of its own, apart from sending: a call whose connection could not be made
//! was certainly not done.

use std::sync::Arc;

use dashmap::DashMap;
use kvproto::ServerName;
use kvproto::limits::MESSAGE_SIZE_MAX;
use kvproto::pb::kvserver::kv_server_client::KvServerClient;
use kvproto::pb::viewservice::view_service_client::ViewServiceClient;
use tokio::sync::OnceCell;
use tonic::transport::Channel;

/// Names come from views and hints, hence from the network: beyond this many the table is emptied.
const CONNECTIONS_MAX: usize = 64;

/// Connections by name of the server.
#[derive(Default)]
pub(crate) struct Servers {
    channels: DashMap<ServerName, Arc<OnceCell<Channel>>>,
}

impl Servers {
    /// A connection that exists already or is made now, once for all that wait for it.
    ///
    /// # Errors
    /// Why none could be made, for people.
    pub(crate) async fn connect(&self, name: &ServerName) -> Result<Channel, String> {
        let cell = self.cell(name);
        cell.get_or_try_init(|| kvprocess::dial::connect(name.as_str()))
            .await
            .cloned()
            .map_err(|error| format!("{name}: {}", with_causes(&error)))
    }

    /// Forgets a connection that brought no answer, so that the next call makes a new one. Calls
    /// that are in flight on it go on.
    pub(crate) fn forget(&self, name: &ServerName) {
        self.channels.remove(name);
    }

    fn cell(&self, name: &ServerName) -> Arc<OnceCell<Channel>> {
        if let Some(cell) = self.channels.get(name) {
            return cell.clone();
        }
        if self.channels.len() >= CONNECTIONS_MAX {
            self.channels.clear();
        }
        self.channels.entry(name.clone()).or_default().clone()
    }
}

/// The key-value service at the other end.
pub(crate) fn kv_server(channel: Channel) -> KvServerClient<Channel> {
    KvServerClient::new(channel)
        .max_decoding_message_size(MESSAGE_SIZE_MAX)
        .max_encoding_message_size(MESSAGE_SIZE_MAX)
}

/// The view service at the other end.
pub(crate) fn view_service(channel: Channel) -> ViewServiceClient<Channel> {
    ViewServiceClient::new(channel)
}

/// An error and what caused it, in one line, each cause once.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
