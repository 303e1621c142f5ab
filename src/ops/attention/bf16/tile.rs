//! The register tile: up to 6 rows by 64 lanes of f32, fed by `vdpbf16ps`.
//!
//! ```text
//! acc[r][lane] += Σ_p  a(r, 2p) · b(2p, lane) + a(r, 2p+1) · b(2p+1, lane)
//! ```
//!
//! A *pair word* is 32 bits with two bf16 that are neighbours along the inner dimension, the earlier
//! one in the low half. `a` is walked by pair words ([`Walk`]); `b` is a panel of pair words laid
//! out `(pairs, 64)`. With 6 rows, 24 accumulators, 4 vectors of the panel and the broadcast word
//! fill 29 of the 32 registers, and 10 loads feed 24 multiplications.

use std::arch::x86_64::*;

pub(super) use crate::ops::avx512::exp2;
use half::bf16;

/// Lanes of a tile.
pub(super) const LANES: usize = 64;
/// Rows of a full tile.
pub(super) const ROWS: usize = 6;
/// Floats of a vector.
pub(super) const VECTOR: usize = 16;

/// The accumulators of `R` rows of `V` vectors: all lanes, or the first ones.
pub(super) type Acc<const R: usize, const V: usize = 4> = [[__m512; V]; R];

/// The left operand: the pair word of row `r` and pair `p` is word `r * row + p * pair` of `data`.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    pub data: &'a [bf16],
    /// Words from a row to the next.
    pub row: usize,
    /// Words from a pair to the next.
    pub pair: usize,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn zero<const R: usize, const V: usize>() -> Acc<R, V> {
    [[_mm512_setzero_ps(); V]; R]
}

/// `acc + a · panel` over the first `pairs` pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn multiply<const R: usize, const V: usize>(
    mut acc: Acc<R, V>,
    a: Walk<'_>,
    panel: &[u32],
    pairs: usize,
) -> Acc<R, V> {
    if pairs == 0 {
        return acc;
    }
    assert!(a.data.len() >= 2 * ((R - 1) * a.row + (pairs - 1) * a.pair + 1));
    assert!(panel.len() >= pairs * LANES);
    let words = a.data.as_ptr().cast::<u32>();
    let lines = panel.as_ptr().cast::<__m512i>();
    for p in 0..pairs {
        // SAFETY: the last word and the last line are in bounds by the assertions above, and both
        // are read unaligned. `__m512i` and `__m512bh` are the same 64 bytes.
        unsafe {
            let line = lines.add(4 * p);
            let mut b = [_mm512_setzero_si512(); V];
            for (v, b) in b.iter_mut().enumerate() {
                *b = _mm512_loadu_si512(line.add(v));
            }
            let word = words.add(p * a.pair);
            for r in 0..R {
                let pair = _mm512_set1_epi32(word.add(r * a.row).cast::<i32>().read_unaligned());
                let pair = std::mem::transmute::<__m512i, __m512bh>(pair);
                for v in 0..V {
                    let b = std::mem::transmute::<__m512i, __m512bh>(b[v]);
                    acc[r][v] = _mm512_dpbf16_ps(acc[r][v], pair, b);
                }
            }
        }
    }
    acc
}

/// Reads a tile whose rows are `stride` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn load<const R: usize>(from: &[f32], stride: usize) -> Acc<R> {
    assert!(from.len() >= (R - 1) * stride + LANES);
    let mut acc = zero::<R, 4>();
    for r in 0..R {
        for v in 0..4 {
            // SAFETY: in bounds by the assertion.
            acc[r][v] = unsafe { _mm512_loadu_ps(from.as_ptr().add(r * stride + v * VECTOR)) };
        }
    }
    acc
}

/// Writes a tile whose rows are `stride` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn store<const R: usize, const V: usize>(
    acc: &Acc<R, V>,
    to: &mut [f32],
    stride: usize,
) {
    assert!(to.len() >= (R - 1) * stride + V * VECTOR);
    for r in 0..R {
        for v in 0..V {
            // SAFETY: in bounds by the assertion.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr().add(r * stride + v * VECTOR), acc[r][v]) };
        }
    }
}

