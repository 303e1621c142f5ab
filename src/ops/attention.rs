//! Causal attention, optionally with a sliding window, over sequences laid end to end; grouped query heads.
//!
//! q, o: (Nq, H·D), k, v: (Nk, K·D), log-sum-exp: (Nq, H), all f32; head h uses key/value head h / (H/K). S = q·kᵀ/√D, row i of
//! a sequence sees keys j ≤ i and, with a window W, j > i − W. Queries are taken in blocks of 64 rows against the keys they can
//! see, so no (T, T) matrix ever exists. A span's queries are its last positions: with cached keys there are more keys than
//! queries.
//!
//! Backward from the saved log-sum-exp: P = exp(S − lse), dV = Pᵀ·dO, dP = dO·Vᵀ, δ = rowsum(dO⊙O), dS = P⊙(dP − δ),
//! dQ = dS·K/√D, dK = dSᵀ·Q/√D; dK and dV are summed over the query heads of a group, in order.
//! Dao et al. 2022, arXiv:2205.14135 (recomputation) · transformers v5.23 `eager_attention_forward`, `sliding_window_overlay`

use super::matmul::{Into, View, ViewMut, matmul_here};
use super::{Buf, Cx, simd};
use crate::gpu::{Arg, Memory};
use candle_core::{Result, bail};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Channels of a head that the kernels have room for.
pub const MOST_CHANNELS: usize = 256;
/// Rows of a query block.
const BLOCK: usize = 64;

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
    spans: &'a [Span],
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

    fn on_device(&self) -> Result<(Arg, Arg)> {
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
    fn scale(self) -> f32 {
        1.0 / (self.size as f32).sqrt()
    }

    /// Keys (relative to the span) that the query at absolute position `p` may see.
    fn visible(self, p: usize) -> Range<usize> {
        self.window.map_or(0, |w| (p + 1).saturating_sub(w))..p + 1
    }

    /// Sizes and scale as the kernels take them.
    fn args(self, rows: usize) -> Result<[Arg; 5]> {
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

/// A pointer to rows that parallel tasks write apart from each other.
#[derive(Clone, Copy)]
struct Shared(*mut f32, usize);
// SAFETY: every task writes only the (rows, head columns) that belong to it alone; see each use.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn of(buf: &mut Buf) -> Result<Self> {
        let s = buf.f32_mut()?;
        Ok(Self(s.as_mut_ptr(), s.len()))
    }

    /// `size` values at `at`.
    ///
    /// # Safety
    /// No other task may touch these values while the slice lives.
    unsafe fn slice<'a>(self, at: usize, size: usize) -> &'a mut [f32] {
        assert!(at + size <= self.1, "attention row out of bounds");
        // SAFETY: inside the buffer (asserted); exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), size) }
    }
}

thread_local! {
    static SCRATCH: RefCell<[Vec<f32>; 4]> = const { RefCell::new([const { Vec::new() }; 4]) };
}

fn sized(v: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if v.len() < n {
        v.resize(n, 0.0);
    }
    &mut v[..n]
}

