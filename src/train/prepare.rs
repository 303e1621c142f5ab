//! From a config to everything that a run needs, checked before the first step: tokenizer, data, model, adapter, schedule.

use super::check;
use super::device::{self, Opened};
use super::disk::{DiskPlan, Sizes};
use super::locate::SetPaths;
use super::optimizer::{is_paged, optimizer, schedule};
use super::plan::{Ask, RunPlan};
use super::record;
use super::remote::Remote;
use super::resume::{self, Start};
use super::sources::{self, Sources};
use crate::adapters::{LoraConfig, Targets};
use crate::checkpoint::peft;
use crate::checkpoint::run_state::Surroundings;
use crate::config::{Precision, RunConfig, TargetModules};
use crate::data::census::Census;
use crate::data::dataset::DataSet;
use crate::data::shipped::Shipped;
use crate::data::style::Style;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Problem, UserError};
use crate::hub::config::HfConfig;
use crate::hub::fingerprint::fingerprint;
use crate::model::load::{attach, load};
use crate::model::spec::DecoderSpec;
use crate::model::{Decoder, families};
use crate::ops::Cx;
use crate::optim::{Arena, OptimizerConfig, Schedule};
use anyhow::Result;
use std::path::{Path, PathBuf};
use tracing::debug;

/// A run about to start.
pub struct Run {
    /// The checkpoint that the run goes on from; taken by the loop.
    pub resumed: Option<Start>,
    /// Hash of the encoded rows.
    pub digest: String,
    /// What tells the base's weights apart.
    pub fingerprint: String,
    /// The model's directory on this machine.
    pub model: PathBuf,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Buffers and threads.
    pub cx: Cx,
    /// The precision of the run.
    pub precision: Precision,
    /// The data.
    pub data: DataSet,
    /// What became of the rows.
    pub census: Census,
    /// The prompt style of each set.
    pub styles: Vec<Style>,
    /// The files of each set.
    pub files: Vec<SetPaths>,
    /// The chat template that goes with the adapter.
    pub shipped: Shipped,
    /// The model with its adapter.
    pub decoder: Decoder,
    /// The adapter's parameters and gradients.
    pub arena: Arena,
    /// Rank, alpha, dropout.
    pub lora: LoraConfig,
    /// The adapted modules.
    pub paths: Vec<String>,
    /// What the run needs, and what layers keep.
    pub plan: RunPlan,
    /// What updates the adapter.
    pub optimizer: OptimizerConfig,
    /// Rates of all steps.
    pub schedule: Schedule,
    /// Steps of an epoch.
    pub steps_per_epoch: usize,
    /// Hash of the adapter that it began with.
    pub began_with: Option<String>,
    /// What its bytes depend on besides all this.
    pub surroundings: Surroundings,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Checks and loads everything; `threads` 0 means all cores.
///
/// # Errors
/// When the model, the data or the adapter is not as the run needs it.
pub fn prepare(config: &RunConfig, threads: usize, start: Option<Start>) -> Result<Run> {
    let asked = config.is_written("precision").then_some(config.precision);
    let Opened { cx, precision, mut notes } = device::open(config.device, asked, threads)?;
    let (model, spec, tokenizer) = describe(config)?;
    let dir = &model;
    let t = &config.train;

    let saved = start.as_ref().map(|s| s.dir.as_path());
    let adapter = match (saved, config.adapter_path.as_deref()) {
        (Some(path), _) => Some(peft::read(path)?),
        (None, Some(path)) if !path.is_dir() => {
            let message = format!("`{}` is no directory", path.display());
            let problem = config.problem("adapter_path", message);
            let hint = "give a directory with adapter_config.json and adapter_model.safetensors";
            return Err(UserError::from(problem.hint(hint)).into());
        }
        (None, Some(path)) => Some(peft::read(path)?),
        (None, None) => None,
    };
    let modules = spec.linear_paths();
    let (lora, paths) = match &adapter {
        Some(file) if start.is_none() => {
            (file.lora.clone(), adapter_paths(config, file, &modules)?)
        }
        Some(file) => {
            let adapted = |m: &&String| file.tensors.contains_key(*m);
            (file.lora.clone(), modules.iter().filter(adapted).cloned().collect())
        }
        None => {
            let lora = LoraConfig {
                r: config.lora.r,
                alpha: config.lora.alpha,
                dropout: config.lora.dropout,
            };
            let chosen = targets(config).select(&modules);
            (lora, chosen.map_err(|e| placed(config, "lora_target_modules", e))?)
        }
    };

    let Sources { data, styles, files, notes: of_data } = sources::load(config, &tokenizer, &spec)?;
    notes.extend(of_data);
    let shipped = Shipped::of(&styles, &tokenizer, data.asks());
    notes.extend(shipped.note());
    let census = data.census();
    debug!(rows = census.rows, tokens = census.tokens, "rows encoded");

    let steps_per_epoch = data.per_epoch().div_ceil(t.global_batch_size);
    let by_epochs = t.epochs.map(|e| e.saturating_mul(steps_per_epoch));
    let mut total_steps = by_epochs.into_iter().chain(t.max_steps).min().unwrap_or(usize::MAX);
    if let Some(most) = t.max_tokens {
        total_steps = total_steps.min(steps_of(&data, t.global_batch_size, most));
    }
    let kind = config.optimizer.kind;
    if is_paged(kind) {
        let place =
            if cx.gpu().is_some() { "it stays on the device" } else { "it is ordinary memory" };
        notes.push(format!("{kind}: the optimizer's state is not paged; {place}"));
    }
    let (schedule, note) = schedule(t, config.optimizer.lr, steps_per_epoch, total_steps);
    notes.extend(note);
    let tied_adapter = spec.tied_head && paths.iter().any(|p| p == "lm_head");
    if tied_adapter {
        notes.push("lm_head is the embedding in this model: its adapter works with PEFT and vLLM as it is; merging gives the model a head of its own".into());
    }
    let rows = data.val_len();
    check::validation(config, rows)?;
    check::merge(config, tied_adapter)?;
    let optimizer = optimizer(&config.optimizer);
    let positions =
        if rows > 0 { census.longest + config.eval.max_new_tokens } else { census.longest };
    let positions = positions.min(spec.context).max(census.longest);

    let plan = RunPlan::new(&Ask {
        config,
        model: dir,
        cx: &cx,
        spec: &spec,
        data: &data,
        longest: census.longest,
        positions,
        optimizer,
        steps: total_steps,
        rank: lora.r,
        dropout: lora.dropout > 0.0,
        paths: &paths,
    })?;
    notes.extend(check::memory(config, &plan)?);

    let sizes = Sizes {
        values: paths.iter().map(|p| spec.linear_shape(p).map(|n| n * lora.r)).collect(),
        optimizer,
        untied: if tied_adapter { spec.vocab * spec.hidden } else { 0 },
    };
    let done = start.as_ref().map_or(0, |s| s.state.step);
    DiskPlan::new(config, dir, &sizes, done..total_steps).check(&config.out_dir)?;

    let mut decoder = cx.install(|| load(&cx, dir, config.quantize.map(device::nf4)))?;
    debug!(device = device::describe(&cx), quantize = ?config.quantize, "weights ready");
    let mut arena = Arena::default();
    let tensors = adapter.as_ref().map(|a| &a.tensors);
    let file = saved.or(config.adapter_path.as_deref()).unwrap_or(dir).to_path_buf();
    attach(&mut decoder, &mut arena, &lora, &paths, config.seed, tensors)
        .map_err(|e| in_file(e, &file))?;
    arena.to_device(&cx)?;
    let surroundings = record::surroundings(&cx);
    let mut run = Run {
        resumed: None,
        digest: data.digest(),
        fingerprint: fingerprint(dir)?,
        model,
        tokenizer,
        cx,
        precision,
        data,
        census,
        styles,
        files,
        shipped,
        decoder,
        arena,
        lora,
        paths,
        plan,
        optimizer,
        schedule,
        steps_per_epoch,
        began_with: resume::adapter_sum(config),
        surroundings,
        notes,
    };
    if let Some(start) = start {
        let told = resume::compare(config, &run, &start)?;
        for (dir, why) in &start.damaged {
            run.notes.push(format!("{} is damaged and passed over: {why}", dir.display()));
        }
        run.notes.push(format!(
            "taken up after step {} from {}",
            start.state.step,
            start.dir.display()
        ));
        run.notes.extend(told);
        // The adapter may lie there no more.
        run.began_with.clone_from(&start.state.adapter);
        run.resumed = Some(start);
    }
    Ok(run)
}

/// The steps that train on `most` tokens: the last one may go beyond.
fn steps_of(data: &DataSet, batch: usize, most: usize) -> usize {
    let (mut seen, mut steps) = (0, 0);
    for order in data.epochs() {
        for window in order.chunks(batch) {
            seen += window.iter().map(|r| data.train(*r).ids.len()).sum::<usize>();
            steps += 1;
            if seen >= most {
                return steps;
            }
        }
    }
    steps
}

/// What data needs of a model: its directory on this machine, its shape, its tokenizer.
///
/// # Errors
/// When the model is not as a run needs it, weights apart.
pub fn describe(config: &RunConfig) -> Result<(PathBuf, DecoderSpec, Tokenizer)> {
    if config.revision.is_some() && config.checkpoint_dir.is_dir() {
        let message = "is for models on the Hub; `checkpoint_dir` is a directory here";
        return Err(UserError::from(config.problem("revision", message)).into());
    }
    let remote = Remote::new(config.access_token.clone());
    let model = remote.model(&config.checkpoint_dir, config.revision.as_deref());
    let model = model.map_err(|e| placed(config, "checkpoint_dir", e))?;
    let dir = &model;
    let hf = HfConfig::load(dir)?;
    let spec = families::spec(&hf)?;
    debug!(dir = %dir.display(), architecture = hf.architecture, layers = spec.layers, "config.json read");
    let t = &config.train;
    if t.max_seq_length.is_some_and(|n| n > spec.context) {
        let message = format!("is above the model's context of {}", spec.context);
        return Err(UserError::from(config.problem("train.max_seq_length", message)).into());
    }
    let tokenizer = Tokenizer::load(dir)?;
    if tokenizer.vocab_size() > spec.vocab {
        let message = format!(
            "has {} tokens, but the model's embedding only {} rows",
            tokenizer.vocab_size(),
            spec.vocab
        );
        let hint = "the tokenizer belongs to another model, or the embedding was not resized for added tokens";
        return Err(UserError::from(
            Problem::in_file(dir.join("tokenizer.json"), message).hint(hint),
        )
        .into());
    }
    debug!(tokens = tokenizer.vocab_size(), "tokenizer read");
    Ok((model, spec, tokenizer))
}

/// An error about a key, at the place where the key is written.
fn placed(config: &RunConfig, key: &str, error: UserError) -> UserError {
    let place = config.places.get(key).cloned();
    let problems = error.problems.into_iter();
    let at_key = |p: Problem| {
        let place = place.clone().or(p.place);
        let message =
            if p.message.contains(key) { p.message } else { format!("`{key}`: {}", p.message) };
        Problem { place, message, hint: p.hint }
    };
    UserError { problems: problems.map(at_key).collect() }
}

/// A user's error about what was read from `path`.
pub fn in_file(error: anyhow::Error, path: &Path) -> anyhow::Error {
    match error.downcast::<UserError>() {
        Ok(e) => e.found_in(path).into(),
        Err(e) => e,
    }
}

fn targets(config: &RunConfig) -> Targets {
    match &config.lora.targets {
        TargetModules::Names(names) => Targets::Names(names.clone()),
        TargetModules::Regex(regex) => Targets::Regex(regex.clone()),
        TargetModules::AllLinear => Targets::AllLinear,
    }
}

/// The modules of an adapter to start from; keys that were written and disagree with it are errors.
fn adapter_paths(
    config: &RunConfig,
    file: &peft::AdapterFile,
    modules: &[String],
) -> Result<Vec<String>, UserError> {
    let mut problems = Vec::new();
    let mut differs = |key: &str, ours: f64, theirs: f64| {
        if config.is_written(key) && ours != theirs {
            let message = format!("is {ours}, but the adapter at `adapter_path` has {theirs}");
            problems.push(
                config.problem(key, message).hint("remove the key: the adapter's value is used"),
            );
        }
    };
    differs("lora_r", config.lora.r as f64, file.lora.r as f64);
    differs("lora_alpha", config.lora.alpha, file.lora.alpha);
    differs("lora_dropout", config.lora.dropout, file.lora.dropout);
    let of_targets = |k: &str| {
        k == "lora_target_modules"
            || ["query", "key", "value", "projection", "mlp", "head"]
                .iter()
                .any(|f| k == format!("lora_{f}"))
    };
    if let Some((key, _)) = config.written.iter().find(|(k, _)| of_targets(k)) {
        problems.push(config.problem(
            key,
            "cannot be set together with `adapter_path`: the adapter says which modules it adapts",
        ));
    }
    if let Some(foreign) = file.tensors.keys().find(|k| !modules.contains(k)) {
        problems.push(config.problem(
            "adapter_path",
            format!("the adapter adapts `{foreign}`, which this model does not have"),
        ));
    }
    UserError::check(problems)?;
    Ok(modules.iter().filter(|m| file.tensors.contains_key(*m)).cloned().collect())
}
