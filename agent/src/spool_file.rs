//! For tests: the agent's own record of what it keeps for the server, in a file that outlives its state database.
//!
//! In a debug build `R58_FLEET_TEST_SPOOL_FILE` names a file to which one line is appended after each change of the
//! outbox and each acknowledgement. In a release build this is nothing at all. `STATE` is the state id, `KIND` a number
//! ([`crate::outbox::Kind`]), `BODY` the stored record in hex.
//!
//! | line | after |
//! |---|---|
//! | `O STATE` | the database was opened, or has a new identity; a line `H` for each record in it follows |
//! | `H STATE SEQ KIND BODY` | see `O` |
//! | `S STATE SEQ KIND BODY` | the record was committed |
//! | `G STATE SEQ` | the record was removed, by the commit whose `S` lines precede |
//! | `N STATE` | this identity is about to be given up for a new one; `O` follows when that is committed |
//! | `A STATE LO-HI,…` | an acknowledgement was taken over: these numbers are committed at the server |
//!
//! A process that is killed may not have written the lines of its last change: the next `O` shows how it ended.

/// The environment variable that names the file.
pub const VARIABLE: &str = "R58_FLEET_TEST_SPOOL_FILE";

#[cfg(debug_assertions)]
pub(crate) use on::*;

#[cfg(debug_assertions)]
mod on {
    use std::fmt::Write as _;
    use std::fs::File;
    use std::io::Write as _;
    use std::sync::OnceLock;

    use protocol::id::StateId;
    use protocol::ranges::RangeSet;

    use crate::outbox::{Change, Row};

    fn file() -> Option<&'static File> {
        static FILE: OnceLock<Option<File>> = OnceLock::new();
        FILE.get_or_init(|| {
            let path = std::env::var_os(super::VARIABLE)?;
            match File::options().append(true).create(true).open(&path) {
                Ok(file) => Some(file),
                Err(error) => give_up(&error),
            }
        })
        .as_ref()
    }

    /// Whether a test wants it.
    pub(crate) fn is_on() -> bool {
        file().is_some()
    }

    fn append(text: &str) {
        if let Some(mut file) = file()
            && let Err(error) = file.write_all(text.as_bytes())
        {
            give_up(&error);
        }
    }

    /// A record with holes would prove nothing.
    fn give_up(error: &std::io::Error) -> ! {
        tracing::error!(%error, "the file in {} cannot be written", super::VARIABLE);
        std::process::abort()
    }

    fn line(text: &mut String, what: char, state_id: StateId, row: &Row) {
        // Writing into a text does not fail.
        let _ = write!(text, "{what} {state_id} {} {} ", row.seq, row.kind.number());
        row.body.iter().for_each(|byte| {
            let _ = write!(text, "{byte:02x}");
        });
        text.push('\n');
    }

    /// The database was opened, or has a new identity, with these records.
    pub(crate) fn opened(state_id: StateId, rows: &[Row]) {
        let mut text = format!("O {state_id}\n");
        rows.iter().for_each(|row| line(&mut text, 'H', state_id, row));
        append(&text);
    }

    /// The database has committed a change.
    pub(crate) fn committed(state_id: StateId, change: &Change) {
        let mut text = String::new();
        change.insert.iter().for_each(|row| line(&mut text, 'S', state_id, row));
        for seq in &change.delete {
            let _ = writeln!(text, "G {state_id} {seq}");
        }
        append(&text);
    }

    /// The identity is about to be given up.
    pub(crate) fn renewing(state_id: StateId) {
        append(&format!("N {state_id}\n"));
    }

    /// An acknowledgement was taken over.
    pub(crate) fn acknowledged(state_id: StateId, ranges: &RangeSet) {
        let ranges: Vec<String> = ranges.as_slice().iter().map(|(lo, hi)| format!("{lo}-{hi}")).collect();
        append(&format!("A {state_id} {}\n", ranges.join(",")));
    }
}

#[cfg(not(debug_assertions))]
mod off {
    use protocol::id::StateId;
    use protocol::ranges::RangeSet;

    use crate::outbox::{Change, Row};

    #[inline(always)]
    pub(crate) fn is_on() -> bool {
        false
    }

    #[inline(always)]
    pub(crate) fn opened(_: StateId, _: &[Row]) {}

    #[inline(always)]
    pub(crate) fn committed(_: StateId, _: &Change) {}

    #[inline(always)]
    pub(crate) fn renewing(_: StateId) {}

    #[inline(always)]
    pub(crate) fn acknowledged(_: StateId, _: &RangeSet) {}
}
#[cfg(not(debug_assertions))]
pub(crate) use off::*;
