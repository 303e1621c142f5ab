//! Attention in f32 on the CPU: blocks of packed rows and keys through small products, all of a group's heads in one.
//!
//! For a block, row-major, with Q and dO copied together, K and V as they lie:
//!
//! ```text
//! S (rows, keys) = scale · Q · Kᵀ      P = exp(S − m) forwards, exp(S − lse) backwards; zero where a row does not see a key
//! ```
//!
//! What a block takes is bounded for any length, and fits a second cache of 1 MiB for heads of up to 128. Values of another dtype are widened before and rounded
//! after.

mod backward;
mod forward;

use super::Heads;
use super::packed::Packed;
pub(super) use backward::backward;
pub(super) use forward::forward;
use std::ops::Range;

/// Most packed rows of a block: enough to pay for laying out its keys.
const ROWS: usize = 192;
/// Blocks that the rows of a short span are cut into, about: so many that little beyond the diagonal is computed.
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

/// Packed rows of a block: more where the span is long.
fn block_rows(packed: &Packed<'_>) -> usize {
    packed.rows().div_ceil(BLOCKS).next_multiple_of(TILES).clamp(TILES, ROWS)
}

/// The keys that any of these packed rows sees, in blocks, each with the rows that see any of its keys.
fn key_blocks(
    packed: &Packed<'_>,
    rows: Range<usize>,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let Packed { span, heads, .. } = *packed;
    let (offset, group, seen) = (span.offset(), heads.group(), packed.seen(&rows));
    seen.clone().step_by(KEYS).map(move |first| {
        let keys = first..(first + KEYS).min(seen.end);
        let row =
            |position: usize| (position.saturating_sub(offset) * group).clamp(rows.start, rows.end);
        let last = |w: usize| keys.end.saturating_add(w).saturating_sub(1);
        let end = heads.window.map_or(rows.end, |w| row(last(w)));
        (keys.clone(), row(keys.start)..end)
    })
}

/// The part of a block of keys that is visible, counted inside the block.
#[inline(always)]
fn inside(visible: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
    let at = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
    at(visible.start)..at(visible.end).max(at(visible.start))
}