/// The query blocks of a span: rows (relative to the span's queries) and the keys that they see together.
fn blocks(span: &Span, heads: Heads) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let (nq, offset) = (span.q.len(), span.k.len() - span.q.len());
    (0..nq).step_by(BLOCK).map(move |i0| {
        let i1 = (i0 + BLOCK).min(nq);
        (i0..i1, heads.visible(offset + i0).start..heads.visible(offset + i1 - 1).end)
    })
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
    let spans = sight.spans;
    heads.check(q, k, v, spans)?;
    let (h, d, scale) = (heads.heads, heads.size, heads.scale());
    let (qw, kw, group) = (q.cols(), k.cols(), heads.heads / heads.kv_heads);
    let (mut o, mut lse) = (cx.alloc(q.shape())?, cx.alloc_f32(&[q.rows(), h])?);
    if let Some(gpu) = cx.gpu() {
        let [n, hs, kvs, ds, s] = heads.args(q.rows())?;
        let keys = sight.on_device()?.0;
        let args = [o.arg()?, lse.arg()?, q.arg()?, k.arg()?, v.arg()?, keys, n, hs, kvs, ds, s];
        // SAFETY: attention_forward(T *o, float *lse, const T *q, const T *k, const T *v, const u32 *keys, u64 n, int heads,
        // int kv_heads, int d, float scale), a warp for each (row, head); shapes and spans are checked.
        unsafe { gpu.each("attention_forward", q.rows() * h * 32, &args) }?;
        return Ok((o, lse));
    }
    let (out, lse_out) = (Shared::of(&mut o)?, Shared::of(&mut lse)?);
    let (q, k, v) = (q.f32()?, k.f32()?, v.f32()?);
    let work: Vec<_> = spans
        .iter()
        .flat_map(|s| {
            blocks(s, heads).flat_map(move |b| (0..h).map(move |head| (s, b.clone(), head)))
        })
        .collect();
    work.into_par_iter().for_each(|(span, (rows, keys), head)| {
        SCRATCH.with_borrow_mut(|[s, t, ..]| {
            let (n, m, offset) = (rows.len(), keys.len(), span.k.len() - span.q.len());
            let (q0, k0) = (span.q.start + rows.start, span.k.start + keys.start);
            let kv = head / group * d;
            let (s, t) = (sized(s, n * m), sized(t, n * d));
            let qv = View::strided(&q[q0 * qw + head * d..], n, d, qw);
            let kv_t = View::strided(&k[k0 * kw + kv..], m, d, kw).t();
            matmul_here(ViewMut::new(s, n, m), Into::Overwrite, scale, qv, kv_t);
            for i in 0..n {
                let seen = heads.visible(offset + rows.start + i);
                let (lo, hi) = (seen.start - keys.start, seen.end - keys.start);
                let row = &mut s[i * m..(i + 1) * m];
                row[..lo].fill(0.0);
                row[hi..].fill(0.0);
                let seen = &mut row[lo..hi];
                let (top, sum) = simd::vectorized(|| {
                    let top = simd::max(seen);
                    let sum = simd::exp_sum(seen, top);
                    seen.iter_mut().for_each(|p| *p /= sum);
                    (top, sum)
                });
                // SAFETY: one task alone has this (row, head).
                unsafe { lse_out.slice((q0 + i) * h + head, 1)[0] = top + sum.ln() };
            }
            let vv = View::strided(&v[k0 * kw + kv..], m, d, kw);
            matmul_here(ViewMut::new(t, n, d), Into::Overwrite, 1.0, View::new(s, n, m), vv);
            for (i, t) in t.chunks(d).enumerate() {
                // SAFETY: one task alone has this (row, head).
                unsafe { out.slice((q0 + i) * qw + head * d, d).copy_from_slice(t) };
            }
        });
    });
    Ok((o, lse))
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
    let spans = sight.spans;
    heads.check(saved.q, saved.k, saved.v, spans)?;
    let (h, d, scale) = (heads.heads, heads.size, heads.scale());
    let (qw, kw, group) = (saved.q.cols(), saved.k.cols(), heads.heads / heads.kv_heads);
    let mut dq = cx.alloc(saved.q.shape())?;
    if cx.gpu().is_some() {
        return backward_on_gpu(cx, saved, dout, sight, heads, dq);
    }
    let (mut dk, mut dv) = (cx.zeros(saved.k.shape())?, cx.zeros(saved.v.shape())?);
    let (dq_out, dk_out, dv_out) =
        (Shared::of(&mut dq)?, Shared::of(&mut dk)?, Shared::of(&mut dv)?);
    let (q, k, v) = (saved.q.f32()?, saved.k.f32()?, saved.v.f32()?);
    let (o, lse, dout) = (saved.o.f32()?, saved.lse.f32()?, dout.f32()?);
    let work: Vec<_> =
        spans.iter().flat_map(|s| (0..heads.kv_heads).map(move |kv| (s, kv))).collect();
    work.into_par_iter().for_each(|(span, kv_head)| {
        for head in kv_head * group..(kv_head + 1) * group {
            for (rows, keys) in blocks(span, heads) {
                SCRATCH.with_borrow_mut(|[s, ds, t, tk]| {
                    let (n, m, offset) = (rows.len(), keys.len(), span.k.len() - span.q.len());
                    let (q0, k0, kv) =
                        (span.q.start + rows.start, span.k.start + keys.start, kv_head * d);
                    let (s, ds) = (sized(s, n * m), sized(ds, n * m));
                    let at = q0 * qw + head * d;
                    let qv = View::strided(&q[at..], n, d, qw);
                    let dov = View::strided(&dout[at..], n, d, qw);
                    let kv_view = View::strided(&k[k0 * kw + kv..], m, d, kw);
                    let vv = View::strided(&v[k0 * kw + kv..], m, d, kw);
                    matmul_here(ViewMut::new(s, n, m), Into::Overwrite, scale, qv, kv_view.t());
                    matmul_here(ViewMut::new(ds, n, m), Into::Overwrite, 1.0, dov, vv.t());
                    for i in 0..n {
                        let seen = heads.visible(offset + rows.start + i);
                        let (lo, hi) = (seen.start - keys.start, seen.end - keys.start);
                        let (s, ds) = (&mut s[i * m..(i + 1) * m], &mut ds[i * m..(i + 1) * m]);
                        for part in [0..lo, hi..m] {
                            s[part.clone()].fill(0.0);
                            ds[part].fill(0.0);
                        }
                        let row = at + i * qw;
                        let lse = lse[(q0 + i) * h + head];
                        simd::vectorized(|| {
                            let delta = simd::dot(&dout[row..row + d], &o[row..row + d]);
                            for (s, ds) in s[lo..hi].iter_mut().zip(&mut ds[lo..hi]) {
                                *s = simd::exp(*s - lse);
                                *ds = *s * (*ds - delta);
                            }
                        });
                    }
                    let t = sized(t, n * d);
                    let (p, dsv) = (View::new(s, n, m), View::new(ds, n, m));
                    matmul_here(ViewMut::new(t, n, d), Into::Overwrite, scale, dsv, kv_view);
                    for (i, t) in t.chunks(d).enumerate() {
                        // SAFETY: one task alone has this (row, head).
                        unsafe { dq_out.slice(at + i * qw, d).copy_from_slice(t) };
                    }
                    let tk = sized(tk, m * d);
                    for (out, factor, left, right) in
                        [(dk_out, scale, dsv, qv), (dv_out, 1.0, p, dov)]
                    {
                        matmul_here(
                            ViewMut::new(tk, m, d),
                            Into::Overwrite,
                            factor,
                            left.t(),
                            right,
                        );
                        for (j, t) in tk.chunks(d).enumerate() {
                            // SAFETY: one task alone has this (key row, key/value head).
                            let sum = unsafe { out.slice((k0 + j) * kw + kv, d) };
                            sum.iter_mut().zip(t).for_each(|(s, t)| *s += t);
                        }
                    }
                });
            }
        }
    });
    Ok((dq, dk, dv))
}

