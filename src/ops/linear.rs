//! Linear layer with a frozen weight: y = x·Wᵀ + b + s·u·Bᵀ + residual, and the input gradient dx = Σ dyᵢ·Wᵢ + duᵢ·Aᵢ.
//!
//! x: (N, in), W: (out, in), b: (out), u, du: (N, R), y, residual: (N, out); W may be stored narrower (see [`Weight`]). A frozen
//! weight gets no gradient. u and du are those of [`super::lora`]. Where products run in bf16 all summands are one pass
//! ([`super::bf16_gemm`]) and are rounded once; adapters behind a mask are added to dx after it, rounded each time.

use super::bf16_gemm::{self, Product, Sink, Source, Stored, Term};
use super::dropout::{self, Mask};
use super::lora::Factors;
use super::matmul::{Into, View, ViewMut, matmul};
use super::{Buf, Cx, Vector, Weight, rows};
use crate::gpu::{Add, Arg};
use candle_core::{DType, Result, bail};
use half::bf16;
use rayon::prelude::*;

/// What is added to x·Wᵀ.
#[derive(Clone, Copy, Default)]
pub struct Plus<'a> {
    /// The bias (out).
    pub bias: Option<&'a Vector>,
    /// An adapter's u (N, R) and its factors.
    pub low_rank: Option<(&'a Buf, Factors<'a>)>,
    /// The residual stream (N, out).
    pub residual: Option<&'a Buf>,
}

/// y as a new (N, out) buffer.
///
/// # Errors
/// When the shapes disagree.
pub fn forward(cx: &Cx, x: &Buf, w: &Weight, plus: Plus<'_>) -> Result<Buf> {
    let shape = [x.rows(), w.rows()];
    if cx.gpu().is_some() || is_bf16(cx, w) {
        let y = cx.alloc(&shape)?;
        return into(cx, x, w, plus, y);
    }
    let y = into(cx, x, w, plus, cx.alloc_f32(&shape)?)?;
    cx.stored(y)
}

