//! A `fleetd` with its embedded broker.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use crate::process::{self, Folder, Process, Signal, free_port, program, wait_for};
use crate::{Api, Watcher};

/// The administrator that the first start makes.
pub const ADMIN_EMAIL: &str = "admin@example.com";
/// The administrator's password.
pub const ADMIN_PASSWORD: &str = "correct horse battery staple";

/// A server that can be stopped, killed and started again on the same folder and ports.
pub struct Server {
    program: PathBuf,
    http_port: u16,
    mqtt_port: u16,
    settings: BTreeMap<String, String>,
    process: Option<Process>,
    log: PathBuf,
    /// Last, so that the log is still there when a failing test prints it.
    folder: Folder,
}

impl Server {
    /// Starts a server on a new folder and waits until it is ready.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with more environment variables.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = Folder::temporary();
        let log = folder.path().join("fleetd.log");
        Self::start_at(program("fleetd"), folder, log, settings)
    }

    /// As [`Self::start_with`], with its files in `folder` and its log in `log`, both outlive it.
    pub fn start_in(folder: &Path, log: &Path, settings: &[(&str, &str)]) -> Self {
        Self::start_at(program("fleetd"), Folder::at(folder), log.to_owned(), settings)
    }

    /// As [`Self::start_in`], with the program that is built for release.
    pub fn start_for_release(folder: &Path, log: &Path, settings: &[(&str, &str)]) -> Self {
        Self::start_at(process::release_program("fleetd"), Folder::at(folder), log.to_owned(), settings)
    }

    fn start_at(program: PathBuf, folder: Folder, log: PathBuf, settings: &[(&str, &str)]) -> Self {
        let mut server = Self {
            program,
            folder,
            log,
            http_port: free_port(),
            mqtt_port: free_port(),
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            process: None,
        };
        server.start_again();
        server
    }

    /// Sets an environment variable for the next start, or takes it away.
    pub fn set(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.settings.insert(key.to_owned(), value.to_owned()),
            None => self.settings.remove(key),
        };
    }

    /// The exit status, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// Starts the server again after [`Self::kill`] or [`Self::stop`], and waits until it is ready.
    pub fn start_again(&mut self) {
        self.launch();
        let url = format!("{}/ready", self.url());
        wait_for("ready server", Duration::from_secs(30), || {
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            ureq::get(&url).call().is_ok().then_some(())
        });
    }

    /// As [`Self::start_again`], without waiting.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "the server still runs");
        let mut command = self.command(&["serve"]);
        self.process = Some(Process::start(&mut command, &self.log));
    }

    /// `fleetd` with this server's folder and addresses, ready to run beside it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("FLEET_DATA_DIR", self.data_dir())
            .env("FLEET_HTTP_LISTEN", format!("127.0.0.1:{}", self.http_port))
            .env("FLEET_MQTT_LISTEN", format!("127.0.0.1:{}", self.mqtt_port))
            .env("FLEET_ADMIN_EMAIL", ADMIN_EMAIL)
            .env("FLEET_ADMIN_PASSWORD", ADMIN_PASSWORD)
            .envs(&self.settings);
        command
    }

    /// Runs a `fleetd` subcommand with `input` on its standard input.
    pub fn run(&self, arguments: &[&str], input: &str) -> Output {
        process::run(&mut self.command(arguments), input)
    }

    /// As [`Self::run`]; the trimmed standard output of a command that must succeed.
    pub fn run_ok(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        assert!(output.status.success(), "fleetd {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// A new enrolment key of the organisation `default`.
    pub fn enrollment_key(&self) -> String {
        self.run_ok(&["enrollment-key", "add", "--org", "default"], "")
    }

    /// The base of the HTTP API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The port of the broker.
    pub fn mqtt_port(&self) -> u16 {
        self.mqtt_port
    }

    /// The port of plain HTTP.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// The data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The HTTP API as the administrator.
    pub fn api(&self) -> Api {
        Api::log_in(&self.url(), ADMIN_EMAIL, ADMIN_PASSWORD)
    }

    /// An administrator's MQTT client that records everything below `filter`.
    pub fn watch(&self, filter: &str) -> Watcher {
        Watcher::start(self.mqtt_port, ADMIN_EMAIL, ADMIN_PASSWORD, filter)
    }

    /// Ends it as a power cut does; it may have ended by itself.
    pub fn kill(&mut self) {
        self.process.take().expect("a started server").kill_hard();
    }

    /// Processor time that the running server has taken.
    pub fn cpu_time(&self) -> Duration {
        self.process.as_ref().map_or(Duration::ZERO, Process::cpu_time)
    }

    /// Sends a signal, to freeze it for example.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("a running server").signal(signal);
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a running server");
        process.signal(Signal::SIGTERM);
        process.wait(Duration::from_secs(20))
    }
}
