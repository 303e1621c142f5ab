//! [`crate::ops::rms_norm`] on bf16, a row at a time.

use super::{load, load_f32, load_f32_part, load_part, store, store_part};
use half::bf16;
use std::arch::x86_64::*;
use std::mem::transmute;

/// Σ x².
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn squares(x: &[bf16]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 2];
    let (pairs, rest) = x.as_chunks::<64>();
    for pair in pairs {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the two vector types are the same 64 bytes, of 128.
            let x: __m512bh =
                unsafe { transmute(_mm512_loadu_si512(pair.as_ptr().add(32 * i).cast())) };
            *sum = _mm512_dpbf16_ps(*sum, x, x);
        }
    }
    for (i, rest) in rest.chunks(32).enumerate() {
        let mask = u32::MAX >> (32 - rest.len());
        // SAFETY: the mask keeps to the slice.
        let x: __m512bh =
            unsafe { transmute(_mm512_maskz_loadu_epi16(mask, rest.as_ptr().cast())) };
        sums[i] = _mm512_dpbf16_ps(sums[i], x, x);
    }
    _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
}

/// y = x·r·g.
///
/// # Panics
/// If the lengths differ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn scale(y: &mut [bf16], x: &[bf16], g: &[f32], r: f32) {
    assert_eq!([x.len(), g.len()], [y.len(); 2]);
    let r = _mm512_set1_ps(r);
    let ((y, y_rest), (x, x_rest), (g, g_rest)) = (y.as_chunks_mut(), x.as_chunks(), g.as_chunks());
    for ((y, x), g) in y.iter_mut().zip(x).zip(g) {
        store(y, _mm512_mul_ps(_mm512_mul_ps(load(x), r), load_f32(g)));
    }
    let rest = _mm512_mul_ps(_mm512_mul_ps(load_part(x_rest), r), load_f32_part(g_rest));
    store_part(y_rest, rest);
}

/// Σ dy⊙g⊙x.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn product(dy: &[bf16], g: &[f32], x: &[bf16]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 2];
    let ((dy, dy_rest), (g, g_rest), (x, x_rest)) = (dy.as_chunks(), g.as_chunks(), x.as_chunks());
    let mut odd = 0;
    for ((dy, g), x) in dy.iter().zip(g).zip(x) {
        let of = _mm512_fmadd_ps(_mm512_mul_ps(load(dy), load_f32(g)), load(x), sums[0]);
        (sums[0], sums[1]) = (sums[1], of);
        odd ^= 1;
    }
    if odd == 1 {
        sums.swap(0, 1);
    }
    let rest = _mm512_mul_ps(load_part(dy_rest), load_f32_part(g_rest));
    sums[0] = _mm512_fmadd_ps(rest, load_part(x_rest), sums[0]);
    _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
}

/// dx ← dx + r·(dy⊙g) − x·r³/C·Σ(dy⊙g⊙x), dy ← y = x·r·g.
///
/// # Panics
/// If the lengths differ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn backward(dx: &mut [bf16], dy: &mut [bf16], x: &[bf16], g: &[f32], r: f32) {
    assert_eq!([dy.len(), x.len(), g.len()], [dx.len(); 3]);
    let back = _mm512_set1_ps(product(dy, g, x) * r * r * r / x.len() as f32);
    let r = _mm512_set1_ps(r);
    let ((dx, dx_rest), (dy, dy_rest)) = (dx.as_chunks_mut(), dy.as_chunks_mut());
    let ((x, x_rest), (g, g_rest)) = (x.as_chunks(), g.as_chunks());
    for (((dx, dy), x), g) in dx.iter_mut().zip(dy).zip(x).zip(g) {
        let [own, y] = both(load(dx), load(dy), load(x), load_f32(g), [r, back]);
        store(dx, own);
        store(dy, y);
    }
    let (rest_dx, rest_dy) = (load_part(dx_rest), load_part(dy_rest));
    let [own, y] = both(rest_dx, rest_dy, load_part(x_rest), load_f32_part(g_rest), [r, back]);
    store_part(dx_rest, own);
    store_part(dy_rest, y);
}

/// The new dx, and y.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn both(dx: __m512, dy: __m512, x: __m512, g: __m512, [r, back]: [__m512; 2]) -> [__m512; 2] {
    let own = _mm512_mul_ps(_mm512_mul_ps(dy, r), g);
    let dx = _mm512_fnmadd_ps(x, back, _mm512_add_ps(dx, own));
    [dx, _mm512_mul_ps(_mm512_mul_ps(x, r), g)]
}
