//! Files of a real agent that are torn between its runs, against a real server: it starts, says what it found, is online
//! again, and nothing is done twice.
//!
//! What is torn is drawn from a number, always the same one unless `FLEET_TEST_SEED` says otherwise; `FLEET_TEST_TORN_ROUNDS`
//! asks for more rounds.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use end_to_end::{Agent, Machine, Server, wait_for};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
const ROUNDS: u64 = 6;
const ENDED: &[&str] =
    &["completed", "failed", "timed_out", "indeterminate", "rejected", "cancelled", "expired"];

/// splitmix64: the same seed draws the same numbers for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn tear(path: &Path, random: &mut Random) -> String {
    let len = fs::metadata(path).unwrap().len();
    let (at, kind) = (random.below(len), random.below(4));
    let noise: Vec<u8> = (0..4096).map(|_| random.below(256) as u8).collect();
    let mut file = fs::File::options().write(true).open(path).unwrap();
    let mut overwrite = |at: u64, bytes: &[u8]| {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&bytes[..bytes.len().min((len - at) as usize)]).unwrap();
    };
    match kind {
        0 => file.set_len(at).unwrap(),
        1 => file.set_len(0).unwrap(),
        2 => overwrite(at / 4096 * 4096, &[0; 4096]),
        _ => overwrite(at / 512 * 512, &noise),
    }
    format!("{} ({len} bytes): {kind} at {at}", path.display())
}

fn is_online(agent: &Agent) {
    wait_for("the agent connected", SOON, || {
        let status = agent.status()?;
        (status["status"]["connection"] == "connected").then_some(())
    });
}

#[test]
fn an_agent_whose_files_are_torn_between_its_runs_says_so_goes_on_and_does_nothing_twice() {
    let (rounds, seed) = (number("FLEET_TEST_TORN_ROUNDS", ROUNDS), number("FLEET_TEST_SEED", 7));
    let mut random = Random(seed);
    let (server, machine) = (Server::start(), Machine::new());
    machine.script("quick", "");
    machine.script("slow", "sleep 1");
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    is_online(&agent);
    let api = server.api();
    let mut commands = BTreeSet::new();
    let mut told = 0;
    for round in 0..rounds {
        for script in ["quick", "slow"] {
            let request = json!({"type": "custom", "payload": {"script": script, "args": [format!("round-{round}-{script}.")]}});
            commands
                .insert((format!("{script} round-{round}-{script}."), api.command("studio-001", &request)));
        }
        // In the middle of an effect, or not.
        std::thread::sleep(Duration::from_millis(random.below(2500)));
        if random.below(3) == 0 {
            assert!(agent.stop().success());
        } else {
            agent.kill();
        }
        let mut all = files(&agent.state_dir());
        // What was set aside is for people to look at.
        all.retain(|path| !path.to_string_lossy().contains("/damaged-"));
        all.extend(files(&agent.config_file().with_file_name("run")));
        let database: Vec<PathBuf> =
            all.iter().filter(|path| path.parent().unwrap().ends_with("db")).cloned().collect();
        let mut torn = Vec::new();
        for _ in 0..1 + random.below(2) {
            let from = if random.below(2) == 0 { &database } else { &all };
            torn.push(tear(&from[random.below(from.len() as u64) as usize], &mut random));
        }
        eprintln!("FLEET_TEST_SEED={seed}, round {round}: {torn:?}");
        agent.start();
        is_online(&agent);
        let status = agent.status().unwrap();
        if let Some(damage) = status["status"]["state_damage"].as_str() {
            told += 1;
            assert!(agent.log().contains(damage), "{damage}");
            let output = agent.run(&["status"], "");
            assert!(String::from_utf8_lossy(&output.stdout).contains("State folder"), "{output:?}");
        }
        let ping = api.command("studio-001", &json!({"type": "ping"}));
        let done = api.wait_for_command(&ping, ENDED, SOON);
        assert_eq!(done["status"], "completed", "{torn:?}: {done:#}");
        let record = agent.wait_for_record_past(0);
        agent.wait_for_record_past(record);
    }
    for (effect, id) in &commands {
        let done = api.wait_for_command(id, ENDED, SOON);
        let count = machine.count(effect);
        assert!(count <= 1, "{effect} ran {count} times: {done:#}");
        assert!(done["status"] != "completed" || count == 1, "{effect}: {done:#}");
    }
    assert!(told > 0 || rounds < ROUNDS, "no damage of {rounds} rounds was found");
}

#[test]
fn a_torn_configuration_is_told_with_its_file_and_line() {
    let agent = Agent::unenrolled("studio-001");
    let file = agent.config_file();
    let whole = "# this device\nFLEET_URL=https://fleet.example.com\nDEVICE_ID=studio-001\n";
    let torn: [(&[u8], usize); 4] = [
        (b"FLEET_U", 4),
        (b"DEVICE_TOKEN=0123456789abc", 4),
        (b"APP_UNIT=\"r58", 4),
        (b"LOG_UNITS=a\0\0\0\0\0", 4),
    ];
    for (end, line) in torn {
        fs::write(&file, [whole.as_bytes(), end].concat()).unwrap();
        for command in ["run", "doctor"] {
            let output = agent.run(&[command], "");
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.code(), Some(if command == "run" { 78 } else { 1 }), "{text}");
            assert!(text.contains(&format!("{}, line {line}: ", file.display())), "{text}");
            assert!(!text.contains("0123456789abc"), "{text}");
        }
    }
    fs::write(&file, [whole.as_bytes(), b"LOG_UNITS=\xff\xfe"].concat()).unwrap();
    let output = agent.run(&["run"], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 4: this is not UTF-8"), "{output:?}");
}
