//! A power cut at any write or send in the path of a command: its effect happens at most once, and what is told of it is
//! true. Every failpoint of the agent and of the server is walked through, for every type of command.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use end_to_end::{ADMIN_EMAIL, ADMIN_PASSWORD, Agent, Api, Machine, Person, Server, wait_for};
use protocol::failpoint::VARIABLE;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const ENDED: &[&str] =
    &["completed", "failed", "timed_out", "indeterminate", "rejected", "cancelled", "expired"];
/// These tests ask more often than a person does.
const WITHOUT_HASTE: (&str, &str) = ("FLEET_RATE_LIMIT_REQUESTS", "1000000");
/// How often a server dies at one place, each time with other commands on their way. More often, and the agents would wait
/// for minutes before they try again.
const DEATHS: usize = 4;
/// How many devices are under test at the same time.
const AT_ONCE: usize = 6;

/// A type of command, and how its effect is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ping,
    RestartService,
    Reboot,
    Config,
    Custom,
    RotateToken,
}

const KINDS: [Kind; 6] =
    [Kind::Ping, Kind::RestartService, Kind::Reboot, Kind::Config, Kind::Custom, Kind::RotateToken];

/// A command's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Story {
    /// It runs at once.
    Plain(Kind),
    /// It waits until a recording has ended.
    Held(Kind),
    /// It waits for a recording, and an admin lets it run.
    Overridden,
    /// It waits for a recording, and is called back.
    Cancelled,
    /// It waits for a recording for too long.
    Expires,
    /// The device does not allow it.
    NotAllowed,
    /// A script that fails.
    Fails,
    /// A script that takes too long.
    TimesOut,
    /// A script in whose middle the power goes.
    KilledMidway,
    /// The server wishes something else at the same time.
    Desired,
    /// A new token that comes into use too late.
    TokenLapses,
}

impl Story {
    /// The lives in which a command passes this place of the agent.
    fn past(place: &str) -> Vec<Self> {
        let part = |name: &str| place.contains(name);
        match () {
            () if part("journal.held") => {
                [Kind::RestartService, Kind::Reboot, Kind::Custom].map(Self::Held).to_vec()
            }
            () if part("journal.override") => vec![Self::Overridden],
            () if part("journal.cancelled") => vec![Self::Cancelled],
            () if part("journal.expired") => vec![Self::Expires],
            () if part("journal.rejected") => vec![Self::NotAllowed],
            () if part("journal.failed") => vec![Self::Fails],
            () if part("journal.timed_out") => vec![Self::TimesOut],
            () if part("journal.indeterminate") => vec![Self::KilledMidway],
            () if part("agent.desired") => vec![Self::Desired],
            () if part("fallen-back") => vec![Self::TokenLapses],
            () => KINDS.map(Self::Plain).to_vec(),
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Plain(kind) | Self::Held(kind) => kind,
            Self::Fails | Self::TimesOut | Self::KilledMidway => Kind::Custom,
            Self::TokenLapses => Kind::RotateToken,
            _ => Kind::RestartService,
        }
    }

    fn request(self) -> Value {
        let mut request = match self.kind() {
            Kind::Ping => json!({"type": "ping"}),
            Kind::RestartService => json!({"type": "restart_service", "payload": {"service": "r58-api"}}),
            Kind::Reboot => json!({"type": "reboot"}),
            Kind::Config => {
                json!({"type": "config", "payload": {"changes": {"COMMAND_POLL_INTERVAL": 31}}})
            }
            Kind::Custom => json!({"type": "custom", "payload": {"script": "count"}}),
            Kind::RotateToken => json!({"type": "rotate_token"}),
        };
        match self {
            Self::Expires => request["expires_in_seconds"] = json!(4),
            Self::NotAllowed => request["payload"]["service"] = json!("sshd"),
            Self::TimesOut => request["timeout_seconds"] = json!(1),
            _ => {}
        }
        request["ref"] = json!(format!("{self:?}"));
        request
    }

