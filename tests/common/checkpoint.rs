//! What a run goes on from, and what lies in it.

use serde_json::Value;
use std::path::Path;

/// The step of the newest checkpoint in a run's directory, told by names alone: what has its name is whole. `None` where there is none.
pub(crate) fn newest(out: &Path) -> Option<usize> {
    if out.join("final").is_dir() {
        return Some(state(&out.join("final"))["step"].as_u64().unwrap() as usize);
    }
    let step = |e: std::fs::DirEntry| e.file_name().to_str()?.strip_prefix("step-")?.parse().ok();
    std::fs::read_dir(out).into_iter().flatten().flatten().filter_map(step).max()
}

/// The step that a start says it goes on from. Each start that takes a run up says it once, before its first step.
pub(crate) fn taken_up(told: &str) -> Option<usize> {
    let of_line = |l: &str| {
        let (step, _) = l.split_once("note: taken up after step ")?.1.split_once(" from ")?;
        Some(step.parse().unwrap())
    };
    let steps: Vec<usize> = told.lines().filter_map(of_line).collect();
    assert!(steps.len() < 2, "{told}");
    steps.first().copied()
}

/// The first step that a start did, of those that it told.
pub(crate) fn first_step(told: &str) -> Option<usize> {
    let step = |line: &str| line.strip_prefix("step ")?.split_once('/')?.0.parse().ok();
    told.lines().find_map(step)
}

/// What a checkpoint holds that must not depend on when the run was interrupted.
#[derive(Debug, PartialEq)]
pub(crate) struct Kept {
    /// The bytes of the optimizer's arrays; the finished adapter has none.
    pub(crate) moments: Option<Vec<u8>>,
    /// Where the run stands, but for the clock, the lengths of files with times in them, and paths.
    pub(crate) state: Value,
}

pub(crate) fn kept(dir: &Path) -> Kept {
    let mut state = state(dir);
    for name in ["elapsed_s", "bytes", "config"] {
        state.as_object_mut().unwrap().remove(name).unwrap();
    }
    Kept { moments: std::fs::read(dir.join("optimizer.safetensors")).ok(), state }
}

fn state(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("run_state.json")).unwrap()).unwrap()
}
