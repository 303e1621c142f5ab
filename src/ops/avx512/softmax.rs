//! The exponentials of [`crate::ops::head`].

use super::{exp2, lanes, load_f32, load_f32_part, store, store_part};
use half::bf16;
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

/// The largest of z and `top`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn max(z: &[f32], top: f32) -> f32 {
    let mut tops = [_mm512_set1_ps(top); 4];
    let (whole, rest) = z.as_chunks();
    let (fours, left) = whole.as_chunks::<4>();
    for four in fours {
        for (top, z) in tops.iter_mut().zip(four) {
            *top = _mm512_max_ps(*top, load_f32(z));
        }
    }
    for z in left {
        tops[0] = _mm512_max_ps(tops[0], load_f32(z));
    }
    tops[1] = _mm512_mask_max_ps(tops[1], lanes(rest.len()), tops[1], load_f32_part(rest));
    let [a, b, c, d] = tops;
    _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d)))
}

/// p = exp(z − top) and Σ p.
///
/// # Panics
/// If the lengths differ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn exponentials(p: &mut [bf16], z: &[f32], top: f32) -> f32 {
    assert_eq!(p.len(), z.len());
    let (scale, shift) = (_mm512_set1_ps(LOG2_E), _mm512_set1_ps(top * LOG2_E));
    let mut sum = _mm512_setzero_ps();
    let ((p, p_rest), (z, z_rest)) = (p.as_chunks_mut(), z.as_chunks());
    for (p, z) in p.iter_mut().zip(z) {
        let e = exp2(_mm512_fmsub_ps(load_f32(z), scale, shift));
        sum = _mm512_add_ps(sum, e);
        store(p, e);
    }
    let e = exp2(_mm512_fmsub_ps(load_f32_part(z_rest), scale, shift));
    sum = _mm512_mask_add_ps(sum, lanes(z_rest.len()), sum, e);
    store_part(p_rest, e);
    _mm512_reduce_add_ps(sum)
}
