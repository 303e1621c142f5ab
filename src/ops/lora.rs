//! The inner side of a LoRA adapter, y += s·u·Bᵀ with u = drop(x)·Aᵀ. What is as wide as the layer, s·u·Bᵀ and drop(du·A), is
//! part of the layer's own products ([`super::linear`]).
//!
//! x: (N, in), A: (R, in), B: (out, R), u, du: (N, R), y: (N, out); u and du are operands of products, as what they are made of
//! ([`super::operand`]), gradients are f32. Backward: du = s·dy·B, dB += s·dyᵀ·u, dA += duᵀ·drop(x).
//!
//! Hu et al. 2021, arXiv:2106.09685 · PEFT 0.21 `tuners/lora/layer.py`

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::bf16_gemm::{self, Product, Sink, Source, Stored, Term};
use super::dropout::{self, Mask};
use super::linear::Even;
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
    let (n, k) = (x.rows(), x.cols());
    let mut us = Vec::with_capacity(adapters.len());
    let unmasked = adapters.iter().all(|(_, mask)| mask.is_none());
    if cx.has_bf16_products() && unmasked {
        let x = Even::new(cx, x)?;
        let terms = adapters
            .iter()
            .map(|(f, _)| x.term(Source::rows(Stored::F32(f.a.host()?, 1.0), f.r, k)).map(|t| [t]))
            .collect::<Result<Vec<_>>>()?;
        for (f, _) in adapters {
            us.push(cx.alloc_operand(&[n, f.r])?);
        }
        into_bf16(cx, &mut us, &terms)?;
        return Ok(us);
    }
    for (f, mask) in adapters {
        let dropped = mask.map(|m| dropout::apply(cx, x, m)).transpose()?;
        let x = dropped.as_ref().unwrap_or(x);
        us.push(match mask {
            Some(_) if cx.has_bf16_products() => forward(cx, x, &[(*f, None)])?.remove(0),
            _ => reduce(cx, x, *f)?,
        });
    }
    Ok(us)
}

/// x·Aᵀ on a device or in f32.
fn reduce(cx: &Cx, x: &Buf, f: Factors<'_>) -> Result<Buf> {
    let (n, k) = (x.rows(), x.cols());
    if let Some(gpu) = cx.gpu() {
        let (u, x) = (cx.alloc_operand(&[n, f.r])?, cx.operand(x)?);
        gpu.product(u.matrix()?, Add::Overwrite, 1.0, x.matrix()?, f.a.matrix(f.r, k)?.t())?;
        return Ok(u);
    }
    let (mut u, x) = (cx.alloc_f32(&[n, f.r])?, cx.wide_operand(x)?);
    let (a, _) = cx.factor(f.a, [f.r, k], 1.0)?;
    let (a, xv) = (View::new(a.f32()?, f.r, k), View::new(x.f32()?, n, k));
    matmul(ViewMut::new(u.f32_mut()?, n, f.r), Into::Overwrite, 1.0, xv, a.t());
    cx.into_operand(u)
}

