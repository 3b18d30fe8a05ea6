//! The one place that decides what roles may do.

use protocol::id::Role;

use super::caller::{Caller, Person};

/// What an API key can be limited to.
pub const SCOPES: &[&str] = &[
    "account:read",
    "devices:read",
    "devices:write",
    "commands:read",
    "commands:write",
    "releases:read",
    "releases:write",
    "users:read",
    "users:write",
    "orgs:read",
    "orgs:write",
    "audit:read",
];

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
    /// Get a certificate for oneself.
    IssueCertificate,
    /// Take back the certificates of a device.
    RevokeCertificates,
    /// Take a device out of service.
    DecommissionDevice,
    /// Send a heartbeat over HTTP.
    SendHeartbeat,
    /// Say and hear over HTTP what goes over MQTT where that gets through.
    Exchange,
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
    /// See the people of the organisation.
    ReadUsers,
    /// Add a person.
    CreateUser,
    /// Change a person's name, role or state.
    UpdateUser,
    /// Disable a person.
    DisableUser,
    /// Give a person a new password.
    ResetPassword,
    /// Make, change or disable somebody who owns organisations.
    ManageSuperadmins,
    /// See organisations.
    ReadOrgs,
    /// Add an organisation.
    CreateOrg,
    /// Change an organisation.
    UpdateOrg,
    /// See service accounts.
    ReadServiceAccounts,
    /// Add a service account.
    CreateServiceAccount,
    /// Change a service account.
    UpdateServiceAccount,
    /// Disable a service account.
    DisableServiceAccount,
    /// See one's own API keys.
    ReadApiKeys,
    /// Make an API key for oneself.
    CreateApiKey,
    /// Rename one's own API key.
    UpdateApiKey,
    /// Take one's own API key back.
    RevokeApiKey,
    /// See, make and take back the API keys of service accounts.
    ManageServiceKeys,
    /// See enrolment keys.
    ReadEnrollmentKeys,
    /// Make an enrolment key.
    CreateEnrollmentKey,
    /// Take an enrolment key back.
    RevokeEnrollmentKey,
    /// See who did what.
    ReadAudit,
}

/// Who may do it.
pub(crate) struct Rule {
    /// The least role of a person; `None`: no person.
    pub(crate) person: Option<Role>,
    /// Whether the person has to own organisations as well.
    pub(crate) superadmin: bool,
    /// Whether a device may, for itself.
    pub(crate) own_device: bool,
    /// What an API key with scopes must have; empty: not with an API key that has scopes.
    pub(crate) scope: &'static str,
}

impl Action {
    /// Who may do it.
    pub(crate) const fn rule(self) -> Rule {
        const fn person(role: Role, scope: &'static str) -> Rule {
            Rule { person: Some(role), superadmin: false, own_device: false, scope }
        }
        const fn superadmin(scope: &'static str) -> Rule {
            Rule { superadmin: true, ..person(Role::Viewer, scope) }
        }
        match self {
            Self::ReadOwnAccount => person(Role::Viewer, "account:read"),
            Self::ChangeOwnPassword => person(Role::Viewer, ""),
            Self::Connect
            | Self::SendHeartbeat
            | Self::Exchange
            | Self::ReportCommand
            | Self::IssueCertificate => Rule { person: None, superadmin: false, own_device: true, scope: "" },
            Self::ListDevices | Self::ReadHistory => person(Role::Viewer, "devices:read"),
            Self::ReadDevice => Rule { own_device: true, ..person(Role::Viewer, "devices:read") },
            Self::ReadDeviceCommands => Rule { own_device: true, ..person(Role::Viewer, "commands:read") },
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
            | Self::RevokeCertificates
            | Self::DecommissionDevice
            | Self::CreateEnrollmentKey
            | Self::RevokeEnrollmentKey => person(Role::Admin, "devices:write"),
            Self::ReadEnrollmentKeys => person(Role::Admin, "devices:read"),
            Self::ReadUsers | Self::ReadServiceAccounts => person(Role::Admin, "users:read"),
            Self::CreateUser
            | Self::UpdateUser
            | Self::DisableUser
            | Self::ResetPassword
            | Self::CreateServiceAccount
            | Self::UpdateServiceAccount
            | Self::DisableServiceAccount => person(Role::Admin, "users:write"),
            // A key that is limited must not lead to one that is not.
            Self::ReadApiKeys | Self::CreateApiKey | Self::UpdateApiKey | Self::RevokeApiKey => {
                person(Role::Viewer, "")
            }
            Self::ManageServiceKeys => person(Role::Admin, ""),
            Self::ManageSuperadmins => superadmin("users:write"),
            Self::ReadOrgs => superadmin("orgs:read"),
            Self::CreateOrg | Self::UpdateOrg => superadmin("orgs:write"),
        }
    }

