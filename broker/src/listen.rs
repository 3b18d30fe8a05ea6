//! Listening with room for a crowd, and noticing who has gone.

use std::io;
use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait to be accepted. Where they are more the system drops their first packet, and they come
/// back after a second: a venue's boxes after a power cut, or a flood, would keep the next one waiting so long.
const BACKLOG: u32 = 4096;

/// Listens on an address, as [`Broker::serve`](crate::Broker::serve) wants it. Must be called within a tokio runtime.
///
/// # Errors
/// The address is taken, not this machine's, or needs privileges.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A program that starts again need not wait until the system forgets its old connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Of a connection on which nothing came for so long the system asks whether the other end is still there.
const ASK_AFTER_SECONDS: u32 = 120;
const ASK_AGAIN_SECONDS: u32 = 30;
const ASK_TIMES: u32 = 4;

/// Has the system end the connection of a machine that went without a word, four minutes later: MQTT clients may have no
/// keep-alive, and then nobody else would notice.
pub(crate) fn notice_absence(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &ASK_AFTER_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &ASK_AGAIN_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &ASK_TIMES)?;
    Ok(())
}
