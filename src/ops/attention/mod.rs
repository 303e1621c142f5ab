//! Causal attention, optionally with a sliding window, over sequences laid end to end; grouped query heads.
//!
//! q, o: (Nq, H·D), k, v: (Nk, K·D), log-sum-exp: (Nq, H) f32; head h uses key/value head h / (H/K). S = q·kᵀ/√D, row i of
//! a sequence sees keys j ≤ i and, with a window W, j > i − W. A span's queries are its last positions: with cached keys there are more
//! keys than queries.
//!
//! On the CPU all query heads of a group, which see the same keys, are one head with so many times the queries: the *packed rows* of a
//! (span, key/value head) are its (query, head of the group) pairs, head fastest, and packed row r stands at position offset + r / (H/K).
//! That fills register tiles where queries are few (decoding), and makes the sum of dK and dV over a group part of an ordinary product.
//! Rows are taken in blocks against the keys they can see, so no (T, T) matrix ever exists.
//!
//! Backward from the saved log-sum-exp: P = exp(S − lse), dV = Pᵀ·dO, dP = dO·Vᵀ, δ = rowsum(dO⊙O), dS = P⊙(dP − δ),
//! dQ = dS·K/√D, dK = dSᵀ·Q/√D.
//! Dao et al. 2022, arXiv:2205.14135 (recomputation) · transformers v5.23 `eager_attention_forward`, `sliding_window_overlay`

#[cfg(target_arch = "x86_64")]
mod bf16;
mod gpu;
mod in_f32;
mod packed;
mod segments;
mod sight;

use super::{Buf, Cx};
use crate::gpu::Arg;
use candle_core::{Result, bail};
pub use sight::{Sight, Span};
use std::ops::Range;

/// Channels of a head that the kernels have room for.
pub const MOST_CHANNELS: usize = 256;
/// Packed rows, each a query and one of the heads that share a key, that make a segment worth sums of its own ([`Heads::segment_count`]).
const SEGMENT: usize = 576;
/// Segments of a span at most: the f32 gradients of all take linear memory.
const SEGMENTS: usize = 8;

/// Head counts and the window.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads H.
    pub heads: usize,
    /// Key/value heads K.
    pub kv_heads: usize,
    /// Head size D.
    pub size: usize,
    /// Sliding window W in positions, if any.
    pub window: Option<usize>,
}

impl Heads {
    pub(super) fn scale(self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }

    /// Keys (relative to the span) that the query at absolute position `p` may see.
    pub(super) fn visible(self, p: usize) -> Range<usize> {
        self.first_key(p)..p + 1
    }

    /// Query heads to a key/value head.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    fn q_width(self) -> usize {
        self.heads * self.size
    }

    fn kv_width(self) -> usize {
        self.kv_heads * self.size
    }

    /// The first key that the query at `position` sees; the last is at `position` itself.
    fn first_key(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// f32 values that the backward pass sums apart for the segments of a batch of so many tokens, of which the longest sequence has
    /// `longest`; `width`: [`Self::segment_width`].
    pub fn segment_values(self, tokens: usize, longest: usize, width: usize) -> usize {
        segments::summed(tokens, longest, self, width)
    }

    /// f32 values of a key's dK and dV in a segment; none on a device.
    pub fn segment_width(self, cx: &Cx) -> usize {
        match cx.gpu() {
            Some(_) => 0,
            #[cfg(target_arch = "x86_64")]
            None if cx.has_bf16_rows() && bf16::applies(self) => bf16::width(self),
            None => in_f32::width(self),
        }
    }

    /// Segments of so many queries of a span whose gradients of keys and values are summed apart on the CPU: one long sequence has more
    /// tasks than heads.
    fn segment_count(self, queries: usize) -> usize {
        (queries * self.group() / SEGMENT).clamp(1, SEGMENTS)
    }

    /// Sizes and scale as the kernels take them.
    pub(super) fn args(self, rows: usize) -> Result<[Arg; 5]> {
        if self.size > MOST_CHANNELS {
            bail!("attention: heads of {} channels; a device takes {MOST_CHANNELS}", self.size);
        }
        let int = |n: usize| Arg::I32(n as i32);
        let scale = Arg::F32(self.scale());
        Ok([Arg::U64(rows as u64), int(self.heads), int(self.kv_heads), int(self.size), scale])
    }

    fn check(self, q: &Buf, k: &Buf, v: &Buf, spans: &[Span]) -> Result<()> {
        let fits = q.cols() == self.heads * self.size
            && k.cols() == self.kv_heads * self.size
            && k.shape() == v.shape()
            && self.heads.is_multiple_of(self.kv_heads);
        let inside = spans
            .iter()
            .all(|s| s.q.end <= q.rows() && s.k.end <= k.rows() && s.q.len() <= s.k.len());
        let apart =
            spans.windows(2).all(|w| w[0].q.end <= w[1].q.start && w[0].k.end <= w[1].k.start);
        if !(fits && inside && apart) {
            bail!(
                "attention: q {:?}, k {:?}, {self:?}, {} spans",
                q.shape(),
                k.shape(),
                spans.len()
            );
        }
        Ok(())
    }
}

