//! The low-rank product of a LoRA adapter: y += s·u·Bᵀ with u = drop(x)·Aᵀ.
//!
//! x: (N, in), A: (R, in), B: (out, R), u: (N, R), y: (N, out), all f32. Backward, with du = s·dy·B:
//! dB += s·dyᵀ·u, dA += duᵀ·drop(x), dx += drop(du·A).
//!
//! Hu et al. 2021, arXiv:2106.09685 · PEFT 0.21 `tuners/lora/layer.py`

use super::dropout::{self, Mask};
use super::matmul::{Into, View, ViewMut, matmul};
use super::{Buf, Cx};
use candle_core::Result;

/// One adapter's factors: `a` (R, in) and `b` (out, R).
#[derive(Clone, Copy)]
pub struct Factors<'a> {
    /// A, row-major (R, in).
    pub a: &'a [f32],
    /// B, row-major (out, R).
    pub b: &'a [f32],
    /// The rank R.
    pub r: usize,
    /// s = alpha / R.
    pub scale: f32,
}

/// Adds the adapter's output to `y` and returns u (N, R) for the backward pass.
///
/// # Errors
/// When a buffer is not f32.
pub fn forward(cx: &Cx, x: &Buf, f: Factors<'_>, mask: Option<&Mask>, y: &mut Buf) -> Result<Buf> {
    let (n, k, out) = (x.rows(), x.cols(), y.cols());
    let dropped = mask.map(|m| dropout::apply(cx, x, m)).transpose()?;
    let x = dropped.as_ref().unwrap_or(x);
    let mut u = cx.alloc(&[n, f.r])?;
    let uv = ViewMut::new(u.f32_mut()?, n, f.r);
    matmul(uv, Into::Overwrite, 1.0, View::new(x.f32()?, n, k), View::new(f.a, f.r, k).t());
    let yv = ViewMut::new(y.f32_mut()?, n, out);
    matmul(yv, Into::Add, f.scale, View::new(u.f32()?, n, f.r), View::new(f.b, out, f.r).t());
    Ok(u)
}

/// Adds to the gradients `da` (R, in) and `db` (out, R), and to `dx` where it is wanted.
///
/// # Errors
/// When a buffer is not f32.
#[expect(
    clippy::too_many_arguments,
    reason = "the op's inputs, what it saved and its three results"
)]
pub fn backward(
    cx: &Cx,
    x: &Buf,
    u: &Buf,
    f: Factors<'_>,
    mask: Option<&Mask>,
    dy: &Buf,
    da: &mut [f32],
    db: &mut [f32],
    dx: Option<&mut Buf>,
) -> Result<()> {
    let (n, k, out) = (x.rows(), x.cols(), dy.cols());
    let dyv = View::new(dy.f32()?, n, out);
    let dbv = ViewMut::new(db, out, f.r);
    matmul(dbv, Into::Add, f.scale, dyv.t(), View::new(u.f32()?, n, f.r));
    let mut du = cx.alloc(&[n, f.r])?;
    let duv = ViewMut::new(du.f32_mut()?, n, f.r);
    matmul(duv, Into::Overwrite, f.scale, dyv, View::new(f.b, out, f.r));
    let du = View::new(du.f32()?, n, f.r);

    let dropped = mask.map(|m| dropout::apply(cx, x, m)).transpose()?;
    let x = dropped.as_ref().unwrap_or(x);
    matmul(ViewMut::new(da, f.r, k), Into::Add, 1.0, du.t(), View::new(x.f32()?, n, k));

    let Some(dx) = dx else { return Ok(()) };
    let a = View::new(f.a, f.r, k);
    if let Some(mask) = mask {
        let mut through = cx.alloc(&[n, k])?;
        matmul(ViewMut::new(through.f32_mut()?, n, k), Into::Overwrite, 1.0, du, a);
        dropout::add_masked(&through, mask, dx)
    } else {
        matmul(ViewMut::new(dx.f32_mut()?, n, k), Into::Add, 1.0, du, a);
        Ok(())
    }
}
