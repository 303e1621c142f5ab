//! RMSNorm: y = x·r·g with r = 1/√(mean(x²) + ε) per token.
//!
//! x, y: (N, C) f32, g: (C), r: (N). Backward: dx += r·(dy⊙g) − x·r³/C·Σ(dy⊙g⊙x).
//! Zhang & Sennrich 2019, arXiv:1910.07467 · transformers v5.23 `LlamaRMSNorm`

use super::{Buf, Cx, Vector, simd};
use crate::gpu::Arg;
use candle_core::{Result, bail};
use rayon::prelude::*;

/// y (N, C) and r (N, 1).
///
/// # Errors
/// When the shapes disagree.
pub fn forward(cx: &Cx, x: &Buf, g: &Vector, eps: f32) -> Result<(Buf, Buf)> {
    let (n, c) = (x.rows(), x.cols());
    if g.len() != c {
        bail!("rms_norm: x has {c} columns, the weight {}", g.len());
    }
    let (mut y, mut r) = (cx.alloc(&[n, c])?, cx.alloc_f32(&[n, 1])?);
    if let Some(gpu) = cx.gpu() {
        let args = [y.arg()?, r.arg()?, x.arg()?, g.arg()?, Arg::I32(c as i32), Arg::F32(eps)];
        // SAFETY: rms_norm_forward(T *y, float *r, const T *x, const float *g, int c, float eps), a block a row.
        unsafe { gpu.by_row("rms_norm_forward", n, &args) }?;
        return Ok((y, r));
    }
    let rows = y.f32_mut()?.par_chunks_mut(c).zip(r.f32_mut()?).zip(x.f32()?.par_chunks(c));
    rows.for_each(|((y, r), x)| {
        simd::vectorized(|| {
            *r = 1.0 / (simd::dot(x, x) / c as f32 + eps).sqrt();
            scale_row(y, x, g, *r);
        });
    });
    Ok((y, r))
}

/// y again from x and the saved r.
///
/// # Errors
/// When a buffer is not f32.
pub fn recompute(cx: &Cx, x: &Buf, g: &Vector, r: &Buf) -> Result<Buf> {
    let (n, c) = (x.rows(), x.cols());
    r.expect(&[n, 1])?;
    let mut y = cx.alloc(&[n, c])?;
    if let Some(gpu) = cx.gpu() {
        let (n64, ci) = (Arg::U64(n as u64), Arg::I32(c as i32));
        let args = [y.arg()?, x.arg()?, g.arg()?, r.arg()?, n64, ci];
        // SAFETY: rms_norm_recompute(T *y, const T *x, const float *g, const float *r, u64 n, int c).
        unsafe { gpu.each("rms_norm_recompute", n * c, &args) }?;
        return Ok(y);
    }
    let rows = y.f32_mut()?.par_chunks_mut(c).zip(r.f32()?).zip(x.f32()?.par_chunks(c));
    rows.for_each(|((y, r), x)| simd::vectorized(|| scale_row(y, x, g, *r)));
    Ok(y)
}

#[inline(always)]
fn scale_row(y: &mut [f32], x: &[f32], g: &[f32], r: f32) {
    for ((y, x), g) in y.iter_mut().zip(x).zip(g) {
        *y = x * r * g;
    }
}

/// dx += the gradient for x.
///
/// # Errors
/// When a buffer is not f32.
pub fn backward(cx: &Cx, dy: &Buf, x: &Buf, g: &Vector, r: &Buf, dx: &mut Buf) -> Result<()> {
    let c = x.cols();
    dy.expect(x.shape())?;
    dx.expect(x.shape())?;
    r.expect(&[x.rows(), 1])?;
    if let Some(gpu) = cx.gpu() {
        let args = [dx.arg()?, dy.arg()?, x.arg()?, g.arg()?, r.arg()?, Arg::I32(c as i32)];
        // SAFETY: rms_norm_backward(T *dx, const T *dy, const T *x, const float *g, const float *r, int c), a block a row.
        return unsafe { gpu.by_row("rms_norm_backward", x.rows(), &args) };
    }
    let rows = dx.f32_mut()?.par_chunks_mut(c).zip(dy.f32()?.par_chunks(c));
    rows.zip(x.f32()?.par_chunks(c)).zip(r.f32()?).for_each(|(((dx, dy), x), &r)| {
        simd::vectorized(|| {
            let mut lanes = [0.0f32; 16];
            for (i, ((dy, x), g)) in dy.iter().zip(x).zip(g.iter()).enumerate() {
                lanes[i & 15] += dy * g * x;
            }
            let back = lanes.iter().sum::<f32>() * r * r * r / c as f32;
            for (((dx, dy), x), g) in dx.iter_mut().zip(dy).zip(x).zip(g.iter()) {
                *dx += r * dy * g - x * back;
            }
        });
    });
    Ok(())
}