    fn name(self) -> String {
        format!("{self:?}").to_lowercase().replace(['(', ')'], "-").trim_end_matches('-').to_owned()
    }
}

/// One device with one command.
struct Case {
    story: Story,
    machine: Machine,
    agent: Agent,
    token: String,
    rebooted: bool,
    killed: bool,
    /// What a person did in the middle was taken.
    meddled: bool,
}

fn token(agent: &Agent) -> String {
    let file = std::fs::read_to_string(agent.config_file()).unwrap();
    file.lines().find_map(|line| line.strip_prefix("DEVICE_TOKEN=")).unwrap().to_owned()
}

impl Case {
    fn new(server: &Server, story: Story, device: &str) -> Self {
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
        if matches!(story, Story::Held(_) | Story::Overridden | Story::Cancelled | Story::Expires) {
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
    fn go_on(&mut self, api: &Api, command: &Value) {
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
            Story::Cancelled => post("cancel", json!({})),
            Story::Overridden => post("override", json!({"reason": "a test"})),
            _ => true,
        };
    }

    /// What is told of the command is what was done.
    fn check(&self, command: &Value, place: &str) {
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
            Story::Cancelled => Some("cancelled"),
            Story::Expires => Some("expired"),
            Story::NotAllowed => Some("rejected"),
            Story::KilledMidway => Some("indeterminate"),
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

fn has_ended(command: &Value) -> bool {
    command["status"].as_str().is_some_and(|status| ENDED.contains(&status))
}

/// Runs `work` on every item, some at the same time.
fn in_parallel<T: Sync>(items: &[T], at_once: usize, work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::SeqCst)) {
                    work(item);
                }
            });
        }
    });
}

#[test]
fn the_agent_may_die_at_any_place_and_no_effect_happens_twice_and_the_end_is_true() {
    let server = Server::start_with(&[WITHOUT_HASTE]);
    let reached = Mutex::new(BTreeSet::new());
    let all: Vec<(&str, Story)> = agent::failpoint::ALL
        .iter()
        .flat_map(|place| Story::past(place).into_iter().map(move |story| (*place, story)))
        .collect();
    in_parallel(&all, AT_ONCE, |&(place, story)| {
        let api = server.api();
        let device = format!("{}-{}", place.replace('.', "-"), story.name());
        let mut case = Case::new(&server, story, &device);
        // The new token is in the agent's file, and was never used.
        let first = if story == Story::TokenLapses { "agent.rotation.switched" } else { place };
        case.agent.set(VARIABLE, Some(first));
        case.agent.start();
        if story == Story::Desired {
            let (status, body) =
                api.patch(&format!("/devices/{device}"), &json!({"target_version": "1.2.3"}));
            assert_eq!(status, 200, "{body}");
        }
        let id = api.command(&device, &story.request());
        let deadline = Instant::now() + SOON;
        let mut command = Value::Null;
        while Instant::now() < deadline && !has_ended(&command) {
            if case.agent.ended().is_some() {
                case.agent.kill();
                if story == Story::TokenLapses && !case.meddled {
                    case.meddled = true;
                    let database = rusqlite::Connection::open(server.data_dir().join("fleet.db")).unwrap();
                    database.busy_timeout(SOON).unwrap();
                    let lapse = "UPDATE device_tokens SET expires_at = 1 WHERE slot = 'pending' AND device_id = \
                                 (SELECT id FROM devices WHERE device_id = ?1)";
                    assert_eq!(database.execute(lapse, [&device]).unwrap(), 1);
                    case.agent.set(VARIABLE, Some(place));
                } else {
                    reached.lock().unwrap().insert(place);
                    case.agent.set(VARIABLE, None);
                }
                if case.machine.count("reboot") > 0 && !case.rebooted {
                    case.rebooted = true;
                    case.machine.boot();
                }
                case.agent.start();
            }
            command = api.get(&format!("/commands/{id}"));
            case.go_on(&api, &command);
            std::thread::sleep(Duration::from_millis(100));
        }
        // It may still die at a place after the end that the server knows; it must come back all the same.
        case.check(&command, place);
    });
    let never: Vec<_> =
        agent::failpoint::ALL.iter().filter(|place| !reached.lock().unwrap().contains(*place)).collect();
    assert!(never.is_empty(), "no command passed these places: {never:?}");
}