fn backward_on_gpu(
    cx: &Cx,
    saved: &Saved<'_>,
    dout: &Buf,
    sight: &Sight<'_>,
    heads: Heads,
    dq: Buf,
) -> Result<(Buf, Buf, Buf)> {
    let Some(gpu) = cx.gpu() else { bail!("attention: no device") };
    let Saved { q, k, v, o, lse } = saved;
    let (nq, nk, units) = (q.rows(), k.rows(), q.rows() * heads.heads);
    dout.expect(q.shape())?;
    o.expect(q.shape())?;
    lse.expect(&[nq, heads.heads])?;
    let (dk, dv) = (cx.alloc(k.shape())?, cx.alloc(v.shape())?);
    let delta = cx.alloc_f32(&[nq, heads.heads])?;
    let (keys, queries) = sight.on_device()?;
    let [n, h, kv, d, scale] = heads.args(nq)?;
    let (q, k, v, dout, lse) = (q.arg()?, k.arg()?, v.arg()?, dout.arg()?, lse.arg()?);
    let args = [delta.arg()?, dout, o.arg()?, Arg::U64(units as u64), d];
    // SAFETY: attention_delta(float *delta, const T *dout, const T *o, u64 units, int d), a warp for each (row, head).
    unsafe { gpu.each("attention_delta", units * 32, &args) }?;
    let args = [dq.arg()?, q, k, v, dout, lse, delta.arg()?, keys, n, h, kv, d, scale];
    // SAFETY: attention_backward_q(T *dq, const T *q, const T *k, const T *v, const T *dout, const float *lse,
    // const float *delta, const u32 *keys, u64 n, int heads, int kv_heads, int d, float scale), a warp for each (row, head).
    unsafe { gpu.each("attention_backward_q", units * 32, &args) }?;
    let n = Arg::U64(nk as u64);
    let args =
        [dk.arg()?, dv.arg()?, q, k, v, dout, lse, delta.arg()?, queries, n, h, kv, d, scale];
    // SAFETY: attention_backward_kv(T *dk, T *dv, const T *q, const T *k, const T *v, const T *dout, const float *lse,
    // const float *delta, const u32 *queries, u64 n, int heads, int kv_heads, int d, float scale), a warp for each (key row,
    // key/value head).
    unsafe { gpu.each("attention_backward_kv", nk * heads.kv_heads * 32, &args) }?;
    Ok((dq, dk, dv))
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
