//! Runs that are killed at random moments, half of them while a checkpoint is written, and taken up until they are done: the adapter, the
//! losses and the steps are those of a run that nobody killed.
//!
//! 25 kills; `VFT_KILLS=1000` for more, `VFT_KILL_SEED` for other moments.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

#[path = "common/left.rs"]
mod left;

use left::left;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What each run is made of: LoRA in f32, NF4 in bf16, with dropout and a loss on validation rows in between.
const RUNS: [&[&str]; 2] = [&[], &["--quantize", "bnb.nf4", "--precision", "bf16-true"]];

const ALL: &[&str] = &[
    "--train.max_steps",
    "30",
    "--train.save_interval",
    "1",
    "--train.save_total_limit",
    "3",
    "--lora_dropout",
    "0.1",
    "--eval.interval",
    "7",
    "--eval.max_new_tokens",
    "3",
    "--device",
    "cpu",
];

fn start(out: &Path, more: &[&str], resume: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "--config", "configs/smoke.yml", "--out_dir", &out.to_string_lossy()])
        .args(ALL)
        .args(more)
        .args(["--resume", resume])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A small generator of random numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Whether a directory is being written at this moment.
fn is_saving(out: &Path) -> bool {
    let hidden = |e: std::fs::DirEntry| {
        let name = e.file_name().to_string_lossy().into_owned();
        name.starts_with(".step-") || name.starts_with(".final") || name.starts_with(".best")
    };
    std::fs::read_dir(out).is_ok_and(|entries| entries.flatten().any(hidden))
}

/// Lets the process live for a while, or until it saves; kills it then. True if it was done before.
fn kill(mut child: Child, out: &Path, dice: &mut Dice) -> bool {
    let at_save = dice.below(2) == 0;
    let life = Duration::from_millis(20 + dice.below(if at_save { 2000 } else { 400 }));
    let least = Duration::from_millis(dice.below(150));
    let began = Instant::now();
    while began.elapsed() < life {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0), "a run that is taken up ends well");
            return true;
        }
        if at_save && began.elapsed() > least && is_saving(out) {
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

#[test]
fn killed_runs_lose_nothing() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
    };
    let kills = number("VFT_KILLS", 25);
    let mut dice = Dice(number("VFT_KILL_SEED", 7));
    let home = tempfile::tempdir().unwrap();
    let whole: Vec<_> = RUNS
        .iter()
        .enumerate()
        .map(|(i, more)| {
            let out = home.path().join(format!("whole-{i}"));
            assert!(start(&out, more, "false").wait().unwrap().success());
            left(&out)
        })
        .collect();
    let (mut done, mut runs) = (0, 0);
    while done < kills {
        let i = runs % RUNS.len();
        let out = home.path().join(format!("run-{runs}"));
        while !kill(start(&out, RUNS[i], "auto"), &out, &mut dice) {
            done += 1;
        }
        assert_eq!(left(&out), whole[i], "run {runs}, after {done} kills");
        std::fs::remove_dir_all(&out).unwrap();
        runs += 1;
    }
    println!("{done} kills in {runs} runs: nothing lost, no byte differs");
}
