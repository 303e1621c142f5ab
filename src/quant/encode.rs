//! Values to NF4: each block of 64 by its own largest magnitude, on all threads; then the scales, where they are nested.

use super::dynamic_map::Encoder;
use super::largest;
use super::mean::mean;
use super::nf4::{Absmax, BLOCK, CODEBOOK, NESTED_BLOCK, Nf4};
use crate::ops::simd::vectorized;
use rayon::prelude::*;
use std::sync::LazyLock;

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

/// Codes of at most [`BLOCK`] values; returns their scale.
#[inline(always)]
fn block(w: &[f32], packed: &mut [u8]) -> f32 {
    // What is missing of the last block is 0, the code of a half byte that nobody reads too.
    let mut values = [0.0f32; BLOCK];
    values[..w.len()].copy_from_slice(w);
    let absmax = largest(&values);
    let inverse = 1.0 / absmax.max(1e-38);
    let mut codes = [0u32; BLOCK];
    for t in thresholds() {
        for (code, x) in codes.iter_mut().zip(&values) {
            *code += u32::from(t < (x * inverse).clamp(-1.0, 1.0));
        }
    }
    for (byte, [even, odd]) in packed.iter_mut().zip(codes.as_chunks().0) {
        *byte = (even << 4 | odd) as u8;
    }
    absmax
}

#[inline(always)]
fn thresholds() -> [f32; 15] {
    std::array::from_fn(|i| (CODEBOOK[i] + CODEBOOK[i + 1]) / 2.0)
}

fn nest(absmax: &[f32]) -> Absmax {
    static MAP: LazyLock<Encoder> = LazyLock::new(|| Encoder::new(true));
    let offset = mean(absmax);
    let mut codes = Vec::with_capacity(absmax.len());
    let mut absmax2 = Vec::with_capacity(absmax.len().div_ceil(NESTED_BLOCK));
    for block in absmax.chunks(NESTED_BLOCK) {
        let top = block.iter().fold(0.0f32, |m, a| m.max((a - offset).abs()));
        let inverse = 1.0 / top.max(1e-38);
        absmax2.push(top);
        codes.extend(block.iter().map(|a| MAP.index(((a - offset) * inverse).clamp(-1.0, 1.0))));
    }
    Absmax::Nested { codes, absmax2, offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_even_element_lies_in_the_high_nibble() {
        assert_eq!(quantize(&[1.0, -1.0], false).packed, [0xF0]);
    }

    #[test]
    fn what_is_missing_of_a_byte_is_as_0() {
        assert_eq!(quantize(&[1.0, 0.0, 1.0], false).packed, [0xF7, 0xF7]);
    }

    #[test]
    fn values_that_come_in_parts_are_packed_as_those_that_lie_there() {
        let w: Vec<f32> =
            (0..2 * PART + 77).map(|i| ((i * 37 % 1001) as f32 / 500.0 - 1.0).powi(3)).collect();
        let filled = quantize_from(w.len(), true, |start, out| {
            out.copy_from_slice(&w[start..][..out.len()])
        });
        // By the definition, one by one.
        for (b, w) in w.chunks(BLOCK).enumerate() {
            let top = w.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            for (i, x) in w.iter().enumerate() {
                let v = x * (1.0 / top);
                let code = thresholds().iter().filter(|t| **t < v).count() as u8;
                let at = b * BLOCK + i;
                assert_eq!(filled.packed[at / 2] >> (4 * (1 - at % 2)) & 15, code, "{at}");
            }
        }
    }
}
