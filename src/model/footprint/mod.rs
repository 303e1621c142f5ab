//! The memory that a training pass takes for activations, by the order in which the passes take buffers and give them back.
//!
//! On the CPU the pool keeps what was given back, by size: what is needed is, for each size, the most buffers that are out at a time.
//! On a device the driver's pool shares: what is needed is the most bytes that are out at a time. A test compares both with what a
//! real pass takes.

mod ledger;
mod pass;

use super::layer::Keeping;
use super::{DecoderSpec, head};

/// What the activations' size depends on.
pub struct Shape<'a> {
    /// The model.
    pub spec: &'a DecoderSpec,
    /// Tokens of the largest micro-batch.
    pub tokens: usize,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Bytes of a value between ops.
    pub size: usize,
    /// Bytes of an operand of products.
    pub operand: usize,
    /// Rank of the adapters.
    pub rank: usize,
    /// Whether adapters drop some of their input.
    pub dropout: bool,
    /// Whether the module of a path has an adapter.
    pub adapted: &'a dyn Fn(&str) -> bool,
    /// What layers keep.
    pub keep: Keeping,
    /// Whether the vocabulary is passed over in parts ([`crate::ops::head`]).
    pub plain_head: bool,
    /// f32 values of a key's gradients in a segment of a long sequence ([`crate::ops::attention::Heads::segment_width`]).
    pub segment_width: usize,
    /// Whether bf16 values are widened to f32 around every product: processors without bf16 products.
    pub widened: bool,
}

/// Bytes of the activations of a training pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activations {
    /// As the CPU's pool holds them: for each size the most at a time.
    pub pooled: usize,
    /// The most at a time in all.
    pub live: usize,
}

/// The activations of one forward and backward pass.
pub fn activations(shape: &Shape<'_>) -> Activations {
    let ledger = pass::train(shape);
    let widened = if shape.widened { widened(shape) } else { 0 };
    let heads = shape.spec.attention();
    let segments = 4 * heads.segment_values(shape.tokens, shape.longest, shape.segment_width);
    let pooled = ledger.pooled() + segments + widened;
    Activations { pooled, live: ledger.most() + widened }
}

/// f32 copies around products and attention that are out at a time, by size: what `linear/in_f32.rs`, `lora/in_f32.rs`, `attention/in_f32` and
/// the head take at most.
fn widened(shape: &Shape<'_>) -> usize {
    let s = shape.spec;
    let (qd, kd) = (s.heads * s.head_size, s.kv_heads * s.head_size);
    let chunk = shape.tokens.min(head::chunk(s.vocab)) * s.vocab;
    let columns = 3 * s.hidden + 2 * s.ffn + 4 * qd + 5 * kd + 4 * shape.rank;
    let factors = shape.rank * (s.hidden + s.ffn + qd + kd + s.vocab);
    4 * (shape.tokens * columns + chunk + factors)
}
