//! NF4: 4-bit codes of a fixed normal-quantile codebook, scaled per block of 64, as bitsandbytes lays them out.
//!
//! The matrix is flattened row-major; block b of 64 consecutive elements has absmax_b = max|w|. v = clamp(w·(1/absmax), −1, 1); its
//! code is the number of thresholds (midpoints of the codebook) strictly below v. Two codes a byte, the even element in the high
//! nibble. ŵ = `codebook[code]`·absmax_b.
//!
//! Nested ("double quantisation"): offset μ = mean(absmax); blocks of 256 values absmax − μ are scaled by their own absmax₂ and
//! stored as the nearest entry of the signed dynamic map; absmax ≈ `map[u]`·absmax₂ + μ. bitsandbytes' backends choose among near
//! equals differently; this is the exact nearest entry, a tie to the lower one.
//!
//! Dettmers et al. 2023, arXiv:2305.14314 · bitsandbytes 0.50 `backends/default/ops.py`, `csrc/cpu_ops.cpp`

use super::dynamic_map::dynamic_map;
use half::bf16;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

/// Elements of a block.
pub const BLOCK: usize = 64;
/// absmax values of a nested block.
pub const NESTED_BLOCK: usize = 256;

/// The 16 values that a code stands for.
#[rustfmt::skip]
#[expect(clippy::excessive_precision, reason = "the digits that bitsandbytes writes")]
pub const CODEBOOK: [f32; 16] = [
    -1.0, -0.696_192_800_998_687_74, -0.525_073_051_452_636_72, -0.394_917_488_098_144_53,
    -0.284_441_381_692_886_35, -0.184_773_430_228_233_34, -0.091_050_036_251_544_952, 0.0,
    0.079_580_299_556_255_341, 0.160_930_201_411_247_25, 0.246_112_301_945_686_34, 0.337_915_241_718_292_24,
    0.440_709_829_330_444_34, 0.562_617_003_917_694_09, 0.722_956_836_223_602_29, 1.0,
];

/// The scales of the blocks.
#[derive(Debug, Clone, PartialEq)]
pub enum Absmax {
    /// One f32 a block.
    Plain(Vec<f32>),
    /// One dynamic-map code a block.
    Nested {
        /// Codes into the signed dynamic map.
        codes: Vec<u8>,
        /// Scale of each 256 codes.
        absmax2: Vec<f32>,
        /// The mean that was taken off.
        offset: f32,
    },
}

/// A packed tensor of `len` elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Nf4 {
    /// Two codes a byte, the even element in the high nibble.
    pub packed: Vec<u8>,
    /// The blocks' scales.
    pub absmax: Absmax,
    /// The number of elements.
    pub len: usize,
}

fn signed_map() -> &'static [f32] {
    static MAP: OnceLock<Vec<f32>> = OnceLock::new();
    MAP.get_or_init(|| dynamic_map(true))
}

