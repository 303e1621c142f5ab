//! From the values of keys to a [`RunConfig`]: read each, check them against each other.

mod data;
mod lora;
mod optimizer;
mod train;

use super::choices::*;
use super::keys::KEYS;
use super::run_config::*;
use super::scalar;
use super::values::Values;
use crate::error::{Problem, Result, UserError};
use crate::secret::{Secret, is_secret};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Numbers above 0.
const POSITIVE: std::ops::Range<f64> = 1e-30..1e9;

fn seed(text: &str) -> Result<u64, String> {
    scalar::integer(text).and_then(|n| u64::try_from(n).map_err(|_| format!("{text} is negative")))
}

/// A directory that is named; an empty name would be the working directory without a word.
fn directory(r: &mut Values, key: &str, default: &str) -> PathBuf {
    let text = r.text(key).unwrap_or_else(|| default.into());
    if text.is_empty() {
        r.problem(key, "is empty; write a directory");
    }
    text.into()
}

fn required(r: &mut Values, key: &str) -> PathBuf {
    let text = r.text(key).filter(|t| !t.is_empty());
    if text.is_none() && !r.problems.iter().any(|p| p.message.contains(&format!("`{key}`"))) {
        r.missing(Problem::new(format!("`{key}` is missing")));
    }
    text.unwrap_or_default().into()
}

/// A text that goes as it is into files which are passed on.
fn public(r: &mut Values, key: &str) -> Option<String> {
    let text = r.text(key)?;
    if is_secret(&text) {
        r.problem_with(
            key,
            "it holds a token or a password, and is written into vft.yaml, manifest and model card",
            "name the run otherwise; a token belongs into HF_TOKEN or `access_token`",
        );
        return None;
    }
    Some(text)
}

/// Reads every key and checks them against each other.
pub(super) fn run_config(mut r: Values) -> Result<RunConfig> {
    let r = &mut r;
    let mut config = RunConfig {
        checkpoint_dir: required(r, "checkpoint_dir"),
        revision: r.text("revision"),
        access_token: r.text("access_token").map(|t| Secret::new(&t)),
        out_dir: directory(r, "out_dir", "out/finetune/lora"),
        resume: r.choice("resume", Resume::No),
        device: r.choice("device", Device::Auto),
        precision: r.choice("precision", Precision::Bf16),
        quantize: r.read("quantize", None, quantize),
        lora: lora::lora(r),
        adapter_path: r.text("adapter_path").map(Into::into),
        data: data::data(r),
        train: train::train(r),
        eval: train::eval(r),
        optimizer: optimizer::optimizer(r),
        logger_name: r.read("logger_name", LoggerName::Csv, logger),
        log: LogSection {
            project: public(r, "log.project"),
            run: public(r, "log.run"),
            group: public(r, "log.group"),
        },
        save_merged: r.flag("save_merged", false),
        merge: MergeSection {
            base: r.choice("merge.base", MergeBase::Dequant),
            tied_head: r.choice("merge.tied_head", TiedHead::Untie),
        },
        seed: r.read("seed", 1337, seed),
        places: BTreeMap::new(),
        written: Vec::new(),
        notes: Vec::new(),
    };
    train::check(r, &mut config.train, config.optimizer.lr);
    if let Err(message) = goes_with(config.quantize, config.precision) {
        r.problem("quantize", &message);
    }
    // In the order of the file; what the command line says last.
    r.problems.sort_by_key(|p| p.place.as_ref().map_or((1, 0, 0), |at| (0, at.line, at.column)));
    UserError::check(std::mem::take(&mut r.problems))?;
    config.places =
        r.values.iter().filter_map(|(k, (_, p))| Some((k.clone(), p.clone()?))).collect();
    config.written = KEYS
        .iter()
        .filter(|k| r.is_written(k.name) && !k.name.ends_with("access_token"))
        .filter_map(|k| Some((k.name.to_owned(), super::resolved::flow(&r.values.get(k.name)?.0))))
        .collect();
    config.notes = std::mem::take(&mut r.notes);
    Ok(config)
}

fn quantize(text: &str) -> Result<Option<Quantize>, String> {
    match text {
        "bnb.fp4" | "bnb.fp4-dq" | "bnb.int8-training" | "bnb.int8" => Err(format!(
            "`{text}` is not supported; `bnb.nf4` and `bnb.nf4-dq` are, and NF4 loses less than either"
        )),
        _ => text.parse().map(Some),
    }
}

fn logger(text: &str) -> Result<LoggerName, String> {
    match text {
        "wandb" | "mlflow" | "litlogger" => Err(format!(
            "`{text}` is not supported; write `csv` or `tensorboard`; metrics.jsonl is always written"
        )),
        _ => text.parse(),
    }
}
