//! The real binary on the bundled model.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A run with dropout, checkpoints of which two are kept, the best, and all that is written beside.
pub(crate) const RUN: &[&str] = &[
    "--train.max_steps",
    "12",
    "--train.save_interval",
    "3",
    "--train.save_total_limit",
    "2",
    "--train.save_best",
    "true",
    "--eval.interval",
    "5",
    "--eval.max_new_tokens",
    "4",
    "--lora_dropout",
    "0.1",
    "--device",
    "cpu",
    "--resume",
    "auto",
];

pub(crate) fn finetune(out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vft"));
    command
        .args(["finetune", "--config", "configs/smoke.yml", "--out_dir"])
        .arg(out)
        .args(RUN)
        .current_dir(ROOT)
        .env("HF_HUB_OFFLINE", "1");
    command
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A copy of a directory.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place: PathBuf = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &place);
        } else {
            std::fs::copy(entry.path(), place).unwrap();
        }
    }
}

/// The number that an environment variable holds.
pub(crate) fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}
