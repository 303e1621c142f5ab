//! RMSNorm: y = x·r·g with r = 1/√(mean(x²) + ε) per token.
//!
//! x, y: (N, C), g: (C) f32, r: (N) f32. Backward: dx += r·(dy⊙g) − x·r³/C·Σ(dy⊙g⊙x),
//! and y once more, over dy, for the layers that it went into.
//! Zhang & Sennrich 2019, arXiv:1910.07467 · transformers v5.23 `LlamaRMSNorm`

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::spread::share;
use super::value::{Value, by_type};
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
    #[cfg(target_arch = "x86_64")]
    if cx.has_bf16_rows() {
        let rows = y.bf16_mut()?.par_chunks_mut(c).zip(r.f32_mut()?).zip(x.bf16()?.par_chunks(c));
        // SAFETY: a context has rows of bf16 only where the processor has the instructions.
        rows.with_max_len(share(n, c)).for_each(|((y, r), x)| unsafe {
            *r = 1.0 / (avx512::rms_norm::squares(x) / c as f32 + eps).sqrt();
            avx512::rms_norm::scale(y, x, g, *r);
        });
        return Ok((y, r));
    }
    by_type!(x.dtype(), forward_cpu(x, g, eps, &mut y, &mut r))?;
    Ok((y, r))
}

fn forward_cpu<T: Value>(x: &Buf, g: &[f32], eps: f32, y: &mut Buf, r: &mut Buf) -> Result<()> {
    let c = g.len();
    let rows = T::of_mut(y)?.par_chunks_mut(c).zip(r.f32_mut()?).zip(T::of(x)?.par_chunks(c));
    rows.with_max_len(share(x.rows(), c)).for_each(|((y, r), x)| {
        simd::vectorized(
            #[inline(always)]
            || {
                *r = 1.0 / (simd::dot(x, x) / c as f32 + eps).sqrt();
                scale_row(y, x, g, *r);
            },
        );
    });
    Ok(())
}

/// y again from x and the saved r.
///
/// # Errors
/// When the shapes or dtypes disagree, or there is no memory left.
pub fn recompute(cx: &Cx, x: &Buf, g: &Vector, r: &Buf) -> Result<Buf> {
    let mut y = cx.alloc(x.shape())?;
    again(cx, x, g, r, &mut y)?;
    Ok(y)
}

fn again(cx: &Cx, x: &Buf, g: &Vector, r: &Buf, y: &mut Buf) -> Result<()> {
    let (n, c) = (x.rows(), x.cols());
    r.expect(&[n, 1])?;
    if let Some(gpu) = cx.gpu() {
        let (n64, ci) = (Arg::U64(n as u64), Arg::I32(c as i32));
        let args = [y.arg()?, x.arg()?, g.arg()?, r.arg()?, n64, ci];
        // SAFETY: rms_norm_recompute(T *y, const T *x, const float *g, const float *r, u64 n, int c).
        return unsafe { gpu.each("rms_norm_recompute", n * c, &args) };
    }
    #[cfg(target_arch = "x86_64")]
    if cx.has_bf16_rows() {
        let rows = y.bf16_mut()?.par_chunks_mut(c).zip(r.f32()?).zip(x.bf16()?.par_chunks(c));
        // SAFETY: as above.
        rows.with_max_len(share(n, c))
            .for_each(|((y, r), x)| unsafe { avx512::rms_norm::scale(y, x, g, *r) });
        return Ok(());
    }
    by_type!(x.dtype(), again_cpu(x, g, r, y))
}

fn again_cpu<T: Value>(x: &Buf, g: &[f32], r: &Buf, y: &mut Buf) -> Result<()> {
    let c = g.len();
    let rows = T::of_mut(y)?.par_chunks_mut(c).zip(r.f32()?).zip(T::of(x)?.par_chunks(c));
    rows.with_max_len(share(x.rows(), c)).for_each(|((y, r), x)| {
        simd::vectorized(
            #[inline(always)]
            || scale_row(y, x, g, *r),
        )
    });
    Ok(())
}

#[inline(always)]
fn scale_row<T: Value>(y: &mut [T], x: &[T], g: &[f32], r: f32) {
    for ((y, x), g) in y.iter_mut().zip(x).zip(g) {
        *y = T::near(x.wide() * r * g);
    }
}

/// Adds the gradient for x to dx and replaces dy by y.
///
/// # Errors
/// When the shapes or dtypes disagree, or there is no memory left.
pub fn backward(cx: &Cx, dy: &mut Buf, x: &Buf, g: &Vector, r: &Buf, dx: &mut Buf) -> Result<()> {
    let c = x.cols();
    dy.expect(x.shape())?;
    dx.expect(x.shape())?;
    r.expect(&[x.rows(), 1])?;
    if let Some(gpu) = cx.gpu() {
        let args = [dx.arg()?, dy.arg()?, x.arg()?, g.arg()?, r.arg()?, Arg::I32(c as i32)];
        // SAFETY: rms_norm_backward(T *dx, const T *dy, const T *x, const float *g, const float *r, int c), a block a row.
        unsafe { gpu.by_row("rms_norm_backward", x.rows(), &args) }?;
        return again(cx, x, g, r, dy);
    }
    #[cfg(target_arch = "x86_64")]
    if cx.has_bf16_rows() {
        let rows = dx.bf16_mut()?.par_chunks_mut(c).zip(dy.bf16_mut()?.par_chunks_mut(c));
        let rows = rows.zip(x.bf16()?.par_chunks(c)).zip(r.f32()?);
        // SAFETY: as above.
        rows.with_max_len(share(x.rows(), c)).for_each(|(((dx, dy), x), r)| unsafe {
            avx512::rms_norm::backward(dx, dy, x, g, *r);
        });
        return Ok(());
    }
    by_type!(x.dtype(), backward_cpu(dy, x, g, r, dx))
}

fn backward_cpu<T: Value>(dy: &mut Buf, x: &Buf, g: &[f32], r: &Buf, dx: &mut Buf) -> Result<()> {
    let c = g.len();
    let rows = T::of_mut(dx)?.par_chunks_mut(c).zip(T::of_mut(dy)?.par_chunks_mut(c));
    let rows = rows.zip(T::of(x)?.par_chunks(c)).zip(r.f32()?);
    rows.with_max_len(share(x.rows(), c)).for_each(|(((dx, dy), x), &r)| {
        simd::vectorized(
            #[inline(always)]
            || {
                let back = weighted_dot(dy, x, g) * r * r * r / c as f32;
                for (((dx, dy), x), g) in dx.iter_mut().zip(dy.iter()).zip(x).zip(g.iter()) {
                    *dx = T::near(dx.wide() + r * dy.wide() * g - x.wide() * back);
                }
                scale_row(dy, x, g, r);
            },
        );
    });
    Ok(())
}

/// Σ dy⊙g⊙x over 16 lanes.
#[inline(always)]
fn weighted_dot<T: Value>(dy: &[T], x: &[T], g: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (dys, xs, gs) = (dy.chunks_exact(16), x.chunks_exact(16), g.chunks_exact(16));
    let tails = dys.remainder().iter().zip(xs.remainder()).zip(gs.remainder());
    let tail: f32 = tails.map(|((dy, x), g)| dy.wide() * g * x.wide()).sum();
    for ((dy, x), g) in dys.zip(xs).zip(gs) {
        for i in 0..16 {
            lanes[i] += dy[i].wide() * g[i] * x[i].wide();
        }
    }
    lanes.iter().sum::<f32>() + tail
}
