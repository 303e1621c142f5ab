//! `O = softmax(scale · Q · Kᵀ) · V` over the visible keys, and the log-sum-exp of every row.
//!
//! A task is a chunk of the queries of one (span, key/value head), about [`CHUNK`] packed rows. It
//! goes through its visible keys some hundreds at a time, so that scratch stays bounded for any length:
//! the rows panels of `K` and the columns panels of `V` are made once, and every tile of 6 rows
//! takes them through the online softmax, in base 2 with `c = scale · log2(e)`:
//!
//! ```text
//! S  = Q · Kᵀ                       f32 strip (6, keys), only blocks of 64 keys with a visible one
//! m' = max(m, c · max S)            P = 2^(c · S − m')             bf16 strip (6, keys)
//! l' = l · 2^(m − m') + Σ P         A' = A · 2^(m − m') + P · V    f32 (rows, lanes)
//! ```
//!
//! and at the end `O = A / l`, `lse = ln 2 · m + ln l`.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

use half::bf16;

use super::panels::{Block, columns_panels, rows_panel};
use super::tile::{self, LANES, ROWS, VECTOR, Walk};
use crate::ops::attention::{Heads, Span};
use crate::ops::lines::Buffer;
use crate::ops::shared::Shared;
use crate::ops::spread::spread;

/// Packed rows of a task: enough tiles to pay for the panels, few enough to fill the cores.
const CHUNK: usize = 384;
/// Elements of the panels of `K` and of `V` between two rescalings: with the rows, what the second
/// cache holds.
const PANEL: usize = 1 << 16;
/// Half a block: what the last block is cut to where no row sees more.
const HALF: usize = 2 * VECTOR;
/// A score that is not visible. Finite, so that `exp2` gives 0 rather than NaN.
const MASKED: f32 = -1e30;
/// The maximum of a row before its first key: below every score, and so far above [`MASKED`] that
/// a row without a visible key in the first chunk of its tile still gets zeros.
const LOWEST: f32 = -1e20;

/// Queries ahead of which rows are asked for: their pieces lie so far apart that no prefetcher follows.
const AHEAD: usize = 8;

struct Task<'a> {
    span: &'a Span,
    kv_head: usize,
    /// Queries, counted inside the span.
    queries: Range<usize>,
}

