//! The merged models beside the adapter that was merged, on the same tokens: how far each is from what was trained, and how well it
//! predicts.
//!
//! Reference P: the base as training saw it (NF4 where it was quantised) with the adapter. Against it the model that was written, read
//! again from its files, and the one on the other base, computed in memory. Per token whose successor is known: KL(P ‖ Q) =
//! Σ p·(ln p − ln q) over the vocabulary in nats, whether P and Q have the same likeliest token, and −ln q of the successor, whose mean is
//! the logarithm of the perplexity. All in f64 from the logits.
//!
//! Three models are held at once: packed or mapped weights, and for the computed one its linears in the compute dtype.

use super::plan::{Piece, Plan};
use super::{BaseWeights, MergeAsk, fold};
use crate::checkpoint::peft;
use crate::error::{Problem, UserError};
use crate::model::load::{Nf4, attach, load};
use crate::model::sample::{Sampler, Sampling};
use crate::model::{Decoder, Tokens};
use crate::ops::{Cx, Weight, rope};
use crate::optim::Arena;
use anyhow::Result;
use candle_core::DType;
use half::bf16;
use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// Tokens of a sequence that are compared at most.
pub const MOST_TOKENS: usize = 256;

/// A merge to be checked.
#[derive(Clone, Copy)]
pub struct VerifyAsk<'a> {
    /// Where and in which dtype the models run: best the one that the adapter was trained in.
    pub cx: &'a Cx,
    /// What was merged; its `out` is read.
    pub merge: &'a MergeAsk<'a>,
    /// The NF4 that the adapter was trained on and the dtype of that run, if it was.
    pub trained_on: Option<(Nf4, DType)>,
    /// Token ids; what exceeds [`MOST_TOKENS`] or the model's context is cut.
    pub sequences: &'a [Vec<u32>],
}

/// One merged model against the adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What the adapter was added to.
    pub base_weights: BaseWeights,
    /// Whether this is the model that was written.
    pub is_written: bool,
    /// Mean KL(adapter ‖ merged) of a token, in nats.
    pub kl: f64,
    /// Share of tokens for which both have the same likeliest successor.
    pub agreement: f64,
    /// Perplexity of the merged model.
    pub perplexity: f64,
}

/// What [`verify`] measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Sequences of at least two tokens.
    pub sequences: usize,
    /// Tokens with a successor.
    pub tokens: usize,
    /// Perplexity of base and adapter.
    pub perplexity: f64,
    /// The merged models, the written one first.
    pub rows: Vec<Row>,
}

/// A model that can be asked.
struct Model {
    decoder: Decoder,
    arena: Arena,
    rope: rope::Table,
    name: &'static str,
}

/// Compares the merged model, and the one that another base would have given, with base and adapter.
///
/// # Errors
/// When a model cannot be loaded, its output is not finite, or no sequence has two tokens of its vocabulary.
pub fn verify(ask: &VerifyAsk<'_>) -> Result<Comparison> {
    ask.cx.install(|| compare(ask))
}

fn compare(ask: &VerifyAsk<'_>) -> Result<Comparison> {
    let reference = reference(ask)?;
    let (context, vocab) = (reference.decoder.spec.context, reference.decoder.spec.vocab);
    let most = MOST_TOKENS.min(context);
    let sequences: Vec<&[u32]> = ask.sequences.iter().map(|s| &s[..s.len().min(most)]).collect();
    let sequences: Vec<_> = sequences.into_iter().filter(|s| s.len() > 1).collect();
    if sequences.is_empty() {
        return Err(problem("no sequence to verify with has two tokens".into()));
    }
    if let Some(id) = sequences.iter().flat_map(|s| s.iter()).find(|id| **id as usize >= vocab) {
        return Err(problem(format!("token {id} lies outside the model's vocabulary")));
    }
    let written = ask.merge.base_weights;
    let other = match written {
        BaseWeights::Original => {
            ask.trained_on.map(|(nf4, compute)| BaseWeights::Dequant { nf4, compute })
        }
        BaseWeights::Dequant { .. } => Some(BaseWeights::Original),
    };
    let file = Model::new(ask.cx, load(ask.cx, ask.merge.out, None)?, "the merged model")?;
    let mut merged = vec![(written, file)];
    if let Some(other) = other {
        merged.push((other, computed(ask, other)?));
    }
    let mut sums = vec![[0.0f64; 4]; merged.len()];
    let mut tokens = 0;
    for ids in &sequences {
        let p = reference.logits(ask.cx, ids)?;
        for ((_, model), sums) in merged.iter().zip(&mut sums) {
            let q = model.logits(ask.cx, ids)?;
            for row in distances(&p, &q, vocab, ids) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        }
        tokens += ids.len() - 1;
    }
    let mean = |sum: f64| sum / tokens as f64;
    let row = |(i, ((base_weights, _), sums)): (usize, (&(BaseWeights, Model), &[f64; 4]))| Row {
        base_weights: *base_weights,
        is_written: i == 0,
        kl: mean(sums[0]),
        agreement: mean(sums[1]),
        perplexity: mean(sums[3]).exp(),
    };
    Ok(Comparison {
        sequences: sequences.len(),
        tokens,
        perplexity: mean(sums[0][2]).exp(),
        rows: merged.iter().zip(&sums).enumerate().map(row).collect(),
    })
}

