//! `vft merge`: base and adapter to full weights, and with `--verify` what the merge cost.

mod choice;
mod table;
mod texts;

use super::stop::{self, KILLED, UNFINISHED};
use super::trained;
use crate::config::{Device, Precision, Quantize, Size};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Problem, UserError};
use crate::merge::verify::{VerifyAsk, sample, verify};
use crate::merge::{MergeAsk, MergeReport, TiedHead, merge};
use crate::ops::Cx;
use crate::report;
use crate::train::device::{self, Opened};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Sequences to verify with.
const SEQUENCES: usize = 64;

/// Tokens of a sequence that the base makes up.
const SAMPLED: usize = 32;

/// Arguments of `vft merge`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Hugging Face model directory, or a model on the Hub; if not given, the one that the adapter names.
    #[arg(long, value_name = "DIR | ID")]
    base: Option<PathBuf>,
    /// Branch, tag or commit of a base on the Hub.
    #[arg(long)]
    revision: Option<String>,
    /// PEFT adapter directory.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The directory to be made.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the adapter is added to: the weights as they are, or after the NF4 round trip that training saw. Dequant if the adapter
    /// was trained on a quantised base, as `vft.yaml` beside it or --quantize says.
    #[arg(long, value_enum)]
    base_weights: Option<choice::Asked>,
    /// What the adapter was trained on: bnb.nf4 or bnb.nf4-dq; from `vft.yaml` beside the adapter if not given.
    #[arg(long)]
    quantize: Option<Quantize>,
    /// What it was trained in: 32-true, bf16-true or 16-true; from `vft.yaml` if not given, else bf16-true.
    #[arg(long)]
    precision: Option<Precision>,
    /// An adapter on a head that is the embedding: untie, drop or error.
    #[arg(long, default_value = "untie")]
    tied_head: TiedHead,
    /// Bytes of one file of weights at most.
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    max_shard_size: Size,
    /// Compare the merged model, and that on the other base, with base and adapter.
    #[arg(long)]
    verify: bool,
    /// Text to verify with: .txt with a text a line, .jsonl with `text`; else the base makes some up.
    #[arg(long, value_name = "FILE", requires = "verify")]
    verify_text: Option<PathBuf>,
    /// Where --verify runs: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto", requires = "verify")]
    device: Device,
    /// Threads to compute with; 0 for all cores. The result does not depend on it.
    #[arg(long, default_value_t = 0, env = "VFT_THREADS")]
    threads: usize,
}

pub(super) fn run(args: &Args) -> Result<i32> {
    let stop = stop::listen()?;
    if !args.adapter.is_dir() {
        let message = format!("`--adapter`: `{}` is no directory", args.adapter.display());
        return Err(UserError::from(Problem::new(message)).into());
    }
    let (base, revision) = (args.base.as_deref(), args.revision.as_deref());
    let base = trained::base(base, revision, Some(&args.adapter))?;
    let choice = choice::choose(args)?;
    report::print_note(format_args!("base weights: {}", choice.reason));
    let ask = MergeAsk {
        base: &base,
        adapter: &args.adapter,
        out: &args.out,
        replace: false,
        base_weights: choice.base_weights,
        tied_head: args.tied_head,
        shard_bytes: args.max_shard_size.0,
        stop: stop.flag(),
    };
    // What cannot be verified is told before anything is written.
    let check = if args.verify { Some(Check::new(args, &base, choice.precision)?) } else { None };
    let threads = device::open(Device::Cpu, Some(Precision::F32), args.threads)?.cx;
    // A merge that is to end takes away what it wrote.
    stop.hold();
    let done = match threads.install(|| merge(&ask)) {
        Err(_) if stop.flag().load(Ordering::Relaxed) => {
            report::print_note("stopped by a signal; nothing was written");
            return Ok(UNFINISHED);
        }
        done => done?,
    };
    for note in &done.notes {
        report::print_note(format_args!("note: {note}"));
    }
    report::print_note(summary(&done, &args.out));
    if let Some(check) = check {
        // The model is whole: to start the command again would be refused.
        stop.release(KILLED);
        if stop.flag().load(Ordering::Relaxed) {
            report::print_note("stopped by a signal before the merged model was verified");
            return Ok(KILLED);
        }
        let sequences = check.sequences(args, &base)?;
        let trained_on = choice.trained_on;
        let ask = VerifyAsk { cx: &check.cx, merge: &ask, trained_on, sequences: &sequences };
        report::print_out(&table::render(&verify(&ask)?, trained_on.is_some()))?;
    }
    Ok(0)
}

fn summary(done: &MergeReport, out: &Path) -> String {
    let (adapted, tensors, mib) = (done.adapted, done.tensors, done.bytes as f64 / 1_048_576.0);
    let through = match done.round_trips {
        0 => String::new(),
        count => format!(", {count} through NF4"),
    };
    let files = match done.files.len() {
        1 => String::new(),
        count => format!(", {count} files"),
    };
    let out = out.display();
    format!(
        "merged: {adapted} linears with the adapter{through}; {tensors} tensors, {mib:.1} MiB in {out}{files}"
    )
}

/// Where a verification runs, and the text that it was given.
struct Check {
    cx: Cx,
    tokenizer: Tokenizer,
    texts: Option<Vec<String>>,
}

impl Check {
    fn new(args: &Args, base: &Path, precision: Precision) -> Result<Self> {
        let tokenizer = Tokenizer::load(base)?;
        let texts = args.verify_text.as_deref().map(|f| texts::read(f, SEQUENCES)).transpose()?;
        let Opened { cx, notes, .. } =
            trained::open(args.device, precision, args.threads, "verifying")?;
        for note in notes {
            report::print_note(format_args!("note: {note}"));
        }
        Ok(Self { cx, tokenizer, texts })
    }

    fn sequences(&self, args: &Args, base: &Path) -> Result<Vec<Vec<u32>>> {
        if let (Some(texts), Some(file)) = (&self.texts, &args.verify_text) {
            report::print_note(format_args!("verify: {} rows of {}", texts.len(), file.display()));
            return Ok(texts
                .iter()
                .map(|text| self.tokenizer.encode(text, true))
                .collect::<Result<_, _>>()?);
        }
        let first = self.tokenizer.bos_id.or(self.tokenizer.eos_id).unwrap_or(0);
        report::print_note(format_args!(
            "verify: {SEQUENCES} sequences of {SAMPLED} tokens that the base makes up from token {first} at temperature 1, seeds 0 to {}; `--verify-text FILE` takes held-out text",
            SEQUENCES - 1
        ));
        sample(&self.cx, base, first, SEQUENCES, SAMPLED)
    }
}
