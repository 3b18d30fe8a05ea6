//! One device with one command, and the life that this command has.

use end_to_end::{Agent, Api, Machine, Server};
use serde_json::{Value, json};

pub(crate) const ENDED: &[&str] =
    &["completed", "failed", "timed_out", "indeterminate", "rejected", "cancelled", "expired"];

/// A type of command, and how its effect is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ping,
    RestartService,
    Reboot,
    Config,
    Custom,
    RotateToken,
}

pub(crate) const KINDS: [Kind; 6] =
    [Kind::Ping, Kind::RestartService, Kind::Reboot, Kind::Config, Kind::Custom, Kind::RotateToken];

/// The types that wait for a show to end.
pub(crate) const DISRUPTIVE: [Kind; 3] = [Kind::RestartService, Kind::Reboot, Kind::Custom];

/// A command's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Story {
    /// It runs at once.
    Plain(Kind),
    /// It waits until a recording has ended.
    Held(Kind),
    /// It waits for a recording, and an admin lets it run.
    Overridden(Kind),
    /// It waits for a recording, and is called back.
    Cancelled(Kind),
    /// It is called back before the device comes.
    Recalled(Kind),
    /// It waits for a recording for too long.
    Expires(Kind),
    /// The server was restored from a backup: it asks the device first, which does not know the command.
    Asked(Kind),
    /// The device does not allow it.
    NotAllowed(Kind),
    /// A script that fails.
    Fails,
    /// A script that takes too long.
    TimesOut,
    /// A script in whose middle the power goes.
    KilledMidway,
    /// The server wishes something else at the same time.
    Desired(Kind),
    /// A new token that comes into use too late.
    TokenLapses,
}

impl Story {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Plain(kind)
            | Self::Held(kind)
            | Self::Overridden(kind)
            | Self::Cancelled(kind)
            | Self::Recalled(kind)
            | Self::Expires(kind)
            | Self::Asked(kind)
            | Self::NotAllowed(kind)
            | Self::Desired(kind) => kind,
            Self::Fails | Self::TimesOut | Self::KilledMidway => Kind::Custom,
            Self::TokenLapses => Kind::RotateToken,
        }
    }

    /// A recording runs when it comes.
    fn meets_a_recording(self) -> bool {
        matches!(self, Self::Held(_) | Self::Overridden(_) | Self::Cancelled(_) | Self::Expires(_))
    }

    pub(crate) fn request(self) -> Value {
        let allowed = !matches!(self, Self::NotAllowed(_));
        let mut request = match self.kind() {
            Kind::Ping => json!({"type": "ping"}),
            Kind::RestartService => {
                let service = if allowed { "r58-api" } else { "sshd" };
                json!({"type": "restart_service", "payload": {"service": service}})
            }
            Kind::Reboot => json!({"type": "reboot"}),
            Kind::Config => {
                let key = if allowed { "COMMAND_POLL_INTERVAL" } else { "FLEET_URL" };
                json!({"type": "config", "payload": {"changes": {key: 31}}})
            }
            Kind::Custom => {
                let script = if allowed { "count" } else { "not-there" };
                json!({"type": "custom", "payload": {"script": script}})
            }
            Kind::RotateToken => json!({"type": "rotate_token"}),
        };
        match self {
            Self::Expires(_) => request["expires_in_seconds"] = json!(4),
            Self::TimesOut => request["timeout_seconds"] = json!(1),
            _ => {}
        }
        request["ref"] = json!(format!("{self:?}"));
        request
    }

    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase().replace(['(', ')'], "-").trim_end_matches('-').to_owned()
    }
}

/// One device with one command.
pub(crate) struct Case {
    pub(crate) story: Story,
    pub(crate) machine: Machine,
    pub(crate) agent: Agent,
    token: String,
    pub(crate) rebooted: bool,
    killed: bool,
    /// What a person did in the middle was taken.
    pub(crate) meddled: bool,
}

fn token(agent: &Agent) -> String {
    let file = std::fs::read_to_string(agent.config_file()).unwrap();
    file.lines().find_map(|line| line.strip_prefix("DEVICE_TOKEN=")).unwrap().to_owned()
}

