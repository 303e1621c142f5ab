//! `vft finetune`: config and overrides to a trained adapter.

use crate::checkpoint::out_dir;
use crate::config::{RunConfig, keys};
use crate::report;
use crate::train::fit::{Ending, fit};
use crate::train::prepare::{Run, prepare};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code after a signal: the shell's 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Arguments of `vft finetune`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The run's YAML file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the resolved config and end.
    #[arg(long)]
    print_config: bool,
    /// Threads to compute with; 0 for all cores. The result does not depend on it.
    #[arg(long, default_value_t = 0, env = "VFT_THREADS")]
    threads: usize,
    /// Keys to set, as `--train.max_steps 10`; they win over the file.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "--KEY VALUE")]
    overrides: Vec<String>,
}

pub(super) fn after_help() -> String {
    format!("Keys:\n{}", keys::help())
}

pub(super) fn run(args: &Args) -> Result<i32> {
    let (config_file, overrides, print) = split(args);
    let config = RunConfig::load(config_file.as_deref(), &overrides)?;
    if print {
        report::print_out(&config.to_yaml());
        return Ok(0);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
    })
    .context("cannot listen to signals")?;

    out_dir::claim(&config.out_dir)?;
    let mut run = prepare(&config, args.threads)?;
    for line in summary(&config, &run) {
        report::print_note(line);
    }
    match fit(&config, &mut run, &stop)? {
        Ending::Finished => {
            report::print_note(format_args!(
                "adapter saved in {}",
                config.out_dir.join("final").display()
            ));
            Ok(0)
        }
        Ending::Interrupted { step } => {
            let saved = config.out_dir.join(format!("step-{step:08}"));
            let place = if step > 0 {
                format!("; adapter saved in {}", saved.display())
            } else {
                String::new()
            };
            report::print_note(format_args!("stopped by a signal after step {step}{place}"));
            Ok(INTERRUPTED)
        }
    }
}

/// `--config` and `--print_config` may also stand after the first override.
fn split(args: &Args) -> (Option<PathBuf>, Vec<String>, bool) {
    let (mut file, mut print, mut rest) = (args.config.clone(), args.print_config, Vec::new());
    let mut overrides = args.overrides.iter();
    while let Some(argument) = overrides.next() {
        match (argument.as_str(), argument.strip_prefix("--config=")) {
            (_, Some(path)) => file = Some(path.into()),
            ("--config", _) => file = overrides.next().map(Into::into),
            ("--print_config" | "--print-config", _) => print = true,
            _ => rest.push(argument.clone()),
        }
    }
    (file, rest, print)
}

fn summary(config: &RunConfig, run: &Run) -> Vec<String> {
    let census = &run.data.census;
    let share = 100.0 * census.targets as f64 / census.tokens.max(1) as f64;
    let mut lines = vec![
        format!(
            "data: {} training and {} validation rows, {} tokens, {share:.0} % trained, longest {}",
            run.data.train.len(),
            run.data.val.len(),
            census.tokens,
            census.longest
        ),
        format!(
            "adapter: {} modules, {} trainable parameters, r {}, alpha {}",
            run.paths.len(),
            run.arena.trainable(),
            run.lora.r,
            run.lora.alpha
        ),
        format!(
            "run: {} steps, {} per epoch, {} rows each",
            run.schedule.total_steps, run.steps_per_epoch, config.train.global_batch_size
        ),
    ];
    for (lines_of, what) in [
        (&census.cut, "cut to train.max_seq_length"),
        (&census.empty, "left out, nothing in them is trained"),
    ] {
        if !lines_of.is_empty() {
            let first: Vec<_> = lines_of.iter().take(5).map(ToString::to_string).collect();
            lines.push(format!(
                "note: {} rows {what} (lines {}…)",
                lines_of.len(),
                first.join(", ")
            ));
        }
    }
    lines.extend(run.notes.iter().map(|n| format!("note: {n}")));
    lines
}