/// The base as training saw it, with the adapter.
fn reference(ask: &VerifyAsk<'_>) -> Result<Model> {
    let adapter = peft::read(ask.merge.adapter)?;
    let nf4 = ask.trained_on.map(|(nf4, _)| nf4);
    let mut model = Model::new(ask.cx, load(ask.cx, ask.merge.base, nf4)?, "base and adapter")?;
    let paths: Vec<String> = adapter.tensors.keys().cloned().collect();
    let Model { decoder, arena, .. } = &mut model;
    attach(decoder, arena, &adapter.lora, &paths, 0, Some(&adapter.tensors))?;
    arena.to_device(ask.cx)?;
    Ok(model)
}

/// The merged model that a merge with `base_weights` would have written.
fn computed(ask: &VerifyAsk<'_>, base_weights: BaseWeights) -> Result<Model> {
    let MergeAsk { base, adapter, tied_head, .. } = *ask.merge;
    let plan = Plan::new(base, adapter, peft::read(adapter)?, base_weights, tied_head)?;
    let mut decoder = load(ask.cx, base, None)?;
    for linear in decoder.linears_mut() {
        let name = format!("{}.weight", linear.path);
        if let Some(piece) = plan.pieces.iter().find(|p| p.name == name && !p.is_copy()) {
            linear.weight = Arc::new(weight(ask.cx, piece)?.to_device(ask.cx)?);
        }
    }
    Model::new(ask.cx, decoder, "the merged model on the other base")
}

/// A merged weight, rounded to the base's dtype as in a file, and then to what `cx` computes in as when it is loaded.
fn weight(cx: &Cx, piece: &Piece) -> Result<Weight> {
    let (rows, cols) = (piece.source.shape[0], piece.source.shape[1]);
    let file = match piece.source.dtype {
        safetensors::Dtype::BF16 => DType::BF16,
        safetensors::Dtype::F16 => DType::F16,
        _ => DType::F32,
    };
    let (mut wide, mut narrow) = (Vec::new(), Vec::new());
    piece.for_blocks(|values| {
        fold::round(values, file);
        match cx.products() {
            DType::BF16 => narrow.extend(values.iter().map(|v| bf16::from_f32(*v))),
            // A device that computes in f16 rounds what it is given.
            _ => wide.extend_from_slice(values),
        }
        Ok(())
    })?;
    Ok(match cx.products() {
        DType::BF16 => Weight::from_bf16(narrow, rows, cols)?,
        _ => Weight::from_f32(wide, rows, cols)?,
    })
}

impl Model {
    fn new(cx: &Cx, decoder: Decoder, name: &'static str) -> Result<Self> {
        let rope = decoder.rope_table(cx, MOST_TOKENS.min(decoder.spec.context))?;
        Ok(Self { decoder, arena: Arena::default(), rope, name })
    }

    /// The logits (T, V) of a sequence.
    fn logits(&self, cx: &Cx, ids: &[u32]) -> Result<Vec<f32>> {
        let tokens = Tokens::new([(ids, 0)]);
        let logits = self.decoder.logits(cx, &self.arena, &self.rope, &tokens)?.to_f32()?;
        if logits.iter().any(|z| !z.is_finite()) {
            return Err(problem(format!("the output of {} is not finite", self.name)));
        }
        Ok(logits)
    }
}

