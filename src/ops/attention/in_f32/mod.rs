//! Attention in f32 on the CPU: blocks of packed rows and keys through small products, all of a group's heads in one.
//!
//! For a block, row-major, with Q and dO copied together, K and V as they lie:
//!
//! ```text
//! S (rows, keys) = scale · Q · Kᵀ      P = exp(S − m) forwards, exp(S − lse) backwards; zero where a row does not see a key
//! ```
//!
//! Scratch is bounded for any length, and lies in the second cache. Values of another dtype are widened before and rounded after.

mod backward;
mod forward;

use super::{Heads, Span};
pub(super) use backward::backward;
pub(super) use forward::forward;
use std::ops::Range;

/// Most packed rows of a block: enough to pay for laying out its keys.
const ROWS: usize = 192;
/// Blocks of a span whose rows are fewer: few enough that little beyond the diagonal is computed.
const BLOCKS: usize = 8;
/// What rows of a block are a multiple of: whole tiles of every instruction set.
const TILES: usize = 48;
/// Keys of a block.
const KEYS: usize = 256;
/// From one row of scores to the next: rows a power of two apart would evict each other.
const STRIDE: usize = KEYS + 16;

/// f32 values of a key's `dK` and `dV` in a segment.
pub(super) fn width(heads: Heads) -> usize {
    2 * heads.size
}

/// Packed rows of a (span, key/value head), and where they lie.
#[derive(Clone, Copy)]
struct Packed<'a> {
    span: &'a Span,
    kv_head: usize,
    heads: Heads,
}

impl Packed<'_> {
    /// All of its rows.
    fn rows(&self) -> usize {
        self.span.q.len() * self.heads.group()
    }

    /// Rows of a block.
    fn block(&self) -> usize {
        self.rows().div_ceil(BLOCKS).next_multiple_of(TILES).clamp(TILES, ROWS)
    }

    /// Row of q and head of a packed row.
    fn place(&self, row: usize) -> (usize, usize) {
        let group = self.heads.group();
        (self.span.q.start + row / group, self.kv_head * group + row % group)
    }

    /// Where its values begin in q.
    fn element(&self, row: usize) -> usize {
        let (query, head) = self.place(row);
        query * self.heads.q_width() + head * self.heads.size
    }

    /// Where the values of a key, counted inside the span, begin in k.
    fn key(&self, key: usize) -> usize {
        (self.span.k.start + key) * self.heads.kv_width() + self.kv_head * self.heads.size
    }

    /// Keys that a row sees, counted inside the span.
    fn visible(&self, row: usize) -> Range<usize> {
        self.heads.visible(self.span.offset() + row / self.heads.group())
    }

    /// Keys that any of the rows sees.
    fn seen(&self, rows: &Range<usize>) -> Range<usize> {
        self.visible(rows.start).start..self.visible(rows.end - 1).end
    }

    /// Blocks of them, each with the rows that see any of its keys.
    fn blocks(&self, rows: Range<usize>) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let (group, offset, seen) = (self.heads.group(), self.span.offset(), self.seen(&rows));
        seen.clone().step_by(KEYS).map(move |first| {
            let keys = first..(first + KEYS).min(seen.end);
            let row = |position: usize| {
                (position.saturating_sub(offset) * group).clamp(rows.start, rows.end)
            };
            let end = self.heads.window.map_or(rows.end, |w| row((keys.end + w).saturating_sub(1)));
            (keys.clone(), row(keys.start)..end)
        })
    }

    /// Copies the values of rows.
    fn pack(&self, rows: Range<usize>, from: &[f32], to: &mut [f32]) {
        let size = self.heads.size;
        for (row, to) in rows.zip(to.chunks_exact_mut(size)) {
            to.copy_from_slice(&from[self.element(row)..][..size]);
        }
    }
}
