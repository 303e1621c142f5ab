//! The inner side of a LoRA adapter, y += s·u·Bᵀ with u = drop(x)·Aᵀ. What is as wide as the layer, s·u·Bᵀ and drop(du·A), is
//! part of the layer's own products ([`super::linear`]).
//!
//! x: (N, in), A: (R, in), B: (out, R), u, du: (N, R), y: (N, out); u and du are operands of products, as what they are made of
//! ([`super::operand`]), gradients are f32. Backward: du = s·dy·B, dB += s·dyᵀ·u, dA += duᵀ·drop(x).
//!
//! Adapters of layers that share an input or a place in the pass are computed together where products run in bf16 (`in_bf16`) and where
//! all is f32 (`in_f32`).
//!
//! Hu et al. 2021, arXiv:2106.09685 · PEFT 0.21 `tuners/lora/layer.py`

mod in_bf16;
mod in_f32;

use super::dropout::{self, Mask};
use super::on_gpu::OnGpu;
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
    pub(super) fn host(self) -> Result<&'a [f32]> {
        match self {
            Self::Host(values) => Ok(values),
            Self::Device(..) => bail!("an adapter is on a device, its input is not"),
        }
    }

    pub(super) fn matrix(self, rows: usize, cols: usize) -> Result<Matrix<'a>> {
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

/// u = drop(x)·Aᵀ as a new (N, R) buffer, for each of the adapters that share an input.
///
/// # Errors
/// When a buffer is not where the others are, or the shapes disagree.
pub fn forward(cx: &Cx, x: &Buf, adapters: &[(Factors<'_>, Option<&Mask>)]) -> Result<Vec<Buf>> {
    if adapters.is_empty() {
        return Ok(Vec::new());
    }
    let unmasked = adapters.iter().all(|(_, mask)| mask.is_none());
    if unmasked && cx.gpu().is_none() {
        let factors: Vec<_> = adapters.iter().map(|(f, _)| *f).collect();
        let forward = if cx.has_bf16_products() { in_bf16::forward } else { in_f32::forward };
        return forward(cx, x, &factors);
    }
    let mut us = Vec::with_capacity(adapters.len());
    for (f, mask) in adapters {
        let dropped = mask.map(|m| dropout::apply(cx, x, m)).transpose()?;
        let x = dropped.as_ref().unwrap_or(x);
        us.push(match cx.gpu() {
            Some(gpu) => on_gpu(cx, gpu, x, *f)?,
            None => forward(cx, x, &[(*f, None)])?.remove(0),
        });
    }
    Ok(us)
}

/// x·Aᵀ on a device.
fn on_gpu(cx: &Cx, gpu: &OnGpu, x: &Buf, f: Factors<'_>) -> Result<Buf> {
    let (n, k) = (x.rows(), x.cols());
    let (u, x) = (cx.alloc_operand(&[n, f.r])?, cx.operand(x)?);
    gpu.product(u.matrix()?, Add::Overwrite, 1.0, x.matrix()?, f.a.matrix(f.r, k)?.t())?;
    Ok(u)
}

/// du = s·dy·B as a new (N, R) buffer, for each output gradient.
///
/// # Errors
/// When a buffer is not where the others are, or the shapes disagree.
pub fn backward(cx: &Cx, outputs: &[(&Buf, Factors<'_>)]) -> Result<Vec<Buf>> {
    let Some(gpu) = cx.gpu() else {
        let backward = if cx.has_bf16_products() { in_bf16::backward } else { in_f32::backward };
        return backward(cx, outputs);
    };
    let mut dus = Vec::with_capacity(outputs.len());
    for (dy, f) in outputs {
        let (n, out) = (dy.rows(), dy.cols());
        let (du, dy) = (cx.alloc_operand(&[n, f.r])?, cx.operand(dy)?);
        let b = f.b.matrix(out, f.r)?;
        gpu.product(du.matrix()?, Add::Overwrite, f.scale, dy.matrix()?, b)?;
        dus.push(du);
    }
    Ok(dus)
}

/// What the gradients of A and B are made of.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// The layer's input (N, in), without dropout.
    pub x: &'a Buf,
    /// The mask on it.
    pub mask: Option<&'a Mask<'a>>,
    /// [`forward`]'s u (N, R).
    pub u: &'a Buf,
    /// [`backward`]'s du (N, R).
    pub du: &'a Buf,
    /// The layer's output gradient (N, out).
    pub dy: &'a Buf,
    /// s = alpha / R.
    pub scale: f32,
}

/// dA += duᵀ·drop(x), dB += s·dyᵀ·u for each adapter.
///
/// # Errors
/// When a buffer is not where the others are, or the shapes disagree.
pub fn gradients(cx: &Cx, adapters: Vec<(Seen<'_>, Gradients<'_>)>) -> Result<()> {
    let masked = adapters.iter().any(|(seen, _)| seen.mask.is_some());
    if !masked {
        return unmasked(cx, adapters);
    }
    for (seen, gradients) in adapters {
        let dropped = seen.mask.map(|m| dropout::apply(cx, seen.x, m)).transpose()?;
        let seen = Seen { x: dropped.as_ref().unwrap_or(seen.x), mask: None, ..seen };
        unmasked(cx, vec![(seen, gradients)])?;
    }
    Ok(())
}

/// [`gradients`] without masks.
fn unmasked(cx: &Cx, adapters: Vec<(Seen<'_>, Gradients<'_>)>) -> Result<()> {
    adapters.iter().try_for_each(|(seen, _)| seen.check())?;
    match cx.gpu() {
        Some(gpu) => {
            adapters.into_iter().try_for_each(|(seen, to)| gradients_on_gpu(cx, gpu, seen, to))
        }
        None if cx.has_bf16_products() => in_bf16::gradients(cx, adapters),
        None => in_f32::gradients(cx, adapters),
    }
}

impl Seen<'_> {
    fn check(&self) -> Result<()> {
        let (n, r) = (self.x.rows(), self.u.cols());
        self.u.expect(&[n, r])?;
        self.du.expect(&[n, r])?;
        self.dy.expect(&[n, self.dy.cols()])
    }
}

/// dA and dB of an adapter on a device.
fn gradients_on_gpu(cx: &Cx, gpu: &OnGpu, seen: Seen<'_>, to: Gradients<'_>) -> Result<()> {
    let Gradients::Device(memory, [da, db]) = to else {
        bail!("gradients are not on the device of the input")
    };
    let Seen { x, u, du, dy, scale, .. } = seen;
    let (r, k, out) = (u.cols(), x.cols(), dy.cols());
    let [x, u, du, dy] = [x, u, du, dy].map(|x| cx.operand(x));
    let (x, u, du, dy) = (x?, u?, du?, dy?);
    let db = Matrix::new(memory, db, DType::F32, out, r)?;
    gpu.product(db, Add::Accumulate, scale, dy.matrix()?.t(), u.matrix()?)?;
    let da = Matrix::new(memory, da, DType::F32, r, k)?;
    gpu.product(da, Add::Accumulate, 1.0, du.matrix()?.t(), x.matrix()?)
}
