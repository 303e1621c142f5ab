//! Whether the run at hand is the one that a checkpoint is of: its settings, its rows, its base; and what else has changed.

use super::Start;
use crate::checkpoint::peft;
use crate::checkpoint::run_state::RunState;
use crate::config::RunConfig;
use crate::config::keys::KEYS;
use crate::error::{Problem, Result, UserError};
use crate::hub::fingerprint::fingerprint;
use crate::small_file::expect_regular;
use crate::train::prepare::{Run, describe};
use crate::train::save::resolved;
use crate::train::sources;
use std::collections::BTreeMap;
use std::path::Path;

/// What it means for a run that is taken up that a key has another value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// It would become another run: refused.
    AnotherRun,
    /// The run goes on otherwise, as was asked for: told.
    Told,
    /// As that, and sums are taken in another order.
    Bytes,
    /// It may change rows, which are compared themselves.
    Rows,
    /// Nothing: where things lie, or compared by itself.
    Silent,
}

fn change(key: &str) -> Option<Change> {
    const ANOTHER_RUN: &[&str] = &[
        "precision",
        "quantize",
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "lora_query",
        "lora_key",
        "lora_value",
        "lora_projection",
        "lora_mlp",
        "lora_head",
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
    const TOLD: &[&str] = &[
        "logger_name",
        "save_merged",
        "train.epochs",
        "train.max_tokens",
        "train.max_steps",
        "train.max_time",
        "train.max_seq_length",
        "train.save_interval",
        "train.save_total_limit",
        "train.save_best",
        "train.early_stopping_patience",
        "train.gradient_checkpointing",
        "train.max_memory",
        "train.log_interval",
    ];
    const SILENT: &[&str] = &[
        "checkpoint_dir",
        "revision",
        "access_token",
        "out_dir",
        "resume",
        "device",
        "adapter_path",
        "train.preemption",
    ];
    let lists = [
        (ANOTHER_RUN, Change::AnotherRun),
        (TOLD, Change::Told),
        (&["train.micro_batch_size"], Change::Bytes),
        (SILENT, Change::Silent),
    ];
    let blocks = [
        ("data.", Change::Rows),
        ("eval.", Change::Told),
        ("log.", Change::Told),
        ("merge.", Change::Told),
    ];
    let listed = lists.iter().find(|(keys, _)| keys.contains(&key));
    let of_block = || blocks.iter().find(|(block, _)| key.starts_with(block));
    listed.map(|(_, change)| *change).or_else(|| of_block().map(|(_, change)| *change))
}

/// The values of all keys, as a checkpoint keeps them.
pub fn values(config: &RunConfig) -> BTreeMap<String, String> {
    KEYS.iter().filter_map(|k| Some((k.name.to_owned(), config.value(k.name)?))).collect()
}

/// Compares the settings that are known before anything is loaded.
///
/// # Errors
/// When they would make another run.
pub(super) fn settings(config: &RunConfig, state: &RunState) -> Result<()> {
    let mut now = values(config);
    // An adapter to start from brings its own numbers; which precision a device takes is not known yet.
    let brought: &[&str] = match config.adapter_path {
        Some(_) => &["lora_r", "lora_alpha", "lora_dropout", "precision"],
        None => &["precision"],
    };
    now.retain(|key, _| config.is_written(key) || !brought.contains(&key.as_str()));
    let mut problems = other_settings(config, &now, state);
    problems.extend(other_adapter(config, state));
    UserError::check(problems)
}

/// The hash of the adapter that a run begins with; `None` without one, or where it does not lie any more.
pub fn adapter_sum(config: &RunConfig) -> Option<String> {
    let weights = config.adapter_path.as_ref()?.join(peft::WEIGHTS);
    expect_regular(&weights).ok()?;
    let mut hash = blake3::Hasher::new();
    hash.update_mmap(weights).ok()?;
    Some(hash.finalize().to_hex().to_string())
}

/// Whether the run began with another adapter: it would be told to have begun with this one.
fn other_adapter(config: &RunConfig, state: &RunState) -> Option<Problem> {
    let message = match (&config.adapter_path, &state.adapter) {
        (None, None) => return None,
        (None, Some(_)) => "is null, but the run began with an adapter".to_owned(),
        (Some(path), None) => {
            format!("is `{}`, but the run began without an adapter", path.display())
        }
        // One that is gone cannot be compared.
        (Some(path), Some(before)) => {
            adapter_sum(config).filter(|now| now != before)?;
            format!("`{}` is not the adapter that the run began with", path.display())
        }
    };
    let hint = "a run is taken up with its own settings; start a new one for others";
    Some(config.problem("adapter_path", message).hint(hint))
}

/// Keys of `now` whose value makes another run than that of `state`.
fn other_settings(
    config: &RunConfig,
    now: &BTreeMap<String, String>,
    state: &RunState,
) -> Vec<Problem> {
    let differs = |(key, after): &(&String, &String)| {
        change(key) == Some(Change::AnotherRun) && state.config.get(*key) != Some(*after)
    };
    let problem = |(key, after): (&String, &String)| {
        let before = state.config.get(key).map_or("null", String::as_str);
        let message = format!("is {after}, but the checkpoint was made with {before}");
        let hint = "a run is taken up with its own settings; start a new one for others";
        config.problem(key, message).hint(hint)
    };
    now.iter().filter(differs).map(problem).collect()
}

/// What rows and base are not those of `state`, whose checkpoint lies in `dir`.
fn other_inputs(
    config: &RunConfig,
    digest: &str,
    base: &str,
    state: &RunState,
    dir: &Path,
) -> Vec<Problem> {
    let (mut problems, dir) = (Vec::new(), dir.display());
    if digest != state.data {
        let message = format!(
            "the rows are not those of the checkpoint `{dir}`: a file, the tokenizer or a setting of `data` has changed"
        );
        problems.push(Problem::new(message).hint("start a new run for other rows"));
    }
    if base != state.base {
        let message = format!(
            "`{}` is not the model that the checkpoint `{dir}` was made with",
            config.checkpoint_dir.display()
        );
        let hint = "start a new run for another base";
        problems.push(config.problem("checkpoint_dir", message).hint(hint));
    }
    problems
}

/// Compares rows and base with those of a finished run, as far as they lie on this machine; what could not be compared.
///
/// # Errors
/// When they are others.
pub(super) fn finished(config: &RunConfig, state: &RunState, dir: &Path) -> Result<Option<String>> {
    let sets = config.data.sets.iter();
    let mut paths = sets.flat_map(|s| s.path.iter().chain(&s.val_path));
    let is_here = config.checkpoint_dir.is_dir() && paths.all(|p| p.exists());
    let is_here = is_here && config.data.sets.iter().all(|s| s.path.is_some());
    if !is_here {
        return Ok(Some("its base and rows, which do not lie here, were not compared".into()));
    }
    let read = || -> anyhow::Result<(String, String)> {
        let (model, spec, tokenizer) = describe(config)?;
        let data = sources::load(config, &tokenizer, &spec)?.data;
        Ok((data.digest(), fingerprint(&model)?))
    };
    match read() {
        Ok((digest, base)) => {
            UserError::check(other_inputs(config, &digest, &base, state, dir)).map(|()| None)
        }
        Err(e) => Ok(Some(format!("its base and rows could not be compared: {e}"))),
    }
}

/// Compares the run at hand with the one that the checkpoint is of: what to tell.
///
/// # Errors
/// When it is another run.
pub fn compare(config: &RunConfig, run: &Run, start: &Start) -> Result<Vec<String>> {
    let state = &start.state;
    let now = values(&resolved(config, run));
    let mut problems = other_settings(config, &now, state);
    problems.extend(other_inputs(config, &run.digest, &run.fingerprint, state, &start.dir));
    let total = run.schedule.total_steps;
    if state.step > total {
        problems.push(Problem::new(format!(
            "the checkpoint `{}` has {} steps, the run only {total}",
            start.dir.display(),
            state.step
        )));
    }
    UserError::check(problems)?;
    let mut told: Vec<String> = now
        .iter()
        .filter(|(key, after)| state.config.get(*key) != Some(*after))
        .filter_map(|(key, after)| {
            let beyond = match change(key)? {
                Change::Told => "",
                Change::Bytes => ": the run may end in other bytes than without the interruption",
                Change::AnotherRun | Change::Rows | Change::Silent => return None,
            };
            let before = state.config.get(key).map_or("null", String::as_str);
            Some(format!("{key} was {before}, is {after}{beyond}"))
        })
        .collect();
    told.extend(run.surroundings.differences(&state.surroundings));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_every_key_it_is_said_what_its_change_means() {
        let unknown: Vec<_> = KEYS.iter().map(|k| k.name).filter(|k| change(k).is_none()).collect();
        assert_eq!(unknown, [] as [&str; 0]);
    }
}
