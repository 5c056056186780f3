//! Binds the address of a server: a host name on every address it resolves to, and nothing that
//! strangers could reach unless the operator says so.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;
use tracing::warn;

/// Port 0 means the same free port on every address; another program may take it on the second
/// address in between, so a few are tried.
const FREE_PORT_ATTEMPTS: usize = 16;

/// Pause after a failed accept. When the process is out of file descriptors, trying again at once
/// would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// While accepting fails people are told this often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Why a server cannot listen where it was told to. Every message names the flag and a way out.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address has no port, or one that is not a number.
    #[error("--addr {addr}: an address is host:port, with a port from 0 to 65535")]
    Syntax {
        /// As given.
        addr: String,
    },
    /// The host name is not known.
    #[error("--addr {addr}: the host does not resolve ({error}); check its spelling")]
    Unresolved {
        /// As given.
        addr: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// Strangers could reach it.
    #[error(
        "--addr {addr}: {ip} can be reached from other machines, and there is no authentication; \
         use a loopback address, or add --insecure to say that you know"
    )]
    NotLoopback {
        /// As given.
        addr: String,
        /// The address that is not loopback.
        ip: IpAddr,
    },
    /// Somebody else listens there.
    #[error(
        "--addr {addr}: port {port} is taken on {ip}; stop the program that listens there \
         (`ss -ltnp 'sport = :{port}'` names it) or choose another port with --addr",
        ip = .at.ip(), port = .at.port()
    )]
    Taken {
        /// As given.
        addr: String,
        /// The address that is taken.
        at: SocketAddr,
    },
    /// Something else.
    #[error("--addr {addr}: cannot listen on {at} ({error}); choose an address of this machine")]
    Refused {
        /// As given.
        addr: String,
        /// The address in question.
        at: SocketAddr,
        /// What the operating system said.
        error: io::Error,
    },
}

/// Listening sockets, all on the same port.
#[derive(Debug)]
pub struct Listeners {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

/// Listens on every address that `addr` (`host:port`) resolves to. With port 0 a free port is
/// chosen, the same for all of them. Addresses other than loopback need `insecure`. Resolves names,
/// which may block for a while, so it is for the start of a program; must be called within a tokio
/// runtime.
///
/// # Errors
/// In words for the operator.
pub fn bind(addr: &str, insecure: bool) -> Result<Listeners, ListenError> {
    let port = addr.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    let Some(Ok(port)) = port else {
        return Err(ListenError::Syntax { addr: addr.into() });
    };
    let resolved: BTreeSet<SocketAddr> = addr
        .to_socket_addrs()
        .map_err(|error| ListenError::Unresolved { addr: addr.into(), error })?
        .collect();
    if !insecure && let Some(open) = resolved.iter().find(|at| !at.ip().is_loopback()) {
        return Err(ListenError::NotLoopback { addr: addr.into(), ip: open.ip() });
    }
    let attempts = if port == 0 { FREE_PORT_ATTEMPTS } else { 1 };
    let mut result = bind_all(addr, &resolved);
    for _ in 1..attempts {
        if !matches!(result, Err(ListenError::Taken { .. })) {
            break;
        }
        result = bind_all(addr, &resolved);
    }
    result
}

/// Addresses of a kind that this machine does not have (`::1` where IPv6 is off) are left out, as
/// long as one remains.
fn bind_all(addr: &str, resolved: &BTreeSet<SocketAddr>) -> Result<Listeners, ListenError> {
    let mut bound = Listeners { listeners: Vec::new(), addresses: Vec::new() };
    let mut not_here = None;
    for at in resolved {
        let mut at = *at;
        if let Some(first) = bound.addresses.first() {
            at.set_port(first.port());
        }
        match bind_one(at) {
            Ok((listener, address)) => {
                bound.listeners.push(listener);
                bound.addresses.push(address);
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Err(ListenError::Taken { addr: addr.into(), at });
            }
            Err(error) => {
                let kind_missing =
                    matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported)
                        || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error());
                let refused = ListenError::Refused { addr: addr.into(), at, error };
                if !kind_missing {
                    return Err(refused);
                }
                not_here = Some(refused);
            }
        }
    }
    match not_here {
        Some(error) if bound.listeners.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

fn bind_one(at: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, address))
}

impl Listeners {
    /// The port, the real one where 0 was asked for.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.addresses.first().map_or(0, SocketAddr::port)
    }

    /// Every address bound.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// Connections from all addresses, without Nagle's delay. Never ends; failed accepts are logged
    /// and tried again after a pause. Dropping it closes the sockets.
    #[must_use]
    pub fn into_incoming(self) -> Incoming {
        Incoming { listeners: self.listeners, next: 0, pause: None, told_at: None }
    }
}

/// Accepted connections.
#[derive(Debug)]
pub struct Incoming {
    listeners: Vec<TcpListener>,
    /// Which listener is asked first, so that a busy one cannot starve the others.
    next: usize,
    pause: Option<Pin<Box<Sleep>>>,
    told_at: Option<Instant>,
}

impl Stream for Incoming {
    type Item = io::Result<TcpStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            match self.poll_listeners(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(stream)) => {
                    // Fails only on a connection that is gone already; its first read will tell.
                    let _gone = stream.set_nodelay(true);
                    return Poll::Ready(Some(Ok(stream)));
                }
                Poll::Ready(Err(error)) => {
                    self.tell(&error);
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

impl Incoming {
    fn tell(&mut self, error: &io::Error) {
        if self.told_at.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        self.told_at = Some(Instant::now());
        let out_of_files = [Errno::MFILE, Errno::NFILE]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
        let remedy = if out_of_files { "; raise `ulimit -n`" } else { "" };
        warn!("connections could not be accepted: {error}{remedy}; going on");
    }

    fn poll_listeners(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let count = self.listeners.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            if let Poll::Ready(accepted) = self.listeners[index].poll_accept(cx) {
                self.next = (index + 1) % count;
                return Poll::Ready(accepted.map(|(stream, _)| stream));
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
