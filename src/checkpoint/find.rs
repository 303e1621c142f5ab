//! The checkpoint to go on from: the newest that is what its manifest says.

use super::atomic::TOKENIZER_FILES;
use super::manifest::{self, Fault};
use super::parts::CONFIG;
use super::peft;
use super::run_state::{OPTIMIZER, RunState, STATE};
use crate::error::{Problem, UserError};
use std::path::{Path, PathBuf};

/// The checkpoints that were found.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest good one with its state.
    pub good: Option<(PathBuf, RunState)>,
    /// Newer ones that are damaged, and why.
    pub damaged: Vec<(PathBuf, String)>,
    /// One of which is not known whether it is good: the search ends there.
    pub unknown: Option<(PathBuf, String)>,
}

/// Whether `dir` is a whole checkpoint; its state, or what is wrong with it.
///
/// # Errors
/// What is wrong, in words.
pub fn check(dir: &Path) -> Result<RunState, Fault> {
    if manifest::is_later(dir, STATE)
        && let Some(newer) = RunState::newer_format(dir)
    {
        return Err(Fault::Unknown(newer));
    }
    let named = manifest::verify(dir)?;
    let step = dir.file_name().and_then(|n| step_of(n.to_str()?));
    let there = |name: &&&str| step.is_some() && **name == OPTIMIZER || dir.join(name).exists();
    let optional = std::iter::once(&OPTIMIZER).chain(TOKENIZER_FILES).filter(there);
    for name in [peft::WEIGHTS, peft::CONFIG, STATE, CONFIG].iter().chain(optional) {
        if !named.contains(*name) {
            return Err(format!("its manifest does not name `{name}`").into());
        }
    }
    let first = |e: UserError| e.problems.into_iter().next().map_or_else(String::new, in_words);
    if let Some(newer) = RunState::newer_format(dir) {
        return Err(Fault::Unknown(newer));
    }
    let state = RunState::read(dir).map_err(first)?;
    if step.is_some_and(|step| step != state.step) {
        return Err(format!("it is the checkpoint of step {}", state.step).into());
    }
    state.optimizer(dir).map_err(first)?;
    peft::read(dir).map_err(first)?;
    Ok(state)
}

/// A problem of a file in the checkpoint that is spoken of.
fn in_words(problem: Problem) -> String {
    let file = problem.place.as_ref().and_then(|p| p.path.file_name());
    match file {
        Some(file) => format!("`{}` {}", file.to_string_lossy(), problem.message),
        None => problem.message,
    }
}

/// The step in the name of a checkpoint's directory.
fn step_of(name: &str) -> Option<usize> {
    name.strip_prefix("step-")?.parse().ok()
}

/// The directories `step-…` of a run, newest first.
pub fn steps(out_dir: &Path) -> Vec<(usize, PathBuf)> {
    let entries = std::fs::read_dir(out_dir).into_iter().flatten().flatten();
    let step = |e: std::fs::DirEntry| {
        let name = e.file_name();
        let number = step_of(name.to_str()?)?;
        Some((number, e.path()))
    };
    let mut steps: Vec<(usize, PathBuf)> = entries.filter_map(step).collect();
    steps.sort_unstable_by_key(|(step, _)| std::cmp::Reverse(*step));
    steps
}

/// Whether `dir` is the directory of a run that saved something.
pub fn holds_checkpoints(dir: &Path) -> bool {
    dir.join("final").is_dir() || !steps(dir).is_empty()
}

/// Looks through the checkpoints of a run: the finished adapter, then the steps from the newest on.
pub fn newest(out_dir: &Path) -> Found {
    let last = Some(out_dir.join("final")).filter(|d| d.is_dir());
    first_good(last.into_iter().chain(steps(out_dir).into_iter().map(|(_, path)| path)))
}

/// Looks through the checkpoints of a run that can be trained further, from the newest on.
pub fn newest_step(out_dir: &Path) -> Found {
    first_good(steps(out_dir).into_iter().map(|(_, path)| path))
}

fn first_good(dirs: impl Iterator<Item = PathBuf>) -> Found {
    let mut found = Found::default();
    for dir in dirs {
        match check(&dir) {
            Ok(state) => {
                found.good = Some((dir, state));
                break;
            }
            Err(Fault::Unknown(why)) => {
                found.unknown = Some((dir, why));
                break;
            }
            Err(Fault::Damaged(why)) => found.damaged.push((dir, why)),
        }
    }
    found
}
