//! The low-rank product of a LoRA adapter: y += s·u·Bᵀ with u = drop(x)·Aᵀ.
//!
//! x: (N, in), A: (R, in), B: (out, R), u: (N, R), y: (N, out); on the CPU all f32, on a device in the compute dtype (A and B
//! rounded to it) with gradients in f32. Backward, with du = s·dy·B: dB += s·dyᵀ·u, dA += duᵀ·drop(x), dx += drop(du·A).
//!
//! Hu et al. 2021, arXiv:2106.09685 · PEFT 0.21 `tuners/lora/layer.py`

use super::dropout::{self, Mask};
use super::matmul::{Into, View, ViewMut, matmul};
use super::{Buf, Cx};
use crate::gpu::{Add, Matrix, Memory};
use candle_core::{DType, Result, bail};

/// A matrix that trains, as part of a larger array.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// f32 values on the CPU.
    Host(&'a [f32]),
    /// From this byte on in device memory.
    Device(&'a Memory, usize, DType),
}

impl<'a> Part<'a> {
    fn host(self) -> Result<&'a [f32]> {
        match self {
            Self::Host(values) => Ok(values),
            Self::Device(..) => bail!("an adapter is on a device, its input is not"),
        }
    }

    fn matrix(self, rows: usize, cols: usize) -> Result<Matrix<'a>> {
        match self {
            Self::Device(memory, offset, dtype) => Matrix::new(memory, offset, dtype, rows, cols),
            Self::Host(_) => bail!("an adapter is not on the device of its input"),
        }
    }
}

/// Where the gradients of A and B are added.
#[derive(Debug)]
pub enum Gradients<'a> {
    /// dA (R, in) and dB (out, R) on the CPU.
    Host(&'a mut [f32], &'a mut [f32]),
    /// f32 device memory, with the first bytes of dA and dB.
    Device(&'a Memory, [usize; 2]),
}

/// One adapter's factors: `a` (R, in) and `b` (out, R).
#[derive(Clone, Copy)]
pub struct Factors<'a> {
    /// A, row-major (R, in).
    pub a: Part<'a>,
    /// B, row-major (out, R).
    pub b: Part<'a>,
    /// The rank R.
    pub r: usize,
    /// s = alpha / R.
    pub scale: f32,
}

/// Adds the adapter's output to `y` and returns u (N, R) for the backward pass.
///
/// # Errors
/// When a buffer is not where the others are, or the shapes disagree.
pub fn forward(cx: &Cx, x: &Buf, f: Factors<'_>, mask: Option<&Mask>, y: &mut Buf) -> Result<Buf> {
    let (n, k, out) = (x.rows(), x.cols(), y.cols());
    let dropped = mask.map(|m| dropout::apply(cx, x, m)).transpose()?;
    let x = dropped.as_ref().unwrap_or(x);
    let mut u = cx.alloc(&[n, f.r])?;
    if let Some(gpu) = cx.gpu() {
        let (a, b) = (f.a.matrix(f.r, k)?, f.b.matrix(out, f.r)?);
        gpu.product(u.matrix()?, Add::Overwrite, 1.0, x.matrix()?, a.t())?;
        gpu.product(y.matrix()?, Add::Accumulate, f.scale, u.matrix()?, b.t())?;
        return Ok(u);
    }
    let uv = ViewMut::new(u.f32_mut()?, n, f.r);
    let (a, b) = (View::new(f.a.host()?, f.r, k), View::new(f.b.host()?, out, f.r));
    matmul(uv, Into::Overwrite, 1.0, View::new(x.f32()?, n, k), a.t());
    let yv = ViewMut::new(y.f32_mut()?, n, out);
    matmul(yv, Into::Add, f.scale, View::new(u.f32()?, n, f.r), b.t());
    Ok(u)
}

/// Adds to the gradients of A and B, and to `dx` where it is wanted.
///
/// # Errors
/// When a buffer is not where the others are, or the shapes disagree.
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
    gradients: Gradients<'_>,
    dx: Option<&mut Buf>,
) -> Result<()> {
    let (n, k, out) = (x.rows(), x.cols(), dy.cols());
    let mut du = cx.alloc(&[n, f.r])?;
    match gradients {
        Gradients::Host(da, db) => {
            let dyv = View::new(dy.f32()?, n, out);
            let b = View::new(f.b.host()?, out, f.r);
            matmul(
                ViewMut::new(db, out, f.r),
                Into::Add,
                f.scale,
                dyv.t(),
                View::new(u.f32()?, n, f.r),
            );
            let duv = ViewMut::new(du.f32_mut()?, n, f.r);
            matmul(duv, Into::Overwrite, f.scale, dyv, b);
            let dropped = mask.map(|m| dropout::apply(cx, x, m)).transpose()?;
            let x = View::new(dropped.as_ref().unwrap_or(x).f32()?, n, k);
            let du = View::new(du.f32()?, n, f.r);
            matmul(ViewMut::new(da, f.r, k), Into::Add, 1.0, du.t(), x);
        }
        Gradients::Device(memory, [da, db]) => {
            let Some(gpu) = cx.gpu() else { bail!("gradients are on a device, the input is not") };
            let (dy, b) = (dy.matrix()?, f.b.matrix(out, f.r)?);
            let db = Matrix::new(memory, db, DType::F32, out, f.r)?;
            gpu.product(db, Add::Accumulate, f.scale, dy.t(), u.matrix()?)?;
            gpu.product(du.matrix()?, Add::Overwrite, f.scale, dy, b)?;
            let dropped = mask.map(|m| dropout::apply(cx, x, m)).transpose()?;
            let da = Matrix::new(memory, da, DType::F32, f.r, k)?;
            let x = dropped.as_ref().unwrap_or(x).matrix()?;
            gpu.product(da, Add::Accumulate, 1.0, du.matrix()?.t(), x)?;
        }
    }
    let Some(dx) = dx else { return Ok(()) };
    let Some(mask) = mask else { return through(cx, &du, f, dx, Into::Add) };
    let mut passed = cx.alloc(&[n, k])?;
    through(cx, &du, f, &mut passed, Into::Overwrite)?;
    dropout::add_masked(cx, &passed, mask, dx)
}

/// to ← [to +] du·A.
fn through(cx: &Cx, du: &Buf, f: Factors<'_>, to: &mut Buf, into: Into) -> Result<()> {
    let (n, k) = (to.rows(), to.cols());
    if let Some(gpu) = cx.gpu() {
        let add = if into == Into::Add { Add::Accumulate } else { Add::Overwrite };
        return gpu.product(to.matrix()?, add, 1.0, du.matrix()?, f.a.matrix(f.r, k)?);
    }
    let a = View::new(f.a.host()?, f.r, k);
    matmul(ViewMut::new(to.f32_mut()?, n, k), into, 1.0, View::new(du.f32()?, n, f.r), a);
    Ok(())
}
