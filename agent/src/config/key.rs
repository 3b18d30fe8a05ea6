//! The keys of `fleet.conf`.

/// What an empty value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenEmpty {
    /// As if the key was not there.
    Unset,
    /// A value of its own: the empty list, or nothing to ask.
    Means,
    /// An error: there is no sensible meaning.
    Wrong,
}

macro_rules! keys {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $empty:ident, $expected:literal;)*) => {
        /// A key that this agent knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Key {
            $($(#[$doc])* $variant,)*
        }

        impl Key {
            /// All keys, in the order in which the example file explains them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in the file and in the environment.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What its value has to be, for a message.
            #[must_use]
            pub const fn expected(self) -> &'static str {
                match self { $(Self::$variant => $expected,)* }
            }

            pub(super) const fn when_empty(self) -> WhenEmpty {
                match self { $(Self::$variant => WhenEmpty::$empty,)* }
            }
        }
    };
}

keys! {
    /// Whether the agent does anything at all.
    FleetEnabled = "FLEET_ENABLED", Wrong, "true or false";
    /// Where the fleet server's HTTP side is.
    FleetUrl = "FLEET_URL", Unset, "the server's address, like https://fleet.example.com";
    /// The organisation of the device.
    FleetOrg = "FLEET_ORG", Unset,
        "the organisation's short name: 1 to 63 characters of a-z, 0-9, '-' and '_', the first a-z or 0-9, not \"server\"";
    /// The readable id of the device.
    DeviceId = "DEVICE_ID", Unset, "1 to 63 characters of a-z, 0-9, '-' and '_', the first a-z or 0-9";
    /// The device's credential.
    DeviceToken = "DEVICE_TOKEN", Unset, "64 hexadecimal digits, as written by `r58-fleet-agent enroll`";
    /// Seconds from one heartbeat to the next.
    HeartbeatInterval = "HEARTBEAT_INTERVAL", Wrong, "a whole number of seconds, 1 or more";
    /// Seconds from one question for commands to the next, where commands cannot be pushed.
    CommandPollInterval = "COMMAND_POLL_INTERVAL", Wrong, "a whole number of seconds, 1 or more";
    /// The broker, where the server shall not be asked for it.
    MqttUrl = "MQTT_URL", Unset, "the broker's address, like mqtts://fleet.example.com:8883 or wss://fleet.example.com/mqtt";
    /// Certificate authorities to trust instead of the system's.
    CaFile = "CA_FILE", Unset, "the absolute path of a PEM file";
    /// The device's own certificate.
    ClientCert = "CLIENT_CERT", Unset, "the absolute path of a PEM file, together with CLIENT_KEY";
    /// The private key of that certificate.
    ClientKey = "CLIENT_KEY", Unset, "the absolute path of a PEM file, together with CLIENT_CERT";
    /// Where the application says what it is doing.
    AppStatusUrl = "APP_STATUS_URL", Means, "an address like http://localhost:8000/api/v1/sessions/status, or nothing";
    /// Where in that answer things are.
    AppStatusFields = "APP_STATUS_FIELDS", Means,
        "a list like status=session.state,streaming=stream.active,live_values=onair|rec,idle_values=ready";
    /// The application's systemd unit.
    AppUnit = "APP_UNIT", Wrong, "the name of a systemd unit, like r58-api";
    /// Where the application records to.
    RecordingsDir = "RECORDINGS_DIR", Unset, "an absolute path";
    /// Units that `restart_service` may restart.
    AllowedServices = "ALLOWED_SERVICES", Means, "names of systemd units, separated by commas";
    /// Keys that `config` may change.
    AllowedConfigKeys = "ALLOWED_CONFIG_KEYS", Means, "names of keys (A-Z, 0-9, '_'), separated by commas";
    /// Where the scripts for `custom` are.
    ScriptsDir = "SCRIPTS_DIR", Wrong, "an absolute path";
    /// Where the application is installed.
    AppDir = "APP_DIR", Wrong, "an absolute path";
    /// Where the agent keeps its own state.
    StateDir = "STATE_DIR", Wrong, "an absolute path";
    /// Units whose journal is sent to the server.
    LogUnits = "LOG_UNITS", Means, "names of systemd units, separated by commas";
}

impl Key {
    /// The key of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.name() == name)
    }

    /// Whether its value must never be shown.
    #[must_use]
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::DeviceToken)
    }
}
