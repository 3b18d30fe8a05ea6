//! The documents tell of files and functions that are there.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Everything between single backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

const CRATES: [&str; 4] = ["protocol/src", "broker/src", "agent/src", "fleetd/src"];

#[test]
fn every_file_that_the_architecture_names_is_there() {
    let text = read("ARCHITECTURE.md");
    let is_path = |name: &&str| name.ends_with(".rs") || name.ends_with(".md") || name.ends_with('/');
    for name in quoted(&text).into_iter().filter(is_path) {
        let known = |folder: &str| root().join(folder).join(name).exists();
        assert!(known("") || CRATES.into_iter().chain(["protocol"]).any(known), "{name} is not there");
    }
}

#[test]
fn every_function_that_the_architecture_names_is_there() {
    let mut files = Vec::new();
    CRATES.iter().for_each(|folder| sources(&root().join(folder), &mut files));
    let code: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let text = read("ARCHITECTURE.md");
    let mut checked = 0;
    let walks = text.split("\n## One ").skip(1).map(|rest| rest.split("\n## ").next().unwrap());
    for name in walks.flat_map(quoted).filter(|name| name.contains("::") || name.ends_with("()")) {
        let last = name.trim_end_matches("()").rsplit("::").next().unwrap();
        let is_function = last.starts_with(|c: char| c.is_ascii_lowercase());
        let found = if is_function { code.contains(&format!("fn {last}")) } else { code.contains(last) };
        assert!(found, "{name} is not in the code");
        checked += 1;
    }
    assert!(checked > 20, "the walk names functions");
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "docs/protocol.md",
        "docs/api.md",
        "docs/broker.md",
        "docs/install-agent.md",
        "docs/commands.md",
        "docs/audit.md",
        "docs/backup.md",
        "docs/bench.md",
        "docs/testing.md",
        "docs/troubleshooting.md",
    ] {
        let text = read(document);
        let folder = root().join(document).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            assert!(target.starts_with("http") || folder.join(file).exists(), "{document}: {target}");
        }
    }
}

#[test]
fn the_readmes_commands_are_in_the_makefile() {
    let makefile = read("Makefile");
    for line in read("README.md").lines().filter_map(|line| line.trim().strip_prefix("make ")) {
        let target = line.split_whitespace().next().unwrap();
        assert!(makefile.contains(&format!("\n{target}:")), "make {target}");
    }
}
