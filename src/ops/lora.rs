//! The inner side of a LoRA adapter, y += s·u·Bᵀ with u = drop(x)·Aᵀ. What is as wide as the layer, s·u·Bᵀ and drop(du·A), is
//! part of the layer's own products ([`super::linear`]).
//!
//! x: (N, in), A: (R, in), B: (out, R), u, du: (N, R), y: (N, out), in the compute dtype (A and B rounded to it where products run
//! in it) with gradients in f32. Backward: du = s·dy·B, dB += s·dyᵀ·u, dA += duᵀ·drop(x).
//!
//! Hu et al. 2021, arXiv:2106.09685 · PEFT 0.21 `tuners/lora/layer.py`

use super::bf16_gemm::{self, Product, Sink, Source, Stored, Term};
use super::dropout::{self, Mask};
use super::linear::Even;
use super::matmul::{Into, View, ViewMut, matmul};
use super::{Buf, Cx};
use crate::gpu::{Add, Matrix, Memory};
use candle_core::{DType, Result, bail};
use half::bf16;

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

/// u = drop(x)·Aᵀ as a new (N, R) buffer.
///
/// # Errors
/// When a buffer is not where the others are, or the shapes disagree.
pub fn forward(cx: &Cx, x: &Buf, f: Factors<'_>, mask: Option<&Mask>) -> Result<Buf> {
    let (n, k) = (x.rows(), x.cols());
    let dropped = mask.map(|m| dropout::apply(cx, x, m)).transpose()?;
    let x = dropped.as_ref().unwrap_or(x);
    if let Some(gpu) = cx.gpu() {
        let u = cx.alloc(&[n, f.r])?;
        gpu.product(u.matrix()?, Add::Overwrite, 1.0, x.matrix()?, f.a.matrix(f.r, k)?.t())?;
        return Ok(u);
    }
    if cx.has_bf16_products() {
        let mut u = cx.alloc(&[n, f.r])?;
        let x = Even::new(cx, x)?;
        let term = x.term(Source::rows(Stored::F32(f.a.host()?, 1.0), f.r, k))?;
        let sink = Sink::bf16(u.bf16_mut()?, None, None);
        bf16_gemm::run(cx, &[Product { rows: n, columns: f.r, terms: &[term], sink }])?;
        return Ok(u);
    }
    let (mut u, x) = (cx.alloc_f32(&[n, f.r])?, cx.wide(x)?);
    let a = View::new(f.a.host()?, f.r, k);
    matmul(
        ViewMut::new(u.f32_mut()?, n, f.r),
        Into::Overwrite,
        1.0,
        View::new(x.f32()?, n, k),
        a.t(),
    );
    cx.stored(u)
}

/// du = s·dy·B as a new (N, R) buffer.
///
/// # Errors
/// When a buffer is not where the others are, or the shapes disagree.
pub fn backward(cx: &Cx, dy: &Buf, f: Factors<'_>) -> Result<Buf> {
    let (n, out) = (dy.rows(), dy.cols());
    if let Some(gpu) = cx.gpu() {
        let (du, b) = (cx.alloc(&[n, f.r])?, f.b.matrix(out, f.r)?);
        gpu.product(du.matrix()?, Add::Overwrite, f.scale, dy.matrix()?, b)?;
        return Ok(du);
    }
    if cx.has_bf16_products() {
        let mut du = cx.alloc(&[n, f.r])?;
        let dy = Even::new(cx, dy)?;
        let term = dy.term(Source::columns(Stored::F32(f.b.host()?, f.scale), out, f.r))?;
        let sink = Sink::bf16(du.bf16_mut()?, None, None);
        bf16_gemm::run(cx, &[Product { rows: n, columns: f.r, terms: &[term], sink }])?;
        return Ok(du);
    }
    let (mut du, dy) = (cx.alloc_f32(&[n, f.r])?, cx.wide(dy)?);
    let (dyv, b) = (View::new(dy.f32()?, n, out), View::new(f.b.host()?, out, f.r));
    matmul(ViewMut::new(du.f32_mut()?, n, f.r), Into::Overwrite, f.scale, dyv, b);
    cx.stored(du)
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
}

