//! `docs/mqtt-conformance.md` against the standards' lists of statements and against the tests that there are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// The numbered statements of MQTT 3.1.1: section, first and last number.
const V3_1_1: &str = "\
    1.5.3-1..3 2.2.2-1..2 2.3.1-1..7 3.1.0-1..2 3.1.2-1..24 3.1.3-1..11 3.1.4-1..5 3.2.0-1..1 3.2.2-1..6 \
    3.3.1-1..12 3.3.2-1..3 3.3.4-1..1 3.3.5-1..2 3.6.1-1..1 3.8.1-1..1 3.8.3-1..4 3.8.4-1..6 3.9.3-1..2 \
    3.10.1-1..1 3.10.3-1..2 3.10.4-1..6 3.12.4-1..1 3.14.1-1..1 3.14.4-1..3 4.1.0-1..2 4.3.1-1..1 4.3.2-1..2 \
    4.3.3-1..2 4.4.0-1..1 4.5.0-1..2 4.6.0-1..6 4.7.1-1..3 4.7.2-1..1 4.7.3-1..4 4.8.0-1..2 6.0.0-1..4 \
    7.0.0-1..2 7.1.1-1..1 7.1.2-1..1";

/// The numbered statements of MQTT 5, likewise.
const V5: &str = "\
    1.5.4-1..3 1.5.5-1..1 1.5.7-1..1 2.1.3-1..1 2.2.1-2..6 2.2.2-1..1 3.1.0-1..2 3.1.2-1..30 3.1.3-1..12 \
    3.1.4-1..6 3.2.0-1..2 3.2.2-1..22 3.3.1-1..13 3.3.2-1..20 3.3.4-1..10 3.4.2-1..3 3.5.2-1..3 3.6.1-1..1 \
    3.6.2-1..3 3.7.2-1..3 3.8.1-1..1 3.8.3-1..5 3.8.4-1..8 3.9.2-1..2 3.9.3-1..2 3.10.1-1..1 3.10.3-1..2 \
    3.10.4-1..6 3.11.2-1..2 3.11.3-1..2 3.12.4-1..1 3.14.0-1..1 3.14.1-1..1 3.14.2-1..4 3.14.4-1..3 \
    3.15.1-1..1 3.15.2-1..3 4.1.0-1..2 4.2.0-1..1 4.3.1-1..1 4.3.2-1..5 4.3.3-1..13 4.4.0-1..2 4.5.0-1..2 \
    4.6.0-1..6 4.7.0-1..1 4.7.1-1..2 4.7.2-1..1 4.7.3-1..4 4.8.2-1..6 4.9.0-1..3 4.12.0-1..7 4.12.1-1..2 \
    4.13.1-1..1 4.13.2-1..1 6.0.0-1..4";

fn statements(ranges: &str) -> Vec<String> {
    let of_range = |range: &str| {
        let (section, numbers) = range.split_once('-').unwrap();
        let (first, last) = numbers.split_once("..").unwrap();
        let (first, last): (u32, u32) = (first.parse().unwrap(), last.parse().unwrap());
        (first..=last).map(|number| format!("{section}-{number}")).collect::<Vec<_>>()
    };
    ranges.split_whitespace().flat_map(of_range).collect()
}

/// One row: the statement's number, how it stands, the text beside it, the tests.
struct Row {
    statement: String,
    verdict: String,
    text: String,
    tests: Vec<String>,
}

/// The rows below a heading.
fn rows(page: &str, heading: &str) -> Vec<Row> {
    let section = page.split("\n## ").find(|part| part.starts_with(&format!("{heading}\n"))).unwrap();
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    let lines = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| statement"));
    lines
        .map(|line| {
            let cells: Vec<String> = cells(line);
            let [statement, verdict, text] =
                cells.try_into().unwrap_or_else(|_| panic!("three cells: {line}"));
            let tests = text.split('`').filter(|quoted| quoted.contains("::")).map(str::to_owned).collect();
            Row { statement, verdict, text, tests }
        })
        .collect()
}

/// The names of the tests in this binary.
fn tests_here() -> Vec<String> {
    let exe = std::env::current_exe().unwrap();
    let listed = Command::new(exe).args(["--list", "--format", "terse"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// The statement that a test's name begins with.
fn statement_of(test: &str) -> Option<String> {
    let (_, name) = test.rsplit_once("::")?;
    let mut parts = name.strip_prefix("mqtt_")?.splitn(5, '_');
    let mut number = || parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    Some(format!("{}.{}.{}-{}", number()?, number()?, number()?, number()?))
}

/// True if `gate::module::name` is a test beside these.
fn is_gate_test(test: &str) -> bool {
    let [_, module, name] = test.split("::").collect::<Vec<_>>()[..] else { return false };
    let source = manifest_dir().join(format!("tests/gate/{module}.rs"));
    std::fs::read_to_string(source).is_ok_and(|text| text.contains(&format!("#[test]\nfn {name}()")))
}

fn manifest_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_table_names_every_statement_once_and_every_test() {
    let page = std::fs::read_to_string(manifest_dir().join("../docs/mqtt-conformance.md")).unwrap();
    let tests = tests_here();
    for (heading, module, ranges, count) in [("MQTT 3.1.1", "v3_1_1", V3_1_1, 141), ("MQTT 5", "v5", V5, 251)]
    {
        let statements = statements(ranges);
        assert_eq!(statements.len(), count, "{heading}");
        let rows = rows(&page, heading);
        let listed: Vec<&String> = rows.iter().map(|row| &row.statement).collect();
        assert_eq!(listed, statements.iter().collect::<Vec<_>>(), "each once and in order, {heading}");

        let mut named: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for row in &rows {
            let what = format!("{heading}, {}", row.statement);
            match row.verdict.as_str() {
                "kept" | "differs" => assert!(!row.tests.is_empty(), "{what}: no test"),
                "client" | "not here" => assert!(!row.text.is_empty(), "{what}: no reason"),
                other => panic!("{what}: {other}"),
            }
            for test in &row.tests {
                let full = format!("{module}::{test}");
                let exists =
                    if test.starts_with("gate::") { is_gate_test(test) } else { tests.contains(&full) };
                assert!(exists, "{what}: there is no test {test}");
                named.entry(full).or_default().push(&row.statement);
            }
        }
        for test in tests.iter().filter(|test| test.starts_with(&format!("{module}::"))) {
            let statement = statement_of(test).unwrap_or_else(|| panic!("{test} has no statement's number"));
            let rows = named.get(test).map_or(&[][..], Vec::as_slice);
            assert!(rows.contains(&statement.as_str()), "{heading}, {statement} does not name {test}");
        }
    }
}
