//! Listening with room for a crowd.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

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
