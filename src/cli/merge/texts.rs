//! Held-out text: a line each in `.txt`, the `text` of an object each in `.jsonl`.

use crate::error::{Problem, Result};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Bytes of a line; a verification looks at its first few hundred tokens.
const LONGEST: usize = 1 << 24;

/// The first `most` texts that are not empty.
pub(super) fn read(path: &Path, most: usize) -> Result<Vec<String>> {
    let problem = |message: String| Problem::in_file(path, message);
    let is_jsonl = match path.extension().and_then(|e| e.to_str()) {
        Some("jsonl") => true,
        Some("txt") => false,
        _ => {
            let hint = "a .txt holds a text a line, a .jsonl objects with `text`";
            return Err(problem("is neither .txt nor .jsonl".into()).hint(hint).into());
        }
    };
    if path.exists() && !path.is_file() {
        return Err(problem("is no regular file".into()).into());
    }
    let failed = |e| problem(format!("cannot be read: {e}"));
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let mut texts = Vec::new();
    for number in 1.. {
        let mut line = Vec::new();
        let limit = LONGEST as u64 + 1;
        let count = reader.by_ref().take(limit).read_until(b'\n', &mut line).map_err(failed)?;
        if count == 0 || texts.len() == most {
            break;
        }
        let at = |message: String| Problem::at(path, number, 0, message);
        if count > LONGEST {
            return Err(at(format!("is longer than {LONGEST} bytes")).into());
        }
        let line = String::from_utf8(line).map_err(|e| at(format!("is no UTF-8 text: {e}")))?;
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() {
            continue;
        }
        if !is_jsonl {
            texts.push(line.to_owned());
            continue;
        }
        let row: Value = serde_json::from_str(line)
            .map_err(|e| Problem::at(path, number, e.column(), format!("is no valid JSON: {e}")))?;
        let Some(text) = row.get("text").and_then(Value::as_str) else {
            return Err(at("has no `text`".into()).hint("each line is {\"text\": \"…\"}").into());
        };
        if !text.is_empty() {
            texts.push(text.to_owned());
        }
    }
    if texts.is_empty() {
        return Err(problem("holds no text".into()).into());
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> Result<Vec<String>> {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(name), text).unwrap();
        read(&home.path().join(name), 2)
    }

    #[test]
    fn lines_of_a_text_file_are_texts() {
        assert_eq!(file("a.txt", "\u{feff}một\r\n\nhai\nba\n").unwrap(), ["một", "hai"]);
    }

    #[test]
    fn rows_of_jsonl_have_text() {
        assert_eq!(file("a.jsonl", "{\"text\": \"a\\nb\"}").unwrap(), ["a\nb"]);
    }

    #[test]
    fn a_row_without_text_is_named() {
        let error = file("a.jsonl", "\n{\"content\": 1}").unwrap_err().to_string();
        assert!(error.contains("a.jsonl:2: has no `text`"), "{error}");
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        assert!(file("a.csv", "text\na").unwrap_err().to_string().contains(".jsonl"));
    }
}
