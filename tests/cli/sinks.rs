//! Places that fail under a run: what cannot be written is told once, and the run ends with its adapter.
use crate::common::*;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const RUN: &[&str] = &[
    "--train.max_steps",
    "6",
    "--train.global_batch_size",
    "4",
    "--eval.initial_validation",
    "false",
    "--eval.max_iters",
    "1",
    "--eval.interval",
    "2",
    "--eval.max_new_tokens",
    "2",
    "--train.save_interval",
    "2",
];

fn adapter(home: &Home) -> Vec<u8> {
    fs::read(home.path("out/final/adapter_model.safetensors")).unwrap()
}

fn undisturbed() -> Vec<u8> {
    let home = Home::new();
    home.smoke(RUN);
    adapter(&home)
}

fn told(output: &Output, part: &str) -> usize {
    stderr(output).lines().filter(|l| l.starts_with("note: ") && l.contains(part)).count()
}

/// A run in a directory where `name` leads to a disk without space.
fn with_full(name: &str, more: &[&str]) -> (Home, Output) {
    let home = Home::new();
    let link = home.path("out").join(name);
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink("/dev/full", link).unwrap();
    let output = home.smoke(&[RUN, &["--resume", "auto"], more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    (home, output)
}

#[test]
fn metrics_on_a_full_disk_are_told_once() {
    let (home, output) = with_full("metrics.jsonl", &[]);
    let text = stderr(&output);
    assert_eq!(told(&output, "metrics.jsonl: cannot be written: No space left"), 1, "{text}");
    assert_eq!(told(&output, "no curve: "), 1, "{text}");
    assert!(home.path("out/final/README.md").is_file());
    assert_eq!(adapter(&home), undisturbed());
}

#[test]
fn samples_on_a_full_disk_are_told_once() {
    let (_, output) = with_full("samples.jsonl", &[]);
    assert_eq!(told(&output, "samples.jsonl: cannot be written: No space left"), 1);
}

#[test]
fn a_logger_on_a_full_disk_is_told_once() {
    for (name, more) in [
        ("logs/csv", &[][..]),
        ("logs/tensorboard", &["--logger_name", "tensorboard"]),
        ("logs", &["--logger_name", "tensorboard"]),
    ] {
        let (home, output) = with_full(name, more);
        assert_eq!(told(&output, "logger is given up"), 1, "{}", stderr(&output));
        let metrics = fs::read_to_string(home.path("out/metrics.jsonl")).unwrap();
        assert_eq!(metrics.lines().filter(|l| l.contains("grad_norm")).count(), 6);
    }
}

#[test]
fn a_card_and_a_curve_that_cannot_be_written_are_told() {
    let home = Home::new();
    home.smoke(RUN);
    for name in ["README.md", "curve.svg"] {
        fs::remove_file(home.path("out/final").join(name)).unwrap();
        fs::create_dir(home.path("out/final").join(name)).unwrap();
    }
    let output = home.smoke(&[RUN, &["--resume", "auto"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!((told(&output, "no model card: "), told(&output, "no curve: ")), (1, 1));
}

#[test]
fn a_terminal_that_went_away_stops_nothing() {
    let home = Home::new();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let code = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "--config", "configs/smoke.yml", "--out_dir", &home.text("out")])
        .args(RUN)
        .current_dir(ROOT)
        .stdout(full())
        .stderr(full())
        .status()
        .unwrap();
    assert_eq!(code.code(), Some(0));
    assert_eq!(adapter(&home), undisturbed());
}

/// Lines of a file that may not be there.
fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

#[test]
fn files_that_are_replaced_under_a_run_are_told_once() {
    let long = ["--train.max_steps", "60", "--train.epochs", "9", "--train.save_interval", "20"];
    let home = Home::new();
    let child = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "--config", "configs/smoke.yml", "--out_dir", &home.text("out")])
        .args(RUN)
        .args(long)
        .current_dir(ROOT)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (metrics, logs) = (home.path("out/metrics.jsonl"), home.path("out/logs"));
    let since = Instant::now();
    while lines(&metrics) < 3 && since.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::remove_file(&metrics).unwrap();
    fs::create_dir(&metrics).unwrap();
    fs::remove_dir_all(&logs).unwrap();
    fs::write(&logs, "").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    // The file is gone for a moment before the folder is there: the run may see either first.
    assert_eq!(told(&output, "metrics.jsonl: cannot be written: "), 1, "{text}");
    assert_eq!(told(&output, "csv logger is given up"), 1, "{text}");
    let whole = Home::new();
    whole.smoke(&[RUN, &long].concat());
    assert_eq!(adapter(&home), adapter(&whole));
}

#[test]
fn a_run_whose_metrics_failed_is_taken_up_without_doubled_steps() {
    let (home, _) = with_full("metrics.jsonl", &[]);
    for dir in ["out/final", "out/step-00000006"] {
        fs::remove_dir_all(home.path(dir)).unwrap();
    }
    fs::remove_file(home.path("out/metrics.jsonl")).unwrap();
    let output = home.smoke(&[RUN, &["--resume", "auto"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = fs::read_to_string(home.path("out/metrics.jsonl")).unwrap();
    let step = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        record.get("grad_norm")?;
        record["step"].as_u64()
    };
    assert_eq!(text.lines().filter_map(step).collect::<Vec<_>>(), [5, 6]);
}
