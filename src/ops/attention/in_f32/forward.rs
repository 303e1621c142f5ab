//! `O = softmax(scale · Q · Kᵀ) · V` over the visible keys, and the log-sum-exp of every row.
//!
//! A task is a block of packed rows of one (span, key/value head). It goes through the blocks of keys that its rows see with a running
//! maximum m and sum l for each row:
//!
//! ```text
//! m' = max(m, max S)    l ← l · exp(m − m') + Σ P    A ← A · exp(m − m') + P · V
//! ```
//!
//! and at the end `O = A / l`, `lse = m + ln l`.

use super::{ROWS, STRIDE, block_rows, inside, key_blocks};
use crate::ops::attention::packed::Packed;
use crate::ops::attention::{Heads, Sight};
use crate::ops::lines::Buffer;
use crate::ops::matmul::{Into, View, ViewMut, matmul_here};
use crate::ops::shared::Shared;
use crate::ops::spread::spread;
use crate::ops::{Buf, Cx, simd};
use candle_core::Result;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::ops::Range;

#[derive(Default)]
struct Scratch {
    q: Buffer,
    scores: Buffer,
    sums: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A row's running maximum and sum.
#[derive(Clone, Copy)]
struct Running {
    top: f32,
    sum: f32,
}

/// o and the log-sum-exp.
pub(in super::super) fn forward(
    cx: &Cx,
    [q, k, v]: [&Buf; 3],
    sight: &Sight<'_>,
    heads: Heads,
) -> Result<(Buf, Buf)> {
    let (mut o, mut lse) = (cx.alloc_f32(q.shape())?, cx.alloc_f32(&[q.rows(), heads.heads])?);
    let (q, k, v) = (cx.wide(q)?, cx.wide(k)?, cx.wide(v)?);
    let inputs = [q.f32()?, k.f32()?, v.f32()?];
    let outputs = [Shared::new(o.f32_mut()?), Shared::new(lse.f32_mut()?)];
    let packed = sight
        .spans
        .iter()
        .flat_map(|span| (0..heads.kv_heads).map(move |kv_head| Packed { span, kv_head, heads }));
    let mut tasks: Vec<_> = packed
        .flat_map(|packed| {
            let (all, block) = (packed.rows(), block_rows(&packed));
            (0..all).step_by(block).map(move |row| (packed, row..(row + block).min(all)))
        })
        .collect();
    tasks.sort_by_key(|(packed, rows)| Reverse(packed.seen(rows).len() * rows.len()));
    spread(&tasks, |(packed, rows)| {
        SCRATCH.with_borrow_mut(|scratch| block(packed, rows.clone(), inputs, outputs, scratch));
    });
    Ok((cx.stored(o)?, lse))
}

/// Computes the rows of a task.
fn block(
    packed: &Packed<'_>,
    rows: Range<usize>,
    [q, k, v]: [&[f32]; 3],
    [o, lse]: [Shared<f32>; 2],
    scratch: &mut Scratch,
) {
    let heads = packed.heads;
    let (size, width) = (heads.size, heads.kv_width());
    let mut running = [Running { top: f32::NEG_INFINITY, sum: 0.0 }; ROWS];
    let queries = scratch.q.take::<f32>(rows.len() * size);
    packed.pack(rows.clone(), q, queries);
    let scores = scratch.scores.take::<f32>(ROWS * STRIDE);
    let sums = scratch.sums.zeroed::<f32>(rows.len() * size);
    for (keys, seeing) in key_blocks(packed, rows.clone()) {
        let (m, n, at) = (keys.len(), seeing.len(), packed.key(keys.start));
        let values = (seeing.start - rows.start) * size..(seeing.end - rows.start) * size;
        let kt = View::strided(&k[at..], m, size, width).t();
        let queries = View::new(&queries[values.clone()], n, size);
        let out = ViewMut::strided(scores, n, m, STRIDE);
        matmul_here(out, Into::Overwrite, heads.scale(), queries, kt);
        let running = &mut running[seeing.start - rows.start..];
        let sums = &mut sums[values];
        simd::vectorized(
            #[inline(always)]
            || {
                for (i, row) in seeing.enumerate() {
                    let row_scores = &mut scores[i * STRIDE..i * STRIDE + m];
                    let visible = packed.visible(row);
                    add(
                        row_scores,
                        &visible,
                        &keys,
                        &mut running[i],
                        &mut sums[i * size..][..size],
                    );
                }
            },
        );
        let (p, vv) =
            (View::strided(scores, n, m, STRIDE), View::strided(&v[at..], m, size, width));
        matmul_here(ViewMut::new(sums, n, size), Into::Add, 1.0, p, vv);
    }
    for (i, row) in rows.enumerate() {
        let (Running { top, sum }, (query, head)) = (running[i], packed.place(row));
        // SAFETY: one task alone has this (row, head).
        let (o, lse) = unsafe {
            (o.slice(packed.element(row), size), lse.slice(query * heads.heads + head, 1))
        };
        lse[0] = top + sum.ln();
        // A row that sees no key has no sum.
        let factor = if sum > 0.0 { 1.0 / sum } else { 0.0 };
        o.iter_mut().zip(&sums[i * size..]).for_each(|(o, s)| *o = s * factor);
    }
}

/// Turns a row's scores of a block into what its keys weigh against the row's new maximum, zero for keys that it does not see, and brings
/// what was summed before to that maximum.
#[inline(always)]
fn add(
    scores: &mut [f32],
    visible: &Range<usize>,
    keys: &Range<usize>,
    running: &mut Running,
    sums: &mut [f32],
) {
    let seen = inside(visible, keys);
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    if seen.is_empty() {
        return;
    }
    let seen = &mut scores[seen];
    let top = simd::max(seen).max(running.top);
    // Scores that overflowed: against a maximum of −∞ they would be NaN.
    if top == f32::NEG_INFINITY && seen.iter().all(|s| *s == top) {
        seen.fill(0.0);
        return;
    }
    if top > running.top {
        let factor = simd::exp(running.top - top);
        running.sum *= factor;
        sums.iter_mut().for_each(|s| *s *= factor);
        running.top = top;
    }
    running.sum += simd::exp_sum(seen, top);
}
