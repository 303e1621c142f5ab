//! One segment of the backward pass; [`mod@super::backward`] has the formulas and the layouts.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use half::bf16;

use super::backward::Inputs;
use super::panels::{Block, columns_panels, rows_panel};
use super::tile::{self, LANES, ROWS, VECTOR, Walk};
use crate::ops::attention::packed::Packed;
use crate::ops::attention::segments::Task;
use crate::ops::lines::Buffer;
use crate::ops::shared::Shared;

/// Packed rows of a chunk: whole blocks of lanes, and whole tiles of 6.
pub(super) const CHUNK: usize = 192;
/// Keys of a block: whole tiles of 6, whole pairs.
pub(super) const KEYS: usize = 48;
/// Rows ahead of which the operands are asked for: a group's heads are pieces of rows, which no prefetcher follows.
const AHEAD: usize = 16;
/// The log-sum-exp of a lane without a row. Finite, so that its weights are 0 rather than NaN.
const NO_ROW: f32 = 1e30;

#[derive(Default)]
pub(super) struct Scratch {
    packed: Buffer,
    q_rows: Buffer,
    q_columns: Buffer,
    dout_rows: Buffer,
    dout_columns: Buffer,
    k: Buffer,
    lse: Buffer,
    delta: Buffer,
    positions: Buffer,
    p: Buffer,
    ds: Buffer,
    words: Buffer,
    dq: Buffer,
    part: Buffer,
}

/// Computes `dQ` of the task's rows, and their share of `dK` (without its scale) and `dV`:
/// `sums` is `(task.keys, 2, lanes)`.
///
/// # Safety
/// The processor is [`super::supported`], and nobody else uses the task's rows of `dq`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn segment(
    inputs: Inputs<'_>,
    task: &Task<'_>,
    scratch: &mut Scratch,
    sums: &mut [f32],
    dq: Shared<bf16>,
) {
    let heads = inputs.heads;
    let (size, lanes) = (heads.size, heads.lanes());
    let packed = Packed { span: task.span, kv_head: task.kv_head, heads };
    let kv_at = packed.key(0);
    sums.fill(0.0);

    for first in task.rows.clone().step_by(CHUNK) {
        let rows = first..(first + CHUNK).min(task.rows.end);
        let lse = scratch.lse.take(CHUNK);
        let delta = scratch.delta.zeroed(CHUNK);
        let positions = scratch.positions.zeroed(CHUNK);
        lse.fill(NO_ROW);
        for (i, row) in rows.clone().enumerate() {
            let ahead = packed.element(row + AHEAD);
            for x in [inputs.dout, inputs.o, inputs.q] {
                tile::ask(x, ahead, size);
            }
            let ((query, head), at) = (packed.place(row), packed.element(row));
            lse[i] = inputs.lse[query * heads.heads + head] * LOG2_E;
            delta[i] = tile::dot(&inputs.dout[at..at + size], &inputs.o[at..at + size]);
            positions[i] = packed.position(row) as i32;
        }
        let mut panels = |data: &[bf16], by_rows: &mut Buffer, by_columns: &mut Buffer| {
            let values = scratch.packed.take::<bf16>(rows.len() * size);
            packed.pack(rows.clone(), data, values);
            let whole = Block { data: values, stride: size, rows: rows.len(), size };
            let panels = by_rows.take(CHUNK * size / 2).chunks_exact_mut(LANES * size / 2);
            for (b, panel) in panels.enumerate().take(rows.len().div_ceil(LANES)) {
                rows_panel(whole.rows(b * LANES..rows.len().min((b + 1) * LANES)), panel);
            }
            columns_panels(whole, CHUNK / 2, by_columns.take(CHUNK / 2 * lanes));
        };
        panels(inputs.q, &mut scratch.q_rows, &mut scratch.q_columns);
        panels(inputs.dout, &mut scratch.dout_rows, &mut scratch.dout_columns);

        let mut chunk = Chunk {
            inputs,
            k: &inputs.k[kv_at..],
            v: &inputs.v[kv_at..],
            offset: task.span.offset(),
            rows: rows.clone(),
            q_rows: scratch.q_rows.take(CHUNK * size / 2),
            q_columns: scratch.q_columns.take(CHUNK / 2 * lanes),
            dout_rows: scratch.dout_rows.take(CHUNK * size / 2),
            dout_columns: scratch.dout_columns.take(CHUNK / 2 * lanes),
            lse,
            delta,
            positions,
            p: scratch.p.take(KEYS * CHUNK),
            ds: scratch.ds.take(KEYS * CHUNK),
            words: scratch.words.take(KEYS / 2 * CHUNK),
            part: scratch.part.take(ROWS * LANES),
            k_columns: scratch.k.take(KEYS / 2 * lanes),
            dq: scratch.dq.zeroed(CHUNK * lanes),
            sums,
            first_key: task.keys.start,
        };
        let seen = packed.seen(&rows);
        for key in seen.clone().step_by(KEYS) {
            chunk.block(key..seen.end.min(key + KEYS));
        }
        for (i, row) in rows.enumerate() {
            let at = packed.element(row);
            // SAFETY: this row is the task's own, by the caller's promise.
            let to = unsafe { dq.part(at..at + size) };
            tile::write_scaled(&chunk.dq[i * lanes..], heads.scale(), to);
        }
    }
}

