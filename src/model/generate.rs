//! An answer, token by token, from a key-value cache.

use super::Decoder;
use super::sample::Sampler;
use crate::ops::{Cx, rope};
use crate::optim::Arena;
use candle_core::Result;

/// A model ready to answer.
pub struct Generator<'a> {
    /// The context.
    pub cx: &'a Cx,
    /// The model.
    pub decoder: &'a Decoder,
    /// Its adapter.
    pub arena: &'a Arena,
    /// Positions, as far as prompt and answer reach.
    pub rope: &'a rope::Table,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Tokens, without the one that ended them.
    Tokens(Vec<u32>),
    /// The logits are not finite.
    Broken,
}

impl Generator<'_> {
    /// Answers `prompt` with at most `room` tokens; a token of `stop_ids` ends it, and so does `go_on` when it says no.
    ///
    /// # Errors
    /// When the device fails or the prompt is empty.
    pub fn answer(
        &self,
        prompt: &[u32],
        room: usize,
        sampler: &mut Sampler,
        stop_ids: &[u32],
        go_on: &dyn Fn() -> bool,
    ) -> Result<Answer> {
        let mut cache = self.decoder.cache(self.cx, prompt.len() + room)?;
        let (mut answer, mut next) = (Vec::new(), prompt.to_vec());
        while answer.len() < room && go_on() {
            let logits = self.decoder.decode(self.cx, self.arena, self.rope, &next, &mut cache)?;
            if logits.iter().all(|z| !z.is_finite()) {
                return Ok(Answer::Broken);
            }
            let id = sampler.next(logits);
            if stop_ids.contains(&id) {
                break;
            }
            answer.push(id);
            next = vec![id];
        }
        Ok(Answer::Tokens(answer))
    }
}
