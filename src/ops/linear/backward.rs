//! The input gradient of layers that share an input.

use super::{Even, Plus, in_f32, is_bf16};
use crate::gpu::Add;
use crate::ops::bf16_gemm::{self, Product, Source, Stored};
use crate::ops::dropout::{self, Mask};
use crate::ops::lora::Factors;
use crate::ops::matmul::{Into, View, ViewMut, matmul};
use crate::ops::{Buf, Cx, Weight};
use candle_core::{Result, bail};

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
        let dx = in_f32::backward(cx, parts, [n, k])?;
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
pub(super) fn unmasked<'a>(parts: &'a [Back<'a>]) -> impl Iterator<Item = (&'a Buf, Factors<'a>)> {
    parts.iter().filter_map(|p| p.low_rank).filter(|l| l.2.is_none()).map(|(du, f, _)| (du, f))
}

fn back_on_gpu(cx: &Cx, parts: &[Back<'_>], [n, k]: [usize; 2]) -> Result<Buf> {
    let Some(gpu) = cx.gpu() else { bail!("linear backward: not on a device") };
    let dx = cx.alloc(&[n, k])?;
    let mut add = Add::Overwrite;
    for p in parts {
        let w = p.weight.on_gpu(cx)?;
        let dy = cx.operand(p.dy)?;
        gpu.product(dx.matrix()?, add, 1.0, dy.matrix()?, w.matrix()?)?;
        add = Add::Accumulate;
    }
    for (du, f) in unmasked(parts) {
        let du = cx.operand(du)?;
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
    let sink = super::sink(&mut dx, Plus::default())?;
    bf16_gemm::run(cx, &[Product { rows: n, columns: k, terms: &terms, sink }])?;
    Ok(dx)
}

/// du·A as a new (N, in) buffer.
fn through(cx: &Cx, du: &Buf, f: Factors<'_>, [n, k]: [usize; 2]) -> Result<Buf> {
    if let Some(gpu) = cx.gpu() {
        let (to, du) = (cx.alloc(&[n, k])?, cx.operand(du)?);
        gpu.product(to.matrix()?, Add::Overwrite, 1.0, du.matrix()?, f.a.matrix(f.r, k)?)?;
        return Ok(to);
    }
    if cx.has_bf16_products() {
        let mut to = cx.alloc(&[n, k])?;
        let du = Even::new(cx, du)?;
        let term = du.term(Source::columns(Stored::F32(f.a.host()?, 1.0), f.r, k))?;
        let sink = super::sink(&mut to, Plus::default())?;
        bf16_gemm::run(cx, &[Product { rows: n, columns: k, terms: &[term], sink }])?;
        return Ok(to);
    }
    let (mut to, du) = (cx.alloc_f32(&[n, k])?, cx.wide_operand(du)?);
    let (a, _) = cx.factor(f.a, [f.r, k], 1.0)?;
    let (du, a) = (View::new(du.f32()?, n, f.r), View::new(a.f32()?, f.r, k));
    matmul(ViewMut::new(to.f32_mut()?, n, k), Into::Overwrite, 1.0, du, a);
    cx.stored(to)
}
