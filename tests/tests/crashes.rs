//! `kill -9` of agent or server at any moment loses nothing and doubles nothing.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use end_to_end::{Agent, Server, wait_for};

/// A small generator, so that a failing run can be repeated: its seed is printed and read from `FLEET_TEST_SEED`.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let from_env = std::env::var("FLEET_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = from_env.unwrap_or_else(|| u64::from(std::process::id()) | 1);
        eprintln!("FLEET_TEST_SEED={seed}");
        Self(seed)
    }

    /// xorshift64 (Marsaglia 2003): any nonzero seed will do.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Everything that the agent ever recorded is committed, and no heartbeat is stored twice.
fn check(server: &Server, agent: &Agent) {
    let api = server.api();
    let device = agent.device();
    let last = *agent.outbox_seqs().last().expect("an agent that has run has records");
    wait_for("everything committed", Duration::from_secs(120), || {
        let committed = api.committed(device);
        agent
            .outbox_seqs()
            .iter()
            .filter(|seq| **seq <= last)
            .all(|seq| committed.contains(seq))
            .then_some(())
    });
    // No number was skipped either: what is committed has no holes.
    let committed = api.committed(device);
    let missing: Vec<u64> = (1..=last).filter(|seq| !committed.contains(seq)).collect();
    assert!(missing.is_empty(), "these numbers were taken and never arrived: {missing:?}");
    let rows = api.heartbeat_seqs(device);
    assert_eq!(
        rows.len(),
        rows.iter().collect::<BTreeSet<_>>().len(),
        "a heartbeat is stored twice: {rows:?}"
    );
    assert_eq!(
        api.get(&format!("/devices/{device}/records"))["items"].as_array().unwrap().len(),
        1,
        "a new state id"
    );
}

#[test]
fn kill_9_of_the_agent_at_any_moment_loses_and_doubles_nothing() {
    let mut random = Random::seeded();
    let server = Server::start();
    let mut agent = Agent::enroll(&server, "studio-001");
    for _ in 0..12 {
        agent.start();
        std::thread::sleep(Duration::from_millis(random.below(2500)));
        agent.kill();
    }
    agent.start();
    let last = agent.outbox_seqs().last().copied().unwrap_or(0);
    agent.wait_for_record_past(last + 2);
    check(&server, &agent);
}

#[test]
fn kill_9_of_the_server_at_any_moment_loses_and_doubles_nothing() {
    let mut random = Random::seeded();
    let mut server = Server::start();
    let mut agent = Agent::enroll(&server, "studio-001");
    agent.start();
    agent.wait_for_record_past(1);
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(random.below(3000)));
        server.kill();
        std::thread::sleep(Duration::from_millis(random.below(500)));
        server.start_again();
    }
    let last = *agent.outbox_seqs().last().unwrap();
    agent.wait_for_record_past(last + 2);
    check(&server, &agent);
}

#[test]
fn an_older_copy_of_the_agents_state_makes_a_new_state_id_and_loses_nothing_new() {
    let server = Server::start();
    let mut agent = Agent::enroll(&server, "studio-001");
    agent.start();
    let first = agent.wait_for_record_past(2);
    assert!(agent.stop().success());
    let copy = std::fs::read(agent.state_file()).unwrap();
    agent.start();
    let later = agent.wait_for_record_past(first + 4);
    let api = server.api();
    wait_for("everything committed", Duration::from_secs(60), || {
        api.committed("studio-001").contains(&later).then_some(())
    });
    assert!(agent.stop().success());

    // An image from yesterday is written back: its numbers would be used twice.
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", agent.state_file().display()));
    }
    std::fs::write(agent.state_file(), copy).unwrap();
    agent.start();
    wait_for("second state id with records", Duration::from_secs(60), || {
        let records = api.get("/devices/studio-001/records");
        let items = records["items"].as_array().unwrap();
        (items.len() == 2 && items.iter().all(|i| !i["committed"].as_array().unwrap().is_empty()))
            .then_some(())
    });
}

#[test]
fn a_state_file_cut_in_half_is_set_aside_and_the_agent_goes_on_with_a_new_state_id() {
    let server = Server::start();
    let mut agent = Agent::enroll(&server, "studio-001");
    agent.start();
    agent.wait_for_record_past(3);
    assert!(agent.stop().success());
    let whole = std::fs::read(agent.state_file()).unwrap();
    std::fs::write(agent.state_file(), &whole[..whole.len() / 2]).unwrap();
    agent.start();
    let api = server.api();
    wait_for("second state id with records", Duration::from_secs(60), || {
        let records = api.get("/devices/studio-001/records");
        let items = records["items"].as_array().unwrap();
        (items.len() == 2 && items.iter().all(|i| !i["committed"].as_array().unwrap().is_empty()))
            .then_some(())
    });
    assert!(agent.log().contains("set aside"), "the log says what happened");
}
