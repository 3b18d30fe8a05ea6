#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::*;

const TOKEN: &str = "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef";

fn from_text(text: &str) -> Result<Config, ConfigError> {
    Config::from_parts(Some((Path::new("/etc/fleet.conf"), text)), &[], "box-7")
}

fn error_of(text: &str) -> String {
    from_text(text).unwrap_err().to_string()
}

fn raw(text: &str) -> Vec<(String, String)> {
    let (entries, bad) = lines::parse(text);
    assert_eq!(bad, []);
    entries.into_iter().map(|entry| (entry.key.to_owned(), entry.value)).collect()
}

#[test]
fn without_any_setting_the_documented_defaults_hold() {
    let config = Config::from_parts(None, &[], "Studio.local").unwrap();
    assert!(config.enabled && config.warnings.is_empty() && !config.is_enrolled());
    assert_eq!((config.org.as_str(), config.device_id.as_str()), ("default", "r58-studio-local"));
    assert_eq!((config.heartbeat_interval_seconds, config.command_poll_interval_seconds), (60, 30));
    let url = config.app_status_url.unwrap().to_string();
    assert_eq!(url, "http://localhost:8000/api/v1/sessions/status");
    assert_eq!(config.app_unit.full(), "r58-api.service");
    let services: Vec<_> = config.allowed_services.iter().map(UnitName::as_str).collect();
    assert_eq!(services, ["r58-api", "r58-fleet-agent", "mediamtx", "vdoninja"]);
    assert_eq!(config.allowed_config_keys, ["HEARTBEAT_INTERVAL", "COMMAND_POLL_INTERVAL", "R58_DEBUG"]);
    assert_eq!(config.state_dir, Path::new("/var/lib/r58-fleet-agent"));
    assert_eq!(config.scripts_dir, Path::new("/opt/r58-app/scripts/custom"));
    assert!(config.log_units.is_empty() && config.recordings_dir.is_none());
}

#[test]
fn the_example_file_is_read_without_a_word_and_explains_every_key() {
    let plain = from_text(EXAMPLE).unwrap();
    assert_eq!(plain.warnings, Vec::<String>::new());
    for key in Key::ALL {
        assert!(EXAMPLE.contains(&format!("\n#{}=", key.name())), "{} is not in the example", key.name());
    }
    // With every example switched on it still reads, so the examples and defaults in it are right.
    let on: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if Key::ALL.iter().any(|key| rest.starts_with(&format!("{}=", key.name()))) => rest,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let on = from_text(&on).unwrap();
    assert_eq!(on.device_id.as_str(), "studio-001");
    assert_eq!(on.allowed_services, plain.allowed_services);
    assert_eq!(on.allowed_config_keys, plain.allowed_config_keys);
    assert_eq!(on.app_status_url, plain.app_status_url);
    assert_eq!(
        (on.app_dir, on.scripts_dir, on.state_dir),
        (plain.app_dir, plain.scripts_dir, plain.state_dir)
    );
}

