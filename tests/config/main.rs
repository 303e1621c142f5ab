//! Run configs: every key counts, no typo passes, LitGPT's files load unchanged.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod keys;
mod litgpt;
mod plans;
mod presets;

use vft::config::RunConfig;
use vft::error::UserError;

/// A config from text.
fn load(text: &str, arguments: &[&str]) -> Result<RunConfig, UserError> {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run.yml");
    std::fs::write(&path, text).unwrap();
    let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    RunConfig::load(Some(&path), &arguments)
}

/// What is wrong with a config.
fn errors(text: &str, arguments: &[&str]) -> String {
    load(text, arguments).unwrap_err().to_string()
}

/// The least that a config needs.
const LEAST: &str =
    "checkpoint_dir: model\ndata:\n  class_path: JSON\n  init_args:\n    path: rows.jsonl\n";
