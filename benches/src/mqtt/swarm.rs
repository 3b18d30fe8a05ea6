//! Many connections on one thread, by epoll.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, sockopt::IpBindAddressNoPort,
};

use super::packet::{self, Packet};
use crate::outcome::{Failure, Outcome, Tell};

/// What is read at once.
const READ_BYTES: usize = 64 * 1024;
/// Connections that are served between two looks at the clock.
const EVENTS: usize = 512;

/// What a load does on its connections, which are numbered from 0 in the order of [`Swarm::connect`]. What is put into
/// `out` is sent.
pub(crate) trait Behaviour {
    /// The connection stands.
    fn opened(&mut self, who: usize, out: &mut Vec<u8>);
    /// A packet came.
    fn packet(&mut self, who: usize, packet: Packet<'_>, out: &mut Vec<u8>);
    /// The server has ended the connection, or the network has.
    fn closed(&mut self, who: usize, why: String);
}

struct Peer {
    stream: TcpStream,
    /// The beginning of a packet whose end has not come.
    input: Vec<u8>,
    out: Vec<u8>,
    opened: bool,
    closed: bool,
    /// epoll is asked to tell when it can be written.
    waits_to_write: bool,
}

/// The connections.
pub(crate) struct Swarm {
    epoll: Epoll,
    peers: Vec<Peer>,
    chunk: Box<[u8]>,
}

impl Swarm {
    pub(crate) fn new() -> Outcome<Swarm> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).tell("make an epoll")?;
        Ok(Swarm { epoll, peers: Vec::new(), chunk: vec![0; READ_BYTES].into_boxed_slice() })
    }

    /// Begins one more connection, from the loopback address `from`; its number.
    pub(crate) fn connect(&mut self, to: SocketAddr, from: Ipv4Addr) -> Outcome<usize> {
        let who = self.peers.len();
        let peer = self.begin(who, to, from)?;
        self.peers.push(peer);
        Ok(who)
    }

    /// Begins a connection that was lost once more, under the same number.
    pub(crate) fn reconnect(&mut self, who: usize, to: SocketAddr, from: Ipv4Addr) -> Outcome<()> {
        self.close(who);
        let peer = self.begin(who, to, from)?;
        *self.peers.get_mut(who).tell("find a connection of that number")? = peer;
        Ok(())
    }

    fn begin(&self, who: usize, to: SocketAddr, from: Ipv4Addr) -> Outcome<Peer> {
        let SocketAddr::V4(to) = to else { return Err(Failure::new("the load speaks IPv4 alone")) };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket::socket(AddressFamily::Inet, SockType::Stream, flags, SockProtocol::Tcp)
            .tell("make a socket")?;
        // The port is chosen at connect, so that only the pair has to be unique.
        socket::setsockopt(&socket, IpBindAddressNoPort, &true).tell("set up a socket")?;
        let from = SockaddrIn::from(std::net::SocketAddrV4::new(from, 0));
        socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &from).tell(format!("bind to {from}"))?;
        match socket::connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrIn::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error).tell(format!("connect to {to}")),
        }
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).tell("set up a socket")?;
        let wanted = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
        self.epoll.add(&stream, EpollEvent::new(wanted, who as u64)).tell("watch a socket")?;
        Ok(Peer {
            stream,
            input: Vec::new(),
            out: Vec::new(),
            opened: false,
            closed: false,
            waits_to_write: true,
        })
    }

    /// Sends what `fill` puts into the buffer of one connection.
    pub(crate) fn send(&mut self, who: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Outcome<()> {
        let Some(peer) = self.peers.get_mut(who).filter(|peer| !peer.closed) else { return Ok(()) };
        fill(&mut peer.out);
        if peer.opened {
            // An error is seen again by the next read.
            let _ = peer.flush();
        }
        self.watch(who)
    }

    /// Ends a connection without a word.
    pub(crate) fn close(&mut self, who: usize) {
        if let Some(peer) = self.peers.get_mut(who) {
            peer.closed = true;
            // It may be gone already.
            let _ = peer.stream.shutdown(std::net::Shutdown::Both);
            let _ = self.epoll.delete(&peer.stream);
        }
    }

    /// Serves the connections until `enough` says so, which is asked again and again, or until `deadline`. True: enough.
    pub(crate) fn run<B: Behaviour>(
        &mut self,
        load: &mut B,
        deadline: Instant,
        mut enough: impl FnMut(&mut B) -> bool,
    ) -> Outcome<bool> {
        while !enough(load) {
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            // Short, so that what `enough` looks at besides is seen in time.
            self.turn(load, (deadline - now).min(Duration::from_millis(5)))?;
        }
        Ok(true)
    }

    /// Serves once those connections that have something, waiting for at most `wait`.
    pub(crate) fn turn<B: Behaviour>(&mut self, load: &mut B, wait: Duration) -> Outcome<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let timeout = EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO);
        let n = match self.epoll.wait(&mut events, timeout) {
            Ok(n) => n,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error).tell("wait for sockets"),
        };
        for event in &events[..n] {
            // Our own index.
            let who = event.data() as usize;
            if let Err(why) = self.serve(who, load) {
                self.close(who);
                load.closed(who, why);
            }
            self.watch(who)?;
        }
        Ok(())
    }

    fn serve<B: Behaviour>(&mut self, who: usize, load: &mut B) -> Result<(), String> {
        let Some(peer) = self.peers.get_mut(who).filter(|peer| !peer.closed) else { return Ok(()) };
        if !peer.opened {
            if let Some(error) = peer.stream.take_error().map_err(|e| e.to_string())? {
                return Err(error.to_string());
            }
            peer.opened = true;
            load.opened(who, &mut peer.out);
        }
        match peer.stream.read(&mut self.chunk) {
            Ok(0) => return Err("closed by the other side".to_owned()),
            Ok(n) => peer.take(&self.chunk[..n], who, load)?,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.to_string()),
        }
        peer.flush()
    }

    /// Asks epoll for what the connection waits for.
    fn watch(&mut self, who: usize) -> Outcome<()> {
        let Some(peer) = self.peers.get_mut(who).filter(|peer| !peer.closed) else { return Ok(()) };
        let waits = !peer.opened || !peer.out.is_empty();
        if waits == peer.waits_to_write {
            return Ok(());
        }
        peer.waits_to_write = waits;
        let mut wanted = EpollFlags::EPOLLIN;
        wanted.set(EpollFlags::EPOLLOUT, waits);
        let mut event = EpollEvent::new(wanted, who as u64);
        self.epoll.modify(peer.stream.as_fd(), &mut event).tell("watch a socket")
    }
}

impl Peer {
    fn take<B: Behaviour>(&mut self, new: &[u8], who: usize, load: &mut B) -> Result<(), String> {
        let Peer { input, out, .. } = self;
        let joined = !input.is_empty();
        if joined {
            input.extend_from_slice(new);
        }
        let bytes = if joined { &input[..] } else { new };
        let mut used = 0;
        while let Some((packet, len)) =
            packet::read(&bytes[used..]).map_err(|_| format!("not a packet: {:?}", &bytes[used..]))?
        {
            load.packet(who, packet, out);
            used += len;
        }
        if joined {
            input.drain(..used);
            if input.is_empty() {
                *input = Vec::new();
            }
        } else {
            input.extend_from_slice(&new[used..]);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        let mut written = 0;
        while written < self.out.len() {
            match self.stream.write(&self.out[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        self.out.drain(..written);
        Ok(())
    }
}

/// The loopback address of the `n`th of the forties that stand behind one address each.
pub(crate) fn address(n: usize) -> Ipv4Addr {
    let venue = 1 + n / 40;
    // At most 16,000 venues; below 127.255.
    Ipv4Addr::new(127, 1, (venue / 250) as u8, (1 + venue % 250) as u8)
}
