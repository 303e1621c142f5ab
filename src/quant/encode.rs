//! Values to NF4: the codes of a block of 64 by its own largest magnitude; scales, where they are nested. All of a tensor's: [`crate::ops::nf4`].

use super::dynamic_map::Encoder;
use super::largest;
use super::mean::mean;
use super::nf4::{Absmax, BLOCK, CODEBOOK, NESTED_BLOCK};
use std::sync::LazyLock;

/// Codes of at most [`BLOCK`] values, two a byte; returns their scale.
#[inline(always)]
pub fn block(w: &[f32], packed: &mut [u8]) -> f32 {
    // What is missing of the last block is 0, the code of a half byte that nobody reads too.
    let mut values = [0.0f32; BLOCK];
    values[..w.len()].copy_from_slice(w);
    let absmax = largest(&values);
    let inverse = 1.0 / absmax.max(1e-38);
    let mut codes = [0u32; BLOCK];
    for pair in CODEBOOK.windows(2) {
        let threshold = (pair[0] + pair[1]) / 2.0;
        for (code, x) in codes.iter_mut().zip(&values) {
            *code += u32::from(threshold < (x * inverse).clamp(-1.0, 1.0));
        }
    }
    for (byte, [even, odd]) in packed.iter_mut().zip(codes.as_chunks().0) {
        *byte = (even << 4 | odd) as u8;
    }
    absmax
}

/// The blocks' scales quantised again.
pub fn nest(absmax: &[f32]) -> Absmax {
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
