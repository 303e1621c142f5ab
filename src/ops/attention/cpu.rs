//! On the CPU: query blocks of 64 rows through small GEMMs, a task a (block, head) forwards and a (sequence, key/value head)
//! backwards, where the heads of a group add to the same keys.

use super::{Heads, Saved, Sight, Span};
use crate::ops::matmul::{Into, View, ViewMut, matmul_here};
use crate::ops::shared::Shared;
use crate::ops::{Buf, Cx, simd};
use candle_core::Result;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Rows of a query block.
const BLOCK: usize = 64;

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

/// o and the log-sum-exp.
pub(super) fn forward(
    cx: &Cx,
    [q, k, v]: [&Buf; 3],
    sight: &Sight<'_>,
    heads: Heads,
) -> Result<(Buf, Buf)> {
    let spans = sight.spans;
    let (h, d, scale) = (heads.heads, heads.size, heads.scale());
    let (qw, kw, group) = (q.cols(), k.cols(), heads.heads / heads.kv_heads);
    let (mut o, mut lse) = (cx.alloc_f32(q.shape())?, cx.alloc_f32(&[q.rows(), h])?);
    let (q, k, v) = (cx.wide(q)?, cx.wide(k)?, cx.wide(v)?);
    let (out, lse_out) = (Shared::new(o.f32_mut()?), Shared::new(lse.f32_mut()?));
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
                let (top, sum) = simd::vectorized(
                    #[inline(always)]
                    || {
                        let top = simd::max(seen);
                        let sum = simd::exp_sum(seen, top);
                        seen.iter_mut().for_each(|p| *p /= sum);
                        (top, sum)
                    },
                );
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
    Ok((cx.stored(o)?, lse))
}

/// dq, dk, dv.
pub(super) fn backward(
    cx: &Cx,
    saved: &Saved<'_>,
    dout: &Buf,
    sight: &Sight<'_>,
    heads: Heads,
) -> Result<(Buf, Buf, Buf)> {
    let spans = sight.spans;
    let (h, d, scale) = (heads.heads, heads.size, heads.scale());
    let (qw, kw, group) = (saved.q.cols(), saved.k.cols(), heads.heads / heads.kv_heads);
    let mut dq = cx.alloc_f32(saved.q.shape())?;
    let (mut dk, mut dv) = (cx.alloc_f32(saved.k.shape())?, cx.alloc_f32(saved.v.shape())?);
    dk.f32_mut()?.fill(0.0);
    dv.f32_mut()?.fill(0.0);
    let (dq_out, dk_out, dv_out) =
        (Shared::new(dq.f32_mut()?), Shared::new(dk.f32_mut()?), Shared::new(dv.f32_mut()?));
    let [q, k, v, o, dout] = [saved.q, saved.k, saved.v, saved.o, dout].map(|x| cx.wide(x));
    let (q, k, v, o, dout) = (q?, k?, v?, o?, dout?);
    let (q, k, v) = (q.f32()?, k.f32()?, v.f32()?);
    let (o, lse, dout) = (o.f32()?, saved.lse.f32()?, dout.f32()?);
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
                        simd::vectorized(
                            #[inline(always)]
                            || {
                                let delta = simd::dot(&dout[row..row + d], &o[row..row + d]);
                                for (s, ds) in s[lo..hi].iter_mut().zip(&mut ds[lo..hi]) {
                                    *s = simd::exp(*s - lse);
                                    *ds = *s * (*ds - delta);
                                }
                            },
                        );
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
    Ok((cx.stored(dq)?, cx.stored(dk)?, cx.stored(dv)?))
}