    /// What an API key with scopes must have; empty: no key with scopes will do.
    #[must_use]
    pub const fn scope(self) -> &'static str {
        self.rule().scope
    }

    /// Whether a device may do it for the device in the path, if that is itself.
    #[must_use]
    pub const fn is_for_own_device(self) -> bool {
        self.rule().own_device && self.names_device()
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
            | Self::ReadUsers
            | Self::ReadOrgs
            | Self::ReadServiceAccounts
            | Self::ReadApiKeys
            | Self::ReadEnrollmentKeys
            | Self::ReadAudit => None,
            // What devices say are records, not changes.
            Self::SendHeartbeat | Self::Exchange | Self::ReportCommand => None,
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
            Self::IssueCertificate => Some("device.certificate"),
            Self::RevokeCertificates => Some("device.revoke_certificates"),
            Self::DecommissionDevice => Some("device.decommission"),
            Self::CreateCommand | Self::CreateUpdate => Some("command.create"),
            Self::CancelCommand => Some("command.cancel"),
            Self::OverrideUnknown | Self::OverrideShow => Some("command.override"),
            Self::CreateUser => Some("user.create"),
            Self::UpdateUser | Self::ManageSuperadmins => Some("user.update"),
            Self::DisableUser => Some("user.disable"),
            Self::ResetPassword => Some("user.reset_password"),
            Self::CreateOrg => Some("org.create"),
            Self::UpdateOrg => Some("org.update"),
            Self::CreateServiceAccount => Some("service_account.create"),
            Self::UpdateServiceAccount => Some("service_account.update"),
            Self::DisableServiceAccount => Some("service_account.disable"),
            Self::CreateApiKey | Self::ManageServiceKeys => Some("api_key.create"),
            Self::UpdateApiKey => Some("api_key.update"),
            Self::RevokeApiKey => Some("api_key.revoke"),
            Self::CreateEnrollmentKey => Some("enrollment_key.create"),
            Self::RevokeEnrollmentKey => Some("enrollment_key.revoke"),
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
            if person.must_change_password()
                && !matches!(action, Action::ReadOwnAccount | Action::ChangeOwnPassword)
            {
                return Err(
                    "change your password first, at /api/v1/auth/password: somebody else knows it".to_owned()
                );
            }
            if person.user.role < least {
                return Err(format!("this needs the role {least}; yours is {}", person.user.role));
            }
            if rule.superadmin && !person.user.is_superadmin {
                return Err("this needs a superadmin, who owns organisations".to_owned());
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

/// The role for MQTT, where packets carry no scope: a key counts only if it covers everything that the role sees and does
/// there. One that does not cover commands gives a viewer, one that may not see devices gives nothing.
#[must_use]
pub fn mqtt_role(person: &Person) -> Option<Role> {
    if !person.has_scope("devices:read") {
        return None;
    }
    let commands = person.has_scope("commands:read") && person.has_scope("commands:write");
    Some(if commands { person.user.role } else { Role::Viewer })
}
