//! The machine that an agent under test looks after: a `systemctl`, an application, scripts, a boot id. The agent gets at
//! them as on a device: through PATH, a URL, a folder, a file. Every effect writes a line of its own into one file, so that
//! it can be counted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Agent;
use crate::process::Folder;

/// What stands in for systemd: it keeps each unit's invocation in a file, and notes what it was made to do.
const SYSTEMCTL: &str = r#"#!/bin/sh
# Usage as of the real one: show, is-system-running, restart, reboot.
here=@FOLDER@
new_invocation() { head -c16 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
verb= unit=
for word in "$@"; do
    case $word in
    -*) ;;
    *) if [ -z "$verb" ]; then verb=$word; else unit=${word%.service}; fi ;;
    esac
done
case $verb in
show)
    [ -e "$here/units/$unit" ] || new_invocation >"$here/units/$unit"
    # A real one answers what was asked for; more does no harm.
    [ -e "$here/units/$unit.job" ] && echo "Job=$(cat "$here/units/$unit.job")"
    echo "LoadState=loaded"
    echo "ActiveState=$(cat "$here/units/$unit.state" 2>/dev/null || echo active)"
    echo "SubState=running"
    echo "InvocationID=$(cat "$here/units/$unit")"
    echo "ActiveEnterTimestampMonotonic=$(stat -c %Y "$here/units/$unit")"
    ;;
restart)
    # What was ordered goes on without whoever has ordered it, and bears no mark of theirs.
    setsid env -i PATH="$PATH" "$0" carry-out "$unit" &
    wait
    ;;
carry-out)
    echo 1 >"$here/units/$unit.job"
    echo "restart $unit" >>"$here/effects"
    [ -e "$here/slow" ] && sleep "$(cat "$here/slow")"
    new_invocation >"$here/units/$unit.new"
    mv "$here/units/$unit.new" "$here/units/$unit"
    rm "$here/units/$unit.job"
    ;;
reboot)
    echo "reboot" >>"$here/effects"
    ;;
is-system-running)
    echo running
    ;;
is-active)
    cat "$here/units/$unit.state" 2>/dev/null || echo active
    ;;
*)
    echo "systemctl of the test: what is $verb?" >&2
    exit 1
    ;;
esac
"#;

/// A machine with an application that can be told what to say.
pub struct Machine {
    folder: Folder,
    app: Arc<Mutex<String>>,
    app_url: String,
    boots: Mutex<u32>,
}

impl Machine {
    /// A machine whose application is idle.
    pub fn new() -> Self {
        Self::at(Folder::temporary())
    }

    /// As [`Self::new`], with its files in `folder`, which outlives it.
    pub fn new_in(folder: &Path) -> Self {
        Self::at(Folder::at(folder))
    }

    fn at(folder: Folder) -> Self {
        for name in ["bin", "units", "scripts"] {
            fs::create_dir(folder.path().join(name)).expect("a folder in our own");
        }
        let systemctl = SYSTEMCTL.replace("@FOLDER@", folder.path().to_str().expect("UTF-8"));
        executable(&folder.path().join("bin/systemctl"), &systemctl);
        fs::write(folder.path().join("effects"), "").expect("a file in our own folder");
        let app = Arc::new(Mutex::new(r#"{"status": "idle"}"#.to_owned()));
        let app_url = serve(Arc::clone(&app));
        let machine = Self { folder, app, app_url, boots: Mutex::new(0) };
        machine.boot();
        fs::write(machine.path("clock-synchronized"), "").expect("a file in our own folder");
        machine
    }

    /// A path in the machine's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes the agent live on this machine.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let text = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        BTreeMap::from([
            ("PATH".to_owned(), format!("{}:{path}", text(self.path("bin")))),
            ("APP_STATUS_URL".to_owned(), self.app_url.clone()),
            ("SCRIPTS_DIR".to_owned(), text(self.path("scripts"))),
            ("R58_FLEET_TEST_BOOT_ID_FILE".to_owned(), text(self.path("boot-id"))),
            ("R58_FLEET_TEST_SYNCHRONIZED_FILE".to_owned(), text(self.path("clock-synchronized"))),
            ("R58_FLEET_TEST_SETTLING_MS".to_owned(), "0".to_owned()),
        ])
    }

    /// An enrolled agent on this machine.
    pub fn agent(&self, server: &crate::Server, device: &str) -> Agent {
        let agent = Agent::enroll(server, device);
        self.settings().iter().fold(agent, |agent, (key, value)| agent.with(key, value))
    }

    /// What the application says of itself: `idle`, `recording`, …
    pub fn app_says(&self, status: &str) {
        *self.app.lock().unwrap_or_else(PoisonError::into_inner) = format!(r#"{{"status": "{status}"}}"#);
    }

    /// A new boot id, as after a power cut.
    pub fn boot(&self) {
        let mut boots = self.boots.lock().unwrap_or_else(PoisonError::into_inner);
        *boots += 1;
        let id = format!("00000000-0000-4000-8000-{:012}\n", *boots);
        fs::write(self.path("boot-id"), id).expect("a file in our own folder");
    }

    /// A script in the approved folder that notes each of its runs, with its arguments; `then` follows.
    pub fn script(&self, name: &str, then: &str) {
        let effects = self.path("effects");
        let body = format!("#!/bin/sh\necho \"{name} $*\" >>'{}'\n{then}\n", effects.display());
        executable(&self.path("scripts").join(name), &body);
    }

    /// Everything that was done to this machine, in order.
    pub fn effects(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("effects")).expect("a file in our own folder");
        text.lines().map(str::to_owned).collect()
    }

    /// How often this was done.
    pub fn count(&self, effect: &str) -> usize {
        self.effects().iter().filter(|line| line.starts_with(effect)).count()
    }

    /// Restarts take so many seconds from now on.
    pub fn restarts_take(&self, seconds: u32) {
        fs::write(self.path("slow"), seconds.to_string()).expect("a file in our own folder");
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).expect("a file in our own folder");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
}

/// Answers every request with what `says` holds, for the life of the test.
fn serve(says: Arc<Mutex<String>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let url = format!("http://{}/api/v1/sessions/status", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let body = says.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let _ = client.set_read_timeout(Some(Duration::from_secs(2)));
            let mut request = [0; 4096];
            let _ = client.read(&mut request);
            let _ = write!(
                client,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    url
}
