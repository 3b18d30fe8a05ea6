//! A TCP proxy of ours that does to connections what networks do: reset them, swallow what they carry, let it trickle,
//! cut it in the middle of a packet, close one direction.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// How often a pump looks whether its orders have changed.
const TICK: Duration = Duration::from_millis(20);
const CHUNK_BYTES: usize = 16 * 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What happens to bytes of one direction from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// They pass.
    #[default]
    Free,
    /// They go nowhere; the connection stays.
    Stalled,
    /// So many at a time, every 20 ms.
    Trickle(usize),
    /// So many still pass, then the connection is reset.
    CutAfter(u64),
}

#[derive(Debug, Default)]
struct Lane {
    flow: Mutex<Flow>,
    /// Rises with each order, so that what it says about the next bytes is taken up once.
    order: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    target: u16,
    up: Lane,
    down: Lane,
    /// Those that a pump still carries.
    connections: Mutex<Vec<Weak<Connection>>>,
    resets: AtomicU64,
    ended: AtomicBool,
}

/// Both ends of one connection; closed when its two pumps have let go of it.
#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: TcpStream,
    broken: AtomicBool,
}

impl Connection {
    fn ends(&self, direction: Direction) -> (&TcpStream, &TcpStream) {
        match direction {
            Direction::Up => (&self.client, &self.server),
            Direction::Down => (&self.server, &self.client),
        }
    }
}

/// A proxy on a port of its own. Ends, with all its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy to this port of this machine; everything passes.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared {
            target,
            up: Lane::default(),
            down: Lane::default(),
            connections: Mutex::new(Vec::new()),
            resets: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Self { port, shared }
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What happens to the bytes of a direction, of the connections there are and of later ones.
    pub fn set(&self, direction: Direction, flow: Flow) {
        let lane = self.shared.lane(direction);
        *lane.flow.lock().unwrap_or_else(PoisonError::into_inner) = flow;
        lane.order.fetch_add(1, Ordering::SeqCst);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.set(Direction::Up, Flow::Free);
        self.set(Direction::Down, Flow::Free);
    }

    /// Resets every connection (RST) on both sides.
    pub fn reset(&self) {
        self.shared.living().iter().for_each(|connection| self.shared.break_off(connection));
    }

    /// Says the end of the stream in one direction; the other goes on.
    pub fn half_close(&self, direction: Direction) {
        for connection in self.shared.living() {
            let _ = connection.ends(direction).1.shutdown(Shutdown::Write);
        }
    }

    /// Connections that were reset so far.
    pub fn resets(&self) -> u64 {
        self.shared.resets.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.reset();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    fn living(&self) -> Vec<Arc<Connection>> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| connection.strong_count() > 0);
        connections.iter().filter_map(Weak::upgrade).collect()
    }

    /// Both ends get an RST once the pumps have closed them: without lingering, closing throws away what is queued.
    fn break_off(&self, connection: &Connection) {
        if connection.broken.swap(true, Ordering::SeqCst) {
            return;
        }
        self.resets.fetch_add(1, Ordering::SeqCst);
        for end in [&connection.client, &connection.server] {
            let _ = setsockopt(end, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 });
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().flatten() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        // Nobody there: the client sees its connection end at once.
        let Ok(server) = TcpStream::connect(("127.0.0.1", shared.target)) else { continue };
        let connection = Arc::new(Connection { client, server, broken: AtomicBool::new(false) });
        shared.connections.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&connection));
        for direction in [Direction::Up, Direction::Down] {
            let (shared, connection) = (Arc::clone(shared), Arc::clone(&connection));
            std::thread::spawn(move || pump(&shared, direction, &connection));
        }
    }
}

