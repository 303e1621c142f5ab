//! The layer where products run in f32: one pass for all summands, of all layers that share x where nothing is copied. Weights that are
//! widened first, a block of rows at a time, take one for each block.

use super::{Back, Plus, unmasked};
use crate::ops::matmul::{self, Into, Operand, Product, Term, View, ViewMut, matmul};
use crate::ops::operand::{Factor, Lent};
use crate::ops::{Buf, Cx, Weight};
use candle_core::Result;
use std::ops::Range;

/// What is added to a layer's x·Wᵀ, in f32.
struct Added<'a> {
    bias: Option<&'a [f32]>,
    u: Option<Lent<'a>>,
    /// The adapter's B and its scale.
    b: Option<(Factor<'a>, f32)>,
    residual: Option<Lent<'a>>,
    /// Rows, and columns of y.
    shape: [usize; 2],
}

impl<'a> Added<'a> {
    fn new(cx: &Cx, shape: [usize; 2], plus: Plus<'a>) -> Result<Self> {
        let factor = |f: &super::Factors<'a>| cx.factor(f.b, [shape[1], f.r], f.scale);
        Ok(Self {
            bias: plus.bias.map(|b| &b[..]),
            u: plus.low_rank.map(|(u, _)| cx.wide_operand(u)).transpose()?,
            b: plus.low_rank.as_ref().map(|(_, f)| factor(f)).transpose()?,
            residual: plus.residual.map(|r| cx.wide(r)).transpose()?,
            shape,
        })
    }

    /// x·`w`ᵀ and s·u·Bᵀ for some of y's columns, of which `w` are the rows.
    fn terms<'b>(
        &'b self,
        x: View<'b>,
        w: Operand<'b>,
        columns: Range<usize>,
    ) -> Result<Vec<Term<'b>>> {
        let mut terms = vec![Term { a: x, b: w.t(), scale: 1.0 }];
        if let (Some(u), Some((b, scale))) = (&self.u, &self.b) {
            let ([n, out], r) = (self.shape, u.cols());
            let b = Operand::F32(View::new(b.f32()?, out, r)).rows(columns.start, columns.end);
            terms.push(Term { a: View::new(u.f32()?, n, r), b: b.t(), scale: *scale });
        }
        Ok(terms)
    }

    /// These columns of y.
    fn product<'b>(
        &'b self,
        c: ViewMut<'b>,
        terms: &'b [Term<'b>],
        columns: Range<usize>,
    ) -> Result<Product<'b>> {
        let ([n, out], len) = (self.shape, columns.len());
        let residual = match &self.residual {
            Some(r) => Some(View::strided(&r.f32()?[columns.start.min(n * out)..], n, len, out)),
            None => None,
        };
        let bias = self.bias.map(|b| &b[columns]);
        Ok(Product { c, into: Into::Overwrite, terms, bias, residual })
    }
}

/// y of layers that share x.
pub(super) fn forward(
    cx: &Cx,
    x: &Buf,
    layers: &[(&Weight, Plus<'_>)],
    ys: &mut [Buf],
) -> Result<()> {
    let (n, k, x) = (x.rows(), x.cols(), cx.wide_operand(x)?);
    let x = View::new(x.f32()?, n, k);
    let mut added = Vec::with_capacity(layers.len());
    for (w, plus) in layers {
        added.push(Added::new(cx, [n, w.rows()], *plus)?);
    }
    let mut terms = Vec::with_capacity(layers.len());
    for ((w, _), added) in layers.iter().zip(&added) {
        let values = w.operand(n)?;
        terms.push(values.map(|values| added.terms(x, values, 0..w.rows())).transpose()?);
    }
    let mut products = Vec::with_capacity(layers.len());
    for ((((w, _), added), terms), y) in layers.iter().zip(&added).zip(&terms).zip(ys) {
        let (out, y) = (w.rows(), y.f32_mut()?);
        if let Some(terms) = terms {
            products.push(added.product(ViewMut::new(y, n, out), terms, 0..out)?);
            continue;
        }
        w.for_row_blocks(cx, n, out, |r0, values| {
            let columns = r0..r0 + values.shape()[0];
            let terms = added.terms(x, values, columns.clone())?;
            let c = ViewMut::strided(&mut y[r0.min(n * out)..], n, columns.len(), out);
            matmul::run(vec![added.product(c, &terms, columns)?], cx.take_prefetch());
            Ok(())
        })?;
    }
    matmul::run(products, cx.take_prefetch());
    Ok(())
}

/// dx (n, k) of layers that share x, without adapters behind a mask.
pub(super) fn backward(cx: &Cx, parts: &[Back<'_>], [n, k]: [usize; 2]) -> Result<Buf> {
    let mut dx = cx.alloc_f32(&[n, k])?;
    let mut into = Into::Overwrite;
    // Where operands are copies, those of one layer at a time.
    for parts in parts.chunks(if cx.is_all_f32() { parts.len() } else { 1 }) {
        let (mut dys, mut dus) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
        for p in parts {
            dys.push(cx.wide_operand(p.dy)?);
        }
        for (du, f) in unmasked(parts) {
            dus.push((cx.wide_operand(du)?, cx.factor(f.a, [f.r, k], 1.0)?.0));
        }
        let mut terms = Vec::with_capacity(2 * parts.len());
        for (p, dy) in parts.iter().zip(&dys) {
            let (out, dy) = (p.weight.rows(), dy.f32()?);
            if let Some(b) = p.weight.operand(n)? {
                terms.push(Term { a: View::new(dy, n, out), b, scale: 1.0 });
                continue;
            }
            p.weight.for_row_blocks(cx, n, out, |r0, w| {
                let dy = View::strided(&dy[r0.min(n * out)..], n, w.shape()[0], out);
                matmul(ViewMut::new(dx.f32_mut()?, n, k), into, 1.0, dy, w);
                into = Into::Add;
                Ok(())
            })?;
        }
        for (du, a) in &dus {
            let (r, a) = (du.cols(), View::new(a.f32()?, du.cols(), k));
            terms.push(Term { a: View::new(du.f32()?, n, r), b: a.into(), scale: 1.0 });
        }
        let c = ViewMut::new(dx.f32_mut()?, n, k);
        let product = Product { c, into, terms: &terms, bias: None, residual: None };
        matmul::run(vec![product], cx.take_prefetch());
        into = Into::Add;
    }
    Ok(dx)
}
