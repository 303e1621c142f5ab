//! [`crate::ops::swiglu`] on bf16.

use super::{VECTOR, exp2, load, reciprocal, store};
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

/// h = silu(a)⊙b.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn forward(h: &mut [bf16], a: &[bf16], b: &[bf16]) {
    for at in (0..h.len()).step_by(VECTOR) {
        let (a, b) = (load(a, at), load(b, at));
        store(h, at, _mm512_mul_ps(_mm512_mul_ps(a, sigmoid(a)), b));
    }
}

/// a ← da, b ← db, dh ← h.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn backward(dh: &mut [bf16], a: &mut [bf16], b: &mut [bf16]) {
    let one = _mm512_set1_ps(1.0);
    for at in (0..dh.len()).step_by(VECTOR) {
        let (d, x, y) = (load(dh, at), load(a, at), load(b, at));
        let s = sigmoid(x);
        let silu = _mm512_mul_ps(x, s);
        // s·(1 + x·(1 − s)) = s + silu·(1 − s)
        let slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(one, s), s);
        store(a, at, _mm512_mul_ps(_mm512_mul_ps(d, y), slope));
        store(b, at, _mm512_mul_ps(d, silu));
        store(dh, at, _mm512_mul_ps(silu, y));
    }
}
