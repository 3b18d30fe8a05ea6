//! A name server in the router, as venues have one: it knows one name, and can be silent or lie.

use std::io;
use std::net::Ipv4Addr;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;

use super::namespace::Namespace;
use super::venue::{NAME, NOWHERE, SERVER};

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The server is here; all other names do not exist.
    ServerIs(Ipv4Addr),
    /// The server is here, and also at an IPv6 address that leads nowhere.
    BrokenIpv6(Ipv4Addr),
    /// Every name is here.
    AllAre(Ipv4Addr),
    /// Nothing.
    Silent,
}

/// The name server; it runs as long as the router.
#[derive(Debug)]
pub(super) struct Dns {
    mode: Arc<Mutex<Mode>>,
}

impl Dns {
    /// Starts it on all addresses of the router.
    pub(super) fn start(router: &Namespace) -> io::Result<Self> {
        let mode = Arc::new(Mutex::new(Mode::ServerIs(SERVER)));
        let (send, bound) = sync_channel(1);
        let of_task = Arc::clone(&mode);
        router.spawn(async move {
            let socket = match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).await {
                Ok(socket) => socket,
                Err(error) => return send.send(Err(error)).unwrap_or_default(),
            };
            let _ = send.send(Ok(()));
            let mut query = [0; 512];
            // Somebody may have gone who has asked.
            loop {
                let Ok((length, from)) = socket.recv_from(&mut query).await else { continue };
                let mode = *of_task.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(answer) = answer(&query[..length], mode) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        bound.recv().map_err(io::Error::other)??;
        Ok(Self { mode })
    }

    /// What it says from now on.
    pub(super) fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }
}

/// The answer to a query with one question (RFC 1035); none if there is to be none, or it is no query.
fn answer(query: &[u8], mode: Mode) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: u16 = 1;
    const AAAA: u16 = 28;
    let mut at = HEADER;
    let mut name = String::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(query.get(at..at + length)?).ok()?);
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    let question = query.get(HEADER..at + 4)?;
    let found = match mode {
        Mode::Silent => return None,
        Mode::AllAre(address) => Some(address),
        Mode::ServerIs(address) | Mode::BrokenIpv6(address) => {
            name.eq_ignore_ascii_case(NAME).then_some(address)
        }
    };
    let record = match (found, mode, kind) {
        (Some(address), _, A) => Some(address.octets().to_vec()),
        (Some(_), Mode::BrokenIpv6(_), AAAA) => Some(NOWHERE.octets().to_vec()),
        _ => None,
    };
    // A name without an address of the wanted kind is there all the same.
    let code = if found.is_some() { 0 } else { 3 };
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(record.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(address) = record {
        answer.extend([0xc0, 0x0c, 0, if kind == A { 1 } else { 28 }, 0, 1, 0, 0, 0, 5, 0]);
        answer.push(if kind == A { 4 } else { 16 });
        answer.extend(address);
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![7, 8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    #[test]
    fn the_servers_name_has_an_address_and_others_do_not_exist() {
        let mode = Mode::ServerIs(Ipv4Addr::new(1, 2, 3, 4));
        let found = answer(&query("Fleet.TEST", 1), mode).unwrap();
        assert_eq!((&found[..4], &found[found.len() - 4..]), (&[7, 8, 0x81, 0x80][..], &[1, 2, 3, 4][..]));
        let no_such_kind = answer(&query("fleet.test", 28), mode).unwrap();
        assert_eq!((no_such_kind[3] & 15, no_such_kind[7]), (0, 0));
        assert_eq!(answer(&query("other.test", 1), mode).unwrap()[3] & 15, 3);
        let both = answer(&query("fleet.test", 28), Mode::BrokenIpv6(SERVER)).unwrap();
        assert_eq!((both[7], &both[both.len() - 16..]), (1, &NOWHERE.octets()[..]));
    }

    #[test]
    fn a_portal_has_every_name_and_silence_and_rubbish_get_no_answer() {
        let everywhere = Mode::AllAre(Ipv4Addr::new(10, 0, 0, 1));
        assert!(answer(&query("other.test", 1), everywhere).unwrap().ends_with(&[10, 0, 0, 1]));
        assert_eq!(answer(&query("fleet.test", 1), Mode::Silent), None);
        assert_eq!(answer(&[1, 2, 3], everywhere), None);
        assert_eq!(answer(&query("fleet.test", 1)[..20], everywhere), None);
    }
}
