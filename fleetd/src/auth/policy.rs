//! The one place that decides what roles may do.

use protocol::id::Role;

use super::caller::Caller;

/// Something that a request may want to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// See one's own account.
    ReadOwnAccount,
    /// Change one's own password.
    ChangeOwnPassword,
    /// Ask where the broker is.
    Connect,
    /// See the devices of the organisation.
    ListDevices,
    /// See one device.
    ReadDevice,
    /// See what a device sent.
    ReadHistory,
    /// Describe a device.
    UpdateDevice,
    /// Choose the version that a device should have.
    SetTargetVersion,
    /// Register a device without an enrolment key.
    RegisterDevice,
    /// Say yes to a device that registered itself.
    ApproveDevice,
    /// Let a known device enrol with another token.
    AllowReenrollment,
    /// Give a device a new token.
    RotateDeviceToken,
    /// Take a device out of service.
    DecommissionDevice,
    /// Send a heartbeat over HTTP.
    SendHeartbeat,
    /// See the commands of a device; for the device: fetch them.
    ReadDeviceCommands,
    /// See commands.
    ReadCommands,
    /// Tell devices to do something.
    CreateCommand,
    /// Tell devices to install something.
    CreateUpdate,
    /// Call a command back.
    CancelCommand,
    /// Let a waiting command run although a show may be on, if it waits only because nobody can tell.
    OverrideUnknown,
    /// Let a command run although a show is on.
    OverrideShow,
    /// Tell what became of a command.
    ReportCommand,
    /// See a show lock.
    ReadShowLock,
    /// Hold back what is disruptive for the time of a show.
    SetShowLock,
    /// Take such a lock back.
    ClearShowLock,
    /// See what config a device should have and has.
    ReadConfig,
    /// Choose the config that a device should have.
    SetConfig,
    /// Take the lease of a redundancy group back.
    ReleaseLease,
    /// See who did what.
    ReadAudit,
}

/// Who may do it.
struct Rule {
    /// The least role of a person; `None`: no person.
    person: Option<Role>,
    /// Whether a device may, for itself.
    own_device: bool,
    /// What an API key with scopes must have; empty: not with an API key that has scopes.
    scope: &'static str,
}

impl Action {
    const fn rule(self) -> Rule {
        const fn person(role: Role, scope: &'static str) -> Rule {
            Rule { person: Some(role), own_device: false, scope }
        }
        match self {
            Self::ReadOwnAccount => person(Role::Viewer, "account:read"),
            Self::ChangeOwnPassword => person(Role::Viewer, ""),
            Self::Connect | Self::SendHeartbeat | Self::ReportCommand => {
                Rule { person: None, own_device: true, scope: "" }
            }
            Self::ListDevices | Self::ReadHistory => person(Role::Viewer, "devices:read"),
            Self::ReadDevice => Rule { person: Some(Role::Viewer), own_device: true, scope: "devices:read" },
            Self::ReadDeviceCommands => {
                Rule { person: Some(Role::Viewer), own_device: true, scope: "commands:read" }
            }
            Self::ReadCommands => person(Role::Viewer, "commands:read"),
            Self::CreateCommand | Self::CancelCommand | Self::OverrideUnknown => {
                person(Role::Operator, "commands:write")
            }
            Self::CreateUpdate | Self::OverrideShow | Self::ReleaseLease => {
                person(Role::Admin, "commands:write")
            }
            Self::ReadShowLock | Self::ReadConfig => person(Role::Viewer, "devices:read"),
            Self::ReadAudit => person(Role::Admin, "audit:read"),
            Self::UpdateDevice | Self::SetShowLock | Self::ClearShowLock | Self::SetConfig => {
                person(Role::Operator, "devices:write")
            }
            Self::SetTargetVersion
            | Self::RegisterDevice
            | Self::ApproveDevice
            | Self::AllowReenrollment
            | Self::RotateDeviceToken
            | Self::DecommissionDevice => person(Role::Admin, "devices:write"),
        }
    }

    /// Whether the id in the path is that of a device.
    const fn names_device(self) -> bool {
        !matches!(self, Self::ReportCommand)
    }

    /// What the audit log calls it, if it changes something.
    #[must_use]
    pub const fn audit_name(self) -> Option<&'static str> {
        match self {
            Self::ReadOwnAccount
            | Self::Connect
            | Self::ListDevices
            | Self::ReadDevice
            | Self::ReadHistory
            | Self::ReadDeviceCommands
            | Self::ReadCommands
            | Self::ReadShowLock
            | Self::ReadConfig
            | Self::ReadAudit => None,
            // What devices say are records, not changes.
            Self::SendHeartbeat | Self::ReportCommand => None,
            Self::ChangeOwnPassword => Some("user.password"),
            Self::UpdateDevice | Self::SetTargetVersion => Some("device.update"),
            Self::SetShowLock => Some("show_lock.set"),
            Self::ClearShowLock => Some("show_lock.clear"),
            Self::ReleaseLease => Some("lease.release"),
            Self::SetConfig => Some("device.config"),
            Self::RegisterDevice => Some("device.register"),
            Self::ApproveDevice => Some("device.approve"),
            Self::AllowReenrollment => Some("device.allow_reenrollment"),
            Self::RotateDeviceToken => Some("device.rotate_token"),
            Self::DecommissionDevice => Some("device.decommission"),
            Self::CreateCommand | Self::CreateUpdate => Some("command.create"),
            Self::CancelCommand => Some("command.cancel"),
            Self::OverrideUnknown | Self::OverrideShow => Some("command.override"),
        }
    }
}

/// Whether `caller` may do it; `device` is the id in the path, if there is one.
///
/// # Errors
/// Why not, for the caller to read.
pub fn check(caller: &Caller, action: Action, device: Option<&str>) -> Result<(), String> {
    let rule = action.rule();
    match caller {
        Caller::Device(own) => {
            if !rule.own_device {
                return Err("a device may not do this; sign in as a person".to_owned());
            }
            match device {
                Some(id) if action.names_device() && id != own.device.as_str() && id != own.row.as_str() => {
                    Err("a device may do this for itself only".to_owned())
                }
                _ => Ok(()),
            }
        }
        Caller::Person(person) => {
            let Some(least) = rule.person else {
                return Err("only the device itself may do this, with its X-Device-Token".to_owned());
            };
            if person.user.role < least {
                return Err(format!("this needs the role {least}; yours is {}", person.user.role));
            }
            if !person.has_scope(rule.scope) {
                return Err(match rule.scope {
                    "" => "an API key with scopes cannot do this; sign in with your password".to_owned(),
                    scope => format!("this API key lacks the scope {scope}"),
                });
            }
            Ok(())
        }
    }
}