/// dA += duᵀ·drop(x), dB += `scale`·dyᵀ·u.
///
/// # Errors
/// When a buffer is not where the others are, or the shapes disagree.
pub fn gradients(cx: &Cx, seen: Seen<'_>, scale: f32, gradients: Gradients<'_>) -> Result<()> {
    let Seen { x, mask, u, du, dy } = seen;
    let (n, r) = (x.rows(), u.cols());
    u.expect(&[n, r])?;
    du.expect(&[n, r])?;
    dy.expect(&[n, dy.cols()])?;
    let dropped = mask.map(|m| dropout::apply(cx, x, m)).transpose()?;
    let x = dropped.as_ref().unwrap_or(x);
    match gradients {
        Gradients::Host(da, db) if cx.has_bf16_products() => {
            in_bf16(cx, [x, u, du, dy], scale, [da, db])
        }
        Gradients::Host(da, db) => {
            let (k, out) = (x.cols(), dy.cols());
            let (x, u, du, dy) = (cx.wide(x)?, cx.wide(u)?, cx.wide(du)?, cx.wide(dy)?);
            let (dyv, uv) = (View::new(dy.f32()?, n, out), View::new(u.f32()?, n, r));
            matmul(ViewMut::new(db, out, r), Into::Add, scale, dyv.t(), uv);
            let (duv, xv) = (View::new(du.f32()?, n, r), View::new(x.f32()?, n, k));
            matmul(ViewMut::new(da, r, k), Into::Add, 1.0, duv.t(), xv);
            Ok(())
        }
        Gradients::Device(memory, [da, db]) => {
            let Some(gpu) = cx.gpu() else { bail!("gradients are on a device, the input is not") };
            let db = Matrix::new(memory, db, DType::F32, dy.cols(), r)?;
            gpu.product(db, Add::Accumulate, scale, dy.matrix()?.t(), u.matrix()?)?;
            let da = Matrix::new(memory, da, DType::F32, r, x.cols())?;
            gpu.product(da, Add::Accumulate, 1.0, du.matrix()?.t(), x.matrix()?)
        }
    }
}

/// Sums over tokens: the transposed small factor against the wide activations, as they lie.
fn in_bf16(
    cx: &Cx,
    [x, u, du, dy]: [&Buf; 4],
    scale: f32,
    [da, db]: [&mut [f32]; 2],
) -> Result<()> {
    let (n, r, k, out) = (x.rows(), u.cols(), x.cols(), dy.cols());
    let (ut, dut) = (transposed(cx, u)?, transposed(cx, du)?);
    let stride = n.next_multiple_of(2);
    let dy = Source::columns(Stored::Bf16(dy.bf16()?), n, out);
    let x = Source::columns(Stored::Bf16(x.bf16()?), n, k);
    let products = [
        Product {
            rows: r,
            columns: out,
            terms: &[Term { x: ut.bf16()?, stride, source: dy }],
            sink: Sink::transposed(db, scale),
        },
        Product {
            rows: r,
            columns: k,
            terms: &[Term { x: dut.bf16()?, stride, source: x }],
            sink: Sink::f32(da, true, 1.0),
        },
    ];
    bf16_gemm::run(cx, &products)
}

/// uᵀ (R, N) in rows of an even length.
fn transposed(cx: &Cx, u: &Buf) -> Result<Buf> {
    let (n, r) = (u.rows(), u.cols());
    let stride = n.next_multiple_of(2);
    let mut out = cx.alloc(&[stride, r])?; // (R, stride) in truth: rows count tokens for the pool
    let (to, from) = (out.bf16_mut()?, u.bf16()?);
    for (j, to) in to.chunks_mut(stride).enumerate() {
        to[n..].fill(bf16::ZERO);
        to.iter_mut().zip(from[j..].iter().step_by(r)).for_each(|(to, from)| *to = *from);
    }
    Ok(out)
}
