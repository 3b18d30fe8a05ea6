#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_takes_a_configuration_file_on_either_side() {
    for line in [["--config", "/f", "status"], ["status", "--config", "/f"]] {
        let cli = Cli::try_parse_from(["r58-fleet-agent"].into_iter().chain(line)).unwrap();
        assert_eq!(cli.config, Some(PathBuf::from("/f")));
    }
}

#[test]
fn a_wrong_address_or_id_is_explained_where_it_was_typed() {
    let error =
        |line: &[&str]| Cli::try_parse_from(["r58-fleet-agent"].iter().chain(line)).unwrap_err().to_string();
    let text = error(&["enroll", "fleet.example.com", "--key", "k"]);
    assert!(text.contains("does not start with http:// or https://"), "{text}");
    let text = error(&["enroll", "https://f", "--device-id", "Studio 1"]);
    assert!(text.contains("a name has only a-z"), "{text}");
    assert!(error(&["enroll", "https://f", "--key", "k", "--key-file", "f"]).contains("cannot be used with"));
}

#[test]
fn an_error_is_told_with_its_causes() {
    let inner = std::io::Error::other("inner");
    let outer = crate::status::LookError { folder: "/x".into(), source: inner };
    assert_eq!(with_causes(&outer), "cannot look into /x; run this as root (sudo): inner");
}
