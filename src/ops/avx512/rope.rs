//! [`crate::ops::rope`] on bf16, a token at a time.

use super::{load, load_f32, load_f32_part, load_part, store, store_part};
use half::bf16;
use std::arch::x86_64::*;

/// x₁·cos − x₂·sin, x₂·cos + x₁·sin.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn turned(x: [__m512; 2], cos: __m512, sin: __m512) -> [__m512; 2] {
    let [x1, x2] = x;
    let (far, near) = (_mm512_mul_ps(x2, sin), _mm512_mul_ps(x1, sin));
    [_mm512_fmsub_ps(x1, cos, far), _mm512_fmadd_ps(x2, cos, near)]
}

/// Turns the heads of a row, each of twice as many elements as there are angles, by `sign` times the angles.
///
/// # Panics
/// If the lengths do not fit.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn rotate(row: &mut [bf16], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    assert!(sin.len() == half && row.len().is_multiple_of(2 * half));
    let sign = _mm512_set1_ps(sign);
    let ((cos, cos_rest), (sin, sin_rest)) = (cos.as_chunks(), sin.as_chunks());
    for head in row.chunks_exact_mut(2 * half) {
        let (x1, x2) = head.split_at_mut(half);
        let ((x1, rest1), (x2, rest2)) = (x1.as_chunks_mut(), x2.as_chunks_mut());
        // By number: a head is so short that four iterators in step would cost more than it does.
        for i in 0..cos.len() {
            let sin = _mm512_mul_ps(load_f32(&sin[i]), sign);
            let [y1, y2] = turned([load(&x1[i]), load(&x2[i])], load_f32(&cos[i]), sin);
            store(&mut x1[i], y1);
            store(&mut x2[i], y2);
        }
        if !rest1.is_empty() {
            let sin = _mm512_mul_ps(load_f32_part(sin_rest), sign);
            let x = [load_part(rest1), load_part(rest2)];
            let [y1, y2] = turned(x, load_f32_part(cos_rest), sin);
            store_part(rest1, y1);
            store_part(rest2, y2);
        }
    }
}
