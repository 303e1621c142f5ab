//! Gradients of attention from the saved log-sum-exp.
//!
//! ```text
//! P  = exp(S − lse)        δ  = rowsum(dO ⊙ O)        dS = P ⊙ (dO · Vᵀ − δ)
//! dV = Pᵀ · dO             dK = scale · dSᵀ · Q       dQ = scale · dS · K
//! ```
//!
//! A task is a segment of the packed rows of one (span, key/value head): `dQ` of a block of rows adds up over the blocks of keys, `dK` and
//! `dV` over the segment.

use super::{ROWS, STRIDE, block_rows, inside, key_blocks};
use crate::ops::attention::packed::Packed;
use crate::ops::attention::segments::{self, Layout, Task};
use crate::ops::attention::{Heads, Saved, Sight};
use crate::ops::lines::Buffer;
use crate::ops::matmul::{Into, View, ViewMut, matmul_here};
use crate::ops::shared::Shared;
use crate::ops::{Buf, Cx, simd};
use candle_core::Result;
use std::cell::RefCell;
use std::ops::Range;

/// The operands.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    o: &'a [f32],
    lse: &'a [f32],
    dout: &'a [f32],
    heads: Heads,
}

#[derive(Default)]
struct Scratch {
    q: Buffer,
    dout: Buffer,
    dq: Buffer,
    p: Buffer,
    ds: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// dq, dk, dv.
pub(in super::super) fn backward(
    cx: &Cx,
    saved: &Saved<'_>,
    dout: &Buf,
    sight: &Sight<'_>,
    heads: Heads,
) -> Result<(Buf, Buf, Buf)> {
    let mut dq = cx.alloc_f32(saved.q.shape())?;
    let (mut dk, mut dv) = (cx.alloc_f32(saved.k.shape())?, cx.alloc_f32(saved.v.shape())?);
    let [q, k, v, o, dout] = [saved.q, saved.k, saved.v, saved.o, dout].map(|x| cx.wide(x));
    let (q, k, v, o, dout) = (q?, k?, v?, o?, dout?);
    let (q, k, v, o, dout) = (q.f32()?, k.f32()?, v.f32()?, o.f32()?, dout.f32()?);
    let inputs = Inputs { q, k, v, o, lse: saved.lse.f32()?, dout, heads };
    let (dq_out, dk_out, dv_out) =
        (Shared::new(dq.f32_mut()?), Shared::new(dk.f32_mut()?), Shared::new(dv.f32_mut()?));
    let layout = Layout { chunk: ROWS, width: super::width(heads) };
    let segment = |task: &Task<'_>, sums: &mut [f32]| {
        SCRATCH.with_borrow_mut(|scratch| segment(inputs, task, scratch, sums, dq_out));
    };
    let write = |keys: Range<usize>, parts: &[(&Task<'_>, &[f32])]| {
        write(keys, parts, heads, [(dk_out, heads.scale()), (dv_out, 1.0)]);
    };
    segments::each(cx, (sight.spans, saved.q.rows()), heads, layout, segment, write)?;
    Ok((cx.stored(dq)?, cx.stored(dk)?, cx.stored(dv)?))
}

/// Computes `dQ` of the task's rows, and their share of `dK`, without its scale, and `dV`: `sums` are (2, keys, size).
fn segment(
    inputs: Inputs<'_>,
    task: &Task<'_>,
    scratch: &mut Scratch,
    sums: &mut [f32],
    out: Shared<f32>,
) {
    let Inputs { q, k, v, o, lse, dout, heads } = inputs;
    let (size, width) = (heads.size, heads.kv_width());
    let packed = Packed { span: task.span, kv_head: task.kv_head, heads };
    sums.fill(0.0);
    let (dk, dv) = sums.split_at_mut(task.keys.len() * size);
    let block = block_rows(&packed);
    for first in task.rows.clone().step_by(block) {
        let rows = first..(first + block).min(task.rows.end);
        let (mut lses, mut deltas) = ([0.0; ROWS], [0.0; ROWS]);
        let queries = scratch.q.take::<f32>(rows.len() * size);
        let douts = scratch.dout.take::<f32>(rows.len() * size);
        packed.pack(rows.clone(), q, queries);
        packed.pack(rows.clone(), dout, douts);
        simd::vectorized(
            #[inline(always)]
            || {
                for (i, row) in rows.clone().enumerate() {
                    let ((query, head), at) = (packed.place(row), packed.element(row));
                    lses[i] = lse[query * heads.heads + head];
                    deltas[i] = simd::dot(&douts[i * size..][..size], &o[at..at + size]);
                }
            },
        );
        let dq = scratch.dq.zeroed::<f32>(rows.len() * size);
        let p = scratch.p.take::<f32>(ROWS * STRIDE);
        let ds = scratch.ds.take::<f32>(ROWS * STRIDE);
        for (keys, seeing) in key_blocks(&packed, rows.clone()) {
            let (m, n, at) = (keys.len(), seeing.len(), packed.key(keys.start));
            let from = seeing.start - rows.start;
            let values = from * size..(seeing.end - rows.start) * size;
            let (k, v) =
                (View::strided(&k[at..], m, size, width), View::strided(&v[at..], m, size, width));
            let queries = View::new(&queries[values.clone()], n, size);
            let douts = View::new(&douts[values.clone()], n, size);
            let scores = ViewMut::strided(p, n, m, STRIDE);
            matmul_here(scores, Into::Overwrite, heads.scale(), queries, k.t());
            matmul_here(ViewMut::strided(ds, n, m, STRIDE), Into::Overwrite, 1.0, douts, v.t());
            simd::vectorized(
                #[inline(always)]
                || {
                    for (i, row) in seeing.enumerate() {
                        let own = i * STRIDE..i * STRIDE + m;
                        let (p, ds) = (&mut p[own.clone()], &mut ds[own]);
                        let known = [lses[from + i], deltas[from + i]];
                        differentiate(p, ds, &packed.visible(row), &keys, known);
                    }
                },
            );
            let (p, ds) = (View::strided(p, n, m, STRIDE), View::strided(ds, n, m, STRIDE));
            matmul_here(ViewMut::new(&mut dq[values], n, size), Into::Add, 1.0, ds, k);
            let own = (keys.start - task.keys.start) * size..(keys.end - task.keys.start) * size;
            matmul_here(
                ViewMut::new(&mut dk[own.clone()], m, size),
                Into::Add,
                1.0,
                ds.t(),
                queries,
            );
            matmul_here(ViewMut::new(&mut dv[own], m, size), Into::Add, 1.0, p.t(), douts);
        }
        for (row, dq) in rows.zip(dq.chunks_exact(size)) {
            // SAFETY: one task alone has this (row, head).
            let out = unsafe { out.slice(packed.element(row), size) };
            out.iter_mut().zip(dq).for_each(|(out, dq)| *out = heads.scale() * dq);
        }
    }
}

/// Turns a row's scores into P and dP into dS, both zero for keys that the row does not see.
#[inline(always)]
fn differentiate(
    p: &mut [f32],
    ds: &mut [f32],
    visible: &Range<usize>,
    keys: &Range<usize>,
    [lse, delta]: [f32; 2],
) {
    let seen = inside(visible, keys);
    for part in [0..seen.start, seen.end..p.len()] {
        p[part.clone()].fill(0.0);
        ds[part].fill(0.0);
    }
    for (p, ds) in p[seen.clone()].iter_mut().zip(&mut ds[seen]) {
        *p = simd::exp(*p - lse);
        *ds = *p * (*ds - delta);
    }
}

/// Adds up the parts of `dK` and `dV` in order; `keys` are counted inside the span.
fn write(
    keys: Range<usize>,
    parts: &[(&Task<'_>, &[f32])],
    heads: Heads,
    outs: [(Shared<f32>, f32); 2],
) {
    let (size, Some((task, _))) = (heads.size, parts.first()) else { return };
    let packed = Packed { span: task.span, kv_head: task.kv_head, heads };
    for (which, (out, factor)) in outs.into_iter().enumerate() {
        for key in keys.clone() {
            // SAFETY: this key and head are written once, apart from all others.
            let out = unsafe { out.slice(packed.key(key), size) };
            out.fill(0.0);
            for (part, sums) in parts.iter().filter(|(part, _)| part.keys.contains(&key)) {
                let row = which * part.keys.len() + key - part.keys.start;
                out.iter_mut().zip(&sums[row * size..]).for_each(|(out, sum)| *out += sum);
            }
            out.iter_mut().for_each(|out| *out *= factor);
        }
    }
}
