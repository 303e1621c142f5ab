//! The exponentials of [`crate::ops::head`].

use super::{VECTOR, exp2, load_f32, store};
use half::bf16;
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

/// The largest of z and `top`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn max(z: &[f32], top: f32) -> f32 {
    let mut tops = [_mm512_set1_ps(top); 2];
    let whole = z.len() / VECTOR * VECTOR;
    for at in (0..whole).step_by(2 * VECTOR) {
        tops[0] = _mm512_max_ps(tops[0], load_f32(z, at));
        if at + VECTOR < whole {
            tops[1] = _mm512_max_ps(tops[1], load_f32(z, at + VECTOR));
        }
    }
    let top = _mm512_reduce_max_ps(_mm512_max_ps(tops[0], tops[1]));
    z[whole..].iter().fold(top, |top, z| if *z > top { *z } else { top })
}

/// p = exp(z − top) and Σ p.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn exponentials(p: &mut [bf16], z: &[f32], top: f32) -> f32 {
    let (scale, shift) = (_mm512_set1_ps(LOG2_E), _mm512_set1_ps(top * LOG2_E));
    let mut sum = _mm512_setzero_ps();
    for at in (0..z.len()).step_by(VECTOR) {
        let e = exp2(_mm512_fmsub_ps(load_f32(z, at), scale, shift));
        let inside = super::lanes(z.len(), at);
        sum = _mm512_mask_add_ps(sum, inside, sum, e);
        store(p, at, e);
    }
    _mm512_reduce_add_ps(sum)
}
