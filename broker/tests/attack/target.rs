//! The program `fleet-broker` as a target: started with files of its own, watched through `/proc`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ::broker::credentials::Sha256Hash;

use crate::process::{Files, fleet_broker, keep_log, output};
use crate::support::broker::accounts_text;
use crate::support::until;

/// Devices `bot-1` and up of `acme`, beside those of the other tests.
pub(crate) const BOTS: usize = 120;

/// People of `acme` beside those of the other tests, viewers all of them.
pub(crate) const PALS: usize = 12;

/// The name of one of them.
pub(crate) fn pal(number: usize) -> String {
    format!("pal-{number}")
}

pub(crate) const MIB: u64 = 1024 * 1024;

/// What the process holds at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Resident bytes.
    pub(crate) memory: u64,
    /// The most that it ever was.
    pub(crate) peak: u64,
    pub(crate) descriptors: usize,
    pub(crate) cpu: Duration,
}

/// A running `fleet-broker`. When it goes it must still be alive, and must not have panicked anywhere.
pub(crate) struct Target {
    child: Child,
    files: Files,
    pub(crate) address: SocketAddr,
}

impl Target {
    /// With the default limits.
    pub(crate) fn start() -> Target {
        Target::with("")
    }

    /// With lines for the section `[limits]` of its config.
    pub(crate) fn with(limits: &str) -> Target {
        Target::begin(limits, None, "")
    }

    /// May open so many files.
    pub(crate) fn with_descriptors(count: u32) -> Target {
        Target::begin("", Some(count), "")
    }

    /// With the person `acme/pat`, who has a password.
    pub(crate) fn with_password(password: &str) -> Target {
        let hashed = output(fleet_broker(&["hash", "password"]), &format!("{password}\n"));
        let hash = String::from_utf8(hashed.stdout).unwrap();
        let account = format!(
            "[[person]]\norg = \"acme\"\nuser = \"pat\"\nrole = \"viewer\"\npassword_argon2id = {:?}\n",
            hash.trim()
        );
        Target::begin("", None, &account)
    }

    fn begin(limits: &str, descriptors: Option<u32>, more_accounts: &str) -> Target {
        let mut accounts = accounts_text("");
        for number in 1..=BOTS {
            let hash = Sha256Hash::of(format!("bot-{number}-secret").as_bytes());
            writeln!(
                accounts,
                "[[device]]\norg = \"acme\"\nid = \"bot-{number}\"\ntoken_sha256 = \"{hash}\""
            )
            .unwrap();
        }
        for name in (0..PALS).map(pal) {
            let hash = Sha256Hash::of(format!("{name}-secret").as_bytes());
            writeln!(
                accounts,
                "[[person]]\norg = \"acme\"\nuser = \"{name}\"\nrole = \"viewer\"\napi_key_sha256 = \"{hash}\""
            )
            .unwrap();
        }
        let files = Files::new(&(accounts + more_accounts));
        let credentials = files.credentials();
        files.write_config(&format!(
            "listen = \"127.0.0.1:0\"\ncredentials = {credentials:?}\n[limits]\n{limits}\n"
        ));
        let config = files.config();
        let run = fleet_broker(&["run", "--config", config.to_str().unwrap()]);
        let mut command = match descriptors {
            None => run,
            Some(count) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &count.to_string()]);
                shell.arg(run.get_program()).args(run.get_args()).stdin(Stdio::null());
                shell
            }
        };
        let log = File::create(files.folder.path().join("log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut target = Target { child, files, address: ([0, 0, 0, 0], 0).into() };
        until("the broker listens", || {
            let log = target.log();
            let line = log.lines().find(|line| line.contains("listening") && line.contains("address="));
            let Some(line) = line else { return false };
            let address = line.rsplit_once("address=").unwrap().1.split_whitespace().next().unwrap();
            address.parse().map(|address| target.address = address).is_ok()
        });
        target
    }

    /// From now on it may open so many files.
    pub(crate) fn allow_descriptors(&self, count: u32) {
        let mut prlimit = Command::new("prlimit");
        prlimit.args([format!("--pid={}", self.child.id()), format!("--nofile={count}:{count}")]);
        assert!(prlimit.status().unwrap().success());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.files.folder.path().join("log")).unwrap()
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    fn proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap()
    }

    pub(crate) fn usage(&self) -> Usage {
        let status = self.proc("status");
        let bytes = |key: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
        };
        let stat = self.proc("stat");
        // User and system time in ticks of 10 ms, counted from the end of the name.
        let times = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2);
        let ticks: u64 = times.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Usage {
            memory: bytes("VmRSS:"),
            peak: bytes("VmHWM:"),
            descriptors: fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count(),
            cpu: Duration::from_millis(ticks * 10),
        }
    }

    /// Waits until the number of open descriptors is right.
    pub(crate) fn until_descriptors(&self, what: &str, right: impl Fn(usize) -> bool) {
        until(what, || right(self.usage().descriptors));
    }

    /// At no moment since `before` did the process hold `bound` bytes more than then.
    pub(crate) fn assert_grew_less_than(&self, before: &Usage, bound: u64) {
        let peak = self.usage().peak;
        let grown = peak.saturating_sub(before.memory);
        eprintln!("memory: {} MiB before, at most {} MiB more", before.memory / MIB, grown / MIB);
        assert!(grown < bound, "{} MiB more, allowed are {}", grown / MIB, bound / MIB);
    }

    /// All descriptors come back.
    pub(crate) fn assert_gives_back(&self, before: &Usage) {
        self.until_descriptors("the connections are gone", |now| now <= before.descriptors);
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let ended = self.child.try_wait().unwrap();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        keep_log(self.child.id(), &log);
        if std::thread::panicking() {
            eprintln!("the broker's log:\n{}", log.chars().take(4_000).collect::<String>());
            return;
        }
        assert_eq!(ended, None, "the broker has died");
        let bad: Vec<&str> =
            log.lines().filter(|line| line.contains("panicked") || line.contains("router")).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
}