#[derive(Default)]
struct Scratch {
    q: Buffer,
    k: Buffer,
    v: Buffer,
    strip: Buffer,
    p: Buffer,
    a: Buffer,
    state: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Writes the rows of `o` and `lse` that lie inside the spans.
///
/// # Panics
/// If the slices are too short or the heads do not [`apply`](super::applies); spans must be apart, as
/// [`Heads::check`] sees to.
pub(in super::super) fn forward(
    q: &[bf16],
    k: &[bf16],
    v: &[bf16],
    spans: &[Span],
    heads: Heads,
    o: &mut [bf16],
    lse: &mut [f32],
) {
    assert!(super::applies(heads), "heads that the kernels do not know");
    let step = (CHUNK / heads.group()).max(1);
    let mut tasks = Vec::new();
    for span in spans {
        for first in (0..span.q.len()).step_by(step) {
            let queries = first..(first + step).min(span.q.len());
            tasks.extend((0..heads.kv_heads).map(|kv_head| Task {
                span,
                kv_head,
                queries: queries.clone(),
            }));
        }
    }
    // Later chunks see more keys: the long tasks first leave no long one for the end.
    tasks.sort_by_key(|task| std::cmp::Reverse(task.span.offset() + task.queries.end));
    let (o, lse) = (Shared::new(o), Shared::new(lse));
    let run = |task: &Task| {
        SCRATCH.with_borrow_mut(|scratch| {
            // SAFETY: `applies` has found the instructions. Tasks differ in their queries or heads,
            // so each writes its own elements of `o` and `lse`.
            unsafe { chunk(q, k, v, heads, task, o, lse, scratch) }
        });
    };
    spread(&tasks, run);
}

/// # Safety
/// Nobody else uses the rows `task.queries` of the heads of `task.kv_head` in `o` and `lse`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[expect(clippy::too_many_arguments, reason = "the operands of attention")]
unsafe fn chunk(
    q: &[bf16],
    k: &[bf16],
    v: &[bf16],
    heads: Heads,
    task: &Task<'_>,
    o: Shared<bf16>,
    lse: Shared<f32>,
    scratch: &mut Scratch,
) {
    let Heads { size, .. } = heads;
    let (group, lanes) = (heads.group(), heads.lanes());
    let Task { span, kv_head, ref queries } = *task;
    let rows = queries.len() * group;
    let most = (PANEL / lanes).next_multiple_of(LANES);
    // Not a multiple of 4 KiB: the strips of neighbouring rows shall not share their cache sets.
    let stride = most + HALF;
    // The heads of a group are neighbours in a row of `q`, so packing copies one piece a query.
    let packed = scratch.q.take::<bf16>(rows * size);
    for (i, to) in queries.clone().zip(packed.chunks_exact_mut(group * size)) {
        let at = (span.q.start + i) * heads.q_width() + kv_head * group * size;
        tile::ask(q, at + AHEAD * heads.q_width(), group * size);
        to.copy_from_slice(&q[at..at + group * size]);
    }
    let (max, sum) = scratch.state.take::<f32>(2 * rows).split_at_mut(rows);
    max.fill(LOWEST);
    sum.fill(0.0);
    let mut state = State {
        heads,
        position: span.offset() + queries.start,
        q: packed,
        k: scratch.k.take(most * size / 2),
        v: scratch.v.take(most / 2 * lanes),
        keys: 0..0,
        strip: scratch.strip.take(ROWS * stride),
        p: scratch.p.take(ROWS * stride),
        stride,
        a: scratch.a.zeroed(rows * lanes),
        max,
        sum,
    };
    let end = span.offset() + queries.end;
    // Whole blocks, so that the blocks of a tile start at multiples of 64 from here on.
    let start = heads.first_key(state.position) / LANES * LANES;
    for first in (start..end).step_by(most) {
        state.keys = first..(first + most).min(end);
        let at = (span.k.start + first) * heads.kv_width() + kv_head * size;
        let count = state.keys.len();
        let block = |data| Block { data, stride: heads.kv_width(), rows: count, size };
        let panels = state.k.chunks_exact_mut(size / 2 * LANES);
        for (b, panel) in panels.enumerate().take(count.div_ceil(LANES)) {
            rows_panel(block(&k[at..]).rows(b * LANES..count.min((b + 1) * LANES)), panel);
        }
        // Pairs up to whole blocks, because a tile may take the keys of a block that it masks.
        let pairs = count.next_multiple_of(LANES) / 2;
        columns_panels(block(&v[at..]), pairs, state.v);
        for row in (0..rows).step_by(ROWS) {
            match rows - row {
                1 => state.tile::<1>(row),
                2 => state.tile::<2>(row),
                3 => state.tile::<3>(row),
                4 => state.tile::<4>(row),
                5 => state.tile::<5>(row),
                _ => state.tile::<ROWS>(row),
            }
        }
    }
    for row in 0..rows {
        let query = span.q.start + queries.start + row / group;
        let head = kv_head * group + row % group;
        let at = query * heads.q_width() + head * size;
        let lse_at = query * heads.heads + head;
        // SAFETY: this row and head are the task's own, by the caller's promise.
        let (o, lse) = unsafe { (o.part(at..at + size), lse.part(lse_at..lse_at + 1)) };
        tile::write_scaled(&state.a[row * lanes..][..size], 1.0 / state.sum[row], o);
        lse[0] = state.max[row] * LN_2 + state.sum[row].ln();
    }
}

/// A task in the middle of its keys.
struct State<'a> {
    heads: Heads,
    /// Of the first row.
    position: usize,
    /// Packed rows `(rows, size)`.
    q: &'a [bf16],
    /// The keys whose panels are made.
    keys: Range<usize>,
    k: &'a mut [u32],
    v: &'a mut [u32],
    /// Scores and weights of a tile, rows `stride` apart.
    strip: &'a mut [f32],
    p: &'a mut [bf16],
    stride: usize,
    /// `(rows, lanes)`, relative to `max`.
    a: &'a mut [f32],
    /// In base 2, scaled.
    max: &'a mut [f32],
    sum: &'a mut [f32],
}

