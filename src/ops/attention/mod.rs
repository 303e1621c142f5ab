//! Causal attention, optionally with a sliding window, over sequences laid end to end; grouped query heads.
//!
//! q, o: (Nq, H·D), k, v: (Nk, K·D), log-sum-exp: (Nq, H) f32; head h uses key/value head h / (H/K). S = q·kᵀ/√D, row i of
//! a sequence sees keys j ≤ i and, with a window W, j > i − W. Queries are taken in blocks of 64 rows against the keys they can
//! see, so no (T, T) matrix ever exists. A span's queries are its last positions: with cached keys there are more keys than
//! queries.
//!
//! Backward from the saved log-sum-exp: P = exp(S − lse), dV = Pᵀ·dO, dP = dO·Vᵀ, δ = rowsum(dO⊙O), dS = P⊙(dP − δ),
//! dQ = dS·K/√D, dK = dSᵀ·Q/√D; dK and dV are summed over the query heads of a group, in order.
//! Dao et al. 2022, arXiv:2205.14135 (recomputation) · transformers v5.23 `eager_attention_forward`, `sliding_window_overlay`

#[cfg(target_arch = "x86_64")]
mod bf16;
mod cpu;
mod gpu;

use super::{Buf, Cx};
use crate::gpu::{Arg, Memory};
use candle_core::{Result, bail};
use std::ops::Range;

/// Channels of a head that the kernels have room for.
pub const MOST_CHANNELS: usize = 256;
/// Packed rows, each a query and one of the heads that share a key, that make a segment worth sums of its own ([`Heads::segment_count`]).
const SEGMENT: usize = 576;
/// Segments of a span at most: the f32 gradients of all take linear memory.
const SEGMENTS: usize = 8;

/// One sequence: its rows in q and its rows in k and v.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Rows of q.
    pub q: Range<usize>,
    /// Rows of k and v; the last `q.len()` of them are the queries' own positions.
    pub k: Range<usize>,
}

/// The sequences of a batch, and on a device for each row which rows it sees and which see it.
pub struct Sight<'a> {
    pub(super) spans: &'a [Span],
    /// For each row of q: first and last + 1 row of k that it sees; for each row of k: of q that see it.
    rows: Option<(Memory, Memory)>,
}

impl<'a> Sight<'a> {
    /// For q of `nq` and k of `nk` rows.
    ///
    /// # Errors
    /// When a span exceeds the rows or the copy to a device fails.
    pub fn new(cx: &Cx, spans: &'a [Span], heads: Heads, nq: usize, nk: usize) -> Result<Self> {
        if spans.iter().any(|s| s.q.end > nq || s.k.end > nk || s.q.len() > s.k.len()) {
            bail!("attention: {spans:?} exceed {nq} and {nk} rows");
        }
        let rows = match cx.gpu() {
            Some(gpu) => {
                let (keys, queries) = visible_rows(spans, heads, nq, nk);
                Some((Memory::upload(gpu, &keys)?, Memory::upload(gpu, &queries)?))
            }
            None => None,
        };
        Ok(Self { spans, rows })
    }

    pub(super) fn on_device(&self) -> Result<(Arg, Arg)> {
        match &self.rows {
            Some((keys, queries)) => Ok((keys.into(), queries.into())),
            None => bail!("attention: the spans are not on the device"),
        }
    }
}

/// For each row of q the rows of k that it sees, and for each row of k the rows of q that see it, as [first, last + 1].
fn visible_rows(
    spans: &[Span],
    heads: Heads,
    nq: usize,
    nk: usize,
) -> (Vec<[u32; 2]>, Vec<[u32; 2]>) {
    let (mut keys, mut queries) = (vec![[0; 2]; nq], vec![[0; 2]; nk]);
    let range = |from: usize, r: Range<usize>| [(from + r.start) as u32, (from + r.end) as u32];
    for span in spans {
        let (n, offset) = (span.q.len(), span.k.len() - span.q.len());
        for i in 0..n {
            keys[span.q.start + i] = range(span.k.start, heads.visible(offset + i));
        }
        for j in 0..span.k.len() {
            let first = j.saturating_sub(offset);
            let last = heads.window.map_or(n, |w| (j + w).saturating_sub(offset).min(n));
            queries[span.k.start + j] = range(span.q.start, first..last.max(first));
        }
    }
    (keys, queries)
}

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
        self.window.map_or(0, |w| (p + 1).saturating_sub(w))..p + 1
    }

    /// Query heads to a key/value head.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    /// Segments of so many queries of a span whose gradients of keys and values are summed apart, in bf16 on the CPU: one long sequence has more tasks than heads.
    pub fn segment_count(self, queries: usize) -> usize {
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

/// o (Nq, H·D) and the log-sum-exp (Nq, H).
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
        None => cpu::forward(cx, [q, k, v], sight, heads),
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

/// dq, dk, dv as new buffers.
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
        None => cpu::backward(cx, saved, dout, sight, heads),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Heads = Heads { heads: 1, kv_heads: 1, size: 2, window: Some(2) };

    #[test]
    fn rows_see_their_own_sequence_up_to_themselves() {
        let spans = [Span { q: 0..2, k: 0..2 }, Span { q: 2..5, k: 2..5 }];
        let (keys, _) = visible_rows(&spans, Heads { window: None, ..WINDOW }, 5, 5);
        assert_eq!(keys, [[0, 1], [0, 2], [2, 3], [2, 4], [2, 5]]);
    }

    #[test]
    fn keys_are_seen_by_those_who_see_them() {
        let spans = [Span { q: 0..4, k: 0..6 }, Span { q: 4..9, k: 6..11 }];
        for window in [None, Some(1), Some(2), Some(3), Some(9)] {
            let (keys, queries) = visible_rows(&spans, Heads { window, ..WINDOW }, 9, 11);
            let sees = |i: usize, j: usize| (keys[i][0]..keys[i][1]).contains(&(j as u32));
            for (j, [first, last]) in queries.iter().enumerate() {
                let seen_by: Vec<u32> = (0..9).filter(|i| sees(*i as usize, j)).collect();
                assert_eq!(seen_by, (*first..*last).collect::<Vec<_>>(), "{window:?}, key {j}");
            }
        }
    }
}
