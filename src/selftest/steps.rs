//! Whole training steps against the same steps in f32 on the CPU: a small decoder with random weights, dropout, clipping, AdamW.

use super::case::{Inputs, Line};
use crate::adapters::LoraConfig;
use crate::error::{Problem, UserError};
use crate::hub::rope::RopeScaling;
use crate::model::decoder::{Labels, Training as Pass};
use crate::model::layer::{Keep, Keeping, Layer};
use crate::model::linear::{Draw, Linear};
use crate::model::load::{AdapterTensors, Nf4, attach};
use crate::model::{Decoder, DecoderSpec, Tokens, rope};
use crate::ops::cx::rounded;
use crate::ops::nf4::quantize;
use crate::ops::{Cx, Vector, Weight};
use crate::optim::adamw::AdamWConfig;
use crate::optim::arena::clip_factor;
use crate::optim::{AdamW, Arena};
use anyhow::Result;
use candle_core::DType;
use half::bf16;
use std::sync::Arc;

const STEPS: usize = 4;
/// A vocabulary of which rows of logits take [`LONG`]'s labels in two parts.
const VOCAB: usize = 128_256;
/// Lengths of sequences, and such that more than half of their tokens are more labels than a part has.
const SHORT: &[usize] = &[13, 29, 2];
const LONG: &[usize] = &[101, 47];

/// What is trained.
#[derive(Debug, Clone, Copy)]
pub struct Training {
    /// Seed of weights and data.
    pub seed: u64,
    /// The dtype whose values the weights have, on the reference too.
    pub weights: DType,
    /// How the base is packed.
    pub quantize: Option<Nf4>,
    /// Whether the vocabulary is a large model's and labels are many: one step then.
    pub is_large: bool,
}

/// What a training gave.
struct Trace {
    losses: Vec<f64>,
    gradients: Vec<f32>,
}

/// The steps in `cx` against those in f32 on the CPU.
///
/// # Errors
/// When a step fails rather than errs.
pub fn check(cx: &Cx, training: Training) -> Result<Vec<Line>> {
    let reference =
        Cx::cpu(DType::F32, 0).map_err(|e| UserError::from(Problem::new(e.to_string())))?;
    let (ours, theirs) = (run(cx, training)?, run(&reference, training)?);
    let (loss, gradient) = match cx.products() {
        DType::BF16 => (1e-2, 5e-2),
        DType::F16 => (2e-3, 1e-2),
        _ => (1e-5, 1e-4),
    };
    let steps = ours.losses.len();
    let base = match training.quantize {
        None if training.is_large => "large head,",
        None => "dense",
        Some(Nf4::Single) => "nf4",
        Some(Nf4::Double) => "nf4-dq",
    };
    let worst = ours.losses.iter().zip(&theirs.losses).map(|(a, b)| ((a - b) / b).abs());
    // max() would drop a NaN
    let worst = worst.fold(0.0, |w: f64, e| if e <= w { w } else { e });
    let exact: Vec<f64> = theirs.gradients.iter().map(|g| f64::from(*g)).collect();
    let line = |what: &str, error, limit| Line {
        what: format!("{base} training: {what}"),
        shape: format!("{steps} steps, 2 layers"),
        error,
        limit,
    };
    Ok(vec![
        line("loss", worst, loss),
        line("first gradients", super::case::error(&ours.gradients, &exact), gradient),
    ])
}

fn spec(is_large: bool) -> DecoderSpec {
    DecoderSpec {
        vocab: if is_large { VOCAB } else { 131 },
        hidden: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_size: 16,
        ffn: 192,
        norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        sliding_window: None,
        qkv_bias: true,
        o_bias: false,
        mlp_bias: false,
        tied_head: false,
        context: 128,
    }
}

struct Builder<'a> {
    cx: &'a Cx,
    inputs: Inputs,
    training: Training,
}

