//! What kinds of signals do, and `train.max_time`.

use crate::checkpoint::newest;
use crate::common::{ROOT, Watched, vft};
use crate::model;
use crate::phase::last_step;
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn smoke(home: &Path, more: &[&str]) -> Command {
    let mut command = vft(home);
    command.args(["finetune", "--config", "configs/smoke.yml", "--device", "cpu"]);
    command.args(["--out_dir", &home.join("out").to_string_lossy()]).args(more);
    command
}

/// The smoke run's rows, over and over.
fn repeat_rows(file: &Path, times: usize) {
    let rows = std::fs::read_to_string(format!("{ROOT}/configs/smoke/data.jsonl")).unwrap();
    std::fs::write(file, rows.repeat(times)).unwrap();
}

/// The run cannot go on: its records go into a pipe that nobody reads.
#[test]
fn a_second_signal_ends_at_once() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("out")).unwrap();
    Command::new("mkfifo").arg(home.path().join("out/metrics.jsonl")).status().unwrap();
    let mut run = Watched::start(smoke(home.path(), &["--resume", "auto"]));
    run.until("answers step=0").unwrap();
    // Now the loss goes into the pipe.
    std::thread::sleep(Duration::from_millis(500));
    run.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(800));
    assert!(run.is_running(), "{}", run.text());
    run.signal(Signal::TERM);
    assert_eq!(run.end(), Some(130), "{}", run.text());
}

/// Steps of hundreds of micro-batches: the one at hand is not done.
#[test]
fn a_signal_ends_the_step_at_hand() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("rows.jsonl");
    repeat_rows(&data, 20);
    let more = ["--data.path", &data.to_string_lossy(), "--eval.initial_validation", "false"];
    let steps = ["--train.global_batch_size", "4000", "--train.epochs", "100"];
    let mut run = Watched::start(smoke(home.path(), &[more, steps].concat()));
    run.until("step 1/").unwrap();
    run.signal(Signal::TERM);
    assert_eq!(run.end(), Some(75), "{}", run.text());
    let out = home.path().join("out");
    assert_eq!((last_step(&out), newest(&out)), (Some(1), Some(1)), "{}", run.text());
}

/// A script and its child both get what a terminal sends, and the script passes it on.
#[test]
fn two_signals_at_once_are_one() {
    let home = tempfile::tempdir().unwrap();
    let mut run = Watched::start(smoke(home.path(), &["--train.epochs", "100000"]));
    run.until("step 2/").unwrap();
    run.signal(Signal::INT);
    run.signal(Signal::TERM);
    assert_eq!(run.end(), Some(75), "{}", run.text());
}

#[test]
fn a_hangup_ends_a_run_that_can_be_taken_up() {
    let home = tempfile::tempdir().unwrap();
    let direct = smoke(home.path(), &["--train.epochs", "100000"]);
    // These tests may run under nohup themselves.
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP").arg(direct.get_program()).args(direct.get_args());
    command.current_dir(ROOT);
    let mut run = Watched::start(command);
    run.until("step 2/").unwrap();
    run.signal(Signal::HUP);
    assert_eq!(run.end(), Some(75), "{}", run.text());
}

#[test]
fn under_nohup_a_run_outlives_its_terminal() {
    let home = tempfile::tempdir().unwrap();
    let direct = smoke(home.path(), &["--train.max_steps", "4"]);
    let mut command = Command::new("nohup");
    command.arg(direct.get_program()).args(direct.get_args()).current_dir(ROOT);
    let mut run = Watched::start(command);
    run.until("step 1/").unwrap();
    run.signal(Signal::HUP);
    assert_eq!(run.end(), Some(0), "{}", run.text());
}

/// Time is over in a validation of an hour.
#[test]
fn time_ends_a_validation() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("rows.jsonl");
    repeat_rows(&data, 100);
    let more = ["--data.path", &data.to_string_lossy(), "--data.val_split_fraction", "0.99"];
    let more = [&more[..], &["--eval.max_iters", "100000000", "--train.max_time", "6"]].concat();
    let mut run = Watched::start(smoke(home.path(), &more));
    assert_eq!(run.end(), Some(75), "{}", run.text());
    assert!(run.has("train.max_time is over"), "{}", run.text());
}

#[test]
fn a_signal_ends_an_answer() {
    let home = tempfile::tempdir().unwrap();
    let base = home.path().join("base");
    model::write(&base, &model::LARGE);
    let mut command = vft(home.path());
    command.args(["generate", "--base", &base.to_string_lossy(), "--device", "cpu"]);
    command.args(["--precision", "32-true", "--prompt", "nhà", "--max-new-tokens", "200"]);
    let mut run = Watched::start(command);
    run.until("answers").unwrap();
    run.signal(Signal::TERM);
    assert_eq!(run.end(), Some(75), "{}", run.text());
}
