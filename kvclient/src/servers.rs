//! Connections to servers, one per name, shared by all calls. Decides nothing.
//!
//! Connecting is a step of its own, apart from sending: a call whose connection could not be made
//! was certainly not done.

use std::sync::Arc;

use dashmap::DashMap;
use kvprocess::dial::DialError;
use kvproto::ServerName;
use kvproto::limits::MESSAGE_SIZE_MAX;
use kvproto::pb::kvserver::kv_server_client::KvServerClient;
use kvproto::pb::viewservice::view_service_client::ViewServiceClient;
use tokio::sync::OnceCell;
use tonic::transport::Channel;
use tonic::{Code, Status, TimeoutExpired};

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
            .map_err(|error| failed(name, &error))
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

/// The calls of a server.
pub(crate) type KvServer = KvServerClient<Channel>;

/// The key-value service at the other end.
pub(crate) fn kv_server(channel: Channel) -> KvServer {
    KvServerClient::new(channel)
        .max_decoding_message_size(MESSAGE_SIZE_MAX)
        .max_encoding_message_size(MESSAGE_SIZE_MAX)
}

/// The view service at the other end.
pub(crate) fn view_service(channel: Channel) -> ViewServiceClient<Channel> {
    ViewServiceClient::new(channel)
}

/// Why a server was not reached, or did not answer, for people: never a library's own words where
/// there are better ones.
pub(crate) fn failed(server: &ServerName, error: &(dyn std::error::Error + 'static)) -> String {
    use std::io::ErrorKind::{ConnectionRefused, TimedOut};

    // The innermost causes are those that mean something; the outer ones say "transport error".
    let outermost = match error.downcast_ref::<DialError>() {
        Some(DialError::Connect { error, .. }) => error,
        Some(DialError::Name(_)) => return error.to_string(),
        None => error,
    };
    let mut innermost = outermost;
    loop {
        let kind = innermost.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if kind == Some(ConnectionRefused) {
            return format!("{server} refuses connections");
        }
        let code = innermost.downcast_ref::<Status>().map(Status::code);
        if kind == Some(TimedOut)
            || innermost.is::<TimeoutExpired>()
            || code == Some(Code::DeadlineExceeded)
        {
            return too_late(server);
        }
        match innermost.source() {
            Some(cause) => innermost = cause,
            None => break,
        }
    }
    // Displaying a status shows the insides of what caused it.
    match outermost.downcast_ref::<Status>().map(Status::message) {
        Some("") | None if innermost.is::<Status>() => format!("{server}: failed without a reason"),
        Some("") | None => format!("{server}: {innermost}"),
        Some(message) => format!("{server}: {message}"),
    }
}

/// What is said of a server that is silent.
pub(crate) fn too_late(server: &ServerName) -> String {
    format!("{server} did not answer in time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_worded_by_its_message_and_never_by_its_insides() {
        let server = ServerName::from("s1:1");
        let mut status = Status::unavailable("the log is full");
        assert_eq!(failed(&server, &status), "s1:1: the log is full");
        status.set_source(Arc::new(std::io::Error::other("broken")));
        assert_eq!(failed(&server, &status), "s1:1: the log is full");
        let late = Status::deadline_exceeded("late");
        assert_eq!(failed(&server, &late), "s1:1 did not answer in time");
        let mut refused = Status::unavailable("tcp connect error");
        refused.set_source(Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)));
        assert_eq!(failed(&server, &refused), "s1:1 refuses connections");
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_refuses_connections() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let name = ServerName::from(listener.local_addr().expect("bound").to_string());
        drop(listener);
        let error = Servers::default().connect(&name).await.expect_err("nobody listens");
        assert_eq!(error, format!("{name} refuses connections"));
    }
}
