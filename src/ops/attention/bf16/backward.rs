//! Gradients of attention from the saved log-sum-exp.
//!
//! ```text
//! P  = exp(scale · S − lse)        δ  = rowsum(dO ⊙ O)        dS = P ⊙ (dO · Vᵀ − δ)
//! dV = Pᵀ · dO                     dK = scale · dSᵀ · Q       dQ = scale · dS · K
//! ```
//!
//! A task is a segment of the packed rows of one (span, key/value head). Chunks of [`CHUNK`]
//! rows (outer) meet blocks of [`KEYS`] keys (inner), on transposed tiles: rows are keys, lanes are
//! packed rows, so that the broadcast operands come straight from `k` and `v`:
//!
//! ```text
//! Sᵀ  (6 keys, 64 rows) = K · Qᵀ     a = k         panel = rows panel of Q,    inner = size
//! dPᵀ (6 keys, 64 rows) = V · dOᵀ    a = v         panel = rows panel of dO,   inner = size
//! dV  (6 keys, 64)     += Pᵀ · dO    a = Pᵀ        panel = columns panel of dO, inner = rows
//! dK  (6 keys, 64)     += dSᵀ · Q    a = dSᵀ       panel = columns panel of Q,  inner = rows
//! dQ  (6 rows, 64)     += dS · K     a = dS words  panel = columns panel of K,  inner = keys
//! ```
//!
//! `Pᵀ` and `dSᵀ` are bf16 `(KEYS, CHUNK)`; the dS words hold dS once more, as pair words
//! `(KEYS / 2, CHUNK)` of two neighbouring keys. `dQ` of a chunk and `dK`, `dV` of a segment
//! add up in f32. A long span has several segments, so that one sequence with few heads fills the
//! cores; their `dK` and `dV` are added in order afterwards, and rounded once.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::Result;
use half::bf16;
use rayon::prelude::*;

use super::gradient::{CHUNK, KEYS, Scratch, segment};
use super::tile::{self, LANES};
use crate::ops::Cx;
use crate::ops::attention::{Heads, Span};
use crate::ops::lines::Buffer;
use crate::ops::shared::Shared;
use crate::ops::spread::spread;

/// The operands, as they come.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub q: &'a [bf16],
    pub k: &'a [bf16],
    pub v: &'a [bf16],
    pub o: &'a [bf16],
    pub lse: &'a [f32],
    pub dout: &'a [bf16],
    pub heads: Heads,
}

/// A segment of the packed rows of one (span, key/value head).
pub(super) struct Task<'a> {
    pub span: &'a Span,
    pub kv_head: usize,
    pub rows: Range<usize>,
    /// The keys that any of the rows sees.
    pub keys: Range<usize>,
    /// Where the f32 `dK` and `dV` of the keys lie among those of all tasks; none where the span
    /// has no other segment.
    sums: Option<Range<usize>>,
}

thread_local! {
    static SCRATCH: RefCell<(Scratch, Buffer)> = RefCell::default();
}

/// Writes the rows of `dq`, `dk` and `dv` that lie inside the spans.
///
/// # Errors
/// When there is no memory for the sums of segments.
///
/// # Panics
/// If the slices are too short or the heads do not [`apply`](super::applies); spans must be apart, as
/// [`Heads::check`] sees to.
pub(in super::super) fn backward(
    cx: &Cx,
    [q, k, v, o, dout]: [&[bf16]; 5],
    lse: &[f32],
    spans: &[Span],
    heads: Heads,
    [dq, dk, dv]: [&mut [bf16]; 3],
) -> Result<()> {
    assert!(super::applies(heads), "heads that the kernels do not know");
    let inputs = Inputs { q, k, v, o, lse, dout, heads };
    let mut total = 0;
    let mut tasks: Vec<Task> = spans
        .iter()
        .flat_map(|span| (0..heads.kv_heads).map(move |kv_head| (span, kv_head)))
        .flat_map(|(span, kv_head)| segments(span, kv_head, heads))
        .collect();
    for task in &mut tasks {
        if let Some(sums) = &mut task.sums {
            *sums = total..total + task.keys.len() * 2 * heads.lanes();
            total = sums.end;
        }
    }
    // The long tasks first, so that no long one is left for the end.
    let mut order: Vec<&Task> = tasks.iter().collect();
    order.sort_by_key(|task| std::cmp::Reverse(task.rows.len() * task.keys.len()));

    // As much as any batch takes, so that the next one finds it in the pool again.
    let tokens = cx.room(q.len() / (heads.heads * heads.size).max(1), usize::MAX);
    let most = most_sums(tokens, cx.longest_sequence(tokens), heads).max(total);
    let mut sums = cx.alloc_f32_rows(&[total], most)?;
    let shared = Shared::new(sums.f32_mut()?);
    let (dq, dk, dv) = (Shared::new(dq), Shared::new(dk), Shared::new(dv));
    spread(&order, |task| {
        SCRATCH.with_borrow_mut(|(scratch, buffer)| {
            let sums = match &task.sums {
                // SAFETY: every task has a range of its own.
                Some(range) => unsafe { shared.part(range.clone()) },
                None => buffer.take(task.keys.len() * 2 * heads.lanes()),
            };
            // SAFETY: `applies` has found the instructions. Tasks differ in their rows, each a query
            // and a head of `dq`, and a task without other segments is the only one to write the
            // keys of its span and head.
            unsafe {
                segment(inputs, task, scratch, sums, dq);
                if task.sums.is_none() {
                    write(task, 0..task.span.k.len(), &[(task, sums)], heads, dk, dv);
                }
            }
        });
    });
    // The segments of a (span, head) are neighbours, in order.
    let same = |a: &Task, b: &Task| a.span == b.span && a.kv_head == b.kv_head;
    let groups = tasks.chunk_by(same).filter(|group| group[0].sums.is_some());
    let groups: Vec<_> = groups.collect();
    spread(&groups, |group| {
        let parts: Vec<(&Task, &[f32])> = group
            .iter()
            .filter_map(|task| Some((task, task.sums.clone()?)))
            // SAFETY: the tasks are done; from here on the sums are only read.
            .map(|(task, range)| (task, unsafe { &*shared.part(range) }))
            .collect();
        let keys = group[0].span.k.len();
        (0..keys.div_ceil(KEYS)).into_par_iter().for_each(|block| {
            let keys = block * KEYS..(block * KEYS + KEYS).min(keys);
            // SAFETY: as above; groups differ in span or head, and blocks in their keys.
            unsafe { write(&group[0], keys, &parts, heads, dk, dv) };
        });
    });
    Ok(())
}