/// A server that may die at any moment, and devices with a command each.
struct World {
    server: Server,
    cases: Vec<Case>,
    ids: Vec<Option<String>>,
    deaths: usize,
}

impl World {
    fn new() -> Self {
        let server = Server::start_with(&[WITHOUT_HASTE]);
        let stories = KINDS.map(Story::Plain).into_iter();
        let stories = stories.chain([Story::Cancelled, Story::Overridden, Story::Desired]);
        let cases: Vec<Case> = stories.map(|story| Case::new(&server, story, &story.name())).collect();
        let ids = vec![None; cases.len()];
        Self { server, cases, ids, deaths: 0 }
    }

    fn api(&self) -> Option<Api> {
        Api::try_log_in(&self.server.url(), ADMIN_EMAIL, ADMIN_PASSWORD)
    }

    /// Sends what was not taken yet, whatever becomes of the server meanwhile: its `ref` makes it one command.
    fn insist(&mut self, api: &Api) {
        for (case, id) in self.cases.iter().zip(&mut self.ids).filter(|(_, id)| id.is_none()) {
            let (device, mut request) = (case.agent.device(), case.story.request());
            if case.story == Story::Plain(Kind::Ping) {
                // By MQTT: the answer may be lost with the server, so the list is asked what became of it.
                request["to"] = json!(device);
                let _ = Person::admin().publish(&self.server, &request.to_string(), &[]);
                let list = api.ask("GET", &format!("/devices/{device}/commands"), None);
                *id = list.and_then(|(_, list)| list["items"][0]["id"].as_str().map(str::to_owned));
                continue;
            }
            if case.story == Story::Desired {
                let change = json!({"target_version": "1.2.3"});
                if api.ask("PATCH", &format!("/devices/{device}"), Some(&change)).is_none() {
                    continue;
                }
            }
            let answer = api.ask("POST", &format!("/devices/{device}/commands"), Some(&request));
            if let Some((status, body)) = answer {
                assert_eq!(status, 201, "{request}: {body}");
                *id = body["id"].as_str().map(str::to_owned);
            }
        }
    }

    /// One round; gives the commands once all have ended.
    fn turn(&mut self) -> Option<Vec<Value>> {
        let api = self.api()?;
        self.insist(&api);
        let mut commands = Vec::new();
        for (case, id) in self.cases.iter_mut().zip(&self.ids) {
            let (status, command) = api.ask("GET", &format!("/commands/{}", id.as_ref()?), None)?;
            assert_eq!(status, 200, "an accepted command is gone: {command}");
            case.go_on(&api, &command);
            commands.push(command);
        }
        commands.iter().all(has_ended).then_some(commands)
    }
}

#[test]
fn the_server_may_die_at_any_place_and_no_effect_happens_twice_and_the_end_is_true() {
    let reached = Mutex::new(BTreeSet::new());
    in_parallel(fleetd::failpoint::ALL, 3, |&place| {
        let mut world = World::new();
        let api = world.api().unwrap();
        let restarted = Story::Plain(Kind::RestartService).name();
        let group = json!({"redundancy_group": "hall"});
        assert_eq!(api.patch(&format!("/devices/{restarted}"), &group).0, 200);
        assert!(world.server.stop().success());
        world.server.set(VARIABLE, Some(place));
        world.server.launch();
        world.cases.iter_mut().for_each(|case| case.agent.start());
        let deadline = Instant::now() + 3 * SOON;
        let commands = loop {
            if world.server.ended().is_some() {
                world.deaths += 1;
                reached.lock().unwrap().insert(place);
                world.server.kill();
                // Several times at each place: there is another command there each time.
                world.server.set(VARIABLE, (world.deaths < DEATHS).then_some(place));
                world.server.launch();
            }
            if let Some(commands) = world.turn() {
                break commands;
            }
            assert!(Instant::now() < deadline, "{place}: not all ended\n{}", world.server.log());
            std::thread::sleep(Duration::from_millis(200));
        };
        let api = world.api();
        for (case, command) in world.cases.iter().zip(&commands) {
            case.check(command, place);
            let list = format!("/devices/{}/commands", case.agent.device());
            if let Some((_, list)) = api.as_ref().and_then(|api| api.ask("GET", &list, None)) {
                assert_eq!(list["total"], 1, "{place}: one request, several commands: {list:#}");
            }
        }
    });
    let never: Vec<_> =
        fleetd::failpoint::ALL.iter().filter(|place| !reached.lock().unwrap().contains(*place)).collect();
    assert!(never.is_empty(), "no command passed these places: {never:?}");
}

