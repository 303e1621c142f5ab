//! SwiGLU: h = silu(a)⊙b with silu(a) = a·σ(a).
//!
//! a, b, h: (N, F). Backward: da = dh⊙b⊙σ(a)(1 + a(1−σ(a))), db = dh⊙silu(a), written over a and b; h once more, over dh, for the
//! layer that it went into.
//! Shazeer 2020, arXiv:2002.05202

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::spread::share;
use super::value::{Value, by_type};
use super::{Buf, Cx, simd};
use crate::gpu::Arg;
use candle_core::Result;
use rayon::prelude::*;

/// Elements of a task.
fn elements(x: &Buf) -> usize {
    share(x.rows(), x.cols()) * x.cols()
}

/// h = silu(a)⊙b as a new buffer.
///
/// # Errors
/// When the shapes or dtypes disagree, or there is no memory left.
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
    #[cfg(target_arch = "x86_64")]
    if cx.has_bf16_rows() {
        let own = elements(a);
        let chunks = h.bf16_mut()?.par_chunks_mut(own).zip(a.bf16()?.par_chunks(own));
        chunks.zip(b.bf16()?.par_chunks(own)).with_max_len(1).for_each(|((h, a), b)| {
            // SAFETY: a context has rows of bf16 only where the processor has the instructions.
            unsafe { avx512::swiglu::forward(h, a, b) };
        });
        return Ok(h);
    }
    by_type!(a.dtype(), forward_cpu(a, b, &mut h))?;
    Ok(h)
}

fn forward_cpu<T: Value>(a: &Buf, b: &Buf, h: &mut Buf) -> Result<()> {
    let own = elements(a);
    let chunks = T::of_mut(h)?.par_chunks_mut(own).zip(T::of(a)?.par_chunks(own));
    chunks.zip(T::of(b)?.par_chunks(own)).with_max_len(1).for_each(|((h, a), b)| {
        simd::vectorized(
            #[inline(always)]
            || {
                for ((h, a), b) in h.iter_mut().zip(a).zip(b) {
                    let a = a.wide();
                    *h = T::near(a * simd::sigmoid(a) * b.wide());
                }
            },
        );
    });
    Ok(())
}

/// Replaces a by da, b by db and dh by h.
///
/// # Errors
/// When the shapes or dtypes disagree, or there is no memory left.
pub fn backward(cx: &Cx, dh: &mut Buf, a: &mut Buf, b: &mut Buf) -> Result<()> {
    a.expect(dh.shape())?;
    b.expect(dh.shape())?;
    if let Some(gpu) = cx.gpu() {
        let n = dh.len();
        let args = [dh.arg()?, a.arg()?, b.arg()?, Arg::U64(n as u64)];
        // SAFETY: swiglu_backward(T *dh, T *a, T *b, u64 n), all of n elements.
        return unsafe { gpu.each("swiglu_backward", n, &args) };
    }
    #[cfg(target_arch = "x86_64")]
    if cx.has_bf16_rows() {
        let own = elements(dh);
        let chunks = a.bf16_mut()?.par_chunks_mut(own).zip(b.bf16_mut()?.par_chunks_mut(own));
        chunks.zip(dh.bf16_mut()?.par_chunks_mut(own)).with_max_len(1).for_each(|((a, b), dh)| {
            // SAFETY: as above.
            unsafe { avx512::swiglu::backward(dh, a, b) };
        });
        return Ok(());
    }
    by_type!(dh.dtype(), backward_cpu(dh, a, b))
}

fn backward_cpu<T: Value>(dh: &mut Buf, a: &mut Buf, b: &mut Buf) -> Result<()> {
    let own = elements(dh);
    let chunks = T::of_mut(a)?.par_chunks_mut(own).zip(T::of_mut(b)?.par_chunks_mut(own));
    chunks.zip(T::of_mut(dh)?.par_chunks_mut(own)).with_max_len(1).for_each(|((da, db), dh)| {
        simd::vectorized(
            #[inline(always)]
            || {
                for ((da, db), h) in da.iter_mut().zip(db.iter_mut()).zip(dh) {
                    let (a, b, dh) = (da.wide(), db.wide(), h.wide());
                    let s = simd::sigmoid(a);
                    *da = T::near(dh * b * s * (1.0 + a * (1.0 - s)));
                    *db = T::near(dh * a * s);
                    *h = T::near(a * s * b);
                }
            },
        );
    });
    Ok(())
}
