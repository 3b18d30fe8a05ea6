//! What stands between a device and its server in a venue: a port that swallows everything, a login page before HTTP, an HTTP
//! proxy that wants a password.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::{Backlog, listen};

/// A port of loopback that answers no SYN, as behind a firewall that drops what it does not like.
pub struct BlackHole {
    listener: TcpListener,
    /// They fill its queue.
    _full: Vec<TcpStream>,
}

impl BlackHole {
    /// A new one.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        listen(&listener, Backlog::new(0).expect("a backlog")).expect("it listens already");
        let address = listener.local_addr().expect("bound");
        // With a queue of none one fits in; what comes after it waits without an answer.
        let full = (0..4)
            .filter_map(|_| TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200)).ok())
            .collect();
        assert!(listener.as_raw_fd() > 0);
        Self { listener, _full: full }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("bound").port()
    }
}

impl Default for BlackHole {
    fn default() -> Self {
        Self::new()
    }
}

/// What a [`Front`] does to HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manners {
    /// It passes, but for the answer to where the broker is, which is this JSON.
    Broker(String),
    /// Every request is answered with a page that wants a login.
    Portal,
}

/// Something in front of a server's plain HTTP.
pub struct Front {
    port: u16,
    manners: Arc<Mutex<Manners>>,
}

impl Front {
    /// In front of this port.
    pub fn of(target: u16, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("bound").port();
        let manners = Arc::new(Mutex::new(manners));
        let ours = manners.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let manners = ours.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // A client that goes away is none of its business.
                std::thread::spawn(move || drop(receive(client, target, &manners)));
            }
        });
        Self { port, manners }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From the next connection on.
    pub fn now(&self, manners: Manners) {
        *self.manners.lock().unwrap_or_else(PoisonError::into_inner) = manners;
    }
}

fn receive(mut client: TcpStream, target: u16, manners: &Manners) -> std::io::Result<()> {
    let mut first = [0; 24];
    client.read_exact(&mut first)?;
    match manners {
        Manners::Portal => answer(&mut client, "text/html", "<html>Please log in to Venue Wi-Fi</html>"),
        Manners::Broker(json) if first.starts_with(b"GET /api/v1/connect") => {
            answer(&mut client, "application/json", json)
        }
        Manners::Broker(_) => {
            let mut server = TcpStream::connect(("127.0.0.1", target))?;
            server.write_all(&first)?;
            carry(client, server)
        }
    }
}

fn answer(client: &mut TcpStream, kind: &str, body: &str) -> std::io::Result<()> {
    // What is left of the request is read, or its sender hears of a reset in place of the answer.
    client.set_read_timeout(Some(std::time::Duration::from_millis(200)))?;
    let mut rest = [0; 16 * 1024];
    let _ = client.read(&mut rest);
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn carry(client: TcpStream, server: TcpStream) -> std::io::Result<()> {
    let (mut up_from, mut up_to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut up_from, &mut up_to);
        let _ = up_to.shutdown(Shutdown::Both);
    });
    let (mut down_from, mut down_to) = (server, client);
    let _ = std::io::copy(&mut down_from, &mut down_to);
    let _ = down_to.shutdown(Shutdown::Both);
    Ok(())
}

/// An HTTP proxy that wants a name and a password, and lets CONNECT through to some ports.
pub struct ConnectProxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ConnectProxy {
    /// Lets clients with this `Proxy-Authorization` through to these ports of this machine.
    pub fn new(authorization: &str, ports: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("bound").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (ours, authorization, ports) = (asked.clone(), authorization.to_owned(), ports.to_vec());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (asked, authorization, ports) = (ours.clone(), authorization.clone(), ports.clone());
                std::thread::spawn(move || drop(lead(client, &authorization, &ports, &asked)));
            }
        });
        Self { port, asked }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it was asked for, with what it answered.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn lead(
    client: TcpStream,
    authorization: &str,
    ports: &[u16],
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut line) = (Vec::new(), String::new());
    while reader.read_line(&mut line)? > 2 {
        head.push(std::mem::take(&mut line));
    }
    let target = head.first().and_then(|first| first.split(' ').nth(1)).unwrap_or_default().to_owned();
    let wanted = format!("proxy-authorization: basic {authorization}").to_ascii_lowercase();
    let is_known = head.iter().any(|line| line.trim().to_ascii_lowercase() == wanted);
    let port = target.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    let code = match port {
        _ if !head.first().is_some_and(|first| first.starts_with("CONNECT ")) => 405,
        _ if !is_known => 407,
        Some(port) if ports.contains(&port) => 200,
        _ => 403,
    };
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{target} {code}"));
    let mut client = client;
    write!(client, "HTTP/1.1 {code} X\r\n\r\n")?;
    match port {
        Some(port) if code == 200 => carry(client, TcpStream::connect(("127.0.0.1", port))?),
        _ => Ok(()),
    }
}
