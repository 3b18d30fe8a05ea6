//! `doctor`.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use super::{FAILED, say};
use crate::doctor::{self, Section, Style, Watcher};

/// Shows sections as they come, and what is looked at meanwhile.
struct Screen {
    style: Style,
    json: bool,
    /// Whether standard error is a terminal on which a line may come and go.
    is_terminal: bool,
}

impl Screen {
    fn wipe(&self) {
        if self.is_terminal {
            eprint!("\r\u{1b}[K");
        }
    }
}

impl Watcher for Screen {
    fn begins(&mut self, what: &str) {
        if self.is_terminal {
            // As much as fits into one line of most terminals.
            let what: String = what.chars().filter(|c| !c.is_control()).take(60).collect();
            eprint!("\r\u{1b}[KLooking at {what} …");
            let _ = std::io::stderr().flush();
        }
    }

    fn has(&mut self, section: &Section) {
        self.wipe();
        if !self.json {
            say(&format!("{}\n", doctor::section_text(section, self.style)));
        }
    }
}

pub(super) fn run(config_file: Option<&Path>, json: bool) -> ExitCode {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut screen = Screen { style: Style { colour }, json, is_terminal: std::io::stderr().is_terminal() };
    let report = doctor::run(config_file, &mut screen);
    screen.wipe();
    if json {
        // Proof: text, numbers and names only; such a value always has a JSON form.
        say(&format!("{:#}\n", serde_json::to_value(&report).unwrap_or_default()));
    } else {
        say(&doctor::advice_text(&report));
    }
    if report.ok { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}
