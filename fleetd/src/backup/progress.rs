//! How far it is, for somebody who watches a terminal.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// How often the line is drawn anew.
const EVERY: Duration = Duration::from_millis(200);
/// Characters between the brackets.
const WIDTH: usize = 30;

/// A line on standard error, if that is a terminal; nothing elsewhere.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    drawn: Option<(&'static str, Instant)>,
}

impl Progress {
    /// On standard error.
    #[must_use]
    pub fn stderr() -> Self {
        Self { shown: io::stderr().is_terminal(), drawn: None }
    }

    /// Shows nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { shown: false, drawn: None }
    }

    /// `done` of `all` (in whatever unit) of what `doing` names.
    pub fn at(&mut self, doing: &'static str, done: u64, all: u64) {
        let again = self.drawn.is_some_and(|(what, when)| what == doing && when.elapsed() < EVERY);
        if !self.shown || (again && done < all) {
            return;
        }
        self.drawn = Some((doing, Instant::now()));
        let line = line(doing, done, all);
        // Whoever cannot see it does not miss it.
        let _ = write!(io::stderr(), "\r{line}\x1b[K");
        let _ = io::stderr().flush();
    }

    /// Takes the line away.
    pub fn end(&mut self) {
        if self.drawn.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn line(doing: &str, done: u64, all: u64) -> String {
    let part = |of: u64| u128::from(of) * u128::from(done.min(all)) / u128::from(all.max(1));
    // At most WIDTH, at most 100.
    let filled = usize::try_from(part(WIDTH as u64)).unwrap_or(0);
    format!("{doing:<10} [{}{}] {:>3} %", "#".repeat(filled), "-".repeat(WIDTH - filled), part(100))
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn the_line_is_of_one_width_from_nothing_to_all() {
        assert_eq!(line("copying", 0, 0), format!("copying    [{}]   0 %", "-".repeat(30)));
        assert_eq!(line("copying", 1, 2), format!("copying    [{}{}]  50 %", "#".repeat(15), "-".repeat(15)));
        assert_eq!(line("copying", 9, 3), format!("copying    [{}] 100 %", "#".repeat(30)));
    }
}