impl Nf4 {
    /// The blocks' scales in f32: borrowed, or decoded where they are nested.
    pub fn scales(&self) -> Cow<'_, [f32]> {
        self.scales_of(0..self.len.div_ceil(BLOCK))
    }

    fn scales_of(&self, blocks: Range<usize>) -> Cow<'_, [f32]> {
        match &self.absmax {
            Absmax::Plain(scales) => Cow::Borrowed(&scales[blocks]),
            Absmax::Nested { .. } => Cow::Owned(blocks.map(|b| self.scale(b)).collect()),
        }
    }

    /// The scale of block `b`.
    // Not a call in the loop of `decode::dot`, where it made greedy decoding take 2.3 times as long (benches/results).
    #[inline(always)]
    pub(crate) fn scale(&self, b: usize) -> f32 {
        match &self.absmax {
            Absmax::Plain(scales) => scales[b],
            Absmax::Nested { codes, absmax2, offset } => {
                signed_map()[usize::from(codes[b])] * absmax2[b / NESTED_BLOCK] + offset
            }
        }
    }

    /// Elements `start..start + out.len()` rounded to bf16, on the calling thread.
    ///
    /// # Panics
    /// When the range exceeds the tensor.
    pub fn decode_bf16(&self, start: usize, out: &mut [bf16]) {
        assert!(start + out.len() <= self.len, "NF4 range exceeds the tensor");
        super::decode::to_bf16(&self.packed, |b| self.scale(b), start, out);
    }

    /// Σ ŵᵢ·xᵢ with ŵ rounded to bf16, over the elements from `start` on; `None` where [`Self::decode_bf16`] and a plain
    /// product are the way.
    ///
    /// # Panics
    /// When the range exceeds the tensor.
    pub fn dot_bf16(&self, start: usize, x: &[bf16]) -> Option<f32> {
        assert!(start + x.len() <= self.len, "NF4 range exceeds the tensor");
        super::decode::dot(&self.packed, |b| self.scale(b), start, x)
    }

    /// Elements `start..start + out.len()` as f32, on all threads.
    ///
    /// # Panics
    /// When the range exceeds the tensor.
    pub fn dequantize_range(&self, start: usize, out: &mut [f32]) {
        assert!(start + out.len() <= self.len, "NF4 range exceeds the tensor");
        // The first chunk ends at a block's boundary, so that every other one starts at one.
        let head = (BLOCK - start % BLOCK) % BLOCK;
        let (first, rest) = out.split_at_mut(head.min(out.len()));
        self.decode(start, first);
        rest.par_chunks_mut(BLOCK * 64).enumerate().for_each(|(i, out)| {
            self.decode(start + head + i * BLOCK * 64, out);
        });
    }

    fn decode(&self, start: usize, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let first = start / BLOCK;
        let scales = self.scales_of(first..(start + out.len()).div_ceil(BLOCK));
        if !start.is_multiple_of(BLOCK) {
            for (i, out) in out.iter_mut().enumerate() {
                let at = start + i;
                let code = self.packed[at / 2] >> (4 * (1 - at % 2)) & 15;
                *out = CODEBOOK[usize::from(code)] * scales[at / BLOCK - first];
            }
            return;
        }
        for (b, out) in out.chunks_mut(BLOCK).enumerate() {
            let (block, scale) = (first + b, scales[b]);
            let table = CODEBOOK.map(|c| c * scale);
            let bytes = &self.packed[block * BLOCK / 2..];
            for (pair, byte) in out.chunks_mut(2).zip(bytes) {
                pair[0] = table[usize::from(byte >> 4)];
                if let Some(odd) = pair.get_mut(1) {
                    *odd = table[usize::from(byte & 15)];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::nf4::quantize;

    fn noise(n: usize) -> Vec<f32> {
        use crate::ops::philox::{philox4x32, unit};
        let normal = |i| {
            let w = philox4x32([i, 0, 0, 0], [1, 2]);
            (-2.0 * (1.0 - unit(w[0])).ln()).sqrt() * (std::f32::consts::TAU * unit(w[1])).cos()
        };
        (0..n as u32).map(normal).collect()
    }

    fn round_trip(w: &[f32], nested: bool) -> Vec<f32> {
        let mut out = vec![0.0; w.len()];
        quantize(w, nested).dequantize_range(0, &mut out);
        out
    }

    #[test]
    fn gaussian_weights_lose_nine_percent() {
        let w = noise(1 << 16);
        let error: f64 =
            w.iter().zip(round_trip(&w, false)).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let power: f64 = w.iter().map(|a| f64::from(*a).powi(2)).sum();
        let rmse = (error / power).sqrt();
        assert!((rmse - 0.092).abs() < 0.002, "{rmse}");
    }

    #[test]
    fn zeros_stay_zero() {
        assert_eq!(round_trip(&[0.0; 70], false), [0.0; 70]);
    }

    #[test]
    fn a_range_equals_that_part_of_the_whole() {
        let w = noise(1000);
        let (q, whole) = (quantize(&w, true), round_trip(&w, true));
        let mut part = vec![0.0; 777];
        q.dequantize_range(101, &mut part);
        assert_eq!(part, whole[101..878]);
    }
}
