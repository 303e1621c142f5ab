//! `vft generate`: a model, an adapter if given, a prompt, an answer.

use super::stop;
use super::trained;
use crate::checkpoint::peft;
use crate::config::{Device, Precision, Quantize};
use crate::data::row::{Role, Turn};
use crate::data::template::ChatTemplate;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Problem, UserError};
use crate::model::generate::{Answer, Generator};
use crate::model::load::{attach, load};
use crate::model::sample::{Sampler, Sampling};
use crate::optim::Arena;
use crate::report;
use crate::train::device::{self, Opened};
use crate::train::prepare::in_file;
use anyhow::Result;
use std::path::PathBuf;
use std::str::FromStr;
use tracing::debug;

/// Arguments of `vft generate`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Hugging Face model directory, or a model on the Hub; if not given, the one that the adapter names.
    #[arg(long, value_name = "DIR | ID")]
    base: Option<PathBuf>,
    /// Branch, tag or commit of a model on the Hub.
    #[arg(long)]
    revision: Option<String>,
    /// PEFT adapter directory.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Pack the base to 4 bits: bnb.nf4, bnb.nf4-dq or none; as `vft.yaml` beside the adapter says if not given, else none.
    #[arg(long)]
    quantize: Option<Packing>,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: Device,
    /// 32-true, bf16-true, bf16-mixed or, on CUDA, 16-true or 16-mixed; as `vft.yaml` beside the adapter says if not given, else bf16-true,
    /// 16-true on cards without bf16.
    #[arg(long)]
    precision: Option<Precision>,
    /// What to ask.
    #[arg(long)]
    prompt: String,
    /// A system message before it.
    #[arg(long)]
    system: Option<String>,
    /// Give the prompt to the model as it is, without the chat template.
    #[arg(long)]
    raw: bool,
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 256)]
    max_new_tokens: usize,
    /// Randomness; 0 always takes the likeliest token.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Sample among the likeliest tokens whose probabilities add up to this.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Above 1, tokens that occurred become less likely.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// Threads to compute with; 0 for all cores.
    #[arg(long, default_value_t = 0, env = "VFT_THREADS")]
    threads: usize,
}

pub(super) fn run(args: &Args) -> Result<i32> {
    // Nothing has to be saved: a signal ends it at once.
    stop::listen()?;
    let problem = |message: String| UserError::from(Problem::new(message));
    let adapter = args.adapter.as_deref();
    if let Some(dir) = adapter.filter(|dir| !dir.is_dir()) {
        return Err(problem(format!("`--adapter`: `{}` is no directory", dir.display())).into());
    }
    let base = trained::base(args.base.as_deref(), args.revision.as_deref(), adapter)?;
    let positive = |name: &str, x: f32, ok: bool| {
        if ok { Ok(()) } else { Err(problem(format!("`--{name}`: {x} is out of range"))) }
    };
    positive("temperature", args.temperature, (0.0..=100.0).contains(&args.temperature))?;
    positive("top-p", args.top_p, args.top_p > 0.0 && args.top_p <= 1.0)?;
    positive(
        "repetition-penalty",
        args.repetition_penalty,
        (0.01..=100.0).contains(&args.repetition_penalty),
    )?;

    let mut tokenizer = Tokenizer::load(&base)?;
    let ids = prompt_ids(args, &mut tokenizer)?;
    let (Opened { cx, notes, .. }, quantize) = open(args)?;
    for note in notes {
        report::print_note(format_args!("note: {note}"));
    }
    let mut decoder = cx.install(|| load(&cx, &base, quantize.map(device::nf4)))?;
    let mut arena = Arena::default();
    if let Some(dir) = &args.adapter {
        let file = peft::read(dir)?;
        let modules = decoder.spec.linear_paths();
        if let Some(foreign) = file.tensors.keys().find(|k| !modules.contains(k)) {
            let message = format!("adapts `{foreign}`, which the base does not have");
            return Err(UserError::from(Problem::in_file(dir, message)).into());
        }
        let paths: Vec<String> = file.tensors.keys().cloned().collect();
        attach(&mut decoder, &mut arena, &file.lora, &paths, 0, Some(&file.tensors))
            .map_err(|e| in_file(e, dir))?;
        arena.to_device(&cx)?;
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= decoder.spec.vocab) {
        return Err(problem(format!(
            "the prompt's token {id} lies outside the model's vocabulary"
        ))
        .into());
    }
    if args.max_new_tokens == 0 {
        return Err(problem("`--max-new-tokens`: 0 leaves nothing to generate".into()).into());
    }
    let room = decoder.spec.context.saturating_sub(ids.len()).min(args.max_new_tokens);
    if room == 0 {
        let message =
            format!("the prompt has {} tokens; the model sees {}", ids.len(), decoder.spec.context);
        return Err(problem(message).into());
    }
    let sampling = Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
    };
    let mut sampler = Sampler::new(sampling, &ids);
    debug!(prompt = ids.len(), "answers");
    let answer = cx.install(|| -> Result<Answer> {
        let rope = &decoder.rope_table(&cx, ids.len() + room)?;
        let generator = Generator { cx: &cx, decoder: &decoder, arena: &arena, rope };
        Ok(generator.answer(&ids, room, &mut sampler, &tokenizer.stop_ids, &|| true)?)
    })?;
    let Answer::Tokens(answer) = answer else {
        let message = "the model's output is not finite: its weights or the adapter are broken";
        return Err(problem(message.into()).into());
    };
    report::print_out(&(tokenizer.decode(&answer, true)? + "\n"))?;
    Ok(0)
}

