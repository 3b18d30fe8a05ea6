//! The commands that end by themselves.

use crate::process::{Files, fleet_broker, output};
use crate::support::broker::accounts_text;

/// Runs `check`; status and both outputs.
fn check(files: &Files, environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = fleet_broker(&["check", "--config", files.config().to_str().unwrap()]);
    command.envs(environment.iter().copied());
    let done = output(command, "");
    (
        done.status.success(),
        String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap(),
    )
}

#[test]
fn check_accepts_good_files_and_says_what_is_in_them() {
    let files = Files::new(&accounts_text(""));
    let (good, said) = check(&files, &[]);
    assert!(good, "{said}");
    assert!(said.contains("listens on 127.0.0.1:0"), "{said}");
    assert!(said.contains("61 devices, 4 people, 1 services"), "{said}");
    let (good, said) =
        check(&files, &[("FLEET_MQTT_LISTEN", "127.0.0.1:1999"), ("FLEET_ALLOW_PLAINTEXT", "1")]);
    assert!(
        good && said.contains("127.0.0.1:1999") && said.contains("unencrypted connections from everywhere"),
        "{said}"
    );
}

#[test]
fn check_says_what_is_wrong_and_where() {
    let files = Files::new(&accounts_text(""));
    let refused = |expected: &[&str], environment: &[(&str, &str)]| {
        let (good, said) = check(&files, environment);
        assert!(!good, "{said}");
        assert_eq!(said.lines().count(), 1, "one line: {said}");
        assert!(said.starts_with("fleet-broker: "), "{said}");
        for text in expected {
            assert!(said.contains(text), "{said}\nexpected: {text}");
        }
    };
    refused(&["FLEET_MQTT_LISTEN", "invalid socket address"], &[("FLEET_MQTT_LISTEN", "here")]);
    files.set_mode(0o644);
    let path = files.credentials();
    refused(&["mode 644", &format!("chmod 600 {}", path.display())], &[]);
    files.write_credentials("[[device]]\norg = \"acme\"\nid = \"cam 1\"\n");
    refused(&["credentials.toml, line 3, key id", "cam 1"], &[]);
    std::fs::remove_file(&path).unwrap();
    refused(&["credentials.toml", "No such file"], &[]);
    files.write_config("listen = \"127.0.0.1:0\"\n\n[limits]\nhandshake = 3\n");
    refused(&["fleet-broker.toml, line 4, key handshake", "expected one of", "handshake_seconds"], &[]);
    std::fs::remove_file(files.config()).unwrap();
    refused(&["cannot read the config file", "fleet-broker.toml", "No such file"], &[]);
}

#[test]
fn hash_reads_the_secret_from_standard_input_and_prints_its_hash_alone() {
    let hash = |kind: &str, input: &str| {
        let done = output(fleet_broker(&["hash", kind]), input);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.success(), text(done.stdout), text(done.stderr))
    };
    let sha = "4d1566a1d7df42a8517456d60ea06ed284e535cfe4c956aa6ee172dbcdf945f7\n";
    for input in ["example-token\n", "example-token", "example-token\r\n", "example-token\nsecond line\n"] {
        assert_eq!(hash("token", input), (true, sha.to_owned(), String::new()));
    }
    let (good, password, _) = hash("password", "correct horse\n");
    assert!(good && password.starts_with("$argon2id$v=19$"), "{password}");
    assert_ne!(hash("password", "correct horse\n").1, password, "each with a salt of its own");
    for (kind, input, expected) in [
        ("token", "", "no secret on standard input"),
        ("token", "\n", "no secret on standard input"),
        ("password", "short\n", "at least 8 characters"),
        ("token", &"x".repeat(5000), "more than 1024 bytes"),
    ] {
        let (good, stdout, stderr) = hash(kind, input);
        assert!(!good && stdout.is_empty() && stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn completion_and_manual_page_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let done = output(fleet_broker(&["completion", shell]), "");
        assert!(
            done.status.success() && String::from_utf8(done.stdout).unwrap().contains("fleet-broker"),
            "{shell}"
        );
    }
    let done = output(fleet_broker(&["man"]), "");
    let page = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success() && page.starts_with(".ie") || page.contains(".TH fleet-broker"), "{page}");
}

#[test]
fn help_names_every_command_and_a_wrong_one_is_refused() {
    let done = output(fleet_broker(&["--help"]), "");
    let help = String::from_utf8(done.stdout).unwrap();
    for command in ["run", "check", "hash", "completion", "man"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {help}");
    }
    for arguments in [&["start"][..], &[], &["run", "--port", "1"], &["hash", "token", "my-secret-token"]] {
        let done = output(fleet_broker(arguments), "");
        assert_eq!(done.status.code(), Some(2), "{arguments:?}");
        assert!(done.stdout.is_empty());
    }
    let version = output(fleet_broker(&["--version"]), "");
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("fleet-broker "));
}

#[test]
fn the_service_unit_starts_it_with_a_command_that_it_knows() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/deb/fleet-broker.service");
    let unit = std::fs::read_to_string(path).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/fleet-broker")).unwrap();
    let arguments: Vec<&str> = start.split_whitespace().collect();
    assert_eq!(arguments[..1], ["run"]);
    assert!(output(fleet_broker(&[&arguments[..], &["--help"]].concat()), "").status.success());
}
