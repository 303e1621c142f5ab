//! `scripts/batch.sh`: runs one after the other, taken up, none stopped by another.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The smoke run into a directory of its own, with more lines.
fn config(home: &Path, name: &str, more: &str) -> PathBuf {
    let text = std::fs::read_to_string(format!("{ROOT}/configs/smoke.yml")).unwrap();
    let text = text
        .replace("smoke/model ", &format!("{ROOT}/configs/smoke/model "))
        .replace("path: smoke/", &format!("path: {ROOT}/configs/smoke/"))
        .replace("out_dir: out/smoke", &format!("out_dir: {}\n{more}", home.join(name).display()));
    let path = home.join(format!("{name}.yml"));
    std::fs::write(&path, text).unwrap();
    path
}

fn batch(configs: &[&Path]) -> Command {
    let mut command = Command::new("bash");
    command.arg("scripts/batch.sh").args(configs);
    command.env("VFT", env!("CARGO_BIN_EXE_vft")).current_dir(ROOT).stdout(Stdio::piped());
    command
}

fn states(stdout: &[u8]) -> Vec<(String, u64)> {
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        (value["state"].as_str().unwrap().to_owned(), value["starts"].as_u64().unwrap())
    };
    std::str::from_utf8(stdout).unwrap().lines().map(line).collect()
}

#[test]
fn a_broken_config_stops_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let broken = home.path().join("broken \"quoted\".yml");
    std::fs::write(&broken, "lora_rank: 8\n").unwrap();
    let good = config(home.path(), "good", "seed: 1");
    let output = batch(&[&broken, &good]).output().unwrap();
    assert_eq!(states(&output.stdout), [("failed".into(), 1), ("done".into(), 1)]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_signal_leaves_a_run_that_the_next_start_finishes() {
    let home = tempfile::tempdir().unwrap();
    let one = config(home.path(), "one", "seed: 1");
    let mut child = batch(&[&one]).spawn().unwrap();
    let began = Instant::now();
    let stepped = || {
        let text =
            std::fs::read_to_string(home.path().join("one/metrics.jsonl")).unwrap_or_default();
        text.contains("grad_norm")
    };
    while !stepped() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let first = child.wait().unwrap();
    assert_eq!(first.code(), Some(75));
    let output = batch(&[&one]).output().unwrap();
    assert_eq!((output.status.code(), states(&output.stdout)), (Some(0), vec![("done".into(), 1)]));
}