/// A chunk of packed rows, and the block of keys it has come to.
struct Chunk<'a> {
    inputs: Inputs<'a>,
    /// The span's rows of this head, from its first element on.
    k: &'a [bf16],
    v: &'a [bf16],
    /// The position of the first query of the span.
    offset: usize,
    rows: Range<usize>,
    /// Rows panels, one to a block of 64 rows.
    q_rows: &'a [u32],
    dout_rows: &'a [u32],
    /// Columns panels of `CHUNK / 2` pairs.
    q_columns: &'a [u32],
    dout_columns: &'a [u32],
    /// Log-sum-exp in base 2, δ and position of every row.
    lse: &'a [f32],
    delta: &'a [f32],
    positions: &'a [i32],
    /// `(KEYS, CHUNK)`.
    p: &'a mut [bf16],
    ds: &'a mut [bf16],
    /// `(KEYS / 2, CHUNK)`.
    words: &'a mut [u32],
    /// `dP − δ` of a tile.
    part: &'a mut [f32],
    /// Columns panels of the block of keys, of `KEYS / 2` pairs.
    k_columns: &'a mut [u32],
    /// `(CHUNK, lanes)`.
    dq: &'a mut [f32],
    /// `(keys of the task, 2, lanes)`: dK without its scale, and dV.
    sums: &'a mut [f32],
    /// The first key of `sums`.
    first_key: usize,
}

