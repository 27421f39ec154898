//! Connects to a port.

use std::time::Duration;

use model::row::Status;
use tokio::net::TcpStream;

use super::{Finding, output};

/// Passing when the connection is accepted.
pub(super) async fn probe(address: &str, timeout: Duration, limit: usize) -> Finding {
    let (status, text) = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(_)) => (Status::Passing, format!("TCP connect {address}: Success")),
        Ok(Err(cause)) => (Status::Critical, format!("dial tcp {address}: {}", text_of(&cause))),
        Err(_) => (Status::Critical, format!("dial tcp {address}: i/o timeout")),
    };
    Finding::new(status, output::head(&text, limit).to_owned())
}

/// Go's words for the failures that people know by heart.
fn text_of(cause: &std::io::Error) -> String {
    match cause.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_port_passes_and_a_closed_one_is_critical() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let address = listener.local_addr().expect("bound").to_string();
        let found = probe(&address, Duration::from_secs(5), 4096).await;
        assert_eq!(found, Finding::new(Status::Passing, format!("TCP connect {address}: Success")));
        drop(listener);
        let found = probe(&address, Duration::from_secs(5), 4096).await;
        assert_eq!(
            found,
            Finding::new(
                Status::Critical,
                format!("dial tcp {address}: connect: connection refused")
            )
        );
    }

    #[tokio::test]
    async fn an_address_without_port_is_critical() {
        let found = probe("localhost", Duration::from_secs(5), 20).await;
        assert_eq!(found.status, Status::Critical);
        assert!(found.output.len() <= 20);
    }
}
