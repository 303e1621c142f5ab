//! Text of users in Markdown, YAML and command lines: a path or a name stays what it is and can become nothing else.

/// One line of plain text: what breaks lines or cannot be seen becomes a space.
fn line(text: &str) -> String {
    let hidden = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    text.chars().map(|c| if hidden(c) { ' ' } else { c }).collect()
}

/// Text in a paragraph, a heading or a cell: what Markdown or HTML would read as a mark is escaped.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in line(text).trim().chars() {
        if r"\`*_[]<>#|~&$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A code span; `in_table` where `|` would end the cell.
pub(super) fn code(text: &str, in_table: bool) -> String {
    let text = line(text);
    let fence = "`".repeat(longest_run(&text, '`') + 1);
    // Spaces beside the fence are not part of the code, and a backtick there would be part of the fence.
    let pad = if text.starts_with(['`', ' ']) || text.ends_with(['`', ' ']) { " " } else { "" };
    let text = if in_table { text.replace('|', "\\|") } else { text };
    if text.is_empty() { String::new() } else { format!("{fence}{pad}{text}{pad}{fence}") }
}

/// A fenced block.
pub(super) fn block(language: &str, text: &str) -> String {
    let fence = "`".repeat(longest_run(text, '`').max(2) + 1);
    format!("{fence}{language}\n{}\n{fence}\n", text.trim_end_matches('\n'))
}

fn longest_run(text: &str, mark: char) -> usize {
    text.split(|c| c != mark).map(str::len).max().unwrap_or(0)
}

/// A string in double quotes, as YAML, JSON and Python read it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

/// A YAML scalar: as it is where that can only be this string, else in quotes.
pub(super) fn yaml(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    let names = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let safe = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(word)
        && !text.ends_with(':')
        && !names.contains(&text.to_ascii_lowercase().as_str());
    if safe { text.into() } else { quoted(text) }
}

/// An argument as a POSIX shell reads it.
pub(super) fn shell(text: &str) -> String {
    let text = line(text);
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(safe) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_in_text_are_escaped() {
        assert_eq!(plain("a_b|c\n# <img> [x](y)"), r"a\_b\|c \# \<img\> \[x\](y)");
    }

    #[test]
    fn code_with_backticks_has_a_longer_fence() {
        assert_eq!(code("a``b`", false), "``` a``b` ```");
    }

    #[test]
    fn a_cell_is_not_ended_by_code() {
        assert_eq!(code("a|b", true), r"`a\|b`");
    }

    #[test]
    fn a_block_is_not_ended_by_its_text() {
        assert_eq!(block("", "a\n````\nb"), "`````\na\n````\nb\n`````\n");
    }

    #[test]
    fn a_yaml_string_that_could_be_more_is_quoted() {
        let all = ["owner/name-1.5", "a:b", "null", "1e5", "a: b", "x\ny", "z:"].map(yaml);
        assert_eq!(
            all,
            ["owner/name-1.5", "a:b", "\"null\"", "\"1e5\"", "\"a: b\"", "\"x\\ny\"", "\"z:\""]
        );
    }

    #[test]
    fn an_argument_stays_one() {
        assert_eq!(shell("my model's; rm -rf x"), r"'my model'\''s; rm -rf x'");
    }
}
