//! [`crate::ops::swiglu`] on bf16.

use super::{exp2, load, load_part, reciprocal, store, store_part};
use half::bf16;
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

/// The logistic function; below −87 that of −87.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn sigmoid(x: __m512) -> __m512 {
    let x = _mm512_max_ps(_mm512_set1_ps(-87.0), x);
    let e = exp2(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
    reciprocal(_mm512_add_ps(_mm512_set1_ps(1.0), e))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn gated(a: __m512, b: __m512) -> __m512 {
    _mm512_mul_ps(_mm512_mul_ps(a, sigmoid(a)), b)
}

/// h = silu(a)⊙b.
///
/// # Panics
/// If the lengths differ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn forward(h: &mut [bf16], a: &[bf16], b: &[bf16]) {
    assert_eq!([a.len(), b.len()], [h.len(); 2]);
    let ((h, h_rest), (a, a_rest), (b, b_rest)) = (h.as_chunks_mut(), a.as_chunks(), b.as_chunks());
    for ((h, a), b) in h.iter_mut().zip(a).zip(b) {
        store(h, gated(load(a), load(b)));
    }
    store_part(h_rest, gated(load_part(a_rest), load_part(b_rest)));
}

/// da, db and h of dh, a and b.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn back(dh: __m512, a: __m512, b: __m512) -> [__m512; 3] {
    let s = sigmoid(a);
    let silu = _mm512_mul_ps(a, s);
    // s·(1 + a·(1 − s)) = s + silu·(1 − s)
    let slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(_mm512_set1_ps(1.0), s), s);
    [_mm512_mul_ps(_mm512_mul_ps(dh, b), slope), _mm512_mul_ps(dh, silu), _mm512_mul_ps(silu, b)]
}

/// a ← da, b ← db, dh ← h.
///
/// # Panics
/// If the lengths differ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn backward(dh: &mut [bf16], a: &mut [bf16], b: &mut [bf16]) {
    assert_eq!([a.len(), b.len()], [dh.len(); 2]);
    let ((d, d_rest), (a, a_rest)) = (dh.as_chunks_mut(), a.as_chunks_mut());
    let (b, b_rest) = b.as_chunks_mut();
    for ((d, a), b) in d.iter_mut().zip(a).zip(b) {
        let [da, db, h] = back(load(d), load(a), load(b));
        store(a, da);
        store(b, db);
        store(d, h);
    }
    let [da, db, h] = back(load_part(d_rest), load_part(a_rest), load_part(b_rest));
    store_part(a_rest, da);
    store_part(b_rest, db);
    store_part(d_rest, h);
}
