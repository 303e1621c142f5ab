//! Adapters where products run in f32: those of all layers at once where nothing is copied, one by one where operands are widened first.

use super::{Factors, Gradients, Seen};
use crate::ops::matmul::{self, Into, Product, Term, View, ViewMut};
use crate::ops::prefetch::{Ahead, PLACES};
use crate::ops::{Buf, Cx};
use candle_core::{Result, bail};

/// One product of an adapter.
type One<'a> = (ViewMut<'a>, Into, Term<'a>);

/// Runs products that write apart from each other.
fn run(products: Vec<One<'_>>) {
    let terms: Vec<_> = products.iter().map(|(.., term)| [*term]).collect();
    let product = |((c, into, _), terms)| Product { c, into, terms, bias: None, residual: None };
    let products = products.into_iter().zip(terms.iter().map(|t| &t[..])).map(product).collect();
    matmul::run(products, [Ahead::NOTHING; PLACES]);
}

/// u = x·Aᵀ.
pub(super) fn forward(cx: &Cx, x: &Buf, factors: &[Factors<'_>]) -> Result<Vec<Buf>> {
    let (n, k, x) = (x.rows(), x.cols(), cx.wide_operand(x)?);
    let x = View::new(x.f32()?, n, k);
    let mut us = Vec::with_capacity(factors.len());
    for factors in factors.chunks(together(cx, factors.len())) {
        let (mut all, mut some) = (Vec::new(), Vec::new());
        for f in factors {
            all.push(cx.factor(f.a, [f.r, k], 1.0)?.0);
            some.push(cx.alloc_f32(&[n, f.r])?);
        }
        let mut products = Vec::new();
        for ((u, a), f) in some.iter_mut().zip(&all).zip(factors) {
            let term = Term { a: x, b: View::new(a.f32()?, f.r, k).t().into(), scale: 1.0 };
            products.push((ViewMut::new(u.f32_mut()?, n, f.r), Into::Overwrite, term));
        }
        run(products);
        for u in some {
            us.push(cx.into_operand(u)?);
        }
    }
    Ok(us)
}

/// du = s·dy·B.
pub(super) fn backward(cx: &Cx, outputs: &[(&Buf, Factors<'_>)]) -> Result<Vec<Buf>> {
    let mut dus = Vec::with_capacity(outputs.len());
    for outputs in outputs.chunks(together(cx, outputs.len())) {
        let (mut operands, mut some) = (Vec::new(), Vec::new());
        for (dy, f) in outputs {
            operands.push((cx.wide_operand(dy)?, cx.factor(f.b, [dy.cols(), f.r], f.scale)?));
            some.push(cx.alloc_f32(&[dy.rows(), f.r])?);
        }
        let mut products = Vec::new();
        for ((du, (dy, (b, scale))), (of, f)) in some.iter_mut().zip(&operands).zip(outputs) {
            let (n, out) = (of.rows(), of.cols());
            let a = View::new(dy.f32()?, n, out);
            let b = View::new(b.f32()?, out, f.r).into();
            let c = ViewMut::new(du.f32_mut()?, n, f.r);
            products.push((c, Into::Overwrite, Term { a, b, scale: *scale }));
        }
        run(products);
        for du in some {
            dus.push(cx.into_operand(du)?);
        }
    }
    Ok(dus)
}

/// dA += duᵀ·x and dB += s·dyᵀ·u.
pub(super) fn gradients(cx: &Cx, adapters: Vec<(Seen<'_>, Gradients<'_>)>) -> Result<()> {
    let at_a_time = together(cx, adapters.len());
    let mut adapters = adapters.into_iter().peekable();
    while adapters.peek().is_some() {
        let some: Vec<_> = adapters.by_ref().take(at_a_time).collect();
        let mut operands = Vec::with_capacity(some.len());
        for (Seen { x, u, du, dy, .. }, _) in &some {
            let [x, u, du, dy] = [*x, *u, *du, *dy].map(|x| cx.wide_operand(x));
            operands.push([x?, u?, du?, dy?]);
        }
        let mut products = Vec::with_capacity(2 * some.len());
        for ((seen, to), [x, u, du, dy]) in some.into_iter().zip(&operands) {
            let Gradients::Host(da, db) = to else { bail!("gradients are on a device") };
            let (n, r, k, out) = (seen.x.rows(), u.cols(), seen.x.cols(), seen.dy.cols());
            let (dy, u) = (View::new(dy.f32()?, n, out), View::new(u.f32()?, n, r));
            let term = Term { a: dy.t(), b: u.into(), scale: seen.scale };
            products.push((ViewMut::new(db, out, r), Into::Add, term));
            let (du, x) = (View::new(du.f32()?, n, r), View::new(x.f32()?, n, k));
            let term = Term { a: du.t(), b: x.into(), scale: 1.0 };
            products.push((ViewMut::new(da, r, k), Into::Add, term));
        }
        run(products);
    }
    Ok(())
}

/// How many adapters are computed together: one where operands are copies, so that those of one are out at a time.
fn together(cx: &Cx, all: usize) -> usize {
    if cx.is_all_f32() { all.max(1) } else { 1 }
}