/// The y of several layers that share an input: in bf16 all at once.
///
/// # Errors
/// When the shapes disagree.
pub fn forward_all(cx: &Cx, x: &Buf, layers: &[(&Weight, Plus<'_>)]) -> Result<Vec<Buf>> {
    if layers.len() < 2 || !layers.iter().all(|(w, _)| is_bf16(cx, w)) {
        return layers.iter().map(|(w, plus)| forward(cx, x, w, *plus)).collect();
    }
    let mut ys = Vec::with_capacity(layers.len());
    for (w, plus) in layers {
        check(x, w, *plus)?;
        ys.push(cx.alloc(&[x.rows(), w.rows()])?);
    }
    let x = Even::new(cx, x)?;
    let us = layers
        .iter()
        .map(|(_, plus)| plus.low_rank.map(|(u, _)| Even::new(cx, u)).transpose())
        .collect::<Result<Vec<_>>>()?;
    let terms = layers
        .iter()
        .zip(&us)
        .map(|((w, plus), u)| terms(&x, w, *plus, u.as_ref()))
        .collect::<Result<Vec<_>>>()?;
    let products = layers
        .iter()
        .zip(&mut ys)
        .zip(&terms)
        .map(|(((w, plus), y), terms)| {
            Ok(Product { rows: y.rows(), columns: w.rows(), terms, sink: sink(y, *plus)? })
        })
        .collect::<Result<Vec<_>>>()?;
    bf16_gemm::run(cx, &products)?;
    drop(products);
    Ok(ys)
}

/// As [`forward`], with y in f32 whatever the compute dtype is, and with room for `rows` rows: for chunks of logits.
///
/// # Errors
/// As [`forward`].
pub fn forward_f32(cx: &Cx, x: &Buf, w: &Weight, plus: Plus<'_>, rows: usize) -> Result<Buf> {
    let y = cx.alloc_f32_rows(&[x.rows(), w.rows()], rows)?;
    into(cx, x, w, plus, y)
}

fn check(x: &Buf, w: &Weight, plus: Plus<'_>) -> Result<()> {
    let (n, out) = (x.rows(), w.rows());
    if x.cols() != w.cols() {
        bail!("linear: x has {} columns, the weight wants {}", x.cols(), w.cols());
    }
    if plus.bias.is_some_and(|b| b.len() != out) {
        bail!("linear: the bias does not fit {out} outputs");
    }
    if let Some(r) = plus.residual {
        r.expect(&[n, out])?;
    }
    if let Some((u, f)) = plus.low_rank {
        u.expect(&[n, f.r])?;
    }
    Ok(())
}

fn into(cx: &Cx, x: &Buf, w: &Weight, plus: Plus<'_>, mut y: Buf) -> Result<Buf> {
    check(x, w, plus)?;
    if cx.gpu().is_some() {
        on_gpu(cx, x, w, plus, &mut y)?;
    } else if is_bf16(cx, w) {
        in_bf16(cx, x, w, plus, &mut y)?;
    } else {
        in_f32(cx, x, w, plus, &mut y)?;
    }
    Ok(y)
}

/// Whether the product runs in bf16: the context and the weight have it.
fn is_bf16(cx: &Cx, w: &Weight) -> bool {
    cx.has_bf16_products() && w.stored().is_some()
}

fn on_gpu(cx: &Cx, x: &Buf, w: &Weight, plus: Plus<'_>, y: &mut Buf) -> Result<()> {
    let Some(gpu) = cx.gpu() else { bail!("linear: not on a device") };
    let (n, out) = (x.rows(), w.rows());
    let values = w.on_gpu(cx)?;
    gpu.product(y.matrix()?, Add::Overwrite, 1.0, x.matrix()?, values.matrix()?.t())?;
    if let Some(b) = plus.bias {
        if y.dtype() != cx.compute() {
            bail!("linear: a bias on logits in f32 is not supported");
        }
        let args = [y.arg()?, b.arg()?, Arg::U64(n as u64), Arg::I32(out as i32)];
        // SAFETY: add_bias(T *y, const float *b, u64 n, int c), y of n rows of c = |b|.
        unsafe { gpu.each("add_bias", n * out, &args) }?;
    }
    if let Some((u, f)) = plus.low_rank {
        let b = f.b.matrix(out, f.r)?;
        gpu.product(y.matrix()?, Add::Accumulate, f.scale, u.matrix()?, b.t())?;
    }
    match plus.residual {
        Some(r) => rows::add(cx, y, r),
        None => Ok(()),
    }
}

fn in_bf16(cx: &Cx, x: &Buf, w: &Weight, plus: Plus<'_>, y: &mut Buf) -> Result<()> {
    let u = plus.low_rank.map(|(u, _)| Even::new(cx, u)).transpose()?;
    let (rows, x) = (x.rows(), Even::new(cx, x)?);
    let terms = terms(&x, w, plus, u.as_ref())?;
    let sink = sink(y, plus)?;
    bf16_gemm::run(cx, &[Product { rows, columns: w.rows(), terms: &terms, sink }])
}

/// x·Wᵀ and s·u·Bᵀ.
fn terms<'a>(
    x: &'a Even<'_>,
    w: &'a Weight,
    plus: Plus<'a>,
    u: Option<&'a Even<'_>>,
) -> Result<Vec<Term<'a>>> {
    let Some(stored) = w.stored() else { bail!("linear: {w:?} is not bf16") };
    let mut terms = vec![x.term(Source::rows(stored, w.rows(), w.cols()))?];
    if let (Some(u), Some((_, f))) = (u, plus.low_rank) {
        terms.push(u.term(Source::rows(Stored::F32(f.b.host()?, f.scale), w.rows(), f.r))?);
    }
    Ok(terms)
}

fn sink<'a>(y: &'a mut Buf, plus: Plus<'a>) -> Result<Sink<'a>> {
    let bias = plus.bias.map(|b| &b[..]);
    let residual = plus.residual.map(|r| r.bf16()).transpose()?;
    match y.dtype() {
        DType::BF16 => Ok(Sink::bf16(y.bf16_mut()?, bias, residual)),
        _ if bias.is_none() && residual.is_none() => Ok(Sink::f32(y.f32_mut()?, false, 1.0)),
        _ => bail!("linear: a bias or a residual on logits in f32 is not supported"),
    }
}

