//! The report: Markdown for the repository, a few lines for the terminal.

use std::fmt::Write;

/// What one aim found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Section {
    pub(crate) title: String,
    /// What is measured and how, in Markdown.
    pub(crate) intro: String,
    /// Told where an aim is not met: why, as far as it is known.
    pub(crate) why_not: &'static str,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) verdicts: Vec<Verdict>,
}

/// One aim against what was measured.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) claim: String,
    pub(crate) aim: String,
    pub(crate) got: String,
    pub(crate) met: bool,
}

/// Texts as the cells of a row.
pub(crate) fn cells<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The whole report. `machine`: lines that say where and how it was made.
pub(crate) fn to_markdown(machine: &[(String, String)], sections: &[(u32, Section)]) -> String {
    let mut text = String::from(
        "# How fast it is\n\n`make bench` measured this and wrote this page. Peers and ours took turns in one run on one machine, all on \
         loopback; figures\nare medians of the repetitions. Absolute figures are this machine's of that moment; ratios travel better.\n\n",
    );
    table(
        &mut text,
        &["where and how".to_owned(), String::new()],
        machine.iter().map(|(a, b)| vec![a.clone(), b.clone()]),
    );
    text.push('\n');
    let verdicts =
        sections.iter().flat_map(|(number, section)| section.verdicts.iter().map(move |v| (number, v)));
    let columns = ["", "aim", "wanted", "measured", ""].map(str::to_owned);
    table(&mut text, &columns, verdicts.map(|(number, v)| verdict_row(*number, v)));
    for (number, section) in sections {
        // Writing into a String cannot fail.
        let _ = write!(text, "\n## {number}. {}\n\n{}\n\n", section.title, section.intro.trim());
        table(&mut text, &section.columns, section.rows.iter().cloned());
        if !section.why_not.is_empty() && section.verdicts.iter().any(|verdict| !verdict.met) {
            let _ = write!(text, "\n**Why not.** {}\n", section.why_not.trim());
        }
    }
    text
}

fn verdict_row(number: u32, verdict: &Verdict) -> Vec<String> {
    let met = if verdict.met { "met" } else { "**not met**" };
    vec![number.to_string(), verdict.claim.clone(), verdict.aim.clone(), verdict.got.clone(), met.to_owned()]
}

fn table(text: &mut String, columns: &[String], rows: impl Iterator<Item = Vec<String>>) {
    let mut line = |cells: &[String]| {
        text.push('|');
        for cell in cells {
            // A cell is one line, and a bar in it would end it.
            let cell = cell.replace('|', "\\|").replace('\n', " ");
            text.push(' ');
            text.push_str(&cell);
            text.push_str(if cell.is_empty() { "|" } else { " |" });
        }
        text.push('\n');
    };
    line(columns);
    line(&vec!["---".to_owned(); columns.len()]);
    rows.for_each(|row| line(&row));
}

/// For whoever watches.
pub(crate) fn to_terminal(section: &Section) -> String {
    let mut text = format!("  {}\n    {}\n", section.title, section.columns.join(" | "));
    for row in &section.rows {
        let _ = writeln!(text, "    {}", row.join(" | "));
    }
    for verdict in &section.verdicts {
        let met = if verdict.met { "met" } else { "NOT MET" };
        let _ = writeln!(text, "    {}: wanted {}, got {}: {met}", verdict.claim, verdict.aim, verdict.got);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_where_it_was_made_every_verdict_and_every_section() {
        let section = Section {
            title: "Messages a second".to_owned(),
            intro: "What passes.\n".to_owned(),
            why_not: "The disk.",
            columns: cells(["", "messages/s"]),
            rows: vec![cells(["ours", "2"]), cells(["a|b", "1"])],
            verdicts: vec![Verdict {
                claim: "pass-through".to_owned(),
                aim: "1.5".to_owned(),
                got: "2.0".to_owned(),
                met: true,
            }],
        };
        let machine = [("cores".to_owned(), "2".to_owned())];
        let text = to_markdown(&machine, &[(3, section.clone())]);
        let body = text.split_once("| where and how").map(|(_, body)| body).unwrap_or_default();
        assert_eq!(
            body,
            " | |\n| --- | --- |\n| cores | 2 |\n\n\
             | | aim | wanted | measured | |\n| --- | --- | --- | --- | --- |\n| 3 | pass-through | 1.5 | 2.0 | met |\n\
             \n## 3. Messages a second\n\nWhat passes.\n\n| | messages/s |\n| --- | --- |\n| ours | 2 |\n| a\\|b | 1 |\n"
        );
        assert!(!text.contains("Why not"));
        let missed = Section {
            verdicts: vec![Verdict { met: false, ..section.verdicts[0].clone() }],
            ..section.clone()
        };
        assert!(to_markdown(&machine, &[(3, missed)]).ends_with("**Why not.** The disk.\n"));
        assert!(to_terminal(&section).contains("pass-through: wanted 1.5, got 2.0: met"));
    }
}
