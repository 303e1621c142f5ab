//! RMSNorm: y = x·r·g with r = 1/√(mean(x²) + ε) per token.
//!
//! x, y: (N, C) f32, g: (C), r: (N). Backward: dx += r·(dy⊙g) − x·r³/C·Σ(dy⊙g⊙x).
//! Zhang & Sennrich 2019, arXiv:1910.07467 · transformers v5.23 `LlamaRMSNorm`

use super::{Buf, Cx, simd};
use candle_core::{Result, bail};
use rayon::prelude::*;

/// y (N, C) and r (N, 1).
///
/// # Errors
/// When the shapes disagree.
pub fn forward(cx: &Cx, x: &Buf, g: &[f32], eps: f32) -> Result<(Buf, Buf)> {
    let (n, c) = (x.rows(), x.cols());
    if g.len() != c {
        bail!("rms_norm: x has {c} columns, the weight {}", g.len());
    }
    let (mut y, mut r) = (cx.alloc(&[n, c])?, cx.alloc(&[n, 1])?);
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
pub fn recompute(cx: &Cx, x: &Buf, g: &[f32], r: &Buf) -> Result<Buf> {
    let (n, c) = (x.rows(), x.cols());
    let mut y = cx.alloc(&[n, c])?;
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
pub fn backward(dy: &Buf, x: &Buf, g: &[f32], r: &Buf, dx: &mut Buf) -> Result<()> {
    let c = x.cols();
    let rows = dx.f32_mut()?.par_chunks_mut(c).zip(dy.f32()?.par_chunks(c));
    rows.zip(x.f32()?.par_chunks(c)).zip(r.f32()?).for_each(|(((dx, dy), x), &r)| {
        simd::vectorized(|| {
            let mut lanes = [0.0f32; 16];
            for (i, ((dy, x), g)) in dy.iter().zip(x).zip(g).enumerate() {
                lanes[i & 15] += dy * g * x;
            }
            let back = lanes.iter().sum::<f32>() * r * r * r / c as f32;
            for (((dx, dy), x), g) in dx.iter_mut().zip(dy).zip(x).zip(g) {
                *dx += r * dy * g - x * back;
            }
        });
    });
    Ok(())
}