fn in_f32(cx: &Cx, x: &Buf, w: &Weight, plus: Plus<'_>, y: &mut Buf) -> Result<()> {
    let (n, k, out) = (x.rows(), w.cols(), w.rows());
    let x = cx.wide(x)?;
    let xv = View::new(x.f32()?, n, k);
    let ys = y.f32_mut()?;
    w.for_row_blocks(cx, |r0, rows, values| {
        let c = ViewMut::strided(&mut ys[r0.min(n * out)..], n, rows, out);
        matmul(c, Into::Overwrite, 1.0, xv, View::new(values, rows, k).t());
        Ok(())
    })?;
    if let Some((u, f)) = plus.low_rank {
        let (u, b) = (cx.wide(u)?, View::new(f.b.host()?, out, f.r));
        matmul(ViewMut::new(ys, n, out), Into::Add, f.scale, View::new(u.f32()?, n, f.r), b.t());
    }
    if let Some(b) = plus.bias {
        ys.par_chunks_mut(out).for_each(|y| y.iter_mut().zip(b.iter()).for_each(|(y, b)| *y += b));
    }
    if let Some(r) = plus.residual {
        let r = cx.wide(r)?;
        let chunks = ys.par_chunks_mut(1 << 14).zip(r.f32()?.par_chunks(1 << 14));
        chunks.for_each(|(y, r)| y.iter_mut().zip(r).for_each(|(y, r)| *y += r));
    }
    Ok(())
}

/// One output of a linear layer on its way back.
#[derive(Clone, Copy)]
pub struct Back<'a> {
    /// The output's gradient (N, out).
    pub dy: &'a Buf,
    /// W (out, in).
    pub weight: &'a Weight,
    /// An adapter's du (N, R), its factors and the mask on its input.
    pub low_rank: Option<(&'a Buf, Factors<'a>, Option<&'a Mask<'a>>)>,
}