impl Case {
    pub(crate) fn new(server: &Server, story: Story, device: &str) -> Self {
        let machine = Machine::new();
        machine.script(
            "count",
            match story {
                Story::Fails => "exit 1",
                Story::TimesOut => "sleep 30",
                Story::KilledMidway => "sleep 4",
                _ => "",
            },
        );
        if story.meets_a_recording() {
            machine.app_says("recording");
        }
        let agent = machine.agent(server, device);
        let token = token(&agent);
        Self { story, machine, agent, token, rebooted: false, killed: false, meddled: false }
    }

    /// How often the effect has happened, where that can be counted.
    fn effects(&self) -> Option<usize> {
        match self.story.kind() {
            Kind::RestartService => Some(self.machine.count("restart")),
            Kind::Reboot => Some(self.machine.count("reboot")),
            Kind::Custom => Some(self.machine.count("count")),
            Kind::Ping | Kind::Config | Kind::RotateToken => None,
        }
    }

    /// Goes on with the story, as far as the command's state allows. The server may be away at any moment.
    pub(crate) fn go_on(&mut self, api: &Api, command: &Value) {
        if !self.rebooted && self.machine.count("reboot") > 0 {
            self.rebooted = true;
            self.agent.kill();
            self.machine.boot();
            self.agent.start();
        }
        if self.story == Story::KilledMidway && !self.killed && self.machine.count("count") > 0 {
            self.killed = true;
            self.agent.kill();
            self.agent.start();
        }
        if command["status"] != "held" || self.meddled {
            return;
        }
        let id = command["id"].as_str().unwrap();
        let post = |what: &str, body: Value| {
            api.ask("POST", &format!("/commands/{id}/{what}"), Some(&body))
                .is_some_and(|answer| answer.0 == 200)
        };
        self.meddled = match self.story {
            Story::Held(_) => {
                self.machine.app_says("idle");
                true
            }
            Story::Cancelled(_) => post("cancel", json!({})),
            Story::Overridden(_) => post("override", json!({"reason": "a test"})),
            _ => true,
        };
    }

    /// What is told of the command is what was done.
    pub(crate) fn check(&self, command: &Value, place: &str) {
        let status = command["status"].as_str().unwrap_or("nothing");
        let context = format!("{:?} with a crash at {place}: {command:#}\n{}", self.story, self.agent.log());
        assert!(ENDED.contains(&status), "{context}");
        if let Some(effects) = self.effects() {
            assert!(effects <= 1, "{effects} times: {context}");
            match (self.story, status) {
                (Story::Fails | Story::TimesOut, "completed") => panic!("{context}"),
                (Story::Fails | Story::TimesOut, _) | (_, "indeterminate") => {}
                (_, "completed") => assert_eq!(effects, 1, "{context}"),
                _ => assert_eq!(effects, 0, "{context}"),
            }
        }
        let must_be = match self.story {
            Story::Cancelled(_) | Story::Recalled(_) => Some("cancelled"),
            Story::Expires(_) => Some("expired"),
            Story::NotAllowed(_) => Some("rejected"),
            Story::KilledMidway | Story::Asked(_) => Some("indeterminate"),
            Story::TokenLapses => Some("failed"),
            _ => None,
        };
        assert!(must_be.is_none_or(|must_be| must_be == status), "{context}");
        let file = std::fs::read_to_string(self.agent.config_file()).unwrap();
        if self.story.kind() == Kind::Config {
            assert_eq!(status == "completed", file.contains("COMMAND_POLL_INTERVAL=31"), "{context}\n{file}");
        }
        if self.story.kind() == Kind::RotateToken {
            assert_eq!(status == "completed", token(&self.agent) != self.token, "{context}");
        }
        let ends = command["history"].as_array().unwrap().iter();
        let ends: Vec<&str> =
            ends.map(|step| step["status"].as_str().unwrap()).filter(|s| ENDED.contains(s)).collect();
        assert_eq!(ends, [status], "{context}");
    }
}

pub(crate) fn has_ended(command: &Value) -> bool {
    command["status"].as_str().is_some_and(|status| ENDED.contains(&status))
}
