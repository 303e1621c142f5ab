//! Samples as text to look at: what is trained, which tokens are special, where they were cut.
//!
//! ```text
//! rows.jsonl:2: 23 tokens, 3 trained
//! │ ⟨|im_start|⟩user
//! │ từ đầu tiên
//! │ chó mèo⟨|im_end|⟩
//! │ ⟨|im_start|⟩assistant
//! │ ⟦chó⟨|im_end|⟩⟧
//! ```
//!
//! Without colours `⟦⟧` hold what is trained and `⟨⟩` a special token; with colours the one is green and the other inverse. A text that
//! looks like a special token and is none has no `⟨⟩`. Characters that would move a terminal's cursor, hide or turn text around are
//! shown as `\u{1b}`.

mod pieces;

use super::dataset::Origin;
use super::encode::IGNORED;
use super::store::{Example, Fate};
use super::tokenizer::Tokenizer;
use crate::error::Result;
use crate::terminal::{is_obeyed, one_line};
use pieces::{Piece, pieces};
use std::fmt::Write;

/// How trained and special tokens are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// `⟦⟧` and `⟨⟩`.
    Brackets,
    /// ANSI colours.
    Color,
}

const TRAINED: &str = "\x1b[1;32m";
const UNTRAINED: &str = "\x1b[2m";
const SPECIAL: &str = "\x1b[7m";
const RESET: &str = "\x1b[0m";
/// What a line break counts where room is limited.
const LINE_BREAK: usize = 20;

/// Where a sample comes from, its tokens, its trained tokens, what was cut.
pub fn heading(example: Example<'_>, origin: &Origin<'_>) -> String {
    let (n, trained) =
        (example.ids.len(), (0..example.ids.len()).filter(|t| is_trained(example, *t)));
    let place = format!("{}:{}", origin.path.display(), origin.line);
    let place = one_line(&place);
    let part = if origin.part > 0 { format!(", part {}", origin.part + 1) } else { String::new() };
    let numbers = format!("{n} tokens, {} trained", trained.count());
    match origin.fate {
        Fate::Whole => format!("{place}{part}: {numbers}"),
        Fate::Shortened => {
            format!(
                "{place}{part}: {numbers}; its last exchanges are cut off, train.max_seq_length"
            )
        }
        Fate::Cut => format!("{place}{part}: {numbers}; its end is cut off, train.max_seq_length"),
        Fate::Untrained => format!("{place}{part}: left out, nothing in it is trained"),
        Fate::Bad => format!("{place}{part}: passed over, it cannot be used"),
    }
}

/// The text of a sample, a bar before each line; `room` limits it to about so many characters around what is first trained.
///
/// # Errors
/// When the tokenizer cannot decode.
pub fn text(
    tokenizer: &Tokenizer,
    example: Example<'_>,
    fate: Fate,
    marks: Marks,
    room: Option<usize>,
) -> Result<String> {
    let pieces = pieces(tokenizer, example.ids)?;
    let range = room.map_or(0..pieces.len(), |room| {
        let first = (0..pieces.len()).find(|t| is_trained(example, *t)).unwrap_or(0);
        around(&pieces, first, room)
    });
    let mut lines = Lines { out: String::new(), marks, style: String::new() };
    lines.start();
    if range.start > 0 {
        lines.write("…", UNTRAINED);
    }
    let mut open = false;
    for t in range.clone() {
        let (piece, trained) = (&pieces[t], is_trained(example, t));
        if piece.text.is_empty() {
            continue;
        }
        if marks == Marks::Brackets && open != trained {
            lines.write(if trained { "⟦" } else { "⟧" }, "");
            open = trained;
        }
        let color = if trained { TRAINED } else { UNTRAINED };
        if piece.special {
            lines.write(&special(&piece.text, marks), &format!("{color}{SPECIAL}"));
            continue;
        }
        for (i, line) in piece.text.split('\n').enumerate() {
            if i > 0 {
                // In colour nothing else would tell that the break itself is trained.
                if marks == Marks::Color && trained {
                    lines.write("↵", color);
                }
                lines.end();
                lines.start();
            }
            lines.write(&shown(line, marks), color);
        }
    }
    if open {
        lines.write("⟧", "");
    }
    if range.end < pieces.len() {
        lines.write("…", UNTRAINED);
    } else if matches!(fate, Fate::Cut | Fate::Shortened) {
        lines.write("✂", UNTRAINED);
    }
    lines.end();
    Ok(lines.out)
}

