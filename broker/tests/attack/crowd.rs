//! Sockets in numbers, from as many addresses as wanted, and bytes as fast as they go.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

/// The test itself may open as many files as the system allows it; so many.
pub(crate) fn descriptors() -> usize {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    usize::try_from(most).unwrap()
}

/// The attackers' addresses: all of them are this machine.
pub(crate) fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number)
}

/// A TCP connection that comes from `source`.
pub(crate) fn connect_from(source: Ipv4Addr, to: SocketAddr) -> nix::Result<TcpStream> {
    let SocketAddr::V4(to) = to else { panic!("the broker listens on IPv4") };
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(source, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(to))?;
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    Ok(stream)
}

/// `each` connections from each of so many addresses, with the first bytes that each of them sends.
pub(crate) fn crowd(to: SocketAddr, addresses: u8, each: usize, first: &[u8]) -> Vec<TcpStream> {
    descriptors();
    let mut all = Vec::with_capacity(usize::from(addresses) * each);
    for number in 1..=addresses {
        for _ in 0..each {
            let mut stream = connect_from(address(number), to).unwrap();
            // The broker may have closed it already.
            let _ = stream.write_all(first);
            all.push(stream);
        }
    }
    all
}

/// What a flood came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flooded {
    /// How often all of it was sent.
    pub(crate) sent: usize,
    /// Bytes of answers.
    pub(crate) answered: usize,
}

/// Sends `bytes` again and again for `time`, and reads what is answered if `reads`. Ends earlier if the broker closes.
pub(crate) fn flood(stream: &mut TcpStream, bytes: &[u8], time: Duration, reads: bool) -> Flooded {
    let end = Instant::now() + time;
    stream.set_nonblocking(true).unwrap();
    let (mut flooded, mut at) = (Flooded::default(), 0);
    let mut answers = vec![0; 64 * 1024];
    while Instant::now() < end {
        let mut idle = true;
        match stream.write(&bytes[at..]) {
            Ok(count) => {
                at += count;
                idle = false;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        if at == bytes.len() {
            (flooded.sent, at) = (flooded.sent + 1, 0);
        }
        if reads {
            match stream.read(&mut answers) {
                Ok(0) => break,
                Ok(count) => (flooded.answered, idle) = (flooded.answered + count, false),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        if idle {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    stream.set_nonblocking(false).unwrap();
    flooded
}

/// True once the broker has closed the connection, which is given some time for it.
pub(crate) fn is_closed_within(stream: &mut TcpStream, time: Duration) -> bool {
    let end = Instant::now() + time;
    let mut bytes = [0; 4096];
    while Instant::now() < end {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return true,
        }
    }
    false
}
