//! What a link needs of files and the environment, for the way that it takes.

use std::sync::Arc;

use rustls::ClientConfig;

use super::certificate::Shown;
use super::session::with_causes;
use crate::config::Config;
use crate::link::Address;
use crate::proxy::{self, Proxy};
use crate::{http, tls};

/// What is needed cannot be had.
#[derive(Debug)]
pub(super) struct MeansError {
    /// Why, in one line.
    pub(super) problem: String,
    /// A certificate, or what it is checked by, cannot be read or used.
    pub(super) of_tls: bool,
}

/// Whom to trust, and what to go through.
#[derive(Debug, Default)]
pub(super) struct Means {
    /// For MQTT.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// For MQTT.
    pub(super) proxy: Option<Proxy>,
    /// For HTTP exchange.
    pub(super) http: Option<ureq::Agent>,
}

impl MeansError {
    fn of(error: &dyn std::error::Error, of_tls: bool) -> Self {
        Self { problem: with_causes(error), of_tls }
    }
}

impl Means {
    /// Finds out, on a thread of its own: a hundred authorities are read and looked at.
    pub(super) async fn find(config: &Config, to: &Address, shown: Shown) -> Result<Self, MeansError> {
        let (config, to) = (config.clone(), to.clone());
        let found = tokio::task::spawn_blocking(move || Self::read(&config, &to, shown)).await;
        found.unwrap_or_else(|error| Err(MeansError::of(&error, false)))
    }

    fn read(config: &Config, to: &Address, shown: Shown) -> Result<Self, MeansError> {
        match to {
            Address::Exchange(server) => {
                let http = http::client(config, server).map_err(|error| MeansError::of(&error, true))?;
                Ok(Self { http: Some(http), ..Self::default() })
            }
            Address::Broker(url) => {
                let proxy = proxy::for_target(url.scheme(), url.host(), url.port());
                let proxy = proxy.map_err(|error| MeansError::of(&error, false))?;
                let is_encrypted =
                    url.scheme().is_encrypted() || proxy.as_ref().is_some_and(|proxy| proxy.is_encrypted);
                let make = || tls::client_config_with(config, shown.identity(config)?);
                let tls =
                    is_encrypted.then(make).transpose().map_err(|error| MeansError::of(&error, true))?;
                Ok(Self { tls, proxy, http: None })
            }
        }
    }
}
