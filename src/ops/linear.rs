//! Frozen linear layer: y = x·Wᵀ + b, and its input gradient dx += dy·W.
//!
//! x: (N, in), W: (out, in), b: (out), y: (N, out), all f32 here; W may be stored narrower (see [`Weight`]). A frozen weight
//! gets no gradient.

use super::matmul::{Into, View, ViewMut, matmul};
use super::{Buf, Cx, Weight};
use candle_core::{Result, bail};
use rayon::prelude::*;

/// y = x·Wᵀ + b as a new (N, out) buffer.
///
/// # Errors
/// When the shapes disagree.
pub fn forward(cx: &Cx, x: &Buf, w: &Weight, bias: Option<&[f32]>) -> Result<Buf> {
    let (n, k, out) = (x.rows(), w.cols(), w.rows());
    if x.cols() != k {
        bail!("linear: x has {} columns, the weight wants {k}", x.cols());
    }
    let mut y = cx.alloc(&[n, out])?;
    let xv = View::new(x.f32()?, n, k);
    let ys = y.f32_mut()?;
    w.for_row_blocks(cx, |r0, rows, values| {
        let c = ViewMut::strided(&mut ys[r0.min(n * out)..], n, rows, out);
        matmul(c, Into::Overwrite, 1.0, xv, View::new(values, rows, k).t());
        Ok(())
    })?;
    if let Some(b) = bias {
        ys.par_chunks_mut(out).for_each(|y| y.iter_mut().zip(b).for_each(|(y, b)| *y += b));
    }
    Ok(y)
}

/// dx += dy·W.
///
/// # Errors
/// When the shapes disagree.
pub fn backward(cx: &Cx, dy: &Buf, w: &Weight, dx: &mut Buf) -> Result<()> {
    let (n, k, out) = (dy.rows(), w.cols(), w.rows());
    if dy.cols() != out || dx.rows() != n || dx.cols() != k {
        bail!("linear backward: dy {:?}, dx {:?}, weight {w:?}", dy.shape(), dx.shape());
    }
    let (dys, dxs) = (dy.f32()?, dx.f32_mut()?);
    w.for_row_blocks(cx, |r0, rows, values| {
        let dyv = View::strided(&dys[r0.min(n * out)..], n, rows, out);
        matmul(ViewMut::new(dxs, n, k), Into::Add, 1.0, dyv, View::new(values, rows, k));
        Ok(())
    })
}
