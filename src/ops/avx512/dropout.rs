//! [`crate::ops::dropout`] on bf16.

use super::philox::at_least;
use super::{VECTOR, load, load_part, store, store_part};
use crate::ops::dropout::{BLOCK, Row};
use crate::ops::philox::COUNTERS;
use half::bf16;
use std::arch::x86_64::*;

/// y = x·m along a row, or y += x·m.
///
/// # Panics
/// If the lengths differ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(in crate::ops) fn row(row: &Row, x: &[bf16], y: &mut [bf16], add: bool) {
    assert_eq!(x.len(), y.len());
    let scale = _mm512_set1_ps(row.scale);
    for (i, (x, y)) in x.chunks(BLOCK).zip(y.chunks_mut(BLOCK)).enumerate() {
        let [low, high] = at_least(row.least, (i * COUNTERS) as u32, row.rest, &row.keys);
        let mut kept = u64::from(low) | u64::from(high) << 32;
        let ((x, x_rest), (y, y_rest)) = (x.as_chunks(), y.as_chunks_mut());
        for (x, y) in x.iter().zip(y) {
            let m = _mm512_maskz_mov_ps(kept as __mmask16, scale);
            let product = _mm512_mul_ps(load(x), m);
            store(y, if add { _mm512_add_ps(load(y), product) } else { product });
            kept >>= VECTOR;
        }
        if !x_rest.is_empty() {
            let m = _mm512_maskz_mov_ps(kept as __mmask16, scale);
            let product = _mm512_mul_ps(load_part(x_rest), m);
            let sum = if add { _mm512_add_ps(load_part(y_rest), product) } else { product };
            store_part(y_rest, sum);
        }
    }
}
