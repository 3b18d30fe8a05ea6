//! `fleetd tls`.

use clap::Subcommand;
use protocol::message::rfc3339;

use super::Failure;
use crate::authority::Authority;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::make_data_dir;

/// Encryption without a public certificate authority.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an authority of your own, if there is none yet, and a certificate for this server. A running server takes it within
    /// seconds, and renews it by itself.
    Init {
        /// A name or an address under which devices and people reach the server; may be given several times. Without any, those
        /// that the present certificate has.
        #[arg(long, value_name = "NAME")]
        name: Vec<String>,
    },
}

pub(super) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    let Command::Init { name } = command;
    make_data_dir(&config.data_dir)?;
    let authority = Authority::of(&config.data_dir);
    let made = authority.init(&name, Clock::system().now_ms() / 1000)?;
    let certificate = authority.certificate();
    if made.new_authority {
        println!("made an authority: {}", certificate.display());
        println!(
            "keep a copy of it and of ca.key beside it in a safe place: no backup has them, and devices believe no other"
        );
    }
    println!("made a certificate for {}, good until {}", made.names.join(", "), rfc3339(made.ends_at * 1000));
    if config.https_listen.is_none() && config.mqtts_listen.is_none() {
        println!(
            "set FLEET_HTTPS_LISTEN=0.0.0.0:443 and FLEET_MQTTS_LISTEN=0.0.0.0:8883, and start the server again"
        );
    }
    println!(
        "give the authority to each device: r58-fleet-agent enroll https://… --ca {}",
        certificate.display()
    );
    Ok(())
}
