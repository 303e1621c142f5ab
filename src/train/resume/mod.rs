//! Taking up a run where a checkpoint ends.
//!
//! The finished run is the uninterrupted one bit for bit: the adapter and the optimizer's arrays come back as they were, the order of rows,
//! dropout and samples follow from seed and step, and records after the checkpoint are written again. What would make another run of it
//! is refused; what would not is told.

use super::prepare::Run;
use super::save::resolved;
use crate::checkpoint::find::{self, Found};
use crate::checkpoint::run_state::RunState;
use crate::config::keys::KEYS;
use crate::config::{Resume, RunConfig};
use crate::error::{Problem, Result, UserError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Keys whose change makes another run. What rows become is compared as the rows themselves, the base as its files.
const DECISIVE: &[&str] = &[
    "precision",
    "quantize",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "data.init_args.seed",
    "train.global_batch_size",
    "train.lr_scheduler",
    "train.lr_warmup_steps",
    "train.lr_warmup_fraction",
    "train.lr_decay_fraction",
    "train.max_norm",
    "train.min_lr",
    "train.shuffle",
    "optimizer.class_path",
    "optimizer.init_args.lr",
    "optimizer.init_args.weight_decay",
    "optimizer.init_args.betas",
    "optimizer.init_args.eps",
    "optimizer.init_args.momentum",
    "optimizer.init_args.dampening",
    "optimizer.init_args.nesterov",
    "seed",
];

/// Keys whose change is not worth a word.
const SILENT: &[&str] = &[
    "checkpoint_dir",
    "revision",
    "out_dir",
    "resume",
    "adapter_path",
    "device",
    "train.preemption",
];

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
    /// The run is finished.
    Finished,
}

/// Looks for what `resume` asks for.
///
/// # Errors
/// When a checkpoint that is named is none, or all of them are damaged.
pub fn plan(config: &RunConfig) -> Result<Plan> {
    match &config.resume {
        Resume::No => Ok(Plan::Fresh),
        Resume::Auto => {
            let found = find::newest(&config.out_dir);
            let Some((dir, state)) = found.good else {
                return nothing_good(&config.out_dir, found);
            };
            if dir.ends_with("final") {
                let merged = !config.save_merged || config.out_dir.join("merged").is_dir();
                if dir.join("README.md").is_file() && merged && !is_longer(config, &state) {
                    return Ok(Plan::Finished);
                }
                if is_longer(config, &state) {
                    return from_steps(config);
                }
            }
            Ok(from(dir, state, found.damaged, &config.out_dir))
        }
        Resume::From(dir) => {
            let at = |why: String| {
                let problem = config.problem("resume", format!("`{}`: {why}", dir.display()));
                problem.hint("name a directory step-…, or write `auto`")
            };
            if !dir.is_dir() {
                return Err(at("is no directory".into()).into());
            }
            if find::steps(dir).is_empty() {
                let state = find::check(dir).map_err(at)?;
                return Ok(from(dir.clone(), state, Vec::new(), &config.out_dir));
            }
            let found = find::newest(dir);
            match found.good {
                Some((dir, state)) => Ok(from(dir, state, found.damaged, &config.out_dir)),
                None => Err(at("none of its checkpoints is whole".into()).into()),
            }
        }
    }
}

fn from(dir: PathBuf, state: RunState, damaged: Vec<(PathBuf, String)>, out_dir: &Path) -> Plan {
    let home = dir.parent().and_then(|p| p.canonicalize().ok());
    let same_dir = home.is_some() && home == out_dir.canonicalize().ok();
    Plan::From(Box::new(Start { dir, state, damaged, same_dir }))
}

/// A finished run that is to be longer goes on from its last checkpoint with an optimizer.
fn from_steps(config: &RunConfig) -> Result<Plan> {
    let mut damaged = Vec::new();
    for (_, dir) in find::steps(&config.out_dir) {
        match find::check(&dir) {
            Ok(state) => return Ok(from(dir, state, damaged, &config.out_dir)),
            Err(why) => damaged.push((dir, why)),
        }
    }
    let message = "the run is finished, and none of its checkpoints is left to go on from";
    Err(Problem::in_file(&config.out_dir, message)
        .hint("start a new one with `adapter_path` and another `out_dir`")
        .into())
}

/// Whether the config asks for another number of steps than the run had.
fn is_longer(config: &RunConfig, state: &RunState) -> bool {
    ["train.epochs", "train.max_steps", "train.max_tokens"]
        .iter()
        .any(|key| config.value(key) != state.config.get(*key).cloned())
}

fn nothing_good(out_dir: &Path, found: Found) -> Result<Plan> {
    if found.damaged.is_empty() {
        return Ok(Plan::Fresh);
    }
    let problem =
        |(dir, why): (PathBuf, String)| Problem::in_file(dir, format!("is damaged: {why}"));
    let mut problems: Vec<Problem> = found.damaged.into_iter().map(problem).collect();
    let message = "holds no checkpoint that is whole";
    problems.push(Problem::in_file(out_dir, message).hint("start anew in another `out_dir`"));
    Err(UserError { problems })
}

/// The values of all keys, as a checkpoint keeps them.
pub fn values(config: &RunConfig) -> BTreeMap<String, String> {
    KEYS.iter().filter_map(|k| Some((k.name.to_owned(), config.value(k.name)?))).collect()
}

/// Compares the run at hand with the one that the checkpoint is of: what to tell.
///
/// # Errors
/// When it is another run.
pub fn compare(config: &RunConfig, run: &Run, start: &Start) -> Result<Vec<String>> {
    let (state, mut problems, mut told) = (&start.state, Vec::new(), Vec::new());
    let now = values(&resolved(config, run));
    let shown = |v: Option<&String>| v.cloned().unwrap_or_else(|| "null".into());
    for key in KEYS.iter().map(|k| k.name) {
        let (before, after) = (state.config.get(key), now.get(key));
        if before == after || SILENT.contains(&key) {
            continue;
        }
        let (before, after) = (shown(before), shown(after));
        if DECISIVE.contains(&key) {
            let message = format!("is {after}, but the checkpoint was made with {before}");
            let hint = "a run is taken up with its own settings; start a new one for others";
            problems.push(config.problem(key, message).hint(hint));
        } else if !key.starts_with("data.") {
            told.push(format!("{key} was {before}, is {after}"));
        }
    }
    let dir = start.dir.display();
    if run.digest != state.data {
        let message = format!(
            "the rows are not those of the checkpoint `{dir}`: a file, the tokenizer or a setting of `data` has changed"
        );
        problems.push(Problem::new(message).hint("start a new run for other rows"));
    }
    if run.fingerprint != state.base {
        let message = format!(
            "`{}` is not the model that the checkpoint `{dir}` was made with",
            config.checkpoint_dir.display()
        );
        problems.push(config.problem("checkpoint_dir", message));
    }
    if state.step > run.schedule.total_steps {
        let total = run.schedule.total_steps;
        problems.push(Problem::new(format!(
            "the checkpoint `{dir}` has {} steps, the run only {total}",
            state.step
        )));
    }
    UserError::check(problems)?;
    for (name, bytes) in state.bytes.iter().filter(|_| start.same_dir) {
        let there = std::fs::metadata(config.out_dir.join(name)).map_or(0, |m| m.len());
        if there < *bytes {
            told.push(format!(
                "{name} has {there} of the {bytes} bytes that it had at the checkpoint: records are missing in it"
            ));
        }
    }
    Ok(told)
}
