//! [`crate::ops::rms_norm`] on bf16, a row at a time.

use super::{VECTOR, load, load_f32, store};
use half::bf16;
use std::arch::x86_64::*;

/// Σ x².
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn squares(x: &[bf16]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 2];
    for at in (0..x.len()).step_by(2 * VECTOR) {
        let v = load(x, at);
        sums[0] = _mm512_fmadd_ps(v, v, sums[0]);
        if at + VECTOR < x.len() {
            let v = load(x, at + VECTOR);
            sums[1] = _mm512_fmadd_ps(v, v, sums[1]);
        }
    }
    _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
}

/// y = x·r·g.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn scale(y: &mut [bf16], x: &[bf16], g: &[f32], r: f32) {
    let r = _mm512_set1_ps(r);
    for at in (0..y.len()).step_by(VECTOR) {
        store(y, at, _mm512_mul_ps(_mm512_mul_ps(load(x, at), r), load_f32(g, at)));
    }
}

/// dx += r·(dy⊙g) − x·r³/C·Σ(dy⊙g⊙x).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn backward(dx: &mut [bf16], dy: &[bf16], x: &[bf16], g: &[f32], r: f32) {
    let mut sum = _mm512_setzero_ps();
    for at in (0..x.len()).step_by(VECTOR) {
        sum = _mm512_fmadd_ps(_mm512_mul_ps(load(dy, at), load_f32(g, at)), load(x, at), sum);
    }
    let back = _mm512_set1_ps(_mm512_reduce_add_ps(sum) * r * r * r / x.len() as f32);
    let r = _mm512_set1_ps(r);
    for at in (0..x.len()).step_by(VECTOR) {
        let own = _mm512_mul_ps(_mm512_mul_ps(load(dy, at), r), load_f32(g, at));
        let d = _mm512_add_ps(load(dx, at), own);
        store(dx, at, _mm512_fnmadd_ps(load(x, at), back, d));
    }
}
