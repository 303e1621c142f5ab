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
use candle_core::{Result, bail};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

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
    spans: &[Span],
    heads: Heads,
) -> Result<(Buf, Buf)> {
    heads.check(q, k, v, spans)?;
    let (h, d, scale) = (heads.heads, heads.size, heads.scale());
    let (qw, kw, group) = (q.cols(), k.cols(), heads.heads / heads.kv_heads);
    let (mut o, mut lse) = (cx.alloc(q.shape())?, cx.alloc(&[q.rows(), h])?);
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
    spans: &[Span],
    heads: Heads,
) -> Result<(Buf, Buf, Buf)> {
    heads.check(saved.q, saved.k, saved.v, spans)?;
    let (h, d, scale) = (heads.heads, heads.size, heads.scale());
    let (qw, kw, group) = (saved.q.cols(), saved.k.cols(), heads.heads / heads.kv_heads);
    let mut dq = cx.alloc(saved.q.shape())?;
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
