//! Two processes on one `out_dir`, and the lock of one that is dead.
use crate::checkpoint::{newest, taken_up};
use crate::common::*;
use crate::left::left;
use rustix::process::{Pid, Signal, kill_process};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LOCK: &str = "out/.vft.lock";

/// A second of steps, a checkpoint after every fourth.
const RUN: &[&str] = &["--train.max_steps", "40", "--train.save_interval", "4", "--device", "cpu"];

fn start(home: &Home) -> Child {
    Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "--config", "configs/smoke.yml", "--out_dir", &home.text("out")])
        .args(RUN)
        .args(["--resume", "auto"])
        .current_dir(ROOT)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A run that has saved something and is not at its end.
fn under_way(home: &Home) -> Child {
    let mut run = start(home);
    let began = Instant::now();
    while newest(&home.path("out")).is_none() {
        assert!(began.elapsed() < Duration::from_secs(60));
        assert!(run.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    run
}

fn send(run: &Child, signal: Signal) {
    kill_process(Pid::from_child(run), signal).unwrap();
}

fn whole() -> Home {
    let home = Home::new();
    assert_eq!(home.smoke(RUN).status.code(), Some(0));
    home
}

/// The first stands still, so that it is there for as long as the second looks.
#[test]
fn a_second_run_is_refused_and_the_first_ends_well() {
    let (whole, home) = (whole(), Home::new());
    let mut first = under_way(&home);
    send(&first, Signal::STOP);
    let second = home.smoke(&[RUN, &["--resume", "auto"]].concat());
    send(&first, Signal::CONT);
    assert_refused(&second, &[&home.text("out"), "another run is at work in it"]);
    assert_eq!(first.wait().unwrap().code(), Some(0));
    assert_eq!(left(&home.path("out")), left(&whole.path("out")));
}

#[test]
fn of_two_runs_that_start_at_once_one_is_refused() {
    let whole = whole();
    for _ in 0..5 {
        let home = Home::new();
        let runs = [start(&home), start(&home)];
        let mut codes = runs.map(|mut run| run.wait().unwrap().code());
        codes.sort_unstable();
        assert_eq!(codes, [Some(0), Some(2)]);
        assert_eq!(left(&home.path("out")), left(&whole.path("out")));
    }
}

#[test]
fn the_lock_of_a_killed_run_is_no_hindrance() {
    let home = Home::new();
    let mut first = under_way(&home);
    send(&first, Signal::KILL);
    assert_eq!(first.wait().unwrap().code(), None);
    assert!(home.path(LOCK).is_file());
    let before = newest(&home.path("out"));
    let second = home.smoke(&[RUN, &["--resume", "auto"]].concat());
    assert_eq!(second.status.code(), Some(0), "{}", stderr(&second));
    assert_eq!(taken_up(&stderr(&second)), before);
    assert!(!home.path(LOCK).exists());
}