impl Chunk<'_> {
    /// Adds what the rows and `keys` have in common to dQ, dK and dV.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn block(&mut self, keys: Range<usize>) {
        let heads = self.inputs.heads;
        let (stride, size) = (heads.kv_width(), heads.size);
        let tiles = || keys.clone().step_by(ROWS).map(|key| key..keys.end.min(key + ROWS));
        // Blocks of rows outside and keys inside: the panels of 64 rows stay in the first cache.
        for block in 0..self.rows.len().div_ceil(LANES) {
            for tile in tiles() {
                let words = (tile.start - keys.start) / 2;
                match tile.len() {
                    1 => self.scores::<1>(block, tile.start, words),
                    2 => self.scores::<2>(block, tile.start, words),
                    3 => self.scores::<3>(block, tile.start, words),
                    4 => self.scores::<4>(block, tile.start, words),
                    5 => self.scores::<5>(block, tile.start, words),
                    _ => self.scores::<ROWS>(block, tile.start, words),
                }
            }
        }
        for tile in tiles() {
            let strip = tile.start - keys.start;
            match tile.len() {
                1 => self.add_to_keys::<1>(tile.start, strip),
                2 => self.add_to_keys::<2>(tile.start, strip),
                3 => self.add_to_keys::<3>(tile.start, strip),
                4 => self.add_to_keys::<4>(tile.start, strip),
                5 => self.add_to_keys::<5>(tile.start, strip),
                _ => self.add_to_keys::<ROWS>(tile.start, strip),
            }
        }
        let block = Block { data: &self.k[keys.start * stride..], stride, rows: keys.len(), size };
        columns_panels(block, KEYS / 2, self.k_columns);
        for row in (0..self.rows.len()).step_by(ROWS) {
            match self.rows.len() - row {
                1 => self.add_to_rows::<1>(row, &keys),
                2 => self.add_to_rows::<2>(row, &keys),
                3 => self.add_to_rows::<3>(row, &keys),
                4 => self.add_to_rows::<4>(row, &keys),
                5 => self.add_to_rows::<5>(row, &keys),
                _ => self.add_to_rows::<ROWS>(row, &keys),
            }
        }
    }

    /// The rows of the chunk, counted from its start, that see any of `keys`.
    fn rows_seeing(&self, keys: Range<usize>) -> Range<usize> {
        let heads = &self.inputs.heads;
        let row = |position: usize| {
            let row = position.saturating_sub(self.offset).saturating_mul(heads.group());
            row.saturating_sub(self.rows.start).min(self.rows.len())
        };
        let end = heads
            .window
            .map_or(self.rows.len(), |window| row((keys.end - 1).saturating_add(window)));
        row(keys.start)..end
    }

    /// P and dS of `R` keys from `key` on and a block of 64 rows; `words` is their first row of
    /// words.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn scores<const R: usize>(&mut self, block: usize, key: usize, words: usize) {
        let heads = self.inputs.heads;
        let (size, stride) = (heads.size, heads.kv_width());
        let lane = block * LANES;
        let seeing = self.rows_seeing(key..key + R);
        if seeing.end <= lane || seeing.start >= lane + LANES || seeing.is_empty() {
            // dV and dK leave these rows out, but a tile of dQ may reach across blocks.
            for pair in 0..R.div_ceil(2) {
                self.words[(words + pair) * CHUNK + lane..][..LANES].fill(0);
            }
            return;
        }
        let panel = block * LANES * size / 2;
        let walk = |data| Walk { data, row: stride / 2, pair: 1 };

        let v = walk(&self.v[key * stride..]);
        let mut dp = tile::multiply(tile::zero::<R, 4>(), v, &self.dout_rows[panel..], size / 2);
        for v in 0..4 {
            let delta = tile::vector(self.delta, lane + v * VECTOR);
            for dp in &mut dp {
                dp[v] = _mm512_sub_ps(dp[v], delta);
            }
        }
        tile::store(&dp, self.part, LANES);

        let k = walk(&self.k[key * stride..]);
        let mut p = tile::multiply(tile::zero::<R, 4>(), k, &self.q_rows[panel..], size / 2);
        let c = _mm512_set1_ps(heads.scale() * LOG2_E);
        // The positions of the first and the last row of the block.
        let last = (lane + LANES).min(self.rows.len()) - 1;
        let (first, last) = (self.positions[lane] as usize, self.positions[last] as usize);
        let edge = key + R - 1 > first || key < heads.first_key(last);
        for v in 0..4 {
            let lse = tile::vector(self.lse, lane + v * VECTOR);
            for r in 0..R {
                p[r][v] = tile::exp2(_mm512_fmsub_ps(p[r][v], c, lse));
            }
            if edge {
                // SAFETY: `positions` has `CHUNK` elements, and the lanes of a block end there.
                let position = unsafe {
                    _mm512_loadu_si512(
                        self.positions[lane + v * VECTOR..][..VECTOR].as_ptr().cast(),
                    )
                };
                for r in 0..R {
                    // The key is visible if 0 <= position - key < window.
                    let back = _mm512_sub_epi32(position, _mm512_set1_epi32((key + r) as i32));
                    let window = heads.window.map_or(i32::MAX, |w| w.min(i32::MAX as usize) as i32);
                    let seen = _mm512_cmplt_epu32_mask(back, _mm512_set1_epi32(window));
                    p[r][v] = _mm512_maskz_mov_ps(seen, p[r][v]);
                }
            }
        }
        let at = 2 * words * CHUNK + lane;
        tile::store_rows(&p, &mut self.p[at..], CHUNK);
        let mut ds = tile::load::<R>(self.part, LANES);
        for r in 0..R {
            for v in 0..4 {
                ds[r][v] = _mm512_mul_ps(ds[r][v], p[r][v]);
            }
        }
        tile::store_rows(&ds, &mut self.ds[at..], CHUNK);
        tile::store_words(&ds, &mut self.words[words * CHUNK + lane..], CHUNK);
    }

    /// Adds the chunk to dK and dV of `R` keys from `key` on, whose strips start at row `strip`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn add_to_keys<const R: usize>(&mut self, key: usize, strip: usize) {
        let lanes = self.inputs.heads.lanes();
        let rows = self.rows_seeing(key..key + R);
        if rows.is_empty() {
            return;
        }
        let pairs = rows.start / 2..rows.end.div_ceil(2);
        let at = strip * CHUNK + 2 * pairs.start;
        let walk = |data| Walk { data, row: CHUNK / 2, pair: 1 };
        let sums = &mut self.sums[(key - self.first_key) * 2 * lanes..];
        for column in (0..lanes).step_by(LANES) {
            let panel = column * CHUNK / 2 + pairs.start * LANES;
            for (which, strip, panel) in [
                (0, &self.ds[at..], &self.q_columns[panel..]),
                (1, &self.p[at..], &self.dout_columns[panel..]),
            ] {
                let sums = &mut sums[which * lanes + column..];
                let acc = tile::load::<R>(sums, 2 * lanes);
                let acc = tile::multiply(acc, walk(strip), panel, pairs.len());
                tile::store(&acc, sums, 2 * lanes);
            }
        }
    }

    /// Adds the present keys to dQ of `R` rows from `row` on.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn add_to_rows<const R: usize>(&mut self, row: usize, keys: &Range<usize>) {
        let heads = self.inputs.heads;
        let lanes = heads.lanes();
        let (first, last) = (self.positions[row] as usize, self.positions[row + R - 1] as usize);
        let seen = heads.first_key(first).max(keys.start)..keys.end.min(last + 1);
        if seen.is_empty() {
            return;
        }
        let pairs = (seen.start - keys.start) / 2..(seen.end - keys.start).div_ceil(2);
        let words = bytemuck::cast_slice(&self.words[pairs.start * CHUNK + row..]);
        let ds = Walk { data: words, row: 1, pair: CHUNK };
        for column in (0..lanes).step_by(LANES) {
            let dq = &mut self.dq[row * lanes + column..];
            let panel = &self.k_columns[column * KEYS / 2 + pairs.start * LANES..];
            let acc = tile::multiply(tile::load::<R>(dq, lanes), ds, panel, pairs.len());
            tile::store(&acc, dq, lanes);
        }
    }
}
