//! `fleetd device`.

use clap::Subcommand;
use protocol::id::{DeviceId, OrgSlug};
use protocol::message::rfc3339;

use super::Failure;
use super::database::{SOURCE, print_table, with_desk, with_store};
use crate::config::Config;
use crate::domain::audit::AuditContext;
use crate::domain::device::Registration;
use crate::domain::org::{DEFAULT_ORG, OrgRef};
use crate::service::accounts::find_org;
use crate::service::register::{Requester, register_at};
use crate::service::{Desk, Error, devices};
use crate::store::summaries::{self, Selection, SortKey};

/// How many devices are read at a time.
const PAGE: i64 = 500;

/// Devices.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Register a device and print its token, alone, on standard output. It is shown only once.
    Register {
        /// The id: small letters, digits, `-` and `_`.
        #[arg(long, alias = "id")]
        device_id: DeviceId,
        /// The name for people; the id if not given.
        #[arg(long)]
        name: Option<String>,
        /// The organisation.
        #[arg(long, default_value = DEFAULT_ORG)]
        org: OrgSlug,
    },
    /// Say yes to a device that registered itself and waits for it.
    Approve(Which),
    /// Let a device that was set up anew enrol once more, with a token of its own.
    AllowReenrollment(Which),
    /// Give a device a new token, and print it, alone, on standard output. The old one, its certificates and its connections end
    /// within a second.
    RotateToken(Which),
    /// Take back every certificate of a device. Connections made with one end within a second; its token stays good.
    RevokeCertificates(Which),
    /// Take a device out of service: its token, its certificates and its connections end within a second, its history is kept.
    Decommission(Which),
    /// List the devices of an organisation.
    List {
        /// The organisation.
        #[arg(long, default_value = DEFAULT_ORG)]
        org: OrgSlug,
    },
}

/// A device.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// The id.
    #[arg(long, alias = "id")]
    device_id: DeviceId,
    /// The organisation.
    #[arg(long, default_value = DEFAULT_ORG)]
    org: OrgSlug,
}

impl Which {
    /// Does it, and names the device.
    fn with<T>(
        &self,
        config: &Config,
        work: impl AsyncFnOnce(Desk<'_>, &OrgRef, &str) -> Result<T, Error>,
    ) -> Result<(String, T), Failure> {
        let done = with_desk(config, async |desk: Desk<'_>| {
            let org = find_org(desk.store, &self.org).await?;
            work(desk, &org, self.device_id.as_str()).await
        })?;
        Ok((format!("{}/{}", self.org, self.device_id), done))
    }
}

pub(super) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    match command {
        Command::Register { device_id, name, org } => {
            let registration = Registration::bare(&device_id, name.as_deref()).map_err(|errors| {
                errors
                    .iter()
                    .map(|error| format!("{}: {}", error.field, error.message))
                    .collect::<Vec<_>>()
                    .join("; ")
            })?;
            let outcome = with_store(config, |store, now_ms| async move {
                let requester = Requester::Admin(find_org(&store, &org).await?);
                let context = AuditContext::system();
                let desk = Desk { store: &store, now_ms, source: SOURCE, context: &context };
                register_at(desk, &requester, &registration).await
            })?;
            let registered = outcome.registered;
            eprintln!(
                "registered {} of {}; its token, shown this once:",
                registered.device_id, registered.org.slug
            );
            if let Some(token) = &registered.token {
                println!("{}", token.expose());
            }
        }
        Command::Approve(which) => {
            println!("approved {}", which.with(config, devices::approve_at)?.0);
        }
        Command::AllowReenrollment(which) => {
            let name = which.with(config, devices::allow_reenrollment_at)?.0;
            println!("{name} may enrol once more");
        }
        Command::RotateToken(which) => {
            let (name, (_, token)) = which.with(config, devices::rotate_token_at)?;
            eprintln!("{name} has a new token, shown this once:");
            println!("{}", token.expose());
        }
        Command::RevokeCertificates(which) => {
            let (name, (_, good)) = which.with(config, devices::revoke_certificates_at)?;
            let what = if good == 1 { "certificate" } else { "certificates" };
            println!("took back {good} {what} of {name}");
        }
        Command::Decommission(which) => {
            println!("took {} out of service", which.with(config, devices::decommission_at)?.0);
        }
        Command::List { org } => {
            let found = with_store(config, |store, now_ms| async move {
                let org = find_org(&store, &org).await?;
                let mut found = Vec::new();
                loop {
                    let offset = i64::try_from(found.len()).unwrap_or(i64::MAX);
                    let (page, _) = summaries::list(&store, &org.id, &selection(offset, now_ms)).await?;
                    if page.is_empty() {
                        return Ok(found);
                    }
                    found.extend(page);
                }
            })?;
            let rows: Vec<_> = found
                .iter()
                .map(|device| {
                    vec![
                        device.device_id.to_string(),
                        device.status.as_str().to_owned(),
                        device.last_heartbeat.map_or_else(|| "never".to_owned(), rfc3339),
                        device.current_version.clone().unwrap_or_else(|| "-".to_owned()),
                        device.latest.certificate_expires_at.map_or_else(|| "-".to_owned(), rfc3339),
                        device.name.clone(),
                    ]
                })
                .collect();
            print_table(
                &["DEVICE", "STATUS", "LAST HEARTBEAT", "VERSION", "CERTIFICATE UNTIL", "NAME"],
                &rows,
            )?;
        }
    }
    Ok(())
}

fn selection(offset: i64, now_ms: i64) -> Selection {
    Selection {
        status: None,
        tag: None,
        version: None,
        text: None,
        sort: SortKey::DeviceId,
        descending: false,
        now_ms,
        offset,
        limit: PAGE,
    }
}
