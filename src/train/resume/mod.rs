//! Taking up a run where a checkpoint ends.
//!
//! The finished run is the uninterrupted one bit for bit: the adapter and the optimizer's arrays come back as they were, the order of rows,
//! dropout and samples follow from seed and step, and records after the checkpoint are written again. What would make another run of it
//! is refused; what would not is told.

mod same;

use crate::checkpoint::find::{self, Found};
use crate::checkpoint::run_state::RunState;
use crate::config::{Resume, RunConfig};
use crate::error::{Problem, Result, UserError};
use crate::train::finish::is_merged;
pub use same::{adapter_sum, compare, values};
use std::path::{Path, PathBuf};

/// A checkpoint to go on from.
#[derive(Debug, Clone)]
pub struct Start {
    /// Its directory.
    pub dir: PathBuf,
    /// Where it stands.
    pub state: RunState,
    /// Newer checkpoints that are damaged, and why.
    pub damaged: Vec<(PathBuf, String)>,
    /// Whether the run goes on in the directory that it began in.
    pub same_dir: bool,
}

/// What there is to take up.
#[derive(Debug, Clone)]
pub enum Plan {
    /// Nothing: the run begins with its first step.
    Fresh,
    /// A checkpoint.
    From(Box<Start>),
    /// The run is finished; what could not be compared with the config.
    Finished(Option<String>),
}

/// Looks for what `resume` asks for.
///
/// # Errors
/// When a checkpoint that is named is none, all of them are damaged, or the config asks for another run than they are of.
pub fn plan(config: &RunConfig) -> Result<Plan> {
    let dir = match &config.resume {
        Resume::No => return Ok(Plan::Fresh),
        Resume::Auto => return of_run(config, &config.out_dir),
        Resume::From(dir) => dir,
    };
    let at = |why: &str, hint: &str| {
        let problem = config.problem("resume", format!("`{}`: {why}", dir.display()));
        Err(UserError::from(problem.hint(hint)))
    };
    let hint = "name a directory step-…, or write `auto`";
    if !dir.is_dir() {
        return at("is no directory", hint);
    }
    // The adapter of a finished run stands for that run.
    let run = if dir.ends_with("final") { home(dir) } else { Some(dir.clone()) };
    if let Some(run) = run.filter(|run| find::holds_checkpoints(run)) {
        return of_run(config, &run);
    }
    let state = match find::check(dir) {
        Ok(state) => state,
        Err(why) => return at(&why.to_string(), hint),
    };
    same::settings(config, &state)?;
    if !RunState::has_optimizer(dir) {
        let hint = "name a directory step-…; `adapter_path` begins a new run from an adapter";
        return at("has no optimizer to go on with", hint);
    }
    let start = Start::new(dir.clone(), state, Vec::new(), config);
    let last = Some(config.out_dir.join("final")).filter(|d| d.exists());
    let steps = find::steps(&config.out_dir).into_iter();
    let newer = steps.filter(|(step, _)| *step > start.state.step).map(|(_, path)| path);
    if start.same_dir
        && let Some(newer) = last.into_iter().chain(newer).next()
    {
        let message = format!("`{}` is newer", newer.display());
        let hint = "`resume: auto` goes on from the newest; to go back, take newer checkpoints away, or give the run another `out_dir`";
        return at(&message, hint);
    }
    Ok(Plan::From(Box::new(start)))
}

impl Start {
    fn new(
        dir: PathBuf,
        state: RunState,
        damaged: Vec<(PathBuf, String)>,
        config: &RunConfig,
    ) -> Self {
        let same_dir = is_same(home(&dir).as_deref(), &config.out_dir);
        Self { dir, state, damaged, same_dir }
    }
}

/// Whether the run is to go on in the directory that it began in.
pub fn is_own(config: &RunConfig) -> bool {
    match &config.resume {
        Resume::No => false,
        Resume::Auto => true,
        Resume::From(dir) => {
            let run = if find::holds_checkpoints(dir) { Some(dir.clone()) } else { home(dir) };
            is_same(run.as_deref(), &config.out_dir)
        }
    }
}

/// The directory of the run that a checkpoint is of.
fn home(checkpoint: &Path) -> Option<PathBuf> {
    checkpoint.canonicalize().ok()?.parent().map(Path::to_path_buf)
}

fn is_same(a: Option<&Path>, b: &Path) -> bool {
    let a = a.and_then(|a| a.canonicalize().ok());
    a.is_some() && a == b.canonicalize().ok()
}

/// The newest good checkpoint of the run in `dir`.
fn of_run(config: &RunConfig, dir: &Path) -> Result<Plan> {
    let found = find::newest(dir);
    let Some((newest, state)) = found.good else {
        return nothing_good(dir, found);
    };
    same::settings(config, &state)?;
    if newest.ends_with("final") {
        if asks_for_more(config, &state) {
            return from_steps(config, dir);
        }
        let merged = !config.save_merged || is_merged(config);
        let described = newest.join("README.md").is_file();
        if is_same(Some(dir), &config.out_dir) && merged && described {
            return Ok(Plan::Finished(same::finished(config, &state, &newest)?));
        }
    }
    Ok(Plan::From(Box::new(Start::new(newest, state, found.damaged, config))))
}

/// A finished run that is to be longer goes on from its last checkpoint with an optimizer.
fn from_steps(config: &RunConfig, run: &Path) -> Result<Plan> {
    let found = find::newest_step(run);
    if let Some((dir, state)) = found.good {
        return Ok(Plan::From(Box::new(Start::new(dir, state, found.damaged, config))));
    }
    known(&found)?;
    let message = "the run is finished, and none of its checkpoints is left to go on from";
    Err(Problem::in_file(run, message)
        .hint("start a new one with `adapter_path` and another `out_dir`")
        .into())
}

/// Nothing is done to a run whose newest checkpoint may be good.
fn known(found: &Found) -> Result<()> {
    let Some((dir, why)) = &found.unknown else { return Ok(()) };
    let hint = "nothing was changed; mend that, or name an older one with `--resume DIR` and another `out_dir`";
    Err(Problem::in_file(dir, format!("may be a good checkpoint, but {why}")).hint(hint).into())
}

/// Whether the run that `state` is of ended there, and is to end there.
pub fn ended_early(config: &RunConfig, state: &RunState) -> bool {
    state.early && !asks_for_more(config, state)
}

/// Whether the config asks for another end than the run had.
pub fn asks_for_more(config: &RunConfig, state: &RunState) -> bool {
    let ends: &[&str] = &["train.epochs", "train.max_steps", "train.max_tokens"];
    let patience: &[&str] = if state.early { &["train.early_stopping_patience"] } else { &[] };
    let differs = |key: &&str| config.value(key) != state.config.get(*key).cloned();
    ends.iter().chain(patience).any(differs)
}

fn nothing_good(dir: &Path, found: Found) -> Result<Plan> {
    known(&found)?;
    if found.damaged.is_empty() {
        return Ok(Plan::Fresh);
    }
    let problem =
        |(dir, why): (PathBuf, String)| Problem::in_file(dir, format!("is damaged: {why}"));
    let mut problems: Vec<Problem> = found.damaged.into_iter().map(problem).collect();
    let message = "holds no checkpoint that is whole";
    problems.push(Problem::in_file(dir, message).hint("start anew in another `out_dir`"));
    Err(UserError { problems })
}