/// A base packed to 4 bits, or as it is.
#[derive(Debug, Clone, Copy)]
struct Packing(Option<Quantize>);

impl FromStr for Packing {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|q| Self(Some(q))) }
    }
}

/// Where to compute, in what, and on which base: as the command line says, else as the adapter was trained.
fn open(args: &Args) -> Result<(Opened, Option<Quantize>)> {
    let all_said = args.quantize.is_some() && args.precision.is_some();
    let run = match &args.adapter {
        Some(adapter) if !all_said => trained::run_of(adapter)?,
        _ => None,
    };
    let of_run = run.as_ref().map(|(_, r)| (r.quantize, r.precision));
    let quantize = args.quantize.map_or(of_run.and_then(|r| r.0), |q| q.0);
    let precision = args.precision.or(of_run.map(|r| r.1));
    trained::check(quantize, precision.unwrap_or(Precision::Bf16))?;
    if let Some((file, run)) = &run {
        let packed = run.quantize.map_or("not quantised".to_owned(), |q| q.to_string());
        let taken = match (args.quantize, args.precision) {
            (None, None) => format!("base {packed}, {}", run.precision),
            (None, Some(_)) => format!("base {packed}"),
            _ => run.precision.to_string(),
        };
        report::print_note(format_args!("{taken}, as {} says", file.display()));
    }
    let opened = match (args.precision, precision) {
        (None, Some(precision)) => {
            trained::open(args.device, precision, args.threads, "answering")?
        }
        (asked, _) => device::open(args.device, asked, args.threads)?,
    };
    Ok((opened, quantize))
}

/// The chat template to prompt with, and for an adapter what was chosen: its own, or none where its tokenizer came without one. That of the base
/// is for adapters that brought no tokenizer.
fn template(args: &Args, of_base: Option<ChatTemplate>) -> Result<Option<ChatTemplate>> {
    let Some(dir) = args.adapter.as_deref().filter(|_| !args.raw) else {
        return Ok(of_base.filter(|_| !args.raw));
    };
    let own = Tokenizer::template_of(dir)?;
    let (template, said) = match own {
        Some(own) => (Some(own), "by the adapter's chat template"),
        None if dir.join("tokenizer.json").is_file() => {
            (None, "as it is, because the adapter has no chat template")
        }
        None if of_base.is_some() => {
            (of_base, "by the base's chat template, because nothing beside the adapter has one")
        }
        None => (None, "as it is, because neither adapter nor base has a chat template"),
    };
    report::print_note(format_args!("prompt: {said}"));
    Ok(template)
}

fn prompt_ids(args: &Args, tokenizer: &mut Tokenizer) -> Result<Vec<u32>> {
    let Some(template) = template(args, tokenizer.template.take())? else {
        if args.system.is_some() {
            let message = "`--system` needs the chat template, which is not used here";
            return Err(UserError::from(Problem::new(message)).into());
        }
        let ids = tokenizer.encode(&args.prompt, true)?;
        anyhow::ensure!(!ids.is_empty(), UserError::from(Problem::new("the prompt is empty")));
        return Ok(ids);
    };
    let turn = |role, content: &String| Turn { train: false, ..Turn::new(role, content) };
    let system = args.system.iter().map(|s| turn(Role::System, s));
    let turns: Vec<Turn> = system.chain([turn(Role::User, &args.prompt)]).collect();
    let text = template.render(&turns, true)?;
    debug!(text, "prompt");
    Ok(tokenizer.encode(&text, false)?)
}
