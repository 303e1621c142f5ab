//! Blocks of 256 values as bytes: codes of a dynamic map times the block's largest magnitude.
//!
//! value = `D[code]`·absmax; code = the entry nearest to value·(1/absmax). bitsandbytes 0.50 `quantize_blockwise`, `dequantize_blockwise`
//! with block size 256

use super::dynamic_map::{Encoder, dynamic_map};
use super::largest;

/// Values that share a scale.
pub const BLOCK: usize = 256;

/// A dynamic map, to and from codes.
pub struct Blockwise {
    map: Vec<f32>,
    encoder: Encoder,
}

impl Blockwise {
    /// With the signed or the unsigned map.
    pub fn new(signed: bool) -> Self {
        Self { map: dynamic_map(signed), encoder: Encoder::new(signed) }
    }

    /// The values of a block's codes.
    #[inline(always)]
    pub fn decode(&self, codes: &[u8], absmax: f32, out: &mut [f32; BLOCK]) {
        out.iter_mut().zip(codes).for_each(|(o, c)| *o = self.map[usize::from(*c)] * absmax);
    }

    /// Codes of a block; returns their scale.
    #[inline(always)]
    pub fn encode(&self, values: &[f32; BLOCK], codes: &mut [u8]) -> f32 {
        let absmax = largest(values);
        let scale = 1.0 / absmax.max(1e-38);
        for (code, v) in codes.iter_mut().zip(values) {
            *code = self.encoder.index((v * scale).clamp(-1.0, 1.0));
        }
        absmax
    }
}
