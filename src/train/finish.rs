//! What a finished run leaves beside its adapter: a curve, a model card, and merged weights if the config asks for them.

use super::device;
use super::fit::Outcome;
use super::prepare::Run;
use crate::checkpoint::atomic;
use crate::checkpoint::disk::Real;
use crate::checkpoint::room::with_room;
use crate::config::class::Home;
use crate::config::{MergeBase, RunConfig, SetSection};
use crate::data::shipped::Shipped;
use crate::data::style::{Exchange, Style};
use crate::hub::remote::is_repo_id;
use crate::merge::{BaseWeights, MergeAsk, MergeReport, SHARD_BYTES, made, merge};
use crate::report::card::{Card, Prompt, Results, Rows, Source};
use crate::report::curve::Curve;
use crate::report::print_note;
use anyhow::Result;
use serde_json::Map;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use tracing::debug;

/// Name of the curve beside the card.
const CURVE: &str = "curve.svg";

/// Writes the curve and the card into the final adapter's directory; what could not be written, and why. The card is last: where it is, the run
/// has ended.
pub fn describe(config: &RunConfig, run: &Run, outcome: &Outcome) -> Vec<String> {
    let dir = config.out_dir.join("final");
    let mut notes = Vec::new();
    let write = |name: &str, text: String| {
        with_room(&Real, &config.out_dir, &|line| print_note(line), || {
            Ok(atomic::write_file(&Real, &dir.join(name), text.as_bytes())?)
        })
    };
    let curve = Curve::read(&config.out_dir.join("metrics.jsonl")).map_err(anyhow::Error::from);
    let drawn = curve.and_then(|curve| write(CURVE, curve.svg()));
    notes.extend(drawn.as_ref().err().map(|e| format!("no curve: {e}")));
    let written = write("README.md", card(config, run, outcome, drawn.is_ok()).markdown());
    notes.extend(written.err().map(|e| format!("no model card: {e}")));
    notes
}

/// Whether training saw another base than that in the files, and the merge is to have it.
fn is_dequant(config: &RunConfig) -> bool {
    config.quantize.is_some() && config.merge.base == MergeBase::Dequant
}

/// Whether `<out_dir>/merged` is the final adapter as it is now, folded in as the config says.
pub fn is_merged(config: &RunConfig) -> bool {
    let [last, merged] = ["final", "merged"].map(|name| config.out_dir.join(name));
    made::is_of(&merged, &last, is_dequant(config), config.merge.tied_head)
}

/// Folds the adapter into full weights at `<out_dir>/merged`, in the place of those of an older one; `None` where that is done. What is there and
/// not as a merge wrote it is set aside.
///
/// # Errors
/// When the base or the disk is not as a merge needs it, or a signal came.
pub fn merged(config: &RunConfig, run: &Run, stop: &AtomicBool) -> Result<Option<MergeReport>> {
    if is_merged(config) {
        return Ok(None);
    }
    let out = config.out_dir.join("merged");
    if out.exists() && !made::is_untouched(&out) {
        let aside = atomic::set_aside(&Real, &out).map_err(|e| atomic::io_problem(&out, &e))?;
        let (out, aside) = (out.display(), aside.display());
        print_note(format_args!("note: {out} is not what a merge wrote; it lies in {aside} now"));
    }
    let base_weights = match (config.quantize, config.merge.base) {
        (Some(quantize), MergeBase::Dequant) => {
            BaseWeights::Dequant { nf4: device::nf4(quantize), compute: run.cx.products() }
        }
        _ => BaseWeights::Original,
    };
    debug!("merges");
    let report = run.cx.install(|| {
        merge(&MergeAsk {
            base: &run.model,
            adapter: &config.out_dir.join("final"),
            out: &out,
            replace: true,
            base_weights,
            tied_head: config.merge.tied_head,
            shard_bytes: SHARD_BYTES,
            stop,
        })
    });
    report.map(Some)
}

fn source(path: &Path) -> Source {
    let name = path.display().to_string();
    Source { on_hub: !path.exists() && is_repo_id(&name), name }
}

