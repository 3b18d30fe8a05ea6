//! Text that is shown to people must look like what it is. Pure.

/// Marks over one letter; more is a tower that covers the lines around it.
const MARKS_MAX: usize = 4;

/// What is wrong with a text for people, if anything. `lines`: it may have several.
#[must_use]
pub fn hidden_in(text: &str, lines: bool) -> Option<String> {
    let (mut before, mut marks) = (None, 0);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c.is_control() && !(lines && matches!(c, '\n' | '\r' | '\t')) {
            return Some("contains a control character".to_owned());
        }
        let joins = |side: Option<char>| side.is_some_and(|c| !c.is_ascii());
        // Some scripts and emoji need joiners between their letters; nothing else does.
        let is_joiner = matches!(c, '\u{200c}' | '\u{200d}') && joins(before) && joins(rest.peek().copied());
        if !is_joiner && is_unseen(c) {
            return Some(format!(
                "contains U+{:04X}, which cannot be seen or turns the text around",
                u32::from(c)
            ));
        }
        marks = if is_mark(c) { marks + 1 } else { 0 };
        if marks > MARKS_MAX || marks > 0 && before.is_none() {
            return Some(format!("has marks without a letter, or more than {MARKS_MAX} over one"));
        }
        before = Some(c);
    }
    None
}

/// Format characters, what turns the direction of writing, fillers, private and unassigned ones (Unicode: Cf, Zl, Zp, Co and Cn, and blank letters).
const fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
        | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{e000}'..='\u{f8ff}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fdd0}'..='\u{fdef}' | '\u{fff0}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{10ffff}')
}

/// The blocks of combining marks that go with any letter.
const fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_taken() {
        for good in [
            "Studio 1 (main)",
            "Büro",
            "Bu\u{308}ro",
            "演播室",
            "استودیو می\u{200c}خواهم",
            "स्टूडियो",
            "Việt Nam",
            "Vie\u{323}\u{302}t",
            "👩\u{200d}🔧 ❤\u{fe0f}",
            "Ωμέγα",
            "студия",
            "a\u{a0}b",
        ] {
            assert_eq!(hidden_in(good, false), None, "{good:?}");
        }
        assert_eq!(hidden_in("one\ntwo\tthree\r\n", true), None);
    }

    #[test]
    fn what_looks_like_something_else_is_not() {
        let tower = format!("a{}", "\u{301}".repeat(5));
        for bad in [
            "a\0b",
            "a\u{1b}[31mb",
            "a\u{85}b",
            "one\ntwo",
            "gnp.\u{202e}txt",
            "\u{2066}a\u{2069}",
            "ad\u{200b}min",
            "ad\u{200d}min",
            "\u{200d}",
            "a\u{ad}b",
            "\u{feff}a",
            "\u{3164}",
            "a\u{2028}b",
            "\u{e000}",
            "\u{e0041}",
            "\u{301}a",
            &tower,
        ] {
            assert!(hidden_in(bad, false).is_some(), "{bad:?}");
        }
        assert!(hidden_in("a\0b", true).is_some() && hidden_in("a\u{202e}b", true).is_some());
    }
}
