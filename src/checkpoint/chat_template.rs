//! The chat template of an adapter that was not trained with its base's: transformers takes `chat_template.jinja` before the key
//! `chat_template` of `tokenizer_config.json`, older programs know the key alone, so both say the same.

use super::atomic::io_problem;
use super::disk::Disk;
use crate::error::{Problem, Result};
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

const FILE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
const KEY: &str = "chat_template";

/// What stands in the place of the template that was copied with the tokenizer.
#[derive(Debug, Clone, Copy)]
pub enum Template<'a> {
    /// That one.
    OfTheTokenizer,
    /// Another.
    Text(&'a str),
    /// None.
    Nothing,
}

impl Template<'_> {
    /// Makes it so in `dir`.
    ///
    /// # Errors
    /// When `tokenizer_config.json` is no JSON, or a file cannot be written.
    pub fn write(self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        match self {
            Self::OfTheTokenizer => Ok(()),
            Self::Text(text) => replace(disk, dir, Some(text)),
            Self::Nothing => replace(disk, dir, None),
        }
    }
}

fn replace(disk: &dyn Disk, dir: &Path, text: Option<&str>) -> Result<()> {
    let file = dir.join(FILE);
    match text {
        Some(text) => disk.write(&file, text.as_bytes()).map_err(|e| io_problem(&file, &e))?,
        None if file.exists() => disk.remove_file(&file).map_err(|e| io_problem(&file, &e))?,
        None => {}
    }
    let file = dir.join(CONFIG);
    let Ok(json) = fs::read_to_string(&file) else { return Ok(()) };
    let config: Result<Map<String, Value>, _> = serde_json::from_str(&json);
    let mut config = config
        .map_err(|e| Problem::at(&file, e.line(), e.column(), format!("is no valid JSON: {e}")))?;
    match (config.get_mut(KEY), text) {
        (None, _) => return Ok(()),
        (Some(value), Some(text)) => *value = text.into(),
        (Some(_), None) => {
            config.shift_remove(KEY);
        }
    }
    let json = format!("{:#}\n", Value::Object(config));
    disk.write(&file, json.as_bytes()).map_err(|e| io_problem(&file, &e))
}

#[cfg(test)]
mod tests {
    use super::super::disk::Real;
    use super::*;

    fn replaced(text: Option<&str>) -> (Option<String>, String) {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(FILE), "base").unwrap();
        let config = r#"{"eos_token": "</s>", "chat_template": "base", "bos_token": "<s>"}"#;
        fs::write(home.path().join(CONFIG), config).unwrap();
        replace(&Real, home.path(), text).unwrap();
        let config: Value =
            serde_json::from_slice(&fs::read(home.path().join(CONFIG)).unwrap()).unwrap();
        (fs::read_to_string(home.path().join(FILE)).ok(), config.to_string())
    }

    #[test]
    fn file_and_key_say_the_same() {
        let want = r#"{"eos_token":"</s>","chat_template":"made","bos_token":"<s>"}"#;
        assert_eq!(replaced(Some("made")), (Some("made".into()), want.into()));
    }

    #[test]
    fn without_a_template_neither_is_left() {
        let want = r#"{"eos_token":"</s>","bos_token":"<s>"}"#;
        assert_eq!(replaced(None), (None, want.into()));
    }
}
