//! Linear layer with a frozen weight: y = x·Wᵀ + b + s·u·Bᵀ + residual, and the input gradient dx = Σ dyᵢ·Wᵢ + duᵢ·Aᵢ.
//!
//! x: (N, in), W: (out, in), b: (out), u, du: (N, R), y, residual: (N, out); W may be stored narrower (see [`Weight`]). A frozen
//! weight gets no gradient. u and du are those of [`super::lora`]. Where weights are multiplied as they
//! lie, all summands of more than a few rows are one pass ([`super::bf16_gemm`], [`super::matmul`]); they are rounded at most once, when they are
//! stored; adapters behind a mask are added to dx after it.
//! What products multiply is rounded to their dtype ([`super::operand`]).

mod backward;
mod even;
mod in_f32;

use super::bf16_gemm::{self, Product, Sink, Source, Stored, Term};
use super::lora::Factors;
use super::{Buf, Cx, Vector, Weight};
use crate::gpu::{Add, Arg};
use candle_core::{DType, Result, bail};

use backward::unmasked;
pub use backward::{Back, backward};
pub(super) use even::Even;

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

/// The y of several layers that share an input: in bf16, and where nothing but f32 is about, all at once.
///
/// # Errors
/// When the shapes disagree.
pub fn forward_all(cx: &Cx, x: &Buf, layers: &[(&Weight, Plus<'_>)]) -> Result<Vec<Buf>> {
    let bf16 = layers.iter().all(|(w, _)| is_bf16(cx, w));
    if cx.gpu().is_some() || !(bf16 || cx.is_all_f32()) {
        return layers.iter().map(|(w, plus)| forward(cx, x, w, *plus)).collect();
    }
    let mut ys = Vec::with_capacity(layers.len());
    for (w, plus) in layers {
        check(x, w, *plus)?;
        ys.push(cx.alloc(&[x.rows(), w.rows()])?);
    }
    if bf16 {
        in_bf16(cx, x, layers, &mut ys)?;
    } else {
        in_f32::forward(cx, x, layers, &mut ys)?;
    }
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
        in_bf16(cx, x, &[(w, plus)], std::slice::from_mut(&mut y))?;
    } else {
        in_f32::forward(cx, x, &[(w, plus)], std::slice::from_mut(&mut y))?;
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
    // A residual lies in y before the product is added to it in f32: in 16 bits one rounding less than a sum of its own.
    let add = match plus.residual {
        Some(r) if r.dtype() != y.dtype() => bail!("linear: a residual of {:?}", r.dtype()),
        Some(r) => {
            y.memory()?.copy(0, r.memory()?, 0, r.len() * r.dtype().size_in_bytes())?;
            Add::Accumulate
        }
        None => Add::Overwrite,
    };
    let values = w.on_gpu(cx)?;
    let x = cx.operand(x)?;
    gpu.product(y.matrix()?, add, 1.0, x.matrix()?, values.matrix()?.t())?;
    if let Some(b) = plus.bias {
        if y.dtype() != cx.compute() {
            bail!("linear: a bias on logits in f32 is not supported");
        }
        let args = [y.arg()?, b.arg()?, Arg::U64(n as u64), Arg::I32(out as i32)];
        // SAFETY: add_bias(T *y, const float *b, u64 n, int c), y of n rows of c = |b|.
        unsafe { gpu.each("add_bias", n * out, &args) }?;
    }
    if let Some((u, f)) = plus.low_rank {
        let (b, u) = (f.b.matrix(out, f.r)?, cx.operand(u)?);
        gpu.product(y.matrix()?, Add::Accumulate, f.scale, u.matrix()?, b.t())?;
    }
    Ok(())
}

fn in_bf16(cx: &Cx, x: &Buf, layers: &[(&Weight, Plus<'_>)], ys: &mut [Buf]) -> Result<()> {
    let (rows, x) = (x.rows(), Even::new(cx, x)?);
    let mut us = Vec::with_capacity(layers.len());
    for (_, plus) in layers {
        us.push(plus.low_rank.map(|(u, _)| Even::new(cx, u)).transpose()?);
    }
    let mut all = Vec::with_capacity(layers.len());
    for ((w, plus), u) in layers.iter().zip(&us) {
        all.push(terms(&x, w, *plus, u.as_ref())?);
    }
    let mut products = Vec::with_capacity(layers.len());
    for (((w, plus), y), terms) in layers.iter().zip(ys).zip(&all) {
        products.push(Product { rows, columns: w.rows(), terms, sink: sink(y, *plus)? });
    }
    bf16_gemm::run(cx, &products)
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
    let (bias, residual) = (plus.bias.map(|b| &b[..]), plus.residual);
    Ok(match y.dtype() {
        DType::BF16 => Sink::bf16(y.bf16_mut()?, bias, residual.map(Buf::bf16).transpose()?),
        _ => Sink::wide(y.f32_mut()?, bias, residual.map(Buf::f32).transpose()?),
    })
}