impl State<'_> {
    /// Takes rows `row..row + R` through the present keys.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn tile<const R: usize>(&mut self, row: usize) {
        let position = |r: usize| self.position + (row + r) / self.heads.group();
        // The keys that any row sees, relative to the present ones.
        let seen = self.heads.first_key(position(0)).max(self.keys.start)
            ..(position(R - 1) + 1).min(self.keys.end);
        if seen.is_empty() {
            return;
        }
        let seen = seen.start - self.keys.start..seen.end - self.keys.start;
        let blocks = seen.start / LANES..seen.end.div_ceil(LANES);
        let mut top = [_mm512_set1_ps(MASKED); R];
        for b in blocks.clone() {
            if seen.end <= b * LANES + HALF {
                self.scores::<R, 2>(row, b, &mut top);
            } else {
                self.scores::<R, 4>(row, b, &mut top);
            }
        }

        let c = self.heads.scale() * LOG2_E;
        let mut shrink = [0.0; R];
        for r in 0..R {
            let max = (_mm512_reduce_max_ps(top[r]) * c).max(self.max[row + r]);
            let part = r * self.stride + blocks.start * LANES
                ..r * self.stride + seen.end.next_multiple_of(HALF);
            let sum = weights(&self.strip[part.clone()], c, max, &mut self.p[part]);
            let old = _mm512_set1_ps(self.max[row + r] - max);
            shrink[r] = _mm512_cvtss_f32(tile::exp2(old));
            self.max[row + r] = max;
            self.sum[row + r] = self.sum[row + r] * shrink[r] + sum;
        }

        let pairs = blocks.start * LANES / 2..seen.end.div_ceil(2);
        let p = Walk { data: &self.p[2 * pairs.start..], row: self.stride / 2, pair: 1 };
        let all_pairs = self.keys.len().next_multiple_of(LANES) / 2;
        let lanes = self.heads.lanes();
        for column in (0..lanes).step_by(LANES) {
            let a = &mut self.a[row * lanes + column..];
            let mut acc = tile::load::<R>(a, lanes);
            for r in 0..R {
                for v in 0..4 {
                    acc[r][v] = _mm512_mul_ps(acc[r][v], _mm512_set1_ps(shrink[r]));
                }
            }
            let panel = &self.v[column * all_pairs + pairs.start * LANES..];
            let acc = tile::multiply(acc, p, panel, pairs.len());
            tile::store(&acc, a, lanes);
        }
    }

    /// The scores of a block of keys, or of its first [`VECTOR`] · `V`, with their maxima.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn scores<const R: usize, const V: usize>(
        &mut self,
        row: usize,
        block: usize,
        top: &mut [__m512; R],
    ) {
        let Heads { size, .. } = self.heads;
        let position = |r: usize| self.position + (row + r) / self.heads.group();
        let q = Walk { data: &self.q[row * size..], row: size / 2, pair: 1 };
        let panel = &self.k[block * LANES * size / 2..];
        let mut s = tile::multiply(tile::zero::<R, V>(), q, panel, size / 2);
        // Only a block with a key that some row does not see needs a mask.
        let first = self.keys.start + block * LANES;
        let end = first + V * VECTOR;
        if first < self.heads.first_key(position(R - 1)) || end > position(0) + 1 {
            for r in 0..R {
                let p = position(r);
                let before = self.heads.first_key(p).saturating_sub(first);
                let visible =
                    tile::first_lanes((p + 1).saturating_sub(first)) & !tile::first_lanes(before);
                for v in 0..V {
                    let mask = (visible >> (v * VECTOR)) as __mmask16;
                    s[r][v] = _mm512_mask_blend_ps(mask, _mm512_set1_ps(MASKED), s[r][v]);
                }
            }
        }
        for r in 0..R {
            let mut max = s[r];
            for v in 1..V {
                max[v / 2] = _mm512_max_ps(max[v / 2], max[v]);
            }
            top[r] = _mm512_max_ps(top[r], _mm512_max_ps(max[0], max[V / 2 - 1]));
        }
        tile::store(&s, &mut self.strip[block * LANES..], self.stride);
    }
}

/// Writes `2^(c · scores − max)` as bf16 and returns its sum; any number of [`HALF`] blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn weights(scores: &[f32], c: f32, max: f32, weights: &mut [bf16]) -> f32 {
    assert!(scores.len().is_multiple_of(2 * VECTOR) && scores.len() == weights.len());
    let (c, max) = (_mm512_set1_ps(c), _mm512_set1_ps(max));
    let mut sum = [_mm512_setzero_ps(); 2];
    for at in (0..scores.len()).step_by(2 * VECTOR) {
        // SAFETY: 32 scores and 32 weights from `at` on are in bounds by the assertion.
        unsafe {
            let low = _mm512_loadu_ps(scores.as_ptr().add(at));
            let high = _mm512_loadu_ps(scores.as_ptr().add(at + VECTOR));
            let low = tile::exp2(_mm512_fmsub_ps(low, c, max));
            let high = tile::exp2(_mm512_fmsub_ps(high, c, max));
            sum = [_mm512_add_ps(sum[0], low), _mm512_add_ps(sum[1], high)];
            _mm512_storeu_si512(weights.as_mut_ptr().add(at).cast(), tile::round(low, high));
        }
    }
    _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]))
}
