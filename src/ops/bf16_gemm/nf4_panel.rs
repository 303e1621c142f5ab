//! Panels of packed NF4: codes become bf16 values in registers, on their way into the panel.
//!
//! A block's 16 values, rounded once, are half a vector, and looking up 32 codes in it is one permutation. Rows are whole blocks of
//! 64 here, so that 16 neighbours of a row have one scale; what has other shapes goes the plain way (`panel.rs`).

use crate::quant::nf4::{BLOCK, CODEBOOK, Nf4};
use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

/// Columns of a vector of words.
const LANES: usize = 16;
/// Pairs of rows ahead of which they are asked for: each is another line or page, which no prefetcher guesses.
const AHEAD: usize = 12;

/// Whether panels of rows of `cols` elements can be made here.
pub(super) fn applies(cols: usize) -> bool {
    cols.is_multiple_of(BLOCK) && super::supported()
}

/// The values of two blocks' codes: in the lower half those of the first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn table(low: f32, high: f32) -> __m512i {
    // SAFETY: the codebook has 16 values; vectors of 64 bytes under two names.
    unsafe {
        let codebook = _mm512_loadu_ps(CODEBOOK.as_ptr());
        let low = _mm512_mul_ps(codebook, _mm512_set1_ps(low));
        let high = _mm512_mul_ps(codebook, _mm512_set1_ps(high));
        transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// Columns of the panel are columns of the matrix, from `first` on: word (p, j) is `M[2p][j], M[2p + 1][j]`.
///
/// ```text
/// 8 bytes of each row ─ 32-bit lane j: byte j/2 of both ─ the nibble of j ─ + 16 for the second row ─ look up in both rows' values
/// ```
///
/// # Safety
/// [`applies`] to `cols`, the matrix has these rows and 16·V columns from `first` on, a multiple of 16; the panel has as many pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn of_columns<const V: usize>(
    panel: &mut [u32],
    nf4: &Nf4,
    cols: usize,
    first: usize,
    pairs: Range<usize>,
) {
    assert!(first.is_multiple_of(LANES) && first + V * LANES <= cols, "columns outside the weight");
    assert!(nf4.packed.len() >= nf4.len.div_ceil(2), "codes are missing");
    assert!(2 * pairs.end * cols <= nf4.len && panel.len() >= pairs.len() * V * LANES, "rows");
    // Of 16 bytes, the first row's and then the second's, to each lane the one that holds its column.
    let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let byte = _mm512_srli_epi32::<1>(lane);
    let order = _mm512_or_si512(byte, _mm512_slli_epi32::<16>(byte));
    let order = _mm512_or_si512(order, _mm512_set1_epi32(0x8008_8000_u32 as i32));
    // The even column's code is the high nibble.
    let odd = _mm512_and_si512(lane, _mm512_set1_epi32(1));
    let shift = _mm512_sub_epi32(_mm512_set1_epi32(4), _mm512_slli_epi32::<2>(odd));
    let shift = _mm512_or_si512(shift, _mm512_slli_epi32::<16>(shift));
    let (nibbles, second) = (_mm512_set1_epi32(0x000f_000f), _mm512_set1_epi32(0x0010_0000));
    for (p, to) in pairs.zip(panel.chunks_exact_mut(V * LANES)) {
        let at = 2 * p * cols + first;
        let packed = nf4.packed.as_ptr().wrapping_add(at / 2);
        let ahead = packed.wrapping_add(AHEAD * cols);
        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(cols / 2).cast());
        let mut values = _mm512_setzero_si512();
        for v in 0..V {
            let column = first + v * LANES;
            if v == 0 || column.is_multiple_of(BLOCK) {
                let block = (2 * p * cols + column) / BLOCK;
                values = table(nf4.scale(block), nf4.scale(block + cols / BLOCK));
            }
            // SAFETY: 16 columns of both rows are inside the matrix, 16 words inside the pair (asserted).
            unsafe {
                let even = _mm_loadl_epi64(packed.add(v * LANES / 2).cast());
                let odd = _mm_loadl_epi64(packed.add((cols + v * LANES) / 2).cast());
                let bytes = _mm512_broadcast_i32x4(_mm_unpacklo_epi64(even, odd));
                let codes = _mm512_srlv_epi16(_mm512_shuffle_epi8(bytes, order), shift);
                // (codes & nibbles) | second
                let codes = _mm512_ternarylogic_epi32::<0xEA>(codes, nibbles, second);
                let words = _mm512_permutexvar_epi16(codes, values);
                _mm512_storeu_si512(to.as_mut_ptr().add(v * LANES).cast(), words);
            }
        }
    }
}

/// Columns of the panel are 16 rows of the matrix, from `first` on: word (p, j) is `M[j][2p], M[j][2p + 1]`, 16·V words from one
/// pair to the next.
///
/// # Safety
/// [`applies`] to `cols`, the matrix has these rows and pairs, whole blocks; so has the panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn of_rows<const V: usize>(
    panel: &mut [u32],
    nf4: &Nf4,
    cols: usize,
    first: usize,
    pairs: Range<usize>,
) {
    use crate::ops::avx512::transpose;
    let inner = 2 * pairs.start..2 * pairs.end;
    assert!(inner.start.is_multiple_of(BLOCK) && inner.end.is_multiple_of(BLOCK), "whole blocks");
    assert!(nf4.packed.len() >= nf4.len.div_ceil(2), "codes are missing");
    assert!((first + LANES) * cols <= nf4.len && inner.end <= cols, "rows outside the weight");
    assert!(pairs.is_empty() || (pairs.len() - 1) * V * LANES + LANES <= panel.len(), "the panel");
    for k in inner.clone().step_by(BLOCK) {
        let mut values = [_mm512_setzero_si512(); LANES];
        for (r, values) in values.iter_mut().enumerate() {
            let scale = nf4.scale(((first + r) * cols + k) / BLOCK);
            *values = table(scale, scale);
        }
        for half in 0..2 {
            let k = k + half * BLOCK / 2;
            let mut words = [_mm512_setzero_si512(); LANES];
            for (r, word) in words.iter_mut().enumerate() {
                let at = ((first + r) * cols + k) / 2;
                // SAFETY: 32 elements from `k` on are inside the row (asserted).
                let bytes = unsafe { _mm_loadu_si128(nf4.packed.as_ptr().add(at).cast()) };
                let bytes = _mm512_cvtepu8_epi32(bytes);
                // The even element's code, and above it the byte with the odd one's: both halves of the values are the same, so
                // that the fifth bit of a code does not matter.
                let codes =
                    _mm512_or_si512(_mm512_srli_epi32::<4>(bytes), _mm512_slli_epi32::<16>(bytes));
                *word = _mm512_permutexvar_epi16(codes, values[r]);
            }
            let pair = (k - inner.start) / 2;
            // By reference: an iterator that owns the vectors lies in memory.
            for (i, word) in transpose(words).iter().enumerate() {
                // SAFETY: pairs of the panel (asserted).
                unsafe {
                    let to = panel.as_mut_ptr().add((pair + i) * V * LANES);
                    _mm512_storeu_si512(to.cast(), *word);
                }
            }
        }
    }
}
