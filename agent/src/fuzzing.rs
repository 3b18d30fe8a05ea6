//! What the fuzz targets in `agent/fuzz` call: the readers of what strangers send the agent. Compiled for them alone (`--cfg fuzzing`).
//!
//! What servers send over MQTT or in an exchange is CBOR of the crate `protocol`, which has fuzz targets of its own.

use crate::app_status::{self, AppAnswer};
use crate::config::StatusFields;
use crate::{connect, doctor, proxy};

/// The application's answer over HTTP, in two parts.
///
/// # Panics
/// When the parser keeps more than it may, or understands the same bytes another way when they come at once.
pub fn application(first: &[u8], second: &[u8]) {
    const MAX_LEN: usize = 512;
    let at_once = app_status::read_answer([[first, second].concat().as_slice()], MAX_LEN);
    assert_eq!(app_status::read_answer([first, second], MAX_LEN).ok(), at_once.clone().ok());
    if let Ok((_, body)) = at_once {
        assert!(body.len() <= MAX_LEN, "{} bytes are kept", body.len());
        drop(AppAnswer::read(&body, &StatusFields::default()));
    }
}

/// The server's answer to the question how it is reached over MQTT.
pub fn endpoints(body: &[u8]) {
    drop(connect::parse(body));
}

/// A proxy's answer to CONNECT.
pub fn proxy(answer: &[u8]) {
    drop(proxy::judge(answer));
}

/// Whoever answers `doctor` in a server's place: a certificate, a broker's first bytes, bare or by WebSocket.
pub fn stranger(bytes: &[u8]) {
    doctor::read_strangers(bytes);
}
