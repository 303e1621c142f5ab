//! SwiGLU: h = silu(a)⊙b with silu(a) = a·σ(a).
//!
//! a, b, h: (N, F) f32. Backward: da = dh⊙b⊙σ(a)(1 + a(1−σ(a))), db = dh⊙silu(a), written over a and b.
//! Shazeer 2020, arXiv:2002.05202

use super::{Buf, Cx, simd};
use crate::gpu::Arg;
use candle_core::Result;
use rayon::prelude::*;

const CHUNK: usize = 1 << 13;

/// h = silu(a)⊙b as a new buffer.
///
/// # Errors
/// When a buffer is not f32.
pub fn forward(cx: &Cx, a: &Buf, b: &Buf) -> Result<Buf> {
    b.expect(a.shape())?;
    let mut h = cx.alloc(a.shape())?;
    if let Some(gpu) = cx.gpu() {
        let n = a.len();
        let args = [h.arg()?, a.arg()?, b.arg()?, Arg::U64(n as u64)];
        // SAFETY: swiglu_forward(T *h, const T *a, const T *b, u64 n), all of n elements.
        unsafe { gpu.each("swiglu_forward", n, &args) }?;
        return Ok(h);
    }
    let chunks = h.f32_mut()?.par_chunks_mut(CHUNK).zip(a.f32()?.par_chunks(CHUNK));
    chunks.zip(b.f32()?.par_chunks(CHUNK)).for_each(|((h, a), b)| {
        simd::vectorized(|| {
            for ((h, a), b) in h.iter_mut().zip(a).zip(b) {
                *h = a * simd::sigmoid(*a) * b;
            }
        });
    });
    Ok(h)
}

/// Replaces a by da and b by db.
///
/// # Errors
/// When a buffer is not f32.
pub fn backward(cx: &Cx, dh: &Buf, a: &mut Buf, b: &mut Buf) -> Result<()> {
    a.expect(dh.shape())?;
    b.expect(dh.shape())?;
    if let Some(gpu) = cx.gpu() {
        let n = dh.len();
        let args = [dh.arg()?, a.arg()?, b.arg()?, Arg::U64(n as u64)];
        // SAFETY: swiglu_backward(const T *dh, T *a, T *b, u64 n), all of n elements.
        return unsafe { gpu.each("swiglu_backward", n, &args) };
    }
    let chunks = a.f32_mut()?.par_chunks_mut(CHUNK).zip(b.f32_mut()?.par_chunks_mut(CHUNK));
    chunks.zip(dh.f32()?.par_chunks(CHUNK)).for_each(|((a, b), dh)| {
        simd::vectorized(|| {
            for ((a, b), dh) in a.iter_mut().zip(b.iter_mut()).zip(dh) {
                let s = simd::sigmoid(*a);
                let silu = *a * s;
                *a = dh * *b * s * (1.0 + *a * (1.0 - s));
                *b = dh * silu;
            }
        });
    });
    Ok(())
}
