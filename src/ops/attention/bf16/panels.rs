//! Panels: blocks of a bf16 matrix rearranged as right operands of [`super::tile::multiply`].
//!
//! A block is `rows` rows of `size` elements, `stride` elements apart. Both panels are made of pair
//! words and `(pairs, 64)`; what is missing at the edges is zero.
//!
//! ```text
//! rows panel      word(p, lane) = block[lane][2p], block[lane][2p+1]       p < size / 2
//! columns panel   word(p, lane) = block[2p][lane], block[2p+1][lane]       p < pairs
//! ```
//!
//! With a rows panel the inner dimension is the element (`Q · Kᵀ`); the pair words are already in
//! the block, and the panel is their transposition. With a columns panel the inner dimension is the
//! row (`P · V`), and two rows are interleaved; more than 64 columns make several panels, one after
//! the other.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::tile::{LANES, VECTOR, ask, first_lanes};
use crate::ops::avx512::transpose;

/// Pairs of rows ahead of which they are asked for.
const AHEAD: usize = 4;

/// A block of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// From the first element of the block on.
    pub data: &'a [bf16],
    /// Elements from a row to the next.
    pub stride: usize,
    pub rows: usize,
    pub size: usize,
}

impl Block<'_> {
    /// A part of the rows.
    pub(super) fn rows(self, rows: Range<usize>) -> Self {
        assert!(rows.end <= self.rows);
        Block { data: &self.data[rows.start * self.stride..], rows: rows.len(), ..self }
    }

    /// Whether its rows lie apart, so that no prefetcher follows them.
    fn is_scattered(&self) -> bool {
        self.stride > self.size
    }

    fn check(&self) {
        assert!(self.rows == 0 || self.data.len() >= (self.rows - 1) * self.stride + self.size);
    }
}

/// Writes the rows panel of a block of at most 64 rows: `size / 2 * 64` words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn rows_panel(block: Block<'_>, panel: &mut [u32]) {
    let pairs = block.size / 2;
    block.check();
    assert!(block.rows <= LANES && panel.len() >= pairs * LANES);
    if block.is_scattered() {
        for row in 0..block.rows {
            ask(block.data, row * block.stride, block.size);
        }
    }
    for lane in (0..LANES).step_by(VECTOR) {
        for pair in (0..pairs).step_by(VECTOR) {
            let mask = first_lanes(pairs - pair) as __mmask16;
            let mut x = [_mm512_setzero_si512(); 16];
            for (r, row) in x.iter_mut().enumerate() {
                if lane + r < block.rows {
                    let at = (lane + r) * block.stride + 2 * pair;
                    // SAFETY: the mask ends the read at `size` elements of a row in the block.
                    *row = unsafe {
                        _mm512_maskz_loadu_epi32(mask, block.data.as_ptr().add(at).cast())
                    };
                }
            }
            let x = transpose(x);
            for (r, row) in x.iter().enumerate().take(pairs - pair) {
                let at = (pair + r) * LANES + lane;
                // SAFETY: `pair + r < pairs`, so the 16 words end inside the panel.
                unsafe { _mm512_storeu_si512(panel.as_mut_ptr().add(at).cast(), *row) };
            }
        }
    }
}

/// Writes the columns panels of a block, `pairs` pairs each (at least `rows / 2`), one for every
/// 64 columns: `ceil(size / 64) * pairs * 64` words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn columns_panels(block: Block<'_>, pairs: usize, panels: &mut [u32]) {
    let width = block.size.next_multiple_of(LANES);
    block.check();
    assert!(block.rows <= 2 * pairs && panels.len() >= pairs * width);
    for pair in 0..pairs {
        if block.is_scattered() {
            for row in 2 * (pair + AHEAD)..2 * (pair + AHEAD) + 2 {
                ask(block.data, row * block.stride, block.size);
            }
        }
        for column in (0..width).step_by(VECTOR) {
            let mask = first_lanes(block.size.saturating_sub(column)) as __mmask16;
            let mut x = [_mm512_setzero_si512(); 2];
            for (r, row) in x.iter_mut().enumerate() {
                if 2 * pair + r < block.rows && mask != 0 {
                    let at = (2 * pair + r) * block.stride + column;
                    // SAFETY: the mask ends the read at `size` elements of a row in the block.
                    let half = unsafe {
                        _mm256_maskz_loadu_epi16(mask, block.data.as_ptr().add(at).cast())
                    };
                    *row = _mm512_cvtepu16_epi32(half);
                }
            }
            let words = _mm512_or_si512(x[0], _mm512_slli_epi32::<16>(x[1]));
            let at = (column / LANES * pairs + pair) * LANES + column % LANES;
            // SAFETY: `column / LANES < width / LANES` and `pair < pairs`, so the 16 words end
            // inside the panels.
            unsafe { _mm512_storeu_si512(panels.as_mut_ptr().add(at).cast(), words) };
        }
    }
}
