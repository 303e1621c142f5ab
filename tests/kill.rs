//! Runs that are killed at random moments, half of them while a checkpoint is written, and taken up until they are done: the adapter, the
//! losses and the steps are those of a run that nobody killed.
//!
//! 25 kills; `VFT_KILLS=1000` for more, `VFT_KILL_SEED` for other moments.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

#[path = "common/checkpoint.rs"]
mod checkpoint;
#[path = "common/dice.rs"]
mod dice;
#[path = "common/left.rs"]
mod left;

use checkpoint::{Kept, first_step, kept, newest, taken_up};
use dice::Dice;
use left::left;
use serde_json::Value;
use std::fs::{File, read_to_string};
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

/// The last step before which a checkpoint is saved.
const LAST: &str = "step-00000029";

/// A process, and what it says in a file beside its directory.
fn start(out: &Path, more: &[&str], resume: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "--config", "configs/smoke.yml", "--out_dir", &out.to_string_lossy()])
        .args(ALL)
        .args(more)
        .args(["--resume", resume])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::null())
        .stderr(File::create(out.with_extension("told")).unwrap())
        .spawn()
        .unwrap()
}

/// What a process was at.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Work {
    /// It wrote a checkpoint, or what describes the finished adapter.
    Saving,
    /// It removed an old checkpoint.
    Removing,
    Else,
}

/// What the hidden names of the process `pid` say.
fn work(out: &Path, pid: u32) -> Work {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names: Vec<String> = entries(out)
        .chain(entries(&out.join("final")))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    let any = |marks: &[&str]| {
        marks.iter().any(|mark| {
            let end = format!("{mark}{pid}");
            names.iter().any(|name| name.starts_with('.') && name.ends_with(&end))
        })
    };
    if any(&[".tmp-", ".new-", ".old-"]) {
        Work::Saving
    } else if any(&[".gone-"]) {
        Work::Removing
    } else {
        Work::Else
    }
}

/// Lets the process live for a while, or until it saves; kills it then. What it was at; `None` if it was done before.
fn kill(mut child: Child, out: &Path, dice: &mut Dice) -> Option<Work> {
    let at_save = dice.below(2) == 0;
    let life = Duration::from_millis(20 + dice.below(if at_save { 2000 } else { 400 }) as u64);
    let least = Duration::from_millis(dice.below(150) as u64);
    let began = Instant::now();
    while began.elapsed() < life {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0), "a run that is taken up ends well");
            return None;
        }
        if at_save && began.elapsed() > least && work(out, child.id()) == Work::Saving {
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    Some(work(out, child.id()))
}

/// How a start began.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Beginning {
    /// It went on from the newest checkpoint.
    TakenUp,
    /// With the first step: there was no checkpoint.
    Anew,
    /// It found the run finished.
    Finished,
    /// It was killed before it said so.
    Silent,
}

/// A start goes on from the newest checkpoint that was there before it, with the step that comes next.
fn beginning(before: Option<usize>, told: &str) -> Beginning {
    let from = taken_up(told);
    if told.contains("the run is finished") {
        assert_eq!(before, Some(30), "{told}");
        return Beginning::Finished;
    }
    if let Some(first) = first_step(told) {
        assert_eq!((from, first), (before, before.unwrap_or(0) + 1), "{told}");
        return if before.is_some() { Beginning::TakenUp } else { Beginning::Anew };
    }
    if from.is_some() {
        assert_eq!(from, before, "{told}");
        return Beginning::TakenUp;
    }
    Beginning::Silent
}

/// What a run comes to: the adapter and the records, the last checkpoint, where it stands at its end.
fn come_to(out: &Path) -> (Vec<u8>, Vec<Value>, [Kept; 2]) {
    let (adapter, records) = left(out);
    (adapter, records, [LAST, "final"].map(|name| kept(&out.join(name))))
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
            come_to(&out)
        })
        .collect();
    let (mut hits, mut beginnings, mut runs) = (Vec::new(), Vec::new(), 0);
    while (hits.len() as u64) < kills {
        let i = runs % RUNS.len();
        let out = home.path().join(format!("run-{runs}"));
        loop {
            let before = newest(&out);
            let hit = kill(start(&out, RUNS[i], "auto"), &out, &mut dice);
            let told = read_to_string(out.with_extension("told")).unwrap();
            let began = beginning(before, &told);
            beginnings.push(began);
            let Some(hit) = hit else {
                assert_ne!(began, Beginning::Silent, "{told}");
                break;
            };
            hits.push(hit);
        }
        assert_eq!(come_to(&out), whole[i], "run {runs}, after {} kills", hits.len());
        std::fs::remove_dir_all(&out).unwrap();
        runs += 1;
    }
    let hits_of = |work| hits.iter().filter(|w| **w == work).count();
    println!(
        "{} kills in {runs} runs, {} of them while a checkpoint was written and {} while an old one was removed: nothing lost, no byte differs",
        hits.len(),
        hits_of(Work::Saving),
        hits_of(Work::Removing)
    );
    let began = |how| beginnings.iter().filter(|b| **b == how).count();
    println!(
        "{} starts: {} went on after the newest checkpoint, {} began anew where there was none, {} found the run finished, {} were killed before they said so",
        beginnings.len(),
        began(Beginning::TakenUp),
        began(Beginning::Anew),
        began(Beginning::Finished),
        began(Beginning::Silent)
    );
}
