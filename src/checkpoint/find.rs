//! The checkpoint to go on from: the newest that is what its manifest says.

use super::manifest;
use super::run_state::RunState;
use std::path::{Path, PathBuf};

/// The checkpoints that were found.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest good one with its state.
    pub good: Option<(PathBuf, RunState)>,
    /// Newer ones that are damaged, and why.
    pub damaged: Vec<(PathBuf, String)>,
}

/// Whether `dir` is a whole checkpoint; its state, or what is wrong with it.
///
/// # Errors
/// What is wrong, in words.
pub fn check(dir: &Path) -> Result<RunState, String> {
    manifest::verify(dir)?;
    let first = |e: crate::error::UserError| {
        e.problems.into_iter().next().map_or_else(String::new, |p| p.message)
    };
    let state = RunState::read(dir).map_err(first)?;
    state.optimizer(dir).map_err(first)?;
    Ok(state)
}

/// The directories `step-…` of a run, newest first.
pub fn steps(out_dir: &Path) -> Vec<(usize, PathBuf)> {
    let entries = std::fs::read_dir(out_dir).into_iter().flatten().flatten();
    let step = |e: std::fs::DirEntry| {
        let name = e.file_name();
        let number = name.to_str()?.strip_prefix("step-")?.parse().ok()?;
        Some((number, e.path()))
    };
    let mut steps: Vec<(usize, PathBuf)> = entries.filter_map(step).collect();
    steps.sort_unstable_by_key(|(step, _)| std::cmp::Reverse(*step));
    steps
}

/// Looks through the checkpoints of a run: the finished adapter, then the steps from the newest on.
pub fn newest(out_dir: &Path) -> Found {
    let mut found = Found::default();
    let last = Some(out_dir.join("final")).filter(|d| d.is_dir());
    let all = last.into_iter().chain(steps(out_dir).into_iter().map(|(_, path)| path));
    for dir in all {
        match check(&dir) {
            Ok(state) => {
                found.good = Some((dir, state));
                return found;
            }
            Err(why) => found.damaged.push((dir, why)),
        }
    }
    found
}