/// dx (N, in) of an input that several layers share.
///
/// # Errors
/// When the shapes disagree.
pub fn backward(cx: &Cx, parts: &[Back<'_>]) -> Result<Buf> {
    let Some(first) = parts.first() else { bail!("linear backward: no output") };
    let (n, k) = (first.dy.rows(), first.weight.cols());
    for p in parts {
        if p.dy.shape() != [n, p.weight.rows()] || p.weight.cols() != k {
            bail!("linear backward: dy {:?}, weight {:?}", p.dy.shape(), p.weight);
        }
        if let Some((du, f, _)) = p.low_rank {
            du.expect(&[n, f.r])?;
        }
    }
    let mut dx = if cx.gpu().is_some() {
        back_on_gpu(cx, parts, [n, k])?
    } else if parts.iter().all(|p| is_bf16(cx, p.weight)) {
        back_in_bf16(cx, parts, [n, k])?
    } else {
        let dx = back_in_f32(cx, parts, [n, k])?;
        cx.stored(dx)?
    };
    for (du, f, mask) in parts.iter().filter_map(|p| p.low_rank) {
        if let Some(mask) = mask {
            let passed = through(cx, du, f, [n, k])?;
            dropout::add_masked(cx, &passed, mask, &mut dx)?;
        }
    }
    Ok(dx)
}

/// The adapters whose input is not masked: their share is part of the sum.
fn unmasked<'a>(parts: &'a [Back<'a>]) -> impl Iterator<Item = (&'a Buf, Factors<'a>)> {
    parts.iter().filter_map(|p| p.low_rank).filter(|l| l.2.is_none()).map(|(du, f, _)| (du, f))
}

fn back_on_gpu(cx: &Cx, parts: &[Back<'_>], [n, k]: [usize; 2]) -> Result<Buf> {
    let Some(gpu) = cx.gpu() else { bail!("linear backward: not on a device") };
    let dx = cx.alloc(&[n, k])?;
    let mut add = Add::Overwrite;
    for p in parts {
        let w = p.weight.on_gpu(cx)?;
        gpu.product(dx.matrix()?, add, 1.0, p.dy.matrix()?, w.matrix()?)?;
        add = Add::Accumulate;
    }
    for (du, f) in unmasked(parts) {
        gpu.product(dx.matrix()?, add, 1.0, du.matrix()?, f.a.matrix(f.r, k)?)?;
    }
    Ok(dx)
}

fn back_in_bf16(cx: &Cx, parts: &[Back<'_>], [n, k]: [usize; 2]) -> Result<Buf> {
    let mut dx = cx.alloc(&[n, k])?;
    let mut operands = Vec::with_capacity(2 * parts.len());
    for p in parts {
        let Some(stored) = p.weight.stored() else { bail!("linear: {:?} is not bf16", p.weight) };
        operands.push((Even::new(cx, p.dy)?, Source::columns(stored, p.weight.rows(), k)));
    }
    for (du, f) in unmasked(parts) {
        let a = Source::columns(Stored::F32(f.a.host()?, 1.0), f.r, k);
        operands.push((Even::new(cx, du)?, a));
    }
    let terms: Vec<_> = operands.iter().map(|(x, s)| x.term(*s)).collect::<Result<_>>()?;
    let sink = Sink::bf16(dx.bf16_mut()?, None, None);
    bf16_gemm::run(cx, &[Product { rows: n, columns: k, terms: &terms, sink }])?;
    Ok(dx)
}

fn back_in_f32(cx: &Cx, parts: &[Back<'_>], [n, k]: [usize; 2]) -> Result<Buf> {
    let mut dx = cx.alloc_f32(&[n, k])?;
    let mut into = Into::Overwrite;
    for p in parts {
        let (out, dy) = (p.weight.rows(), cx.wide(p.dy)?);
        let (dys, dxs) = (dy.f32()?, dx.f32_mut()?);
        p.weight.for_row_blocks(cx, |r0, rows, values| {
            let dyv = View::strided(&dys[r0.min(n * out)..], n, rows, out);
            matmul(ViewMut::new(dxs, n, k), into, 1.0, dyv, View::new(values, rows, k));
            into = Into::Add;
            Ok(())
        })?;
    }
    for (du, f) in unmasked(parts) {
        let (du, a) = (cx.wide(du)?, View::new(f.a.host()?, f.r, k));
        matmul(ViewMut::new(dx.f32_mut()?, n, k), into, 1.0, View::new(du.f32()?, n, f.r), a);
    }
    Ok(dx)
}

/// du·A as a new (N, in) buffer.
fn through(cx: &Cx, du: &Buf, f: Factors<'_>, [n, k]: [usize; 2]) -> Result<Buf> {
    if let Some(gpu) = cx.gpu() {
        let to = cx.alloc(&[n, k])?;
        gpu.product(to.matrix()?, Add::Overwrite, 1.0, du.matrix()?, f.a.matrix(f.r, k)?)?;
        return Ok(to);
    }
    if cx.has_bf16_products() {
        let mut to = cx.alloc(&[n, k])?;
        let du = Even::new(cx, du)?;
        let term = du.term(Source::columns(Stored::F32(f.a.host()?, 1.0), f.r, k))?;
        let sink = Sink::bf16(to.bf16_mut()?, None, None);
        bf16_gemm::run(cx, &[Product { rows: n, columns: k, terms: &[term], sink }])?;
        return Ok(to);
    }
    let (mut to, du) = (cx.alloc_f32(&[n, k])?, cx.wide(du)?);
    let a = View::new(f.a.host()?, f.r, k);
    matmul(
        ViewMut::new(to.f32_mut()?, n, k),
        Into::Overwrite,
        1.0,
        View::new(du.f32()?, n, f.r),
        a,
    );
    cx.stored(to)
}

/// bf16 rows of an even number of columns, as the kernel reads them: a buffer as it is, or a copy with a column of zeros.
pub(super) struct Even<'a> {
    x: &'a Buf,
    padded: Option<Buf>,
}

impl<'a> Even<'a> {
    pub(super) fn new(cx: &Cx, x: &'a Buf) -> Result<Self> {
        let (n, k) = (x.rows(), x.cols());
        if k.is_multiple_of(2) {
            return Ok(Self { x, padded: None });
        }
        let mut padded = cx.alloc(&[n, k + 1])?;
        for (to, from) in padded.bf16_mut()?.chunks_mut(k + 1).zip(x.bf16()?.chunks(k)) {
            to[..k].copy_from_slice(from);
            to[k] = bf16::ZERO;
        }
        Ok(Self { x, padded: Some(padded) })
    }

    pub(super) fn term<'b>(&'b self, source: Source<'b>) -> Result<Term<'b>> {
        let x = self.padded.as_ref().unwrap_or(self.x);
        if source.inner() != self.x.cols() {
            bail!("linear: {} columns against {}", self.x.cols(), source.inner());
        }
        Ok(Term { x: x.bf16()?, stride: x.cols(), source })
    }
}