/// o (Nq, H·D) and the log-sum-exp (Nq, H); rows outside the spans are of any content.
///
/// # Errors
/// When the shapes disagree.
pub fn forward(
    cx: &Cx,
    q: &Buf,
    k: &Buf,
    v: &Buf,
    sight: &Sight<'_>,
    heads: Heads,
) -> Result<(Buf, Buf)> {
    heads.check(q, k, v, sight.spans)?;
    match cx.gpu() {
        Some(gpu) => gpu::forward(cx, gpu, [q, k, v], sight, heads),
        #[cfg(target_arch = "x86_64")]
        None if cx.has_bf16_rows() && bf16::applies(heads) => {
            let (mut o, mut lse) = (cx.alloc(q.shape())?, cx.alloc_f32(&[q.rows(), heads.heads])?);
            let (out, lse_out) = (o.bf16_mut()?, lse.f32_mut()?);
            bf16::forward(q.bf16()?, k.bf16()?, v.bf16()?, sight.spans, heads, out, lse_out);
            Ok((o, lse))
        }
        None => in_f32::forward(cx, [q, k, v], sight, heads),
    }
}

/// What the forward pass took and gave.
pub struct Saved<'a> {
    /// Queries (N, H·D), after the rotary embedding.
    pub q: &'a Buf,
    /// Keys (N, K·D), after the rotary embedding.
    pub k: &'a Buf,
    /// Values (N, K·D).
    pub v: &'a Buf,
    /// The output (N, H·D).
    pub o: &'a Buf,
    /// The log-sum-exp (N, H).
    pub lse: &'a Buf,
}

/// dq, dk, dv as new buffers; rows outside the spans are of any content.
///
/// # Errors
/// When the shapes disagree.
pub fn backward(
    cx: &Cx,
    saved: &Saved<'_>,
    dout: &Buf,
    sight: &Sight<'_>,
    heads: Heads,
) -> Result<(Buf, Buf, Buf)> {
    let Saved { q, k, v, o, lse } = saved;
    heads.check(q, k, v, sight.spans)?;
    dout.expect(q.shape())?;
    o.expect(q.shape())?;
    lse.expect(&[q.rows(), heads.heads])?;
    match cx.gpu() {
        Some(gpu) => gpu::backward(cx, gpu, saved, dout, sight, heads),
        #[cfg(target_arch = "x86_64")]
        None if cx.has_bf16_rows() && bf16::applies(heads) => {
            let (mut dq, mut dk) = (cx.alloc(q.shape())?, cx.alloc(k.shape())?);
            let mut dv = cx.alloc(v.shape())?;
            bf16::backward(
                cx,
                [q.bf16()?, k.bf16()?, v.bf16()?, o.bf16()?, dout.bf16()?],
                lse.f32()?,
                sight.spans,
                heads,
                [dq.bf16_mut()?, dk.bf16_mut()?, dv.bf16_mut()?],
            )?;
            Ok((dq, dk, dv))
        }
        None => in_f32::backward(cx, saved, dout, sight, heads),
    }
}

#[cfg(test)]
mod tests;
