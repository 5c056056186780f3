//! Free ports for servers that must keep their address over restarts.
//!
//! A server that is started again needs the port it had, so the kernel cannot choose it each time.
//! The ports handed out here lie below the range from which kernels take the ports of outgoing
//! connections, so that none of those sits on a port between two lives of its server.

use std::net::{TcpListener, ToSocketAddrs};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

/// A port on 127.0.0.1 on which nothing listens. This process gets each port only once; where it
/// starts to look depends on its id, so that two test runs seldom meet.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("12000 + 20000 fits");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

/// Fails in one clear line when something listens on the port already.
pub(super) fn check_free(host: &str, port: u16) -> Result<()> {
    for address in (host, port).to_socket_addrs().with_context(|| format!("look up {host}"))? {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
                "port {port} is taken: stop what listens there, or choose other ports with \
                 --first-port"
            ),
            // A host name may resolve to an address family that this machine does not have.
            _ => {}
        }
    }
    Ok(())
}
