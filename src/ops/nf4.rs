//! Packing a tensor to NF4: its blocks on all threads, in vectors. Formulas and sources: [`crate::quant::nf4`].

use super::simd::vectorized;
use crate::quant::nf4::{Absmax, BLOCK, Nf4};
use crate::quant::{block, nest};
use rayon::prelude::*;

/// Elements that a thread packs at a time: whole blocks, which stay in its cache.
const PART: usize = 64 * BLOCK;

/// Packs `w`, flattened row-major; `nested` quantises the scales again.
pub fn quantize(w: &[f32], nested: bool) -> Nf4 {
    quantize_from(w.len(), nested, |start, out| out.copy_from_slice(&w[start..][..out.len()]))
}

/// As [`quantize`], of `len` values that never lie anywhere as a whole: `fill(start, out)` writes those from `start` on, on any thread.
pub fn quantize_from(len: usize, nested: bool, fill: impl Fn(usize, &mut [f32]) + Sync) -> Nf4 {
    let mut packed = vec![0u8; len.div_ceil(2)];
    let mut absmax = vec![0.0f32; len.div_ceil(BLOCK)];
    let parts = packed.par_chunks_mut(PART / 2).zip(absmax.par_chunks_mut(PART / BLOCK));
    parts.enumerate().for_each(|(i, (packed, absmax))| {
        let (start, mut values) = (i * PART, [0.0f32; PART]);
        let values = &mut values[..PART.min(len - start)];
        fill(start, values);
        vectorized(
            #[inline(always)]
            || {
                let blocks = packed.chunks_mut(BLOCK / 2).zip(absmax).zip(values.chunks(BLOCK));
                for ((packed, absmax), w) in blocks {
                    *absmax = block(w, packed);
                }
            },
        );
    });
    let absmax = if nested { nest(&absmax) } else { Absmax::Plain(absmax) };
    Nf4 { packed, absmax, len }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::nf4::CODEBOOK;

    #[test]
    fn the_even_element_lies_in_the_high_nibble() {
        assert_eq!(quantize(&[1.0, -1.0], false).packed, [0xF0]);
    }

    #[test]
    fn what_is_missing_of_a_byte_is_as_0() {
        assert_eq!(quantize(&[1.0, 0.0, 1.0], false).packed, [0xF7, 0xF7]);
    }

    /// Two parts and a short one, whose last block is short.
    fn values() -> Vec<f32> {
        (0..2 * PART + 77).map(|i| ((i * 37 % 1001) as f32 / 500.0 - 1.0).powi(3)).collect()
    }

    #[test]
    fn every_block_has_its_own_scale() {
        let w = values();
        let largest = |w: &[f32]| w.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let scales = w.chunks(BLOCK).map(largest).collect();
        assert_eq!(quantize(&w, false).absmax, Absmax::Plain(scales));
    }

    #[test]
    fn codes_are_the_number_of_midpoints_below() {
        let w = values();
        let Nf4 { packed, absmax: Absmax::Plain(scales), .. } = quantize(&w, false) else {
            panic!()
        };
        for (i, x) in w.iter().enumerate() {
            let v = x * (1.0 / scales[i / BLOCK]);
            let code = CODEBOOK.windows(2).filter(|c| (c[0] + c[1]) / 2.0 < v).count();
            assert_eq!(usize::from(packed[i / 2] >> (4 * (1 - i % 2)) & 15), code, "{i}");
        }
    }
}
