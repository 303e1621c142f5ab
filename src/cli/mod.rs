//! One file per verb: parse, call, render errors, exit codes.

mod data;
mod finetune;
mod generate;
mod merge;
mod reproduce;
mod selftest;
mod stop;
mod trained;

use crate::error::{UserError, is_disk_full};
use crate::report;
use crate::secret;
use clap::{Parser, Subcommand};

/// Finetune language models with LoRA and QLoRA.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Train an adapter as a config file says; any key can be set on the command line.
    #[command(visible_alias = "finetune_lora", after_help = finetune::after_help())]
    Finetune(finetune::Args),
    /// Look at data as a run would read it.
    #[command(subcommand)]
    Data(data::Verb),
    /// Answer a prompt with a model and, if given, an adapter.
    Generate(generate::Args),
    /// Fold an adapter into full weights.
    Merge(merge::Args),
    /// Make a run again from its manifest, and compare.
    Reproduce(reproduce::Args),
    /// Check that a device computes what it should, and how fast.
    Selftest(selftest::Args),
}

/// Shows a panic as one line without a backtrace: whoever sees it should report it, not read it.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::debug!("{panic}");
    }));
}

/// Runs the command line and returns the exit code: 0 done, 1 internal fault, 2 for the user to mend, 74 disk, 75 to be
/// started again, 130 after a second signal.
pub fn main() -> i32 {
    secret::remember_environment();
    stop::outlive_limits_of_files();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let text = secret::scrub(&e.render().to_string());
            if e.use_stderr() {
                report::print_lines(&text);
                return 2;
            }
            // Help and version are what was asked for.
            return ended(report::print_out(&text).map(|()| 0));
        }
    };
    let run = || match cli.verb {
        Verb::Finetune(args) => finetune::run(&args),
        Verb::Data(verb) => data::run(&verb),
        Verb::Generate(args) => generate::run(&args),
        Verb::Merge(args) => merge::run(&args),
        Verb::Reproduce(args) => reproduce::run(&args),
        Verb::Selftest(args) => selftest::run(&args),
    };
    let done = report::log::start().map_err(Into::into).and_then(|()| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
            Err(anyhow::anyhow!("internal fault, please report it: {text}"))
        })
    });
    stop::done();
    ended(done)
}

/// The exit code of a command, whose error is told.
fn ended(done: anyhow::Result<i32>) -> i32 {
    match done {
        Ok(code) => code,
        Err(e) => {
            report::print_error(&e);
            exit_code(&e)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> i32 {
    if is_disk_full(error) {
        74
    } else if error.chain().any(|e| e.downcast_ref::<UserError>().is_some())
        || format!("{error:#}").contains("out of memory: ")
    {
        2
    } else {
        1
    }
}