#[test]
fn an_older_copy_of_the_agents_state_runs_nothing_twice() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    let api = server.api();
    wait_for("device online", SOON, || (api.device("studio-001")["status"] == "online").then_some(()));
    machine.app_says("recording");
    let restart = json!({"type": "restart_service", "payload": {"service": "r58-api"}});
    let id = api.command("studio-001", &restart);
    api.wait_for_command(&id, &["held"], SOON);
    assert!(agent.stop().success());
    // An image is made while the command is held, and written back after it has run.
    let copy = std::fs::read(agent.state_file()).unwrap();
    machine.app_says("idle");
    agent.start();
    api.wait_for_command(&id, &["completed"], SOON);
    assert!(agent.stop().success());
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", agent.state_file().display()));
    }
    std::fs::write(agent.state_file(), copy).unwrap();
    agent.start();
    let ping = api.command("studio-001", &json!({"type": "ping"}));
    api.wait_for_command(&ping, &["completed"], SOON);
    assert_eq!(machine.effects(), ["restart r58-api"]);
    assert_eq!(api.get(&format!("/commands/{id}"))["status"], "completed");
}

#[test]
fn a_device_with_a_new_state_makes_what_was_open_indeterminate_and_runs_none_of_it() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    machine.app_says("recording");
    agent.start();
    let api = server.api();
    let restart = json!({"type": "restart_service", "payload": {"service": "r58-api"}});
    let id = api.command("studio-001", &restart);
    api.wait_for_command(&id, &["held"], SOON);
    agent.kill();
    std::fs::remove_dir_all(agent.state_dir().join("db")).unwrap();
    machine.app_says("idle");
    agent.start();
    let ended = api.wait_for_command(&id, ENDED, SOON);
    assert_eq!(ended["status"], "indeterminate", "{ended:#}");
    assert_eq!(ended["inferred"], true, "{ended:#}");
    let ping = api.command("studio-001", &json!({"type": "ping"}));
    api.wait_for_command(&ping, &["completed"], SOON);
    assert_eq!(machine.effects(), Vec::<String>::new());
}

#[test]
fn a_server_that_was_restored_from_a_copy_learns_what_became_of_its_commands() {
    let (mut server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    machine.app_says("recording");
    agent.start();
    let api = server.api();
    let restart = json!({"type": "restart_service", "payload": {"service": "r58-api"}});
    let id = api.command("studio-001", &restart);
    api.wait_for_command(&id, &["held"], SOON);
    assert!(server.stop().success());
    let copy = server.folder().join("copy");
    copy_folder(&server.data_dir(), &copy);
    server.start_again();
    machine.app_says("idle");
    server.api().wait_for_command(&id, &["completed"], SOON);
    assert!(server.stop().success());
    std::fs::remove_dir_all(server.data_dir()).unwrap();
    copy_folder(&copy, &server.data_dir());
    server.start_again();
    let done = server.api().wait_for_command(&id, ENDED, SOON);
    assert_eq!(done["status"], "completed", "{done:#}");
    assert_eq!(machine.effects(), ["restart r58-api"]);
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).unwrap();
}
