//! `vft finetune`: config and overrides to a trained adapter.

use super::stop::{self, Stop, UNFINISHED, Why};
use crate::checkpoint::out_dir;
use crate::config::{RunConfig, keys};
use crate::data::preview::{self, Marks};
use crate::error::{Problem, UserError, is_disk_full};
use crate::report;
use crate::report::memory::peak_bytes;
use crate::secret::is_secret;
use crate::train::device;
use crate::train::finish;
use crate::train::fit::{Ending, Outcome, fit, step_name};
use crate::train::preemption::{self, Source};
use crate::train::prepare::{Run, prepare};
use crate::train::record::Recording;
use crate::train::resume::{self, Plan};
use crate::train::sources::check_styles;
use anyhow::Result;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Characters of the sample that is shown at start.
const SAMPLE: usize = 600;

/// Arguments of `vft finetune`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The run's YAML file.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print the resolved config and end.
    #[arg(long)]
    pub(super) print_config: bool,
    /// Threads to compute with; 0 for all cores. The result does not depend on it.
    #[arg(long, default_value_t = 0, env = "VFT_THREADS")]
    pub(super) threads: usize,
    /// Keys to set, as `--train.max_steps 10`; they win over the file.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "--KEY VALUE")]
    pub(super) overrides: Vec<String>,
}

pub(super) fn after_help() -> String {
    format!("Keys:\n{}", keys::help())
}

pub(super) fn run(args: &Args) -> Result<i32> {
    let stop = stop::listen()?;
    let Split { config: config_file, overrides, print, threads } = split(args)?;
    let config = RunConfig::load(config_file.as_deref(), &overrides)?;
    check_styles(&config)?;
    if print {
        report::print_out(&config.to_yaml())?;
        return Ok(0);
    }
    if let Some(seconds) = config.train.max_time {
        stop.after(seconds)?;
    }
    if let Some(asked) = &config.train.preemption {
        let notice = |text| stop.wish(Why::Notice(text));
        preemption::watch(Source::from_env(asked), report::print_note, notice)?;
    }
    let claim = out_dir::claim(&config.out_dir, &config.inputs(), resume::is_own(&config))?;
    if let Some(note) = claim.note() {
        report::print_note(format_args!("note: {note}"));
    }
    stop.gives_up(claim.clone());
    let start = match resume::plan(&config).inspect_err(|_| claim.give_up())? {
        Plan::Fresh => None,
        Plan::From(start) => Some(*start),
        Plan::Finished(note) => {
            claim.release();
            if let Some(note) = note {
                report::print_note(format_args!("note: {note}"));
            }
            let dir = config.out_dir.join("final");
            report::print_note(format_args!(
                "the run is finished; its adapter is in {}",
                dir.display()
            ));
            return Ok(0);
        }
    };
    let mut run = prepare(&config, threads, start).inspect_err(|_| claim.give_up())?;
    stop.hold();
    for line in summary(&config, &run) {
        report::print_note(line);
    }
    report::print_marked(&first_sample(&run)?);
    let recording = Recording::start(&config, &run)?;
    let outcome = fit(&config, &mut run, stop.flag())?;
    let used = run.cx.gpu().map_or_else(peak_bytes, |gpu| gpu.peak_bytes());
    if let Some(note) = run.plan.overrun(used) {
        report::print_note(format_args!("note: {note}"));
    }
    let code = end(&config, &run, &outcome, recording, stop)?;
    claim.release();
    Ok(code)
}

/// What is told, written and returned after the loop.
fn end(
    config: &RunConfig,
    run: &Run,
    outcome: &Outcome,
    recording: Recording,
    stop: &Stop,
) -> Result<i32> {
    let (step, last) = (outcome.step, config.out_dir.join("final"));
    let checkpoint = config.out_dir.join(step_name(step));
    let kept = if step > 0 {
        format!("; adapter saved in {}", checkpoint.display())
    } else {
        String::new()
    };
    let why = || stop.why().map_or_else(String::new, ToString::to_string);
    match outcome.ending {
        Ending::Interrupted => {
            report::print_note(format_args!("{} after step {step}{kept}", why()));
            return Ok(UNFINISHED);
        }
        Ending::Unvalidated => {
            let last = last.display();
            report::print_note(format_args!(
                "{} in the last validation; adapter saved in {last}",
                why()
            ));
            return Ok(UNFINISHED);
        }
        Ending::Finished | Ending::Early => {}
    }
    // The adapter is safe: what describes it is given up where it cannot be written. The card comes last, as the mark of a whole end.
    if recording.is_busy() {
        report::print_note("hashing what the run has read, for its manifest");
    }
    let mut notes = match recording.finish(config, run, outcome, stop.flag()) {
        Ok(notes) => notes,
        Err(_) if stop.flag().load(Ordering::Relaxed) => {
            let last = last.display();
            report::print_note(format_args!(
                "{} while files were hashed; adapter saved in {last}",
                why()
            ));
            return Ok(UNFINISHED);
        }
        Err(e) if is_disk_full(&e) => return Err(e),
        Err(e) => vec![format!("no manifest of the run: {e}")],
    };
    notes.extend(finish::describe(config, run, outcome));
    for note in notes {
        report::print_note(format_args!("note: {note}"));
    }
    if outcome.ending == Ending::Early {
        report::print_note(format_args!(
            "the validation loss fell no more: ended after step {step}"
        ));
    }
    report::print_note(format_args!("adapter saved in {}", last.display()));
    if config.train.save_best && config.out_dir.join("best").is_dir() {
        let best = config.out_dir.join("best");
        report::print_note(format_args!(
            "adapter of the lowest validation loss in {}",
            best.display()
        ));
    }
    if config.save_merged {
        let report = match finish::merged(config, run, stop.flag()) {
            Err(_) if stop.flag().load(Ordering::Relaxed) => {
                report::print_note(format_args!("{} before the merged model was whole", why()));
                return Ok(UNFINISHED);
            }
            merged => merged?,
        };
        for note in report.iter().flat_map(|r| &r.notes) {
            report::print_note(format_args!("note: {note}"));
        }
        let dir = config.out_dir.join("merged");
        report::print_note(format_args!("merged model saved in {}", dir.display()));
    }
    Ok(0)
}

