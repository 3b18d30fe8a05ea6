//! The tables of who may do what, as text.

use std::collections::BTreeMap;

/// A line of a table.
#[derive(Debug, Clone)]
pub struct Row {
    /// The columns before those of the callers.
    pub keys: Vec<String>,
    /// What is expected of each caller.
    pub cells: BTreeMap<String, String>,
}

/// The callers in the order of the columns, and the rows. `keys`: how many columns come before the callers.
#[track_caller]
pub fn read(text: &str, keys: usize) -> (Vec<String>, Vec<Row>) {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let callers = words(lines.next().unwrap()).split_off(keys);
    let rows = lines.map(|line| {
        let mut keys_of_row = words(line);
        assert_eq!(keys_of_row.len(), keys + callers.len(), "a cell is missing or one too many: {line}");
        let cells = keys_of_row.split_off(keys);
        Row { keys: keys_of_row, cells: callers.iter().cloned().zip(cells).collect() }
    });
    let rows = rows.collect();
    (callers, rows)
}

/// What does not go with the table, one line each.
#[derive(Default)]
pub struct Differences(Vec<String>);

impl Differences {
    pub fn note(&mut self, row: &Row, caller: &str, expected: &str, found: &str) {
        self.0
            .push(format!("{}\n    {caller}: the table says {expected}, found {found}", row.keys.join(" ")));
    }

    /// Fails with all of them.
    #[track_caller]
    pub fn none(self, table: &str) {
        let count = self.0.len();
        assert!(count == 0, "{count} cells of {table} differ:\n{}", self.0.join("\n"));
    }
}
