//! The two layers, with a small raw type. The programs' own configs test the rest.

#![allow(clippy::unwrap_used)]

use serde::Deserialize;

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    path: Option<String>,
    password: Option<String>,
    nested: Nested,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Nested {
    number: Option<u64>,
    switch: Option<bool>,
}

const KEYS: &[Key] = &[
    key("X_PATH", "path", Kind::TrimmedText),
    key("X_PASSWORD", "password", Kind::Text),
    key("X_NUMBER", "nested.number", Kind::Number),
    key("X_SWITCH", "nested.switch", Kind::Switch),
];

fn resolve(text: &str, bad_text: BadText, variable: &str, value: &str) -> Result<Raw, String> {
    let environment = |name: &str| (name == variable).then(|| value.to_owned());
    parse(Path::new("/etc/x.toml"), text, KEYS, bad_text, environment).map_err(|error| error.to_string())
}

#[test]
fn spaces_around_a_variable_are_kept_where_they_may_belong_to_a_password() {
    let path = resolve("", BadText::Hidden, "X_PATH", " /x y ").unwrap();
    assert_eq!(path.path.as_deref(), Some("/x y"));
    let password = resolve("", BadText::Hidden, "X_PASSWORD", " correct horse ").unwrap();
    assert_eq!(password.password.as_deref(), Some(" correct horse "));
}

#[test]
fn a_variable_sets_its_key_in_a_table_and_leaves_the_rest_of_the_table() {
    let raw = resolve("[nested]\nnumber = 1\nswitch = true\n", BadText::Hidden, "X_NUMBER", " 2 ").unwrap();
    assert_eq!(raw.nested, Nested { number: Some(2), switch: Some(true) });
}

#[test]
fn a_text_that_is_no_number_or_switch_is_shown_only_if_the_program_allows_it() {
    for (variable, shown, hidden) in [
        ("X_NUMBER", "\"hunter2\" is not a whole number", "expected a whole number"),
        ("X_SWITCH", "\"hunter2\" is neither 1 nor 0", "expected 1 or 0"),
    ] {
        let error = |bad_text| resolve("", bad_text, variable, "hunter2").unwrap_err();
        assert_eq!(error(BadText::Shown), format!("environment variable {variable}: {shown}"));
        assert_eq!(error(BadText::Hidden), format!("environment variable {variable}: {hidden}"));
    }
}

#[test]
fn a_file_with_a_byte_too_many_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    let most = usize::try_from(MAX_BYTES).unwrap();
    std::fs::write(&path, "#".repeat(most)).unwrap();
    assert_eq!(read(&path, true).unwrap().len(), most);
    std::fs::write(&path, "#".repeat(most + 1)).unwrap();
    let error = read(&path, true).unwrap_err().to_string();
    assert!(error.starts_with(path.to_str().unwrap()) && error.contains("262144"), "{error}");
}
