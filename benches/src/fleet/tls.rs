//! What an idle device's connection over TLS costs the server.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use super::{Device, Fleet, Result, numbers::status_mb};
use crate::mqtt::packet::{self, Connect};

/// Connections before the first look: what the first ones make is there for all.
const BEFORE: usize = 20;

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// By how many kB the server's heap grows for each of so many connections.
pub(crate) fn connection_kb(scratch: &Path, bin_dir: &Path, count: usize) -> Result<f64> {
    let (mut fleet, devices) = Fleet::prepare(scratch, bin_dir, "tls", BEFORE + count)?;
    let authority = fleet.make_authority()?;
    fleet.set("FLEET_MQTTS_LISTEN", "127.0.0.1:0");
    fleet.start()?;
    let (address, pid) = (fleet.mqtts()?, fleet.pid()?);
    let config = trusting(&authority)?;
    let connect = |devices: &[Device]| -> Result<Vec<Tls>> {
        devices.iter().map(|device| connect(address, &config, device)).collect()
    };
    let first = connect(&devices[..BEFORE])?;
    thread::sleep(Duration::from_secs(2));
    let before_mb = status_mb(pid, "RssAnon")?;
    let more = connect(&devices[BEFORE..])?;
    thread::sleep(Duration::from_secs(3));
    let after_mb = status_mb(pid, "RssAnon")?;
    drop((first, more));
    fleet.stop()?;
    Ok((after_mb - before_mb) * 1e3 / count as f64)
}

fn trusting(authority: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(authority)?)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Connects and subscribes as a device does.
fn connect(address: SocketAddr, config: &Arc<ClientConfig>, device: &Device) -> Result<Tls> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let session = ClientConnection::new(config.clone(), ServerName::try_from("localhost")?)?;
    let mut tls = StreamOwned::new(session, stream);
    let name = format!("default/{}", device.id);
    let mut out = Vec::new();
    let will = format!("fleet/v1/default/device/{}/presence", device.id);
    packet::connect(
        &mut out,
        &Connect {
            client_id: &name,
            login: Some((&name, &device.token)),
            will: Some((&will, b"gone")),
            keep_alive_seconds: 0,
        },
    );
    let filters =
        ["command", "desired", "ack"].map(|leaf| format!("fleet/v1/default/device/{}/{leaf}", device.id));
    packet::subscribe(&mut out, &filters.each_ref().map(String::as_str), 1);
    tls.write_all(&out)?;
    // CONNACK, and SUBACK with three grants.
    let mut answers = [0; 4 + 7];
    tls.read_exact(&mut answers)?;
    if answers[..4] != [0x20, 2, 0, 0] || answers[8..] != [1, 1, 1] {
        return Err(format!("the server answers {answers:?}").into());
    }
    Ok(tls)
}