/// 32 floats as bf16, `low` first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn round(low: __m512, high: __m512) -> __m512i {
    // SAFETY: the same 64 bytes under two names.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// 16 floats of `from`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn vector(from: &[f32], at: usize) -> __m512 {
    // SAFETY: the slice taken has 16 elements.
    unsafe { _mm512_loadu_ps(from[at..at + VECTOR].as_ptr()) }
}

/// Writes a tile as bf16 rows, `stride` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn store_rows<const R: usize>(tile: &Acc<R>, to: &mut [bf16], stride: usize) {
    assert!(to.len() >= (R - 1) * stride + LANES);
    for (r, row) in tile.iter().enumerate() {
        for half in 0..2 {
            let x = round(row[2 * half], row[2 * half + 1]);
            // SAFETY: in bounds by the assertion.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().add(r * stride + half * 32).cast(), x) };
        }
    }
}

/// Writes a tile as words of two neighbouring rows, `stride` words apart; without its neighbour, the
/// last row has zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn store_words<const R: usize>(tile: &Acc<R>, to: &mut [u32], stride: usize) {
    assert!(to.len() >= (R.div_ceil(2) - 1) * stride + LANES);
    // Element i of the first row, then element i of the second.
    let mut order = [0_u16; 32];
    for (i, from) in order.iter_mut().enumerate() {
        *from = (i / 2 + i % 2 * VECTOR) as u16;
    }
    // SAFETY: the array has 64 bytes.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    for r in (0..R).step_by(2) {
        for v in 0..4 {
            let next = if r + 1 < R { tile[r + 1][v] } else { _mm512_setzero_ps() };
            let x = _mm512_permutexvar_epi16(order, round(tile[r][v], next));
            // SAFETY: in bounds by the assertion.
            unsafe {
                _mm512_storeu_si512(to.as_mut_ptr().add(r / 2 * stride + v * VECTOR).cast(), x)
            };
        }
    }
}

/// Writes `factor · from` as bf16, for any length.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn write_scaled(from: &[f32], factor: f32, to: &mut [bf16]) {
    assert!(from.len() >= to.len());
    for at in (0..to.len()).step_by(VECTOR) {
        let mask = first_lanes(to.len() - at) as __mmask16;
        // SAFETY: the masks keep both accesses inside `to.len()`, and `__m256bh` and `__m256i` are
        // the same 32 bytes.
        unsafe {
            let x = _mm512_maskz_loadu_ps(mask, from.as_ptr().add(at));
            let y = _mm512_cvtneps_pbh(_mm512_mul_ps(x, _mm512_set1_ps(factor)));
            let y = std::mem::transmute::<__m256bh, __m256i>(y);
            _mm256_mask_storeu_epi16(to.as_mut_ptr().add(at).cast(), mask, y);
        }
    }
}

/// Asks for the lines of `x[at..at + len]`, which may lie behind its end.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn ask(x: &[bf16], at: usize, len: usize) {
    for at in (at..at + len).step_by(32) {
        _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(at).cast());
    }
}

/// `Σ a · b` in f32, for any length.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn dot(a: &[bf16], b: &[bf16]) -> f32 {
    assert!(a.len() == b.len());
    let mut sum = _mm512_setzero_ps();
    for at in (0..a.len()).step_by(VECTOR) {
        let mask = first_lanes(a.len() - at) as __mmask16;
        // SAFETY: the mask keeps both reads inside `a.len()`.
        let (x, y) = unsafe {
            (
                _mm256_maskz_loadu_epi16(mask, a.as_ptr().add(at).cast()),
                _mm256_maskz_loadu_epi16(mask, b.as_ptr().add(at).cast()),
            )
        };
        // A bf16 is the upper half of the f32 of the same value.
        let x = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)));
        let y = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(y)));
        sum = _mm512_fmadd_ps(x, y, sum);
    }
    _mm512_reduce_add_ps(sum)
}

/// A mask of the first `count` of 64 lanes.
#[inline]
pub(super) fn first_lanes(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}