impl Builder<'_> {
    fn values(&mut self, n: usize) -> Vec<f32> {
        let dtype = self.training.weights;
        self.inputs.wide(n).into_iter().map(|w| rounded(w * 0.15, dtype)).collect()
    }

    fn dense(&mut self, rows: usize, cols: usize) -> Result<Arc<Weight>> {
        let values = self.values(rows * cols);
        let weight = match self.training.weights {
            DType::BF16 if self.cx.products() == DType::BF16 => {
                Weight::from_bf16(values.into_iter().map(bf16::from_f32).collect(), rows, cols)?
            }
            _ => Weight::from_f32(values, rows, cols)?,
        };
        Ok(Arc::new(weight.to_device(self.cx)?))
    }

    fn linear(&mut self, path: String, rows: usize, cols: usize, bias: bool) -> Result<Linear> {
        let weight = match self.training.quantize {
            None => self.dense(rows, cols)?,
            Some(kind) => {
                let packed = quantize(&self.values(rows * cols), kind == Nf4::Double);
                let weight = Weight::nf4(packed, self.training.weights, rows, cols)?;
                Arc::new(weight.to_device(self.cx)?)
            }
        };
        let bias = if bias { Some(Vector::new(self.cx, self.values(rows))?) } else { None };
        Ok(Linear { path, weight, bias, adapter: None })
    }

    fn norm(&mut self, n: usize) -> Result<Vector> {
        let values: Vec<f32> = self.values(n).into_iter().map(|v| 1.0 + v).collect();
        Ok(Vector::new(self.cx, values)?)
    }

    fn decoder(&mut self) -> Result<Decoder> {
        let s = spec(self.training.is_large);
        let (c, f, hd, kd) = (s.hidden, s.ffn, s.heads * s.head_size, s.kv_heads * s.head_size);
        let mut layers = Vec::new();
        for i in 0..s.layers {
            let at = |leaf: &str| format!("model.layers.{i}.{leaf}");
            layers.push(Layer {
                norm1: self.norm(c)?,
                q: self.linear(at("self_attn.q_proj"), hd, c, true)?,
                k: self.linear(at("self_attn.k_proj"), kd, c, true)?,
                v: self.linear(at("self_attn.v_proj"), kd, c, true)?,
                o: self.linear(at("self_attn.o_proj"), c, hd, false)?,
                norm2: self.norm(c)?,
                gate: self.linear(at("mlp.gate_proj"), f, c, false)?,
                up: self.linear(at("mlp.up_proj"), f, c, false)?,
                down: self.linear(at("mlp.down_proj"), c, f, false)?,
            });
        }
        let embed = self.values(s.vocab * c);
        let embed = Arc::new(Weight::from_f32(embed, s.vocab, c)?.table_to_device(self.cx)?);
        let head = self.dense(s.vocab, c)?;
        let head = Linear { path: "lm_head".into(), weight: head, bias: None, adapter: None };
        let (norm, frequencies) = (self.norm(c)?, rope::frequencies(&s));
        Ok(Decoder { embed, layers, norm, head, frequencies, spec: s })
    }

    fn adapter(&mut self, decoder: &Decoder, r: usize) -> AdapterTensors {
        let shapes = decoder.linears().map(|l| (l.path.clone(), l.weight.cols(), l.weight.rows()));
        shapes
            .map(|(path, inp, out)| (path, (self.values(r * inp), self.values(out * r))))
            .collect()
    }
}

/// A batch of unequal sequences, half of whose tokens are trained.
fn batch(inputs: &mut Inputs, vocab: usize, lengths: &[usize]) -> (Vec<Vec<u32>>, Labels) {
    let (mut sequences, mut labels, mut start) = (Vec::new(), Labels::default(), 0);
    for &length in lengths {
        let ids: Vec<u32> = (0..length).map(|_| inputs.below(vocab) as u32).collect();
        for i in length / 2..length - 1 {
            labels.rows.push((start + i) as u32);
            labels.targets.push(ids[i + 1]);
        }
        start += length;
        sequences.push(ids);
    }
    labels.coefficients = vec![1.0 / labels.rows.len() as f32; labels.rows.len()];
    (sequences, labels)
}

fn run(cx: &Cx, training: Training) -> Result<Trace> {
    let mut builder = Builder { cx, inputs: Inputs::new(training.seed, DType::F32), training };
    let mut decoder = builder.decoder()?;
    let lora = LoraConfig { r: 4, alpha: 8.0, dropout: 0.1 };
    let tensors = builder.adapter(&decoder, lora.r);
    let mut arena = Arena::default();
    let paths: Vec<String> = tensors.keys().cloned().collect();
    attach(&mut decoder, &mut arena, &lora, &paths, 0, Some(&tensors))?;
    arena.to_device(cx)?;
    let config = AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
    let mut optimizer = AdamW::new(config, cx, &arena)?;
    let table = decoder.rope_table(cx, decoder.spec.context)?;
    let scale = if cx.products() == DType::F16 { 1024.0 } else { 1.0f32 };
    let mut trace = Trace { losses: Vec::new(), gradients: Vec::new() };
    let (steps, lengths) = if training.is_large { (1, LONG) } else { (STEPS, SHORT) };
    for step in 0..steps {
        let (sequences, mut labels) = batch(&mut builder.inputs, decoder.spec.vocab, lengths);
        labels.coefficients.iter_mut().for_each(|c| *c *= scale);
        let tokens =
            Tokens::new(sequences.iter().enumerate().map(|(i, s)| (s.as_slice(), i as u32)));
        arena.zero_grads()?;
        let draw = Some(Draw { seed: training.seed as u32, step: step as u32 });
        let how = Pass { draw, keep: Keeping::all(Keep::All) };
        let nll =
            cx.install(|| decoder.train_pass(cx, &mut arena, &table, &tokens, &labels, how))?;
        trace.losses.push(nll.iter().map(|n| f64::from(*n)).sum::<f64>() / nll.len() as f64);
        if step == 0 {
            arena.fetch_grads()?;
            trace.gradients = arena.grads.iter().map(|g| g / scale).collect();
        }
        let norm = arena.grad_norm(cx)? / f64::from(scale);
        optimizer.step(cx, &mut arena, 1e-3, clip_factor(norm, Some(0.5)) / scale)?;
    }
    Ok(trace)
}
