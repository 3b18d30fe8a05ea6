//! A TCP connection to a name that has several addresses, of which some may lead nowhere: IPv6 that ends at the venue's router, say.
//! All are tried, each next one a little later, and the first that answers is taken (RFC 8305).
//!
//! rumqttc takes one address after the other, and waits for each as long as the kernel does: two minutes, twice as long as
//! a connection may take. Where the first address does not answer it is led past it, by a proxy for this one connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

/// An address that has not answered for so long gets company.
const HEAD_START: Duration = Duration::from_secs(1);
/// Longest request to the proxy.
const HEAD_MAX_BYTES: usize = 4 * 1024;

/// A connection to one of the addresses of a host.
///
/// # Errors
/// The last one, if none answers; or the name is not known.
pub(super) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    race(&addresses).await.map(|(stream, _)| stream)
}

/// The connection that stands first, and the position of its address.
async fn race(addresses: &[SocketAddr]) -> io::Result<(TcpStream, usize)> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut waiting = in_turns(addresses).into_iter();
    let mut attempts = JoinSet::new();
    let begin = |next: Option<(usize, SocketAddr)>, attempts: &mut JoinSet<_>| match next {
        Some((n, address)) => {
            attempts.spawn(async move { (n, TcpStream::connect(address).await) });
            true
        }
        None => false,
    };
    let mut is_one_left = begin(waiting.next(), &mut attempts);
    while !attempts.is_empty() {
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok((n, Ok(stream))) => return Ok((stream, n)),
                Ok((_, Err(error))) => {
                    last = error;
                    is_one_left = begin(waiting.next(), &mut attempts);
                }
                Err(error) => last = error.into(),
            },
            () = sleep(HEAD_START), if is_one_left => is_one_left = begin(waiting.next(), &mut attempts),
        }
    }
    Err(last)
}

/// The addresses with their positions: one of each family in turn, as long as there are both.
fn in_turns(addresses: &[SocketAddr]) -> Vec<(usize, SocketAddr)> {
    let all: Vec<(usize, SocketAddr)> = addresses.iter().copied().enumerate().collect();
    let is_first_kind =
        |address: &SocketAddr| addresses.first().map(SocketAddr::is_ipv6) == Some(address.is_ipv6());
    let (first, other): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, address)| is_first_kind(address));
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut turns = Vec::with_capacity(addresses.len());
    while first.len() + other.len() > 0 {
        turns.extend(first.next());
        turns.extend(other.next());
    }
    turns
}

/// A way past addresses that do not answer: a proxy on loopback that has the connection already. It ends when dropped.
#[derive(Debug)]
pub(super) struct Detour {
    port: u16,
    task: JoinHandle<()>,
}

impl Detour {
    /// Where it listens, for one connection.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The way to a host whose first address does not answer, while another does; none is needed where it does.
    ///
    /// # Errors
    /// The name is not known, or none of several addresses answers.
    pub(super) async fn past_silence(host: &str, port: u16) -> io::Result<Option<Self>> {
        let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
        if addresses.len() < 2 {
            return Ok(None);
        }
        let (stream, n) = race(&addresses).await?;
        if n == 0 {
            return Ok(None);
        }
        tracing::info!(
            silent = %addresses[0].ip(), taken = %addresses[n].ip(),
            "the first address of {host} does not answer, another one does: it is taken"
        );
        stream.set_nodelay(true)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        // How it ends the other end sees.
        let task = tokio::spawn(async move { drop(serve(listener, stream).await) });
        Ok(Some(Self { port, task }))
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers one `CONNECT`, whatever it names, and carries what follows.
async fn serve(listener: TcpListener, mut stream: TcpStream) -> io::Result<()> {
    let (mut client, _) = listener.accept().await?;
    drop(listener);
    client.set_nodelay(true)?;
    let mut head = Vec::with_capacity(128);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_MAX_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(client.read_u8().await?);
    }
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut stream).await.map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpSocket;
    use tokio::time::Instant;

    use super::*;

    /// An address at which connections come about no more: nobody takes those that wait.
    async fn silent() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            waiting.push(stream.unwrap());
        }
        (listener, waiting, address)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_costs_a_second_and_one_that_refuses_nothing() {
        let (_listener, _waiting, silent) = silent().await;
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = good.local_addr().map(|address| (good, address)).unwrap();
        let began = Instant::now();
        assert_eq!(race(&[silent, good.1]).await.unwrap().1, 1);
        assert!(began.elapsed() >= HEAD_START && began.elapsed() < Duration::from_secs(10));
        assert_eq!(race(&[good.1, silent]).await.unwrap().1, 0);

        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(race(&[closed, good.1]).await.unwrap().1, 1);
        assert_eq!(race(&[closed, closed]).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(race(&[]).await.is_err());
    }

    #[test]
    fn families_take_turns_and_the_resolvers_first_address_is_the_first() {
        let addresses: Vec<SocketAddr> =
            ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].map(|text| text.parse().unwrap()).to_vec();
        let order: Vec<usize> = in_turns(&addresses).into_iter().map(|(n, _)| n).collect();
        assert_eq!(order, [0, 3, 1, 2]);
        assert_eq!(in_turns(&addresses[3..]), [(0, addresses[3])]);
    }

    #[tokio::test]
    async fn a_detour_carries_what_follows_a_connect() {
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(far.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = far.accept().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = listener.local_addr().unwrap();
        tokio::spawn(async move { drop(serve(listener, stream).await) });
        let mut near = TcpStream::connect(near).await.unwrap();
        near.write_all(b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\nhello").await.unwrap();
        let mut said = [0; 5];
        far.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
        let mut answer = [0; 19];
        near.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK\r\n\r\n");
        drop(far);
        assert_eq!(near.read(&mut said).await.unwrap(), 0);
    }
}
