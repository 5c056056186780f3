//! Which addresses are listened at, and what is said when one cannot be.

use super::*;
use tokio_stream::StreamExt;

#[tokio::test]
async fn port_0_on_localhost_gives_one_port_on_every_address_it_resolves_to() {
    let listeners = bind("localhost:0", false).unwrap();
    assert_ne!(listeners.port(), 0);
    let addresses = listeners.addresses();
    for address in &addresses {
        assert_eq!(address.port(), listeners.port());
        assert!(address.ip().is_loopback());
    }
    let available = ("localhost", 0)
        .to_socket_addrs()
        .unwrap()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|at| std::net::TcpListener::bind(at).is_ok());
    assert_eq!(addresses.len(), available.count());
}

#[tokio::test]
async fn connections_to_every_address_arrive_without_delay_set() {
    let listeners = bind("localhost:0", false).unwrap();
    let addresses = listeners.addresses();
    let mut incoming = listeners.into_incoming();
    for address in addresses {
        let client = TcpStream::connect(address).await.unwrap();
        let server = incoming.next().await.unwrap().unwrap();
        assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());
        assert!(server.nodelay().unwrap());
    }
}

#[tokio::test]
async fn a_taken_port_is_refused_with_the_flag_the_port_and_a_way_out() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let error = bind(&format!("127.0.0.1:{port}"), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "--addr 127.0.0.1:{port}: port {port} is taken on 127.0.0.1; stop the program that \
             listens there (`ss -ltnp 'sport = :{port}'` names it) or choose another port with \
             --addr"
        )
    );
}

#[tokio::test]
async fn an_address_that_strangers_can_reach_needs_insecure() {
    let error = bind("0.0.0.0:0", false).unwrap_err();
    assert!(matches!(error, ListenError::NotLoopback { .. }));
    assert!(error.to_string().contains("--insecure"), "{error}");
    assert_ne!(bind("0.0.0.0:0", true).unwrap().port(), 0);
}

#[tokio::test]
async fn an_address_without_a_sensible_port_is_refused() {
    for addr in ["localhost", "localhost:", "localhost:65536", "localhost:x", ""] {
        let error = bind(addr, false).unwrap_err();
        assert!(matches!(error, ListenError::Syntax { .. }), "{addr}: {error}");
        assert!(error.to_string().contains("--addr"));
    }
}

#[tokio::test]
async fn an_address_of_another_machine_is_refused() {
    // 192.0.2.0/24 is reserved for documentation (RFC 5737): no machine has it.
    let error = bind("192.0.2.1:0", true).unwrap_err();
    assert!(matches!(error, ListenError::Refused { .. }), "{error}");
}
