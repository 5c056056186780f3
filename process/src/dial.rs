//! Every outgoing connection of every program begins here.

use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::serve::{CONNECTION_WINDOW, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// The name is not an address.
    #[error("{0:?} is not an address: it must be host:port, such as localhost:8000")]
    Name(String),
    /// Nobody answered.
    #[error("no connection to {name}: is it running, and is the address right? ({error})")]
    Connect {
        /// Whom.
        name: String,
        /// What happened, in the words of the transport.
        error: tonic::transport::Error,
    },
}

/// What a bare connect says about an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Nobody listens there: the process is gone, while its machine is up.
    Refused,
    /// Somebody accepts connections.
    Open,
    /// Neither was found out in time.
    Unknown,
}

/// A channel to a server (`host:port`) that connects when it is first used and again after it
/// breaks. Must be called within a tokio runtime.
///
/// # Errors
/// Only for a name that is no address.
pub fn channel(name: &str) -> Result<Channel, DialError> {
    Ok(endpoint(name)?.connect_lazy())
}

/// A channel that is connected already.
///
/// # Errors
/// When the name is no address, or nobody answers within a second.
pub async fn connect(name: &str) -> Result<Channel, DialError> {
    endpoint(name)?.connect().await.map_err(|error| DialError::Connect { name: name.into(), error })
}

/// A bare connection, for a protocol that is not gRPC.
///
/// # Errors
/// When the name does not resolve, or none of its addresses accepts.
pub async fn stream(name: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(&*route(name)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether anybody listens at an address. `Refused` is said only when every address that the name
/// resolves to refuses.
pub async fn probe(name: &str, timeout: Duration) -> Probe {
    let route = route(name);
    tokio::time::timeout(timeout, probe_all(&route)).await.unwrap_or(Probe::Unknown)
}

async fn probe_all(route: &str) -> Probe {
    let Ok(addresses) = tokio::net::lookup_host(route).await else {
        return Probe::Unknown;
    };
    let mut refused = false;
    let mut unclear = false;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(_) => return Probe::Open,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => refused = true,
            Err(error) => unclear |= !cannot_exist(address, error.kind()),
        }
    }
    if refused && !unclear { Probe::Refused } else { Probe::Unknown }
}

/// The loopback address of a kind that this machine does not have (`::1` where IPv6 is off).
fn cannot_exist(address: SocketAddr, error: ErrorKind) -> bool {
    let no_such_kind = matches!(error, ErrorKind::AddrNotAvailable | ErrorKind::NetworkUnreachable);
    address.ip().is_loopback() && no_such_kind
}

/// Where to connect in order to reach a server. The name itself, unless `KV_FAULT_INJECTION` is `1`:
/// then `KV_DIAL_MAP`, a list `host:port=host:port,...`, may send each link through a proxy.
#[must_use]
pub fn route(name: &str) -> Cow<'_, str> {
    if std::env::var_os("KV_FAULT_INJECTION").is_none_or(|value| value != "1") {
        return Cow::Borrowed(name);
    }
    match std::env::var("KV_DIAL_MAP") {
        Ok(map) => mapped(name, &map).map_or(Cow::Borrowed(name), Cow::Owned),
        Err(_) => Cow::Borrowed(name),
    }
}

fn mapped(name: &str, map: &str) -> Option<String> {
    let mut pairs = map.split(',').filter_map(|pair| pair.split_once('='));
    let (_, to) = pairs.find(|(from, _)| from.trim() == name)?;
    Some(to.trim().to_owned())
}

fn endpoint(name: &str) -> Result<Endpoint, DialError> {
    let no_address = || DialError::Name(name.into());
    let endpoint =
        Endpoint::from_shared(format!("http://{}", route(name))).map_err(|_| no_address())?;
    let uri = endpoint.uri();
    let is_address = uri.port_u16().is_some()
        && uri.path() == "/"
        && uri.query().is_none()
        && !name.contains(['/', '@']);
    if !is_address {
        return Err(no_address());
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpSocket;

    #[tokio::test]
    async fn only_host_and_port_is_an_address() {
        for name in ["localhost:8000", "127.0.0.1:1", "[::1]:8000", "a-b.example:80"] {
            assert!(channel(name).is_ok(), "{name}");
        }
        for name in ["", "localhost", "localhost:", "a:b", "h:1/x", "u@h:1", "a b:1", "h:1?q"] {
            let error = channel(name).unwrap_err();
            assert!(matches!(error, DialError::Name(_)), "{name}");
        }
    }

    #[test]
    fn a_dial_map_sends_only_the_links_it_names_elsewhere() {
        let map = "localhost:1=localhost:11, localhost:2=127.0.0.1:12";
        assert_eq!(mapped("localhost:1", map).as_deref(), Some("localhost:11"));
        assert_eq!(mapped("localhost:2", map).as_deref(), Some("127.0.0.1:12"));
        assert_eq!(mapped("localhost:3", map), None);
        assert_eq!(mapped("localhost:1", ""), None);
    }

    #[test]
    fn names_are_dialled_as_they_are_unless_faults_are_allowed() {
        assert_eq!(route("localhost:8000"), "localhost:8000");
    }

    /// A port that refuses, and that nobody else can get meanwhile.
    fn held_but_not_listening() -> (TcpSocket, String) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let name = socket.local_addr().unwrap().to_string();
        (socket, name)
    }

    #[tokio::test]
    async fn a_probe_tells_an_open_address_from_one_that_refuses() {
        let (socket, name) = held_but_not_listening();
        let patience = Duration::from_secs(10);
        assert_eq!(probe(&name, patience).await, Probe::Refused);
        let _listener = socket.listen(1).unwrap();
        assert_eq!(probe(&name, patience).await, Probe::Open);
        assert_eq!(probe("no address", patience).await, Probe::Unknown);
    }

    #[tokio::test]
    async fn connecting_to_nobody_says_whom() {
        let (_socket, name) = held_but_not_listening();
        let error = connect(&name).await.unwrap_err();
        assert!(error.to_string().contains(&name), "{error}");
    }
}
