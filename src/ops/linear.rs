//! Frozen linear layer: y = x·Wᵀ + b, and its input gradient dx += dy·W.
//!
//! x: (N, in), W: (out, in), b: (out), y: (N, out); on the CPU all f32, W may be stored narrower (see [`Weight`]). A frozen
//! weight gets no gradient.

use super::bf16_gemm::{self, Matrix, Operand, Target};
use super::matmul::{Into, View, ViewMut, matmul};
use super::{Buf, Cx, Vector, Weight};
use crate::gpu::{Add, Arg};
use candle_core::{Result, bail};
use rayon::prelude::*;

/// y = x·Wᵀ + b as a new (N, out) buffer.
///
/// # Errors
/// When the shapes disagree.
pub fn forward(cx: &Cx, x: &Buf, w: &Weight, bias: Option<&Vector>) -> Result<Buf> {
    let y = cx.alloc(&[x.rows(), w.rows()])?;
    into(cx, x, w, bias, y)
}

/// As [`forward`], with y in f32 whatever the compute dtype is, and with room for `rows` rows: for chunks of logits.
///
/// # Errors
/// As [`forward`].
pub fn forward_f32(
    cx: &Cx,
    x: &Buf,
    w: &Weight,
    bias: Option<&Vector>,
    rows: usize,
) -> Result<Buf> {
    let y = cx.alloc_f32_rows(&[x.rows(), w.rows()], rows)?;
    into(cx, x, w, bias, y)
}

fn into(cx: &Cx, x: &Buf, w: &Weight, bias: Option<&Vector>, mut y: Buf) -> Result<Buf> {
    let (n, k, out) = (x.rows(), w.cols(), w.rows());
    if x.cols() != k {
        bail!("linear: x has {} columns, the weight wants {k}", x.cols());
    }
    if bias.is_some_and(|b| b.len() != out) {
        bail!("linear: the bias does not fit {out} outputs");
    }
    if let Some(gpu) = cx.gpu() {
        let w = w.on_gpu(cx)?;
        gpu.product(y.matrix()?, Add::Overwrite, 1.0, x.matrix()?, w.matrix()?.t())?;
        if let Some(b) = bias {
            if y.dtype() != cx.compute() {
                bail!("linear: a bias on logits in f32 is not supported");
            }
            let args = [y.arg()?, b.arg()?, Arg::U64(n as u64), Arg::I32(out as i32)];
            // SAFETY: add_bias(T *y, const float *b, u64 n, int c), y of n rows of c = |b|.
            unsafe { gpu.each("add_bias", n * out, &args) }?;
        }
        return Ok(y);
    }
    if is_bf16(cx, w) {
        let x = Operand::new(cx, x)?;
        let ys = y.f32_mut()?;
        w.for_bf16_blocks(cx, |r0, values| {
            bf16_gemm::forward(&x, Matrix::new(values, k)?, Target::new(ys, out, r0, false))
        })?;
        return biased(y, bias);
    }
    let xv = View::new(x.f32()?, n, k);
    let ys = y.f32_mut()?;
    w.for_row_blocks(cx, |r0, rows, values| {
        let c = ViewMut::strided(&mut ys[r0.min(n * out)..], n, rows, out);
        matmul(c, Into::Overwrite, 1.0, xv, View::new(values, rows, k).t());
        Ok(())
    })?;
    biased(y, bias)
}

/// Whether the product runs in bf16: the context and the weight have it.
fn is_bf16(cx: &Cx, w: &Weight) -> bool {
    cx.has_bf16_products() && w.is_bf16()
}

fn biased(mut y: Buf, bias: Option<&Vector>) -> Result<Buf> {
    if let Some(b) = bias {
        let out = y.cols();
        y.f32_mut()?
            .par_chunks_mut(out)
            .for_each(|y| y.iter_mut().zip(b.iter()).for_each(|(y, b)| *y += b));
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
    if let Some(gpu) = cx.gpu() {
        let w = w.on_gpu(cx)?;
        return gpu.product(dx.matrix()?, Add::Accumulate, 1.0, dy.matrix()?, w.matrix()?);
    }
    if is_bf16(cx, w) {
        let dy = Operand::new(cx, dy)?;
        let dxs = dx.f32_mut()?;
        return w.for_bf16_blocks(cx, |r0, values| {
            bf16_gemm::backward(&dy, r0, Matrix::new(values, k)?, Target::new(dxs, k, 0, true))
        });
    }
    let (dys, dxs) = (dy.f32()?, dx.f32_mut()?);
    w.for_row_blocks(cx, |r0, rows, values| {
        let dyv = View::strided(&dys[r0.min(n * out)..], n, rows, out);
        matmul(ViewMut::new(dxs, n, k), Into::Add, 1.0, dyv, View::new(values, rows, k));
        Ok(())
    })
}
