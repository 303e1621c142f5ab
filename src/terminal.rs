//! Text that a terminal shows and does not obey. What files, models and servers say may hold characters that move its cursor, colour or
//! hide what stands there, or turn text around; and line breaks, after which it would look like a line of vft's own.

use std::borrow::Cow;

/// What a line of foreign text begins with after its first.
const INDENT: &str = "\n    ";

/// Whether a terminal would obey or hide a character. Line breaks and tabs are text.
pub fn is_obeyed(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t')) || is_format(c)
}

/// Characters of Unicode's class Cf that hide, or turn the order of text around; joiners are part of scripts and emoji.
fn is_format(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A text in which such characters are written as `\u{1b}`.
pub fn harmless(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed)
}

/// A text in one line: line breaks are written as `\n`.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c == '\n' || is_obeyed(c))
}

/// A text whose further lines are indented, so that none begins as vft's own do.
pub fn indented(text: &str) -> Cow<'_, str> {
    if text.contains('\n') { text.replace('\n', INDENT).into() } else { text.into() }
}

/// A text of several lines of which only the first begins at the margin, where vft's own lines do.
pub fn one_note(text: &str) -> Cow<'_, str> {
    if !text.contains('\n') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push_str(if line.starts_with(' ') || line.is_empty() { "\n" } else { INDENT });
        }
        out.push_str(line);
    }
    out.into()
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_escaped(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(
            harmless("a\x1b[2J\r\x07\u{202e}b\n\tế"),
            r"a\u{1b}[2J\r\u{7}\u{202e}b".to_owned() + "\n\tế"
        );
    }

    #[test]
    fn a_text_stays_in_its_line() {
        assert_eq!(one_line("0\nverdict: reproduced"), r"0\nverdict: reproduced");
        assert_eq!(one_note("0\nerror: a\n  hint: b"), "0\n    error: a\n  hint: b");
        assert_eq!(indented("0\nverdict: reproduced"), "0\n    verdict: reproduced");
    }
}
