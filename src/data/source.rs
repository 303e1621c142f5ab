//! JSON and JSONL files as rows with line numbers.

use crate::error::{Problem, Result};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A row and the line that it starts in.
#[derive(Debug, Clone)]
pub struct Line {
    /// Line from 1.
    pub line: usize,
    /// The row.
    pub value: Value,
}

/// Rows of one file, or of a directory's training and validation files.
pub struct Source {
    /// The file of `rows`.
    pub path: PathBuf,
    /// Training rows, from which validation rows may be split.
    pub rows: Vec<Line>,
    /// The validation file with its rows, if the directory has one.
    pub validation: Option<(PathBuf, Vec<Line>)>,
}

impl Source {
    /// Reads `path`: `.json` (one list), `.jsonl` (one object a line), or a directory with train and val files.
    ///
    /// # Errors
    /// When a file is missing or a row is broken; the place is named.
    pub fn read(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Ok(Self { path: path.into(), rows: read_file(path)?, validation: None });
        }
        let find = |stem: &str| {
            ["jsonl", "json"]
                .map(|ext| path.join(format!("{stem}.{ext}")))
                .into_iter()
                .find(|p| p.is_file())
        };
        let train = find("train")
            .ok_or_else(|| Problem::in_file(path, "holds neither train.jsonl nor train.json"))?;
        let validation = find("val").map(|p| read_file(&p).map(|rows| (p, rows))).transpose()?;
        Ok(Self { rows: read_file(&train)?, path: train, validation })
    }
}

fn read_file(path: &Path) -> Result<Vec<Line>> {
    // A pipe or a device would keep the reader waiting.
    if path.exists() && !path.is_file() {
        return Err(Problem::in_file(path, "is no regular file").into());
    }
    let bytes =
        fs::read(path).map_err(|e| Problem::in_file(path, format!("cannot be read: {e}")))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let before = &bytes[..e.valid_up_to()];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column =
            before.len() - before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1) + 1;
        Problem::at(path, line, column, "is no UTF-8 text here")
    })?;
    let rows = match path.extension().and_then(|e| e.to_str()) {
        Some("jsonl" | "ndjson") => lines(path, text)?,
        Some("json") => list(path, text)?,
        _ => {
            let problem = Problem::in_file(path, "is neither .json nor .jsonl");
            return Err(problem
                .hint("rename it if it holds a JSON list or one JSON object a line")
                .into());
        }
    };
    if rows.is_empty() {
        return Err(Problem::in_file(path, "holds no rows").into());
    }
    Ok(rows)
}

fn lines(path: &Path, text: &str) -> Result<Vec<Line>> {
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let value = serde_json::from_str(line)
            .map_err(|e| Problem::at(path, i + 1, e.column(), format!("is no valid JSON: {e}")))?;
        rows.push(Line { line: i + 1, value });
    }
    Ok(rows)
}

/// A list, read item by item so that each row knows its line.
fn list(path: &Path, text: &str) -> Result<Vec<Line>> {
    let broken = |e: serde_json::Error| {
        Problem::at(path, e.line(), e.column(), format!("is no valid JSON: {e}"))
    };
    let items: Vec<&serde_json::value::RawValue> = match serde_json::from_str::<Wrapped<'_>>(text) {
        Ok(wrapped) => wrapped.data,
        Err(_) => serde_json::from_str(text).map_err(|e| {
            let problem = broken(e);
            if text.trim_start().starts_with('{') {
                return problem
                    .hint("a .json file holds one list; name a file of one object a line .jsonl");
            }
            problem
        })?,
    };
    let mut rows = Vec::new();
    let (mut line, mut seen) = (1, 0);
    for item in items {
        let at = item.get().as_ptr() as usize - text.as_ptr() as usize;
        line += text[seen..at].matches('\n').count();
        seen = at;
        let value = serde_json::from_str(item.get())
            .map_err(|e| Problem::at(path, line, 0, format!("is no valid JSON: {e}")))?;
        rows.push(Line { line, value });
    }
    Ok(rows)
}

#[derive(serde::Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    data: Vec<&'a serde_json::value::RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, bytes: &[u8]) -> Result<Source> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(name);
        fs::write(&path, bytes).unwrap();
        Source::read(&path)
    }

    fn line_numbers(name: &str, text: &str) -> Vec<usize> {
        read(name, text.as_bytes()).unwrap().rows.iter().map(|r| r.line).collect()
    }

    #[test]
    fn jsonl_skips_blank_lines_and_takes_crlf_and_bom() {
        assert_eq!(line_numbers("a.jsonl", "\u{feff}{\"a\":1}\r\n\r\n{\"a\":2}"), [1, 3]);
    }

    #[test]
    fn rows_of_a_list_know_their_lines() {
        assert_eq!(line_numbers("a.json", "[\n {\"a\":1},\n {\"a\":\n 2}, {\"a\":3}]"), [2, 3, 4]);
    }

    #[test]
    fn a_list_may_be_wrapped_in_data() {
        assert_eq!(line_numbers("a.json", "{\"data\": [1, 2]}"), [1, 1]);
    }

    #[test]
    fn a_broken_row_is_placed() {
        let error = read("a.jsonl", b"{\"a\":1}\n{\"a\":\n").err().unwrap();
        assert_eq!(error.problems[0].place.as_ref().unwrap().line, 2);
    }

    #[test]
    fn invalid_utf8_is_placed() {
        let error = read("a.jsonl", b"{}\n{\"\xff\":1}").err().unwrap();
        let place = error.problems[0].place.clone().unwrap();
        assert_eq!((place.line, place.column), (2, 3));
    }

    #[test]
    fn an_empty_file_is_refused() {
        assert!(read("a.jsonl", b"\n\n").err().unwrap().to_string().contains("holds no rows"));
    }
}
