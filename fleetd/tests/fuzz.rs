//! A bounded, repeatable run of the fuzzing harness: the seeds, and what a generator makes of them.
//!
//! `FLEET_FUZZ_SEED` repeats a run or makes another, `FLEET_FUZZ_INPUTS` (1000 of each kind) a longer one.

#![allow(clippy::unwrap_used)]

#[path = "../fuzz/harness.rs"]
mod harness;

use std::path::Path;

use harness::Harness;

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    /// One of the seeds, damaged in some places, sometimes with the rest of another.
    fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        if self.below(4) == 0 {
            let other = &seeds[self.below(seeds.len())];
            input.truncate(self.below(input.len() + 1));
            input.extend_from_slice(&other[self.below(other.len() + 1)..]);
        }
        for _ in 0..self.below(5) {
            let at = self.below(input.len() + 1);
            let byte = self.next().to_le_bytes()[0];
            match self.below(4) {
                0 if at < input.len() => input[at] = byte,
                1 if at < input.len() => drop(input.remove(at)),
                2 => input.insert(at, b"\0\xff\"{}[]:,%&=?/ \r\n-9e"[self.below(20)]),
                _ => input.insert(at, byte),
            }
        }
        input
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The seeds of a kind, with their names.
fn seeds(kind: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(kind);
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Runs the seeds of a kind, then inputs that are made of them.
fn run(kind: &str, mut one: impl FnMut(&[u8])) {
    let seeds: Vec<_> = seeds(kind).into_iter().map(|(_, seed)| seed).collect();
    seeds.iter().for_each(|seed| one(seed));
    let seed = setting("FLEET_FUZZ_SEED", 1);
    let mut random = Random(seed);
    for number in 0..setting("FLEET_FUZZ_INPUTS", 1000) {
        let input = random.input(&seeds);
        let shown =
            || format!("input {number} of FLEET_FUZZ_SEED={seed}: {:?}", String::from_utf8_lossy(&input));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one(&input)));
        assert!(outcome.is_ok(), "{}", shown());
    }
}

#[test]
fn no_connection_makes_the_server_fail() {
    let mut harness = Harness::new();
    run("request", |input| drop(harness.request(input)));
}

#[test]
fn the_seeds_of_connections_are_answered_as_good_requests() {
    let mut harness = Harness::patient();
    let refused: Vec<_> = seeds("request")
        .into_iter()
        .filter_map(|(name, seed)| {
            let said = String::from_utf8_lossy(&harness.request(&seed)).into_owned();
            let status = said.get(9..12).unwrap_or("nothing").to_owned();
            (!status.starts_with('2') && status != "304").then(|| format!("{name} {status}"))
        })
        .collect();
    let wanted = [
        "expect 100",
        "goes-away nothing",
        "http2 nothing",
        "login 401",
        "odd-path 404",
        "preflight 405",
        "refresh 401",
        "upgrade 410",
    ];
    assert_eq!(refused, wanted);
}

#[test]
fn no_credential_lets_in_whoever_has_none() {
    let mut harness = Harness::new();
    run("credential", |input| harness.credential(input));
}

#[test]
fn no_reader_takes_a_body_that_the_document_does_not_allow() {
    run("body", harness::body);
}
