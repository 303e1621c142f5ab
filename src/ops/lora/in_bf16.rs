//! Adapters where products run in bf16: those of all layers at once, without a copy of what is wide.

use super::{Factors, Gradients, Seen};
#[cfg(target_arch = "x86_64")]
use crate::ops::avx512;
use crate::ops::bf16_gemm::{self, Product, Sink, Source, Stored, Term};
use crate::ops::linear::Even;
use crate::ops::{Buf, Cx};
use candle_core::{Result, bail};

/// u = x·Aᵀ.
pub(super) fn forward(cx: &Cx, x: &Buf, factors: &[Factors<'_>]) -> Result<Vec<Buf>> {
    let (n, k) = (x.rows(), x.cols());
    let x = Even::new(cx, x)?;
    let terms = factors
        .iter()
        .map(|f| x.term(Source::rows(Stored::F32(f.a.host()?, 1.0), f.r, k)).map(|t| [t]))
        .collect::<Result<Vec<_>>>()?;
    let mut us = Vec::with_capacity(factors.len());
    for f in factors {
        us.push(cx.alloc_operand(&[n, f.r])?);
    }
    narrow(cx, &mut us, &terms)?;
    Ok(us)
}

/// du = s·dy·B.
pub(super) fn backward(cx: &Cx, outputs: &[(&Buf, Factors<'_>)]) -> Result<Vec<Buf>> {
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
    narrow(cx, &mut dus, &terms)?;
    Ok(dus)
}

/// Products of one term each into narrow buffers, all at once.
fn narrow(cx: &Cx, to: &mut [Buf], terms: &[[Term<'_>; 1]]) -> Result<()> {
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

/// dA and dB, sums over tokens: the transposed small factor against the wide activations, as they lie.
pub(super) fn gradients(cx: &Cx, adapters: Vec<(Seen<'_>, Gradients<'_>)>) -> Result<()> {
    let (mut small, mut wide) = (Vec::new(), Vec::new());
    for (seen, _) in &adapters {
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
