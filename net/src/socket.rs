//! Options of a socket.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Sends small frames at once, and gives up on a host that acknowledges nothing for `silence_max`:
/// keep-alive probes find it on an idle connection, the user timeout on a busy one.
pub(crate) fn prepare(socket: &TcpStream, silence_max: Duration) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time((silence_max / 2).max(Duration::from_secs(1)))
        .with_interval(Duration::from_secs(1));
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(silence_max))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_silent_host_is_noticed_by_the_system() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let socket = TcpStream::connect(address).await.expect("connected");
        prepare(&socket, Duration::from_secs(6)).expect("settable");
        assert!(socket.nodelay().expect("readable"));
        let socket = SockRef::from(&socket);
        assert!(socket.keepalive().expect("readable"));
        #[cfg(target_os = "linux")]
        {
            let timeout = socket.tcp_user_timeout().expect("readable");
            assert_eq!(timeout, Some(Duration::from_secs(6)));
            assert_eq!(socket.tcp_keepalive_time().expect("readable"), Duration::from_secs(3));
        }
    }
}