fn problem(message: String) -> anyhow::Error {
    UserError::from(Problem::new(message)).into()
}

/// For each token with a successor: KL(P ‖ Q), agreement, −ln p and −ln q of the successor.
fn distances(p: &[f32], q: &[f32], vocab: usize, ids: &[u32]) -> Vec<[f64; 4]> {
    let rows = p.par_chunks(vocab).zip(q.par_chunks(vocab)).zip(&ids[1..]);
    rows.map(|((p, q), next)| {
        let ((top_p, norm_p), (top_q, norm_q)) = (log_sum(p), log_sum(q));
        let ln = |z: f32, norm: f64| f64::from(z) - norm;
        let term = |(p, q): (&f32, &f32)| ln(*p, norm_p).exp() * (ln(*p, norm_p) - ln(*q, norm_q));
        let kl = p.iter().zip(q).map(term).sum::<f64>().max(0.0);
        let next = *next as usize;
        let agree = if top_p == top_q { 1.0 } else { 0.0 };
        [kl, agree, -ln(p[next], norm_p), -ln(q[next], norm_q)]
    })
    .collect()
}

/// The index of the largest value, the first of equals, and ln Σ eᶻ.
fn log_sum(z: &[f32]) -> (usize, f64) {
    let top = z.iter().enumerate().fold(0, |best, (i, v)| if *v > z[best] { i } else { best });
    let most = f64::from(z[top]);
    let sum: f64 = z.iter().map(|v| (f64::from(*v) - most).exp()).sum();
    (top, most + sum.ln())
}

/// Sequences of `len` tokens that begin with `first`, drawn from the base at temperature 1 with the seeds 0, 1, ….
///
/// # Errors
/// When the base cannot be loaded or `first` is no token of it.
pub fn sample(cx: &Cx, base: &Path, first: u32, count: usize, len: usize) -> Result<Vec<Vec<u32>>> {
    cx.install(|| {
        let model = Model::new(cx, load(cx, base, None)?, "the base")?;
        if first as usize >= model.decoder.spec.vocab {
            return Err(problem(format!("token {first} lies outside the model's vocabulary")));
        }
        let len = len.min(MOST_TOKENS).min(model.decoder.spec.context);
        (0..count as u64).map(|seed| model.sequence(cx, first, len, seed)).collect()
    })
}

impl Model {
    fn sequence(&self, cx: &Cx, first: u32, len: usize, seed: u64) -> Result<Vec<u32>> {
        let mut ids = vec![first];
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, repetition_penalty: 1.0, seed };
        let mut sampler = Sampler::new(sampling, &ids);
        let mut cache = self.decoder.cache(cx, len)?;
        while ids.len() < len {
            let last = &ids[ids.len() - 1..];
            let logits = self.decoder.decode(cx, &self.arena, &self.rope, last, &mut cache)?;
            if logits.iter().any(|z| !z.is_finite()) {
                return Err(problem(format!("the output of {} is not finite", self.name)));
            }
            ids.push(sampler.next(logits));
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_no_distance_from_itself() {
        let z = [0.3, -1.0, 2.0, 5.0, 5.0, 5.0];
        assert_eq!(distances(&z, &z, 3, &[0, 2])[0][..2], [0.0, 1.0]);
    }

    /// P = (1/2, 1/2), Q = (1/4, 3/4): KL = ½·ln 2 + ½·ln ⅔.
    #[test]
    fn kl_of_two_coins() {
        let (p, q) = ([0.0, 0.0], [0.0, 3f32.ln()]);
        let kl = distances(&p, &q, 2, &[0, 1])[0][0];
        assert!((kl - 0.5 * (4f64 / 3.0).ln()).abs() < 1e-7, "{kl}");
    }

    #[test]
    fn the_successor_is_scored() {
        let z = [0.0, 3f32.ln()];
        let nll = distances(&z, &z, 2, &[0, 1])[0][3];
        assert!((nll - (4f64 / 3.0).ln()).abs() < 1e-7, "{nll}");
    }
}
