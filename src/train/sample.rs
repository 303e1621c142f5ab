//! A sample answer at an evaluation: the prompt of a validation row, continued by the model as it is.
//!
//! LitGPT samples at temperature 0.8; so does this, from random numbers of their own, so that training is the same with and without.

use super::prepare::Run;
use crate::config::{EvaluateExample, RunConfig};
use crate::data::tokenizer::Tokenizer;
use crate::model::generate::{Answer, Generator};
use crate::model::sample::{Sampler, Sampling};
use crate::ops::philox::{philox4x32, seed_key};
use crate::ops::rope;
use crate::report::metrics::SampleRecord;
use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};

/// LitGPT's temperature, `generate_example`.
const TEMPERATURE: f32 = 0.8;
/// Sets these random numbers apart from those of dropout.
const EXAMPLE: u32 = 0x6578_616d;

/// The answer to the prompt that the config chooses; `None` where there is no prompt or no room, or a signal came.
///
/// # Errors
/// When the device fails or the tokens cannot be decoded.
pub fn sample(
    config: &RunConfig,
    run: &Run,
    rope: &rope::Table,
    step: usize,
    stop: &AtomicBool,
) -> Result<Option<SampleRecord>> {
    let rows = run.data.val_len();
    let most = config.eval.max_new_tokens;
    if most == 0 || rows == 0 {
        return Ok(None);
    }
    let row = match config.eval.evaluate_example {
        EvaluateExample::First => 0,
        EvaluateExample::Index(i) => i.min(rows - 1),
        EvaluateExample::Random => {
            let drawn = philox4x32([step as u32, 0, 0, 0], [seed_key(config.seed), EXAMPLE]);
            drawn[0] as usize % rows
        }
    };
    let Some((prompt, expected)) = run.data.asked(row) else { return Ok(None) };
    let room = rope.positions().saturating_sub(prompt.len()).min(most);
    if room == 0 {
        return Ok(None);
    }
    let seed = config.seed.wrapping_add(step as u64);
    let sampling = Sampling { temperature: TEMPERATURE, top_p: 1.0, repetition_penalty: 1.0, seed };
    let mut sampler = Sampler::new(sampling, prompt);
    let Run { cx, decoder, arena, tokenizer, .. } = run;
    let generator = Generator { cx, decoder, arena, rope };
    let go_on = || !stop.load(Ordering::Relaxed);
    let answer =
        cx.install(|| generator.answer(prompt, room, &mut sampler, &tokenizer.stop_ids, &go_on))?;
    let Answer::Tokens(answer) = answer else { return Ok(None) };
    if stop.load(Ordering::Relaxed) {
        // An answer that was cut short is none of this run's.
        return Ok(None);
    }
    Ok(Some(SampleRecord {
        step,
        prompt: tokenizer.decode(prompt, false)?,
        answer: tokenizer.decode(&answer, true)?,
        expected: tokenizer.decode(answer_of(tokenizer, expected), true)?,
    }))
}

/// An answer up to where generation would end; what a template writes after it, and further exchanges, are no part of it.
fn answer_of<'a>(tokenizer: &Tokenizer, ids: &'a [u32]) -> &'a [u32] {
    let ends = |id: &u32| tokenizer.stop_ids.contains(id) || tokenizer.is_special(*id);
    &ids[..ids.iter().position(ends).unwrap_or(ids.len())]
}