/// No fewer elements than the segments of spans take that have so many queries in all and the longest so many, each with as many keys
/// as queries; for groups of up to 512 heads.
fn most_sums(tokens: usize, longest: usize, heads: Heads) -> usize {
    let segments = heads.segment_count(longest);
    if segments < 2 {
        return 0;
    }
    // Of n segments of equal length, but for rounding, the i-th sees i/n of the keys: (n + 1)/2 times all of them, K and V. Rounding
    // up lengths and keys takes no more than the keys once more each.
    tokens * heads.kv_heads * (segments + 3) * heads.lanes()
}

/// Divides the packed rows of a (span, head) in whole chunks, by their number alone.
fn segments(span: &Span, kv_head: usize, heads: Heads) -> impl Iterator<Item = Task<'_>> {
    let group = heads.group();
    let all = span.q.len() * group;
    let (chunks, count) = (all.div_ceil(CHUNK), heads.segment_count(span.q.len()));
    let cut = move |i: usize| (i * chunks / count * CHUNK).min(all);
    // A span without queries still has a task: its keys get zeros.
    (0..count).map(move |i| {
        let rows = cut(i)..cut(i + 1);
        let position = |row: usize| span.offset() + row / group;
        let keys = match rows.clone().last() {
            Some(last) => heads.first_key(position(rows.start))..position(last) + 1,
            None => 0..0,
        };
        let sums = (count > 1).then_some(0..0);
        Task { span, kv_head, rows, keys, sums }
    })
}

/// Adds up the parts of `dK` and `dV` in order and rounds them; `keys` are counted inside the span.
///
/// # Safety
/// The processor is [`super::supported`], and nobody else uses these keys of this head in `dk` and
/// `dv`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn write(
    task: &Task<'_>,
    keys: Range<usize>,
    parts: &[(&Task<'_>, &[f32])],
    heads: Heads,
    dk: Shared<bf16>,
    dv: Shared<bf16>,
) {
    let (size, lanes) = (heads.size, heads.lanes());
    for key in keys {
        let at = (task.span.k.start + key) * heads.kv_width() + task.kv_head * size;
        // `dK` and `dV` of a key follow each other in a part.
        for (which, out, factor) in [(0, dk, heads.scale()), (1, dv, 1.0)] {
            // SAFETY: this key and head are the caller's own, by its promise.
            let out = unsafe { out.part(at..at + size) };
            if let [(part, values)] = parts
                && part.keys.contains(&key)
            {
                let row = (key - part.keys.start) * 2 + which;
                tile::write_scaled(&values[row * lanes..][..size], factor, out);
                continue;
            }
            for (column, out) in out.chunks_mut(LANES).enumerate() {
                let mut sum = [0.0_f32; LANES];
                for (part, values) in parts.iter().filter(|(part, _)| part.keys.contains(&key)) {
                    let row = (key - part.keys.start) * 2 + which;
                    let values = &values[row * lanes + column * LANES..][..LANES];
                    for (sum, value) in sum.iter_mut().zip(values) {
                        *sum += value;
                    }
                }
                tile::write_scaled(&sum, factor, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_all_rows_in_parts_that_differ_by_a_chunk_at_most() {
        for (queries, group) in [(0, 1), (1, 9), (511, 3), (769, 3), (1024, 4), (4099, 1)] {
            let heads = Heads { heads: group, kv_heads: 1, size: 2, window: None };
            let span = Span { q: 0..queries, k: 0..queries };
            let tasks: Vec<_> = segments(&span, 0, heads).collect();
            assert_eq!(tasks.len(), heads.segment_count(queries));
            let mut end = 0;
            for rows in tasks.iter().map(|task| &task.rows) {
                assert_eq!(rows.start, end);
                end = rows.end;
            }
            assert_eq!(end, queries * group);
            let chunks = || tasks.iter().map(|task| task.rows.len().div_ceil(CHUNK));
            assert!(chunks().max() <= chunks().min().map(|least| least + 1), "{queries} x {group}");
        }
    }
}