/// The command's own flags, wherever they stand among the keys.
pub(super) struct Split {
    pub(super) config: Option<PathBuf>,
    pub(super) overrides: Vec<String>,
    pub(super) print: bool,
    pub(super) threads: usize,
}

/// clap gives everything after the first key as it is: the command's own flags may stand there too.
pub(super) fn split(args: &Args) -> Result<Split, UserError> {
    refuse_secrets(&args.overrides)?;
    let mut split = Split {
        config: args.config.clone(),
        overrides: Vec::new(),
        print: args.print_config,
        threads: args.threads,
    };
    let mut rest = args.overrides.iter();
    while let Some(argument) = rest.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        if matches!(flag, "--help" | "-h") {
            return Err(
                Problem::new("`--help` stands before the keys: `vft finetune --help`").into()
            );
        }
        if !flag.starts_with('-') && split.overrides.is_empty() {
            let is_yaml = flag.ends_with(".yml") || flag.ends_with(".yaml");
            if is_yaml && split.config.is_none() {
                let hint = format!("a config file is given as `--config {flag}`");
                return Err(Problem::new(format!("unexpected argument `{flag}`"))
                    .hint(hint)
                    .into());
            }
            if flag == "lora" {
                let message = "`finetune lora` is `finetune` now";
                return Err(Problem::new(message).hint("leave `lora` out").into());
            }
            // The model may stand by itself, as in LitGPT.
            split.overrides = vec!["--checkpoint_dir".into(), argument.clone()];
            continue;
        }
        let mut value = || {
            let missing = || Problem::new(format!("`{flag}` needs a value"));
            inline.clone().or_else(|| rest.next().cloned()).ok_or_else(missing)
        };
        match flag {
            "--config" => split.config = Some(value()?.into()),
            "--threads" => {
                let text = value()?;
                let broken = |_| Problem::new(format!("`--threads`: `{text}` is no number"));
                split.threads = text.parse().map_err(broken)?;
            }
            "--print_config" | "--print-config" => split.print = true,
            _ => split.overrides.push(argument.clone()),
        }
    }
    Ok(split)
}

/// Arguments can be read by everyone on the machine while a run lasts, and stay in the shell's history: no secret may stand there.
fn refuse_secrets(arguments: &[String]) -> Result<(), UserError> {
    let hint =
        "set HF_TOKEN in the environment, or write the token or the address into the config file";
    let next = arguments.iter().skip(1).map(String::as_str).chain([""]);
    for (argument, next) in arguments.iter().zip(next) {
        let (flag, value) = argument.split_once('=').unwrap_or((argument, next));
        let of_token = flag.starts_with("--") && flag.ends_with("access_token");
        // A block in YAML's flow style may hold the key too.
        let in_block = argument.contains(['{', '[']) && argument.contains("access_token");
        let message = if of_token && value != "null" {
            format!(
                "`{flag}` is not taken from the command line, which everyone on this machine can read"
            )
        } else if in_block || is_secret(argument) {
            let what = "an argument holds a token or the key of an address";
            format!("{what}, and everyone on this machine can read the command line")
        } else {
            continue;
        };
        return Err(Problem::new(message).hint(hint).into());
    }
    Ok(())
}

fn summary(config: &RunConfig, run: &Run) -> Vec<String> {
    let mut lines = vec![format!("device: {}, {}", device::describe(&run.cx), run.precision)];
    lines.extend(run.data.describe());
    lines.extend([
        format!(
            "adapter: {} modules, {} trainable parameters, r {}, alpha {}",
            run.paths.len(),
            run.arena.trainable(),
            run.lora.r,
            run.lora.alpha
        ),
        run.plan.describe(),
        format!(
            "run: {} steps, {} per epoch, {} rows each",
            run.schedule.total_steps, run.steps_per_epoch, config.train.global_batch_size
        ),
    ]);
    lines.extend(run.census.tell());
    lines.extend(config.notes.iter().chain(&run.notes).map(|n| format!("note: {n}")));
    let differences = config.litgpt_differences();
    if !differences.is_empty() {
        lines.push("other than in LitGPT:".into());
        lines.extend(differences.iter().map(|d| format!("  {d}")));
    }
    lines
}

/// The first sample that is trained, as the model sees it, around its first trained token.
fn first_sample(run: &Run) -> Result<String> {
    let marks = if report::takes_color(&io::stderr()) { Marks::Color } else { Marks::Brackets };
    let first = run.data.epochs().next().and_then(|epoch| epoch.first().copied()).unwrap_or(0);
    let (example, origin) = (run.data.train(first), run.data.origin(first));
    let text = preview::text(&run.tokenizer, example, origin.fate, marks, Some(SAMPLE))?;
    Ok(format!("first sample: {}\n{}", preview::heading(example, &origin), text.trim_end()))
}
