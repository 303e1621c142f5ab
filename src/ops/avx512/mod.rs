//! Row-wise ops on bf16 buffers with AVX-512 and its bf16 instructions: what the compiler does not find by itself. Each has a plain
//! counterpart in its op's file, which says what it computes. `philox` alone is for every AVX-512.
//!
//! Closures do not take over the instructions that a function enables, so the loops here are plain.

pub(super) mod dropout;
pub(super) mod philox;
pub(super) mod rms_norm;
pub(super) mod rope;
pub(super) mod softmax;
pub(super) mod swiglu;

use half::bf16;
use std::arch::x86_64::*;

/// Floats of a vector.
const VECTOR: usize = 16;

/// The first `len` lanes.
#[inline]
fn lanes(len: usize) -> __mmask16 {
    if len >= VECTOR { !0 } else { (1 << len) - 1 }
}

/// A vector of elements in f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn load(x: &[bf16; VECTOR]) -> __m512 {
    // SAFETY: 16 elements are 32 bytes.
    widen(unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })
}

/// As [`load`], of up to 16 elements and zeros behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn load_part(x: &[bf16]) -> __m512 {
    // SAFETY: the mask keeps to the slice.
    widen(unsafe { _mm256_maskz_loadu_epi16(lanes(x.len()), x.as_ptr().cast()) })
}

/// A bf16 is the upper half of the f32 of the same value.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn widen(x: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
}

/// Rounds a vector to its place.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn store(y: &mut [bf16; VECTOR], x: __m512) {
    // SAFETY: 16 elements are 32 bytes; the two vector types are those.
    unsafe {
        let x = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x));
        _mm256_storeu_si256(y.as_mut_ptr().cast(), x);
    }
}

/// As [`store`], of as many as there are places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn store_part(y: &mut [bf16], x: __m512) {
    // SAFETY: the mask keeps to the slice; the two vector types are the same 32 bytes.
    unsafe {
        let x = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x));
        _mm256_mask_storeu_epi16(y.as_mut_ptr().cast(), lanes(y.len()), x);
    }
}

/// A vector of f32.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn load_f32(x: &[f32; VECTOR]) -> __m512 {
    // SAFETY: 16 elements are 64 bytes.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// As [`load_f32`], of up to 16 elements and zeros behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn load_f32_part(x: &[f32]) -> __m512 {
    // SAFETY: the mask keeps to the slice.
    unsafe { _mm512_maskz_loadu_ps(lanes(x.len()), x.as_ptr()) }
}

/// to = scale·from, rounded.
///
/// # Panics
/// If the lengths differ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn narrow(to: &mut [bf16], from: &[f32], scale: f32) {
    assert_eq!(to.len(), from.len());
    let scale = _mm512_set1_ps(scale);
    let ((to, to_rest), (from, from_rest)) = (to.as_chunks_mut(), from.as_chunks());
    for (to, from) in to.iter_mut().zip(from) {
        store(to, _mm512_mul_ps(load_f32(from), scale));
    }
    store_part(to_rest, _mm512_mul_ps(load_f32_part(from_rest), scale));
}

/// `2^x` with a relative error below 3e-7; 0 for any finite `x` below the range of f32.
///
/// `2^x = 2^⌊x⌋ · 2^f`, where `2^f` on `[0, 1)` is the polynomial of degree 5 with the smallest
/// relative error (7.5e-8), and `scalef` does its own `⌊x⌋`. An infinite `x` gives NaN, so callers
/// mask with large finite numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn exp2(x: __m512) -> __m512 {
    const FLOOR: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
    let f = _mm512_sub_ps(x, _mm512_roundscale_ps::<FLOOR>(x));
    let mut y = _mm512_set1_ps(0.001_877_576_7);
    for c in [0.008_989_34, 0.055_826_318, 0.240_153_62, 0.693_153_1, 0.999_999_93] {
        y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(y, x)
}

/// 1 / x by an estimate and one step of Newton's method: a relative error below 2e-7 for finite x.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn reciprocal(x: __m512) -> __m512 {
    let y = _mm512_rcp14_ps(x);
    let error = _mm512_fnmadd_ps(x, y, _mm512_set1_ps(1.0));
    _mm512_fmadd_ps(y, error, y)
}

