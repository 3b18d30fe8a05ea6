//! What is remembered over restarts of the ways to the server: where its broker is, and which way worked last. In a small file in
//! the state folder, replaced whole. Without it, or with one that cannot be read, the ladder begins at its top.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{self, FileError, MqttUrl};
use crate::connect::Endpoints;
use crate::link::Address;

/// Its name.
const NAME: &str = "ways.json";
/// Longest file that is read, in bytes.
const MAX_LEN: u64 = 16 * 1024;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// Where the server said that its broker is.
    pub endpoints: Endpoints,
    /// The last way over which the server has answered.
    pub good: Option<Address>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Stored {
    mqtts_url: Option<String>,
    wss_url: Option<String>,
    mqtt_url: Option<String>,
    good: Option<String>,
}

impl Ways {
    /// Takes of what the server said what holds for longer than a connection, so that no start writes the same again.
    #[must_use]
    pub fn new(said: &Endpoints, good: Option<Address>) -> Self {
        let endpoints = Endpoints {
            mqtts_url: said.mqtts_url.clone(),
            wss_url: said.wss_url.clone(),
            // Whether the token may go there in plain text, only the server knows, and it depends on where the device is.
            mqtt_url: said.mqtt_url.clone().filter(MqttUrl::is_loopback),
            ..Endpoints::default()
        };
        Self { endpoints, good }
    }

    /// Reads what is remembered in this state folder.
    #[must_use]
    pub fn load(state_dir: &Path) -> Self {
        let read = || {
            let mut text = Vec::new();
            File::open(state_dir.join(NAME))?.take(MAX_LEN).read_to_end(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        let stored: Stored =
            read().ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let broker = |text: Option<String>| text.and_then(|text| text.parse().ok());
        let good = stored.good.and_then(|text| {
            let broker = text.parse().ok().map(Address::Broker);
            broker.or_else(|| text.parse().ok().map(Address::Exchange))
        });
        let endpoints = Endpoints {
            mqtts_url: broker(stored.mqtts_url),
            wss_url: broker(stored.wss_url),
            mqtt_url: broker(stored.mqtt_url),
            ..Endpoints::default()
        };
        Self { endpoints, good }
    }

    /// Writes it.
    ///
    /// # Errors
    /// The file cannot be written; what was remembered before is still whole.
    pub fn save(&self, state_dir: &Path) -> Result<(), FileError> {
        let text = |url: &Option<MqttUrl>| url.as_ref().map(ToString::to_string);
        let stored = Stored {
            mqtts_url: text(&self.endpoints.mqtts_url),
            wss_url: text(&self.endpoints.wss_url),
            mqtt_url: text(&self.endpoints.mqtt_url),
            good: self.good.as_ref().map(ToString::to_string),
        };
        // Four texts always become JSON.
        let json = serde_json::to_vec(&stored).unwrap_or_default();
        config::write_private(&state_dir.join(NAME), &json)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_remembered_is_read_back_and_damage_is_nothing_remembered() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Ways::load(folder.path()), Ways::default());
        for good in ["mqtts://f.example:8883", "wss://f.example/mqtt", "https://f.example"] {
            let good = match good.parse() {
                Ok(url) => Address::Broker(url),
                Err(_) => Address::Exchange(good.parse().unwrap()),
            };
            let said = Endpoints {
                mqtts_url: Some("mqtts://f.example".parse().unwrap()),
                wss_url: Some("wss://f.example/mqtt".parse().unwrap()),
                mqtt_url: Some("mqtt://f.example".parse().unwrap()),
                server_time_ms: Some(1),
                client_certificates: true,
                whose: Some(("studio-001".parse().unwrap(), "default".parse().unwrap())),
            };
            let ways = Ways::new(&said, Some(good));
            ways.save(folder.path()).unwrap();
            assert_eq!(Ways::load(folder.path()), ways);
        }
        let whole = std::fs::read(folder.path().join(NAME)).unwrap();
        for len in 0..whole.len() {
            std::fs::write(folder.path().join(NAME), &whole[..len]).unwrap();
            assert_eq!(Ways::load(folder.path()), Ways::default(), "{len} bytes");
        }
        std::fs::write(folder.path().join(NAME), br#"{"good": "ftp://x", "mqtts_url": "x", "more": [1]}"#)
            .unwrap();
        assert_eq!(Ways::load(folder.path()), Ways::default());
    }
}
