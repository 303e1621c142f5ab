//! `scripts/batch.sh`: runs one after the other, taken up, none stopped by another.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

#[path = "common/checkpoint.rs"]
#[expect(dead_code, reason = "what a checkpoint holds is compared elsewhere")]
mod checkpoint;

use checkpoint::{newest, taken_up};
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
    let saved = newest(&home.path().join("one"));
    assert!(saved.is_some());
    let output = batch(&[&one]).output().unwrap();
    let told = std::fs::read_to_string(home.path().join("one.yml.log")).unwrap();
    assert_eq!(taken_up(&told), saved, "{told}");
    assert_eq!((output.status.code(), states(&output.stdout)), (Some(0), vec![("done".into(), 1)]));
}

/// The machine goes: nothing more is begun on it.
#[test]
fn a_notice_ends_the_batch() {
    let home = tempfile::tempdir().unwrap();
    let notice = home.path().join("notice");
    std::fs::write(&notice, "").unwrap();
    let asked = format!("train.preemption: file:{}", notice.display());
    let [one, two] = ["one", "two"].map(|name| config(home.path(), name, &asked));
    let output = batch(&[&one, &two]).output().unwrap();
    let states = states(&output.stdout);
    assert_eq!(states, [("unfinished".into(), 1), ("unfinished".into(), 0)]);
    assert_eq!(output.status.code(), Some(75));
}

/// Slurm, but for the queue: what it was asked to queue again.
fn slurm(home: &Path, args: &[&str]) -> Command {
    let queue = format!("#!/bin/sh\necho \"$@\" >> {}/queued\n", home.display());
    let scontrol = home.join("bin/scontrol");
    std::fs::create_dir_all(home.join("bin")).unwrap();
    std::fs::write(&scontrol, queue).unwrap();
    Command::new("chmod").arg("+x").arg(&scontrol).status().unwrap();
    let path = format!("{}:{}", home.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.arg("scripts/slurm.sbatch").args(args).current_dir(ROOT).env("PATH", path);
    command.env("VFT", env!("CARGO_BIN_EXE_vft")).env("SLURM_JOB_ID", "42").env("DEVICE", "cpu");
    command.stderr(Stdio::null());
    command
}

#[test]
fn a_job_that_is_to_end_is_queued_again() {
    let home = tempfile::tempdir().unwrap();
    let one = config(home.path(), "one", "seed: 1");
    let one = one.to_string_lossy();
    let mut child = slurm(home.path(), &[&one, "--train.epochs", "100000"]).spawn().unwrap();
    let began = Instant::now();
    let metrics = home.path().join("one/metrics.jsonl");
    let stepped = || std::fs::read_to_string(&metrics).unwrap_or_default().contains("grad_norm");
    while !stepped() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert_eq!(std::fs::read_to_string(home.path().join("queued")).unwrap(), "requeue 42\n");
}

#[test]
fn a_job_with_a_broken_config_fails() {
    let home = tempfile::tempdir().unwrap();
    let one = config(home.path(), "one", "lora_rank: 8");
    assert_eq!(slurm(home.path(), &[&one.to_string_lossy()]).status().unwrap().code(), Some(2));
    assert!(!home.path().join("queued").exists());
}