#[test]
fn quotes_comments_windows_line_ends_and_a_byte_order_mark_are_understood() {
    let text = "\u{feff}# head\r\nA = one two  # comment\r\n  export B='x # \"y\"'  # c\r\n; old\r\n\r\nC=\"a\\\"b\\\\c\\$d\\n\"\r\nD=\r\nE=a#b\r\nF=#c";
    let expected =
        [("A", "one two"), ("B", "x # \"y\""), ("C", "a\"b\\c$d\\n"), ("D", ""), ("E", "a#b"), ("F", "")];
    assert_eq!(raw(text), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn a_wrong_value_names_file_line_key_and_what_is_expected() {
    let error = error_of("# one\nHEARTBEAT_INTERVAL=soon\n");
    assert_eq!(
        error,
        "/etc/fleet.conf, line 2: HEARTBEAT_INTERVAL is \"soon\"; expected a whole number of seconds, 1 or more"
    );
    let bad = [
        ("FLEET_ENABLED=maybe", "true or false"),
        ("FLEET_ENABLED=", "is empty"),
        ("HEARTBEAT_INTERVAL=0", "1 or more"),
        ("HEARTBEAT_INTERVAL=-5", "1 or more"),
        ("HEARTBEAT_INTERVAL=99999999999999", "1 or more"),
        ("FLEET_URL=fleet.example.com", "does not start with http:// or https://"),
        ("FLEET_URL=https://a:b@fleet.example.com", "credentials never go into an address"),
        ("MQTT_URL=https://fleet.example.com", "mqtts://"),
        ("MQTT_URL=mqtt://h:70000", "port"),
        ("FLEET_ORG=server", "reserved"),
        ("DEVICE_ID=Studio+1", "contains 'S'"),
        ("DEVICE_ID=a/b", "contains '/'"),
        ("STATE_DIR=var/lib", "an absolute path"),
        ("STATE_DIR=", "is empty"),
        ("APP_UNIT=--now", "systemd unit"),
        ("ALLOWED_SERVICES=a,b c", "separated by commas"),
        ("ALLOWED_CONFIG_KEYS=A-B", "names of keys"),
        ("APP_STATUS_FIELDS=mood=x", "a list like"),
        ("APP_STATUS_FIELDS=live_values=a|b,idle_values=b", "a list like"),
        ("CLIENT_CERT=/c.pem", "its partner is missing"),
        ("JUST WORDS", "neither KEY=VALUE nor a comment"),
        ("1A=x", "a key has"),
        ("A=\"x", "opened and not closed"),
        ("A='x' y", "after the closing quote"),
        ("A=x\u{7}", "control character"),
    ];
    for (text, part) in bad {
        let error = error_of(text);
        assert!(error.starts_with("/etc/fleet.conf, line 1: ") && error.contains(part), "{text}: {error}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let error = error_of("HEARTBEAT_INTERVAL=x\nnonsense\nAPP_DIR=here\n");
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn a_wrong_token_is_an_error_that_does_not_show_it() {
    let error = error_of("DEVICE_TOKEN=hunter2-secret");
    assert!(error.contains("DEVICE_TOKEN is 14 characters of something else"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let config = from_text(&format!("DEVICE_TOKEN={TOKEN}")).unwrap();
    assert!(!format!("{config:?}").contains("0123456789"));
    assert_eq!(config.device_token.unwrap().expose(), TOKEN);
}

#[test]
fn the_environment_overrides_the_file_and_is_named_in_errors() {
    let file = (Path::new("/etc/fleet.conf"), "HEARTBEAT_INTERVAL=x\nDEVICE_ID=a\n");
    let environment = [(Key::HeartbeatInterval, "5".to_owned()), (Key::DeviceToken, TOKEN.to_owned())];
    let config = Config::from_parts(Some(file), &environment, "h").unwrap();
    assert_eq!((config.heartbeat_interval_seconds, config.device_id.as_str()), (5, "a"));
    assert!(config.token_from_environment);
    let environment = [(Key::StateDir, "x".to_owned())];
    let error = Config::from_parts(None, &environment, "h").unwrap_err().to_string();
    assert!(error.starts_with("environment: STATE_DIR is \"x\""), "{error}");
}

#[test]
fn unknown_keys_and_double_ones_warn_and_the_last_one_counts() {
    let config = from_text("heartbeat_interval=5\nFOO=1\nR58_DEBUG=1\nDEVICE_ID=a\nDEVICE_ID=b\n").unwrap();
    assert_eq!(config.device_id.as_str(), "b");
    assert_eq!(
        config.warnings,
        [
            "/etc/fleet.conf, line 5: DEVICE_ID stood in /etc/fleet.conf, line 4 already; this line counts",
            "/etc/fleet.conf, line 1: unknown key heartbeat_interval; write it HEARTBEAT_INTERVAL",
            "/etc/fleet.conf, line 2: unknown key FOO; it has no effect",
        ]
    );
}

#[test]
fn an_empty_list_means_nothing_is_allowed_and_an_empty_address_that_nobody_is_asked() {
    let config =
        from_text("ALLOWED_SERVICES=\nALLOWED_CONFIG_KEYS=''\nAPP_STATUS_URL=\nDEVICE_ID=\n").unwrap();
    assert!(config.allowed_services.is_empty() && config.allowed_config_keys.is_empty());
    assert_eq!((config.app_status_url, config.device_id.as_str()), (None, "r58-box-7"));
}

#[test]
fn addresses_keep_port_path_and_ipv6_and_lose_what_is_standard() {
    let same = ["https://fleet.example.com", "http://[::1]:8180/fleet?x=1", "http://10.0.0.1"];
    for text in same {
        assert_eq!(text.parse::<HttpUrl>().unwrap().to_string(), text);
    }
    let url: HttpUrl = "HTTPS://Fleet.Example.com:443/base/".parse().unwrap();
    assert_eq!(url.join("/api/v1/connect"), "https://fleet.example.com/base/api/v1/connect");
    let broker: MqttUrl = "wss://f.example/mqtt".parse().unwrap();
    assert_eq!((broker.scheme(), broker.port(), broker.path()), (Scheme::Wss, 443, "/mqtt"));
    for bad in [
        "http://",
        "http://a b",
        "http://ä",
        "http://[::1",
        "http://a:",
        "http://a:0",
        "http://a#b",
        "http://-a",
    ] {
        assert!(bad.parse::<HttpUrl>().is_err(), "{bad}");
    }
    assert!("http://127.0.0.9".parse::<HttpUrl>().unwrap().is_loopback());
    assert!(!"http://127.evil.example".parse::<HttpUrl>().unwrap().is_loopback());
}

#[test]
fn a_changed_key_keeps_its_place_and_comment_and_a_new_one_stands_by_its_example() {
    let text = "# head\r\nexport DEVICE_ID = 'old'  # mine\r\n#FLEET_URL=https://x\r\nFOO=1";
    let changes = [("DEVICE_ID", "new"), ("FLEET_URL", "https://f"), ("R58_NOTE", "it's $5 # \"a\"")];
    let expected = "# head\r\nexport DEVICE_ID = new  # mine\r\n#FLEET_URL=https://x\r\nFLEET_URL=https://f\r\nFOO=1\r\nR58_NOTE=\"it's \\$5 # \\\"a\\\"\"\r\n";
    assert_eq!(set(text, &changes).unwrap(), expected);
    assert_eq!(set("A= # c\n", &[("A", "1")]).unwrap(), "A= 1 # c\n");
    assert_eq!(set("", &[("A", "1")]).unwrap(), "A=1\n");
}

#[test]
fn what_cannot_be_written_safely_is_refused() {
    assert!(matches!(set("oops\n", &[("A", "1")]), Err(EditError::BadLine { line: 1, .. })));
    assert_eq!(set("", &[("A", "1\nB=2")]), Err(EditError::BadValue("A".into())));
    assert_eq!(set("", &[("A=B", "1")]), Err(EditError::BadKey("A=B".into())));
}

#[test]
fn a_file_is_replaced_whole_private_and_through_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().join("real.conf");
    fs::write(&real, "# mine\nDEVICE_ID=a\n").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(folder.path().join("real.conf.new"), "left over").unwrap();
    let link = folder.path().join("fleet.conf");
    symlink(&real, &link).unwrap();
    update_file(&link, "", &[("DEVICE_TOKEN", TOKEN)]).unwrap();
    assert_eq!(fs::read_to_string(&real).unwrap(), format!("# mine\nDEVICE_ID=a\nDEVICE_TOKEN={TOKEN}\n"));
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(link.is_symlink());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_new_file_starts_from_the_example_and_its_folder_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("etc/r58/fleet.conf");
    update_file(&path, EXAMPLE, &[("DEVICE_ID", "studio-9"), ("DEVICE_TOKEN", TOKEN)]).unwrap();
    let config = Config::load(Some(&path)).unwrap();
    assert_eq!((config.device_id.as_str(), config.warnings.len()), ("studio-9", 0));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("#DEVICE_ID=studio-001\nDEVICE_ID=studio-9\n"), "{text}");
}

#[test]
fn a_file_that_cannot_be_used_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let says = |path: &Path, part: &str| {
        let error = Config::load(Some(path)).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(path.to_str().unwrap()), "{error}");
    };
    says(&at("none"), "does not exist; `r58-fleet-agent enroll` makes it");
    says(folder.path(), "cannot read");
    fs::write(at("latin1"), b"A=1\nB=\xe4\n").unwrap();
    says(&at("latin1"), "line 2: this is not UTF-8");
    fs::write(at("huge"), vec![b'#'; 300 * 1024]).unwrap();
    says(&at("huge"), "larger than 256 KiB");
    fs::write(at("locked"), "").unwrap();
    fs::set_permissions(at("locked"), fs::Permissions::from_mode(0o000)).unwrap();
    // root reads everything
    if fs::read(at("locked")).is_err() {
        says(&at("locked"), "run this as root");
    }
}

#[test]
fn a_token_that_others_can_read_gives_a_warning_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.conf");
    fs::write(&path, format!("DEVICE_TOKEN={TOKEN}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = Config::load(Some(&path)).unwrap().warnings;
    assert!(warnings[0].contains("(mode 644); do: chmod 600 "), "{warnings:?}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(Config::load(Some(&path)).unwrap().warnings.is_empty());
}

/// A line that the grammar knows, or has to refuse.
fn any_line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("# comment".to_owned()),
        Just(String::new()),
        Just("#KEY_A=example".to_owned()),
        "(export )?KEY_[A-C] ?= ?[a-z0-9/:#]{0,8}( # [a-z]*)?",
        "KEY_[A-C]='[^'\\r\\n\\x00-\\x1f\\x7f-\\x9f]{0,8}'",
        "OTHER_[A-Z]=[a-z ]{0,6}",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,40}|([A-Z_]{1,20}=\\PC{0,20}[\\r\\n]{0,2}){0,6}", host in "\\PC{0,80}") {
        let _ = Config::from_parts(Some((Path::new("f"), &text)), &[], &host);
        let _ = set(&text, &[("DEVICE_ID", "x")]);
    }

    #[test]
    fn no_bytes_of_a_value_make_the_reader_panic(index in 0..Key::ALL.len(), value in "\\PC{0,60}") {
        let _ = Config::from_parts(None, &[(Key::ALL[index], value)], "h");
    }

    #[test]
    fn every_host_name_gives_an_id_that_fits_the_rule(host in "\\PC{0,100}|[A-Za-z0-9._-]{0,100}") {
        let id = device_id_for_host(&host);
        prop_assert!(id.starts_with("r58-"));
        prop_assert!(DeviceId::new(&id).is_ok(), "{}", id);
    }

    #[test]
    fn a_change_is_read_back_and_every_other_line_stays_byte_for_byte(
        lines_before in prop::collection::vec(any_line(), 0..8),
        windows in any::<bool>(),
        last_line_ends in any::<bool>(),
        value in "[^\\x00-\\x1f\\x7f-\\x9f]{0,16}",
    ) {
        let end = if windows { "\r\n" } else { "\n" };
        let mut before = lines_before.join(end);
        if last_line_ends { before.push_str(end); }
        let after = set(&before, &[("KEY_A", &value)]).unwrap();

        let read_back = lines::parse(&after).0.into_iter().rev().find(|e| e.key == "KEY_A").unwrap();
        prop_assert_eq!(read_back.value, value);

        let had_it = lines::parse(&before).0.iter().any(|e| e.key == "KEY_A");
        let old: Vec<&str> = before.split_inclusive('\n').collect();
        let new: Vec<&str> = after.split_inclusive('\n').collect();
        if had_it {
            let differing = old.iter().zip(&new).filter(|(a, b)| a != b).count();
            prop_assert_eq!(old.len(), new.len());
            prop_assert!(differing <= 1);
        } else {
            // Without the new line the text is the old one, but for a line end that the old last line may have lacked.
            let mut rest = new.clone();
            rest.remove(read_back.line - 1);
            let rest = rest.concat();
            let added = rest.strip_prefix(&before);
            prop_assert!(matches!(added, Some("" | "\n" | "\r\n")), "{:?} {:?}", before, after);
        }
    }
}

#[test]
fn what_is_in_force_has_the_allowed_keys_with_their_defaults_and_never_the_token() {
    let text = format!(
        "ALLOWED_CONFIG_KEYS=HEARTBEAT_INTERVAL,COMMAND_POLL_INTERVAL,R58_DEBUG,DEVICE_TOKEN,UNSET\nR58_DEBUG=off\n\
         R58_DEBUG=Yes\nOTHER=1\nHEARTBEAT_INTERVAL=07\nDEVICE_TOKEN={}\n",
        "ab".repeat(32)
    );
    let config = from_text(&text).unwrap();
    let in_force: Vec<(&str, &str)> =
        config.in_force.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(
        in_force,
        [("COMMAND_POLL_INTERVAL", "30"), ("HEARTBEAT_INTERVAL", "7"), ("R58_DEBUG", "Yes")]
    );
    assert!(config.debug);
}