/// Transposes 16 by 16 words: pairs of words, then pairs of pairs, inside the 128-bit lanes, then
/// the lanes themselves.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(x: [__m512i; 16]) -> [__m512i; 16] {
    let mut y = x;
    for i in (0..16).step_by(2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    // z[4i + j] holds, in its 128-bit lane l, column 4l + j of rows 4i..4i + 4.
    let mut z = y;
    for i in (0..16).step_by(4) {
        z[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        z[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        z[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        z[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    let mut out = z;
    for j in 0..4 {
        let (a, b, c, d) = (z[j], z[4 + j], z[8 + j], z[12 + j]);
        // Lanes 0 and 2, and lanes 1 and 3, of two vectors each.
        let (ab_even, ab_odd) =
            (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) =
            (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        out[j] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        out[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    out
}

/// to (r, even n) = fromᵀ for from (n, r); the last column of an odd n becomes zero.
///
/// Words of two neighbouring rows are transposed, 16 by 16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn transpose_narrow(to: &mut [bf16], from: &[bf16], r: usize) {
    let n = from.len() / r;
    let stride = n.next_multiple_of(2);
    assert!(from.len() == n * r && to.len() == stride * r);
    for first in (0..r).step_by(VECTOR) {
        let count = (r - first).min(VECTOR);
        let mask = lanes(r - first);
        for row in (0..n).step_by(2 * VECTOR) {
            let mut words = [_mm512_setzero_si512(); 16];
            for (i, word) in words.iter_mut().enumerate() {
                let row = row + 2 * i;
                let (even, odd) =
                    (if row < n { mask } else { 0 }, if row + 1 < n { mask } else { 0 });
                let at = from.as_ptr().wrapping_add(row * r + first);
                // SAFETY: masks keep to rows that exist and their columns.
                let (even, odd) = unsafe {
                    let odd = _mm256_maskz_loadu_epi16(odd, at.wrapping_add(r).cast());
                    (_mm256_maskz_loadu_epi16(even, at.cast()), odd)
                };
                let odd = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(odd));
                *word = _mm512_or_si512(_mm512_cvtepu16_epi32(even), odd);
            }
            let pairs = lanes((stride - row) / 2);
            for (j, column) in transpose(words).into_iter().enumerate().take(count) {
                let at = to.as_mut_ptr().wrapping_add((first + j) * stride + row);
                // SAFETY: the mask keeps to the pairs of the row.
                unsafe { _mm512_mask_storeu_epi32(at.cast(), pairs, column) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::bf16_gemm;

    #[test]
    fn a_narrow_matrix_is_transposed() {
        if !bf16_gemm::available().unwrap() {
            return;
        }
        for (n, r) in [(1, 1), (2, 8), (31, 8), (64, 16), (65, 17), (100, 3), (33, 64)] {
            let from: Vec<_> = (0..n * r).map(|i| bf16::from_bits(i as u16 + 1)).collect();
            let stride = n + n % 2;
            let mut to = vec![bf16::NAN; stride * r];
            // SAFETY: the processor has the instructions.
            unsafe { transpose_narrow(&mut to, &from, r) };
            let at = |j, i| if i < n { from[i * r + j] } else { bf16::ZERO };
            let wanted: Vec<_> = (0..r)
                .flat_map(|j| (0..stride).map(move |i| (j, i)))
                .map(|(j, i)| at(j, i))
                .collect();
            assert_eq!(to, wanted, "{n} x {r}");
        }
    }

    #[test]
    fn exp2_is_close_and_vanishes_far_below() {
        if !bf16_gemm::available().unwrap() {
            return;
        }
        // SAFETY: the processor has the instructions.
        let at = |x: f32| unsafe { _mm512_cvtss_f32(exp2(_mm512_set1_ps(x))) };
        for i in -1_200_000..40_000 {
            let x = i as f32 * 1e-4;
            let expected = f64::from(x).exp2();
            assert!((f64::from(at(x)) / expected - 1.0).abs() < 3e-7, "{x}");
        }
        assert_eq!(at(-1e30), 0.0);
        assert_eq!(at(-200.0), 0.0);
    }
}