fn rows_of(set: &SetSection) -> Source {
    let repo = |name: &str| Source { name: name.to_owned(), on_hub: true };
    match (&set.path, &set.repo_id, set.class.home) {
        (Some(path), ..) => source(path),
        (None, Some(repo_id), _) => source(Path::new(repo_id)),
        (None, None, Home::Hub(name, ..)) => repo(name),
        (None, None, _) => Source { name: set.class.name.to_owned(), on_hub: false },
    }
}

fn prompt(run: &Run) -> Prompt {
    let Some(style) = run.styles.iter().find(|s| !s.is_chat_template()) else {
        return Prompt::ChatTemplate;
    };
    if let Shipped::Made(_) = run.shipped {
        return Prompt::Made { name: style.name().to_owned() };
    }
    let columns = Map::new();
    let question = "What is the capital of Vietnam?";
    let exchange = Exchange { system: None, instruction: question, input: "", columns: &columns };
    // A text that names columns of its own is shown as it is, to be filled in.
    let example = style.prompt(&exchange).ok().or(style.own_text().map(str::to_owned));
    let mut names: Vec<&str> = run.styles.iter().map(Style::name).collect();
    names.dedup();
    Prompt::Style { name: names.join(", "), example: example.unwrap_or_default() }
}

/// The keys that a reader of a card wants to see.
const SHOWN: &[&str] = &[
    "precision",
    "quantize",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "train.global_batch_size",
    "train.micro_batch_size",
    "train.max_seq_length",
    "train.epochs",
    "train.max_steps",
    "train.lr_scheduler",
    "train.lr_warmup_steps",
    "train.min_lr",
    "train.max_norm",
    "optimizer.class_path",
    "optimizer.init_args.lr",
    "optimizer.init_args.weight_decay",
    "optimizer.init_args.betas",
    "data.init_args.train_on",
    "data.init_args.multi_turn",
    "data.init_args.seed",
    "log.project",
    "log.group",
    "log.run",
    "seed",
];

fn card(config: &RunConfig, run: &Run, outcome: &Outcome, has_curve: bool) -> Card {
    let census = &run.census;
    // As it was chosen where none is written.
    let config = &RunConfig { precision: run.precision, ..config.clone() };
    let setting = |key: &&str| {
        let value = config.value(key).filter(|v| v != "null")?;
        Some(((*key).to_owned(), value))
    };
    let last = outcome.last.as_ref();
    let name = config.out_dir.file_name().map(|n| n.to_string_lossy().into_owned());
    let adapter = config.out_dir.join("final");
    Card {
        title: config.log.run.clone().or(name).unwrap_or_else(|| "adapter".into()),
        base: source(&config.checkpoint_dir),
        quantize: config.quantize.map(|q| q.to_string()),
        adapter: adapter.display().to_string(),
        rank: run.lora.r,
        trainable: run.arena.trainable(),
        rows: Rows {
            sources: config.data.sets.iter().map(rows_of).collect(),
            train: run.data.train_len(),
            validation: run.data.val_len(),
            tokens: census.tokens as u64,
            target_tokens: census.targets as u64,
            longest: census.longest,
            notes: census.tell(),
        },
        prompt: prompt(run),
        settings: SHOWN.iter().filter_map(setting).collect(),
        results: Results {
            steps: outcome.step,
            epochs: last.map_or(0.0, |r| r.epoch),
            tokens: outcome.tokens,
            train_loss: last.map(|r| r.loss),
            val_loss: outcome.val_loss,
            tokens_per_s: last.map_or(0.0, |r| outcome.tokens as f64 / r.elapsed_s.max(1e-9)),
            elapsed_s: last.map_or(0.0, |r| r.elapsed_s),
            peak_mem_bytes: last.map_or(0, |r| r.peak_mem_bytes),
            device: format!("{}, {}", device::describe(&run.cx), run.precision),
        },
        curve: has_curve.then(|| CURVE.to_owned()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
