//! `vft generate`: a model, an adapter if given, a prompt, an answer.

use super::stop;
use crate::checkpoint::peft;
use crate::config::{Device, Precision, Quantize};
use crate::data::row::{Role, Turn};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Problem, UserError};
use crate::model::generate::{Answer, Generator};
use crate::model::load::{attach, load};
use crate::model::sample::{Sampler, Sampling};
use crate::optim::Arena;
use crate::report;
use crate::train::device::{self, Opened};
use crate::train::prepare::in_file;
use crate::train::remote::Remote;
use anyhow::Result;
use std::path::PathBuf;
use tracing::debug;

/// Arguments of `vft generate`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Hugging Face model directory, or a model on the Hub.
    #[arg(long, value_name = "DIR | ID")]
    base: PathBuf,
    /// Branch, tag or commit of a model on the Hub.
    #[arg(long)]
    revision: Option<String>,
    /// PEFT adapter directory.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Pack the base to 4 bits: bnb.nf4 or bnb.nf4-dq.
    #[arg(long)]
    quantize: Option<Quantize>,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: Device,
    /// 32-true, bf16-true, bf16-mixed or, on CUDA, 16-true or 16-mixed; bf16-true if not given, 16-true on cards without bf16.
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
    let base = Remote::new(None).model(&args.base, args.revision.as_deref())?;
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

    let tokenizer = Tokenizer::load(&base)?;
    let ids = prompt_ids(args, &tokenizer)?;
    let Opened { cx, notes, .. } = device::open(args.device, args.precision, args.threads)?;
    for note in notes {
        report::print_note(format_args!("note: {note}"));
    }
    let mut decoder = cx.install(|| load(&cx, &base, args.quantize.map(device::nf4)))?;
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
    report::print_out(&(tokenizer.decode(&answer, true)? + "\n"));
    Ok(0)
}

fn prompt_ids(args: &Args, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let Some(template) = tokenizer.template.as_ref().filter(|_| !args.raw) else {
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
    Ok(tokenizer.encode(&template.render(&turns, true)?, false)?)
}
