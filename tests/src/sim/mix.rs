//! Kinds of worlds: what goes wrong how often.

/// How often what goes wrong. Permille are of the occasions named; weights are those of a step.
#[derive(Debug)]
pub struct Mix {
    /// For people.
    pub name: &'static str,
    /// A packet is lost.
    pub(crate) loss_permille: u64,
    /// A packet comes twice.
    pub(crate) repeat_permille: u64,
    /// A packet overtakes others.
    pub(crate) overtake_permille: u64,
    /// Something happens at a write of a device.
    pub(crate) write_fails_permille: u64,
    /// Something happens at a commit of the server.
    pub(crate) commit_fails_permille: u64,
    /// Connections and lines break.
    pub(crate) breaks: u64,
    /// Agents, machines and servers die.
    pub(crate) deaths: u64,
    /// Copies are put back and states lost.
    pub(crate) restores: u64,
    /// The application begins and ends shows, people set locks.
    pub(crate) shows: u64,
    /// People ask for commands.
    pub(crate) commands: u64,
    /// Sensors and logs.
    pub(crate) records: u64,
    /// Time passes in long spans.
    pub(crate) long_waits_permille: u64,
    /// Room for records on a device, in bytes.
    pub(crate) budget_bytes: u64,
}

const BASE: Mix = Mix {
    name: "",
    loss_permille: 50,
    repeat_permille: 50,
    overtake_permille: 100,
    write_fails_permille: 10,
    commit_fails_permille: 10,
    breaks: 15,
    deaths: 6,
    restores: 0,
    shows: 30,
    commands: 60,
    records: 60,
    long_waits_permille: 12,
    budget_bytes: 200_000,
};

/// The kinds. Each finds what the others do not come to.
pub static MIXES: [Mix; 5] = [
    Mix {
        name: "bad line",
        loss_permille: 450,
        repeat_permille: 250,
        overtake_permille: 600,
        breaks: 20,
        deaths: 3,
        shows: 50,
        long_waits_permille: 8,
        ..BASE
    },
    Mix {
        name: "power cuts",
        write_fails_permille: 30,
        commit_fails_permille: 30,
        deaths: 25,
        long_waits_permille: 5,
        ..BASE
    },
    Mix { name: "old copies", restores: 6, deaths: 6, loss_permille: 350, overtake_permille: 600, ..BASE },
    Mix {
        name: "small disk",
        overtake_permille: 300,
        records: 400,
        breaks: 40,
        budget_bytes: 7_000,
        restores: 8,
        ..BASE
    },
    // Devices are mostly at rest, so that commands are created as sent.
    Mix {
        name: "good line",
        loss_permille: 5,
        repeat_permille: 10,
        overtake_permille: 10,
        commit_fails_permille: 60,
        breaks: 4,
        deaths: 4,
        restores: 6,
        shows: 3,
        commands: 20,
        records: 20,
        ..BASE
    },
];
