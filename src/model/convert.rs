//! A tensor of a file as training computes with it: NF4 codes, or values of bf16. Widened a few values at a time, on all threads.

use super::load::Nf4;
use crate::hub::safetensors::MappedTensor;
use crate::ops::cx::round;
use crate::ops::{nf4, simd};
use crate::quant;
use candle_core::DType;
use half::bf16;
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Packs the values of `tensor`, rounded to `dtype`, and gives its pages back.
///
/// `None` where one of them is not finite: an infinity or NaN has a code like any other value, and would be gone without a word.
pub(crate) fn to_nf4(tensor: &MappedTensor, kind: Nf4, dtype: DType) -> Option<quant::Nf4> {
    let finite = AtomicBool::new(true);
    let fill = |start, out: &mut [f32]| {
        tensor.widen(start, out);
        round(out, dtype);
        if !out.iter().fold(true, |good, v| good & v.is_finite()) {
            finite.store(false, Relaxed);
        }
    };
    let packed = nf4::quantize_from(tensor.shape.iter().product(), kind == Nf4::Double, fill);
    tensor.forget();
    finite.into_inner().then_some(packed)
}

/// The values of `tensor` rounded to bf16; gives its pages back.
pub(super) fn to_bf16(tensor: &MappedTensor) -> Vec<bf16> {
    const PART: usize = 4096;
    let mut narrow = vec![bf16::ZERO; tensor.shape.iter().product()];
    narrow.par_chunks_mut(PART).enumerate().for_each(|(i, out)| {
        let mut wide = [0.0f32; PART];
        let wide = &mut wide[..out.len()];
        tensor.widen(i * PART, wide);
        simd::narrow(wide, out);
    });
    tensor.forget();
    narrow
}