/// Products of one term each into narrow bf16 buffers, all at once.
fn into_bf16(cx: &Cx, to: &mut [Buf], terms: &[[Term<'_>; 1]]) -> Result<()> {
    let products = to
        .iter_mut()
        .zip(terms)
        .map(|(to, terms)| {
            let (rows, columns) = (to.rows(), to.cols());
            Ok(Product { rows, columns, terms, sink: Sink::bf16(to.bf16_mut()?, None, None) })
        })
        .collect::<Result<Vec<_>>>()?;
    bf16_gemm::run(cx, &products)
}

/// du = s·dy·B as a new (N, R) buffer, for each output gradient.
///
/// # Errors
/// When a buffer is not where the others are, or the shapes disagree.
pub fn backward(cx: &Cx, outputs: &[(&Buf, Factors<'_>)]) -> Result<Vec<Buf>> {
    if cx.has_bf16_products() {
        let dys = outputs.iter().map(|(dy, _)| Even::new(cx, dy)).collect::<Result<Vec<_>>>()?;
        let mut terms = Vec::with_capacity(outputs.len());
        for (dy, (of, f)) in dys.iter().zip(outputs) {
            let b = Source::columns(Stored::F32(f.b.host()?, f.scale), of.cols(), f.r);
            terms.push([dy.term(b)?]);
        }
        let mut dus = Vec::with_capacity(outputs.len());
        for (dy, f) in outputs {
            dus.push(cx.alloc_operand(&[dy.rows(), f.r])?);
        }
        into_bf16(cx, &mut dus, &terms)?;
        return Ok(dus);
    }
    outputs.iter().map(|(dy, f)| expand_back(cx, dy, *f)).collect()
}

/// s·dy·B on a device or in f32.
fn expand_back(cx: &Cx, dy: &Buf, f: Factors<'_>) -> Result<Buf> {
    let (n, out) = (dy.rows(), dy.cols());
    if let Some(gpu) = cx.gpu() {
        let (du, dy) = (cx.alloc_operand(&[n, f.r])?, cx.operand(dy)?);
        let b = f.b.matrix(out, f.r)?;
        gpu.product(du.matrix()?, Add::Overwrite, f.scale, dy.matrix()?, b)?;
        return Ok(du);
    }
    let (mut du, dy) = (cx.alloc_f32(&[n, f.r])?, cx.wide_operand(dy)?);
    let (b, scale) = cx.factor(f.b, [out, f.r], f.scale)?;
    let (dyv, b) = (View::new(dy.f32()?, n, out), View::new(b.f32()?, out, f.r));
    matmul(ViewMut::new(du.f32_mut()?, n, f.r), Into::Overwrite, scale, dyv, b);
    cx.into_operand(du)
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
    if cx.has_bf16_products() && !masked {
        return in_bf16(cx, adapters);
    }
    for (seen, gradients) in adapters {
        let dropped = seen.mask.map(|m| dropout::apply(cx, seen.x, m)).transpose()?;
        let seen = Seen { x: dropped.as_ref().unwrap_or(seen.x), mask: None, ..seen };
        if cx.has_bf16_products() {
            in_bf16(cx, vec![(seen, gradients)])?;
        } else {
            wide(cx, seen, gradients)?;
        }
    }
    Ok(())
}

impl Seen<'_> {
    fn check(&self) -> Result<()> {
        let (n, r) = (self.x.rows(), self.u.cols());
        self.u.expect(&[n, r])?;
        self.du.expect(&[n, r])?;
        self.dy.expect(&[n, self.dy.cols()])
    }
}

/// On a device or in f32.
fn wide(cx: &Cx, seen: Seen<'_>, gradients: Gradients<'_>) -> Result<()> {
    seen.check()?;
    let Seen { x, u, du, dy, scale, .. } = seen;
    let (n, r, k, out) = (x.rows(), u.cols(), x.cols(), dy.cols());
    match gradients {
        Gradients::Host(da, db) => {
            let [x, u, du, dy] = [x, u, du, dy].map(|x| cx.wide_operand(x));
            let (x, u, du, dy) = (x?, u?, du?, dy?);
            let (dyv, uv) = (View::new(dy.f32()?, n, out), View::new(u.f32()?, n, r));
            matmul(ViewMut::new(db, out, r), Into::Add, scale, dyv.t(), uv);
            let (duv, xv) = (View::new(du.f32()?, n, r), View::new(x.f32()?, n, k));
            matmul(ViewMut::new(da, r, k), Into::Add, 1.0, duv.t(), xv);
            Ok(())
        }
        Gradients::Device(memory, [da, db]) => {
            let Some(gpu) = cx.gpu() else { bail!("gradients are on a device, the input is not") };
            let [x, u, du, dy] = [x, u, du, dy].map(|x| cx.operand(x));
            let (x, u, du, dy) = (x?, u?, du?, dy?);
            let db = Matrix::new(memory, db, DType::F32, out, r)?;
            gpu.product(db, Add::Accumulate, scale, dy.matrix()?.t(), u.matrix()?)?;
            let da = Matrix::new(memory, da, DType::F32, r, k)?;
            gpu.product(da, Add::Accumulate, 1.0, du.matrix()?.t(), x.matrix()?)
        }
    }
}

/// Sums over tokens: the transposed small factor against the wide activations, as they lie.
fn in_bf16(cx: &Cx, adapters: Vec<(Seen<'_>, Gradients<'_>)>) -> Result<()> {
    let (mut small, mut wide) = (Vec::new(), Vec::new());
    for (seen, _) in &adapters {
        seen.check()?;
        small.push([transposed(cx, seen.u)?, transposed(cx, seen.du)?]);
        wide.push([cx.operand(seen.dy)?, cx.operand(seen.x)?]);
    }
    let terms = small
        .iter()
        .zip(&wide)
        .map(|([ut, dut], [dy, x])| {
            let n = x.rows();
            let stride = n.next_multiple_of(2);
            let dy = Source::columns(Stored::Bf16(dy.bf16()?), n, dy.cols());
            let x = Source::columns(Stored::Bf16(x.bf16()?), n, x.cols());
            let dy = [Term { x: ut.bf16()?, stride, source: dy }];
            Ok([dy, [Term { x: dut.bf16()?, stride, source: x }]])
        })
        .collect::<Result<Vec<_>>>()?;
    let mut products = Vec::with_capacity(2 * adapters.len());
    for ((seen, gradients), [dy, x]) in adapters.into_iter().zip(&terms) {
        let Gradients::Host(da, db) = gradients else { bail!("gradients are on a device") };
        let (rows, sink) = (seen.u.cols(), Sink::transposed(db, seen.scale));
        products.push(Product { rows, columns: seen.dy.cols(), terms: dy, sink });
        let sink = Sink::f32(da, true, 1.0);
        products.push(Product { rows, columns: seen.x.cols(), terms: x, sink });
    }
    bf16_gemm::run(cx, &products)
}

/// uᵀ (R, N) in rows of an even length, where products run in bf16.
fn transposed(cx: &Cx, u: &Buf) -> Result<Buf> {
    let (n, r, u) = (u.rows(), u.cols(), cx.operand(u)?);
    let mut out = cx.alloc_operand(&[n.next_multiple_of(2), r])?; // (R, stride) in truth: rows count tokens for the pool
    let (to, from) = (out.bf16_mut()?, u.bf16()?);
    #[cfg(target_arch = "x86_64")]
    if cx.has_bf16_products() {
        // SAFETY: a context has bf16 products only where the processor has the instructions.
        unsafe { avx512::transpose_narrow(to, from, r) };
        return Ok(out);
    }
    bail!("{} values of a low rank and {} of its transpose: no bf16 here", from.len(), to.len());
}