/// The tokens of a sample, one a line: place, id, text, and the label where it is another token.
///
/// # Errors
/// When the tokenizer cannot decode.
pub fn tokens(tokenizer: &Tokenizer, example: Example<'_>, marks: Marks) -> Result<String> {
    let mut out = String::new();
    for (t, piece) in pieces(tokenizer, example.ids)?.iter().enumerate() {
        let trained = is_trained(example, t);
        let text = if piece.special {
            special(&piece.text, marks)
        } else if piece.text.is_empty() {
            // Bytes of a character that the next token completes.
            "…".into()
        } else {
            format!("\"{}\"", shown(&piece.text, marks).replace('\n', "\\n").replace('\t', "\\t"))
        };
        let text = match (marks, trained) {
            (Marks::Brackets, true) => format!("⟦{text}⟧"),
            (Marks::Brackets, false) => format!(" {text}"),
            (Marks::Color, true) => format!("{TRAINED}{text}{RESET}"),
            (Marks::Color, false) => format!("{UNTRAINED}{text}{RESET}"),
        };
        let id = example.ids[t];
        let other = match example.labels[t] {
            label if trained && label != id as i32 => format!("  label {label}"),
            _ => String::new(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(out, "│ {t:>6} {id:>7}  {text}{other}");
    }
    Ok(out)
}

/// Whether token `t` is predicted and trained: the first token has none before it to predict it.
fn is_trained(example: Example<'_>, t: usize) -> bool {
    t > 0 && example.labels.get(t).is_some_and(|l| *l != IGNORED)
}

/// A special token; its own angle brackets become the frame: `<s>` is `⟨s⟩`, `[INST]` is `⟨[INST]⟩`.
fn special(text: &str, marks: Marks) -> String {
    let text = shown(text, marks).replace('\n', "\\n");
    if marks == Marks::Color {
        return text;
    }
    let inner = text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or(&text);
    format!("⟨{inner}⟩")
}

/// A text as it is shown: line breaks and tabs as they are, the marks' own brackets and what a terminal would obey escaped.
fn shown(text: &str, marks: Marks) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let bracket = marks == Marks::Brackets && "⟦⟧⟨⟩".contains(c);
        if bracket || is_obeyed(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The pieces around the `first` that fit into `room`.
fn around(pieces: &[Piece], first: usize, room: usize) -> std::ops::Range<usize> {
    let size = |p: &Piece| p.text.chars().map(|c| if c == '\n' { LINE_BREAK } else { 1 }).sum();
    let (mut start, mut used) = (first, 0);
    let mut fits = |p: &Piece, most: usize| {
        let size: usize = size(p);
        let fits = used + size <= most;
        used += if fits { size } else { 0 };
        fits
    };
    while start > 0 && fits(&pieces[start - 1], room / 2) {
        start -= 1;
    }
    let mut end = first;
    while end < pieces.len() && fits(&pieces[end], room) {
        end += 1;
    }
    while start > 0 && fits(&pieces[start - 1], room) {
        start -= 1;
    }
    start..end
}

/// Lines with a bar before each; no colour goes over the end of a line.
struct Lines {
    out: String,
    marks: Marks,
    /// The colour at hand.
    style: String,
}

impl Lines {
    fn start(&mut self) {
        self.out.push_str("│ ");
    }

    fn write(&mut self, text: &str, style: &str) {
        if text.is_empty() {
            return;
        }
        if self.marks == Marks::Color && self.style != style {
            self.reset();
            self.out.push_str(style);
            self.style = style.to_owned();
        }
        self.out.push_str(text);
    }

    fn reset(&mut self) {
        if !self.style.is_empty() {
            self.out.push_str(RESET);
            self.style.clear();
        }
    }

    fn end(&mut self) {
        self.reset();
        if self.out.ends_with("│ ") {
            self.out.pop();
        }
        self.out.push('\n');
    }
}

#[cfg(test)]
mod tests;