/// Carries the bytes of one direction of one connection.
fn pump(shared: &Shared, direction: Direction, connection: &Connection) {
    let lane = shared.lane(direction);
    let (mut from, mut to) = connection.ends(direction);
    let mut order = u64::MAX;
    let mut flow = Flow::Free;
    let mut chunk = vec![0; CHUNK_BYTES];
    let _ = from.set_read_timeout(Some(TICK));
    let _ = to.set_write_timeout(Some(Duration::from_secs(10)));
    while !connection.broken.load(Ordering::SeqCst) {
        let latest = lane.order.load(Ordering::SeqCst);
        if latest != order {
            order = latest;
            flow = *lane.flow.lock().unwrap_or_else(PoisonError::into_inner);
        }
        let room = match flow {
            Flow::Free => CHUNK_BYTES,
            Flow::Stalled => {
                std::thread::sleep(TICK);
                continue;
            }
            Flow::Trickle(bytes) => {
                std::thread::sleep(TICK);
                bytes.clamp(1, CHUNK_BYTES)
            }
            Flow::CutAfter(0) => {
                shared.break_off(connection);
                // The next connection may live.
                let mut flow = lane.flow.lock().unwrap_or_else(PoisonError::into_inner);
                if matches!(*flow, Flow::CutAfter(_)) {
                    *flow = Flow::Free;
                }
                return;
            }
            Flow::CutAfter(left) => usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES),
        };
        match from.read(&mut chunk[..room]) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(read) => {
                if to.write_all(&chunk[..read]).is_err() {
                    shared.break_off(connection);
                    return;
                }
                if let Flow::CutAfter(left) = &mut flow {
                    *left = left.saturating_sub(read as u64);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => {
                // A reset: the other side hears of it as well.
                shared.break_off(connection);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A client and the server's end of its connection, with a proxy between.
    fn connected() -> (Proxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap().port());
        let client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        // Once a byte has passed, the proxy knows the connection.
        (&client).write_all(b"!").unwrap();
        server.read_exact(&mut [0; 1]).unwrap();
        (proxy, client, server)
    }

    #[test]
    fn bytes_pass_both_ways_and_a_trickle_brings_all_of_them() {
        let (proxy, mut client, mut server) = connected();
        let mut got = [0; 5];
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
        proxy.set(Direction::Down, Flow::Trickle(2));
        server.write_all(b"world").unwrap();
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"world");
    }

    #[test]
    fn a_reset_reaches_both_sides_as_a_reset() {
        let (proxy, mut client, mut server) = connected();
        proxy.reset();
        for end in [&mut client, &mut server] {
            // An orderly end would be Ok(0).
            let outcome = end.read(&mut [0; 1]);
            assert!(
                matches!(&outcome, Err(error) if error.kind() == ErrorKind::ConnectionReset),
                "{outcome:?}"
            );
        }
        assert_eq!(proxy.resets(), 1);
    }

    #[test]
    fn what_is_stalled_arrives_after_healing_and_not_before() {
        let (proxy, mut client, mut server) = connected();
        proxy.set(Direction::Up, Flow::Stalled);
        // The pump may be reading already: its read ends before it sees the order.
        std::thread::sleep(5 * TICK);
        client.write_all(b"x").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(server.read(&mut [0; 1]).is_err());
        proxy.heal();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(server.read(&mut [0; 1]).unwrap(), 1);
    }

    #[test]
    fn a_cut_lets_exactly_so_many_bytes_pass() {
        let (proxy, mut client, mut server) = connected();
        proxy.set(Direction::Up, Flow::CutAfter(3));
        std::thread::sleep(5 * TICK);
        let _ = client.write_all(b"abcdef");
        let mut got = Vec::new();
        let mut byte = [0; 1];
        while let Ok(1) = server.read(&mut byte) {
            got.push(byte[0]);
        }
        assert!(b"abc".starts_with(&got), "{got:?}");
        assert_eq!(proxy.resets(), 1);
    }

    #[test]
    fn half_a_close_leaves_the_other_half_open() {
        let (proxy, mut client, mut server) = connected();
        proxy.half_close(Direction::Up);
        assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
        server.write_all(b"y").unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 1);
    }
}
