//! What was looked at and what came of it, as text for a person and as JSON for a program. Pure.

use serde::Serialize;

/// What came of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// There was no point, or no harmless way, of trying it; `seen` says why.
    Skipped,
    /// It works, and somebody should know.
    Warning,
    /// This has to change.
    Failed,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was looked at, in a word: the same word in every version.
    pub name: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// What was seen.
    pub seen: String,
    /// What to do, if there is something to do.
    pub advice: Option<String>,
    /// How long it took, milliseconds, where that says something.
    pub took_ms: Option<u64>,
}

impl Step {
    pub(super) fn new(name: &'static str, outcome: Outcome, seen: impl Into<String>) -> Self {
        Self { name, outcome, seen: clean(&seen.into()), advice: None, took_ms: None }
    }

    pub(super) fn ok(name: &'static str, seen: impl Into<String>) -> Self {
        Self::new(name, Outcome::Ok, seen)
    }

    pub(super) fn skipped(name: &'static str, why: impl Into<String>) -> Self {
        Self::new(name, Outcome::Skipped, why)
    }

    pub(super) fn warning(name: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(name, Outcome::Warning, seen).advised(advice)
    }

    pub(super) fn failed(name: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(name, Outcome::Failed, seen).advised(advice)
    }

    fn advised(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(clean(&advice.into())), ..self }
    }

    pub(super) fn took(self, time: std::time::Duration) -> Self {
        Self { took_ms: Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)), ..self }
    }

    /// Makes a warning of a failure.
    pub(super) fn soften(&mut self) {
        if self.is_failed() {
            self.outcome = Outcome::Warning;
            let advice = self.advice.take().unwrap_or_default();
            self.advice = Some(format!("another way works, so this can wait: {advice}"));
        }
    }

    pub(super) fn is_failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }
}

/// Steps that belong together, in the order in which they were taken: after one that failed, later ones may be skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// `device`, `server`, `link` or `clock`.
    pub kind: &'static str,
    /// The address that was tried, of a server or a link.
    pub address: Option<String>,
    /// The steps.
    pub steps: Vec<Step>,
}

/// Everything that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether no step has failed.
    pub ok: bool,
    /// Version of this program.
    pub agent_version: &'static str,
    /// The device, if the configuration could be read.
    pub device_id: Option<String>,
    /// Its organisation.
    pub org: Option<String>,
    /// What was looked at.
    pub sections: Vec<Section>,
}

/// How the text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// With colours.
    pub colour: bool,
}

impl Style {
    fn paint(self, outcome: Outcome) -> String {
        let (word, code) = match outcome {
            Outcome::Ok => ("ok", "32"),
            Outcome::Skipped => ("skipped", "2"),
            Outcome::Warning => ("warning", "33"),
            Outcome::Failed => ("FAILED", "1;31"),
        };
        if self.colour { format!("\u{1b}[{code}m{word:<8}\u{1b}[0m") } else { format!("{word:<8}") }
    }
}

/// The lines of one section.
#[must_use]
pub fn section_text(section: &Section, style: Style) -> String {
    let title = match (section.kind, &section.address) {
        ("device", _) => "This device".to_owned(),
        ("server", Some(address)) => format!("The server, {address}"),
        ("link", Some(address)) if address.starts_with("http") => format!("Way without MQTT, {address}"),
        ("link", Some(address)) => format!("Way to the broker, {address}"),
        (_, Some(address)) => address.clone(),
        ("clock", None) => "Clock".to_owned(),
        (_, None) => "Ways to the broker".to_owned(),
    };
    let mut text = format!("{title}\n");
    for step in &section.steps {
        let took = step.took_ms.map(|ms| format!(" ({ms} ms)")).unwrap_or_default();
        text.push_str(&format!("  {} {:<14} {}{took}\n", style.paint(step.outcome), step.name, step.seen));
    }
    text
}

/// The end: what to do about what failed, and about what was odd.
#[must_use]
pub fn advice_text(report: &Report) -> String {
    let mut items: Vec<(Outcome, &str, String)> = Vec::new();
    for section in &report.sections {
        for step in &section.steps {
            let Some(advice) = &step.advice else { continue };
            match items.iter_mut().find(|(_, _, known)| known == advice) {
                // Several ways fail for one reason.
                Some((outcome, _, _)) => *outcome = step.outcome.max(*outcome),
                None => items.push((step.outcome, step.name, advice.clone())),
            }
        }
    }
    // What failed comes first.
    items.sort_by_key(|(outcome, _, _)| std::cmp::Reverse(*outcome));
    let mut text = String::new();
    if !items.is_empty() {
        text.push_str("What to do\n");
    }
    for (number, (_, name, advice)) in items.iter().enumerate() {
        text.push_str(&format!("  {}. {name}: {advice}\n", number + 1));
    }
    if report.ok {
        text.push_str(if items.is_empty() {
            "Everything is as it should be.\n"
        } else {
            "Nothing has failed.\n"
        });
    }
    text
}

/// What strangers said gets no power over a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
