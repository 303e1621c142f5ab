//! The pass in f32: probabilities in the place of logits; bf16 and f32 weights as they lie, others widened part by part.

use super::{ROWS, Running, gradient, stride, width};
use crate::ops::bf16_gemm::Stored;
use crate::ops::matmul::{Into, View, ViewMut, matmul, matmul_bf16};
use crate::ops::{Buf, Cx, Mirror, Weight, embedding, simd};
use candle_core::Result;
use half::bf16;
use rayon::prelude::*;

/// Some rows of W.
enum Part<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// `count` rows from `first` on, in `widened` where they are not read in place.
fn part<'a>(w: &'a Weight, first: usize, count: usize, widened: &'a mut Buf) -> Result<Part<'a>> {
    let c = w.cols();
    let at = first * c..(first + count) * c;
    if let Some(Stored::Bf16(values)) = w.stored() {
        return Ok(Part::Bf16(&values[at]));
    }
    if let Some(values) = w.as_f32()? {
        return Ok(Part::F32(&values[at]));
    }
    let values = &mut widened.f32_mut()?[..count * c];
    w.read_rows(first, first + count, values)?;
    Ok(Part::F32(values))
}

/// Runs every part of the vocabulary; with coefficients, returns dh.
pub(super) fn pass(
    cx: &Cx,
    h: &Buf,
    w: &Weight,
    targets: &[u32],
    coefficients: Option<&[f32]>,
    running: &mut [Running],
) -> Result<Option<Buf>> {
    let (n, c, v) = (h.rows(), h.cols(), w.rows());
    let (width, room) = (width(v), cx.room(n, ROWS));
    let x = View::new(h.f32()?, n, c);
    let stride = stride(width);
    let mut z = cx.alloc_f32_rows(&[n, stride], room)?;
    let mut d = cx.alloc_f32_rows(&[n, c], room)?;
    d.f32_mut()?.fill(0.0);
    let in_place = w.stored().is_some() || w.as_f32()?.is_some();
    let mut widened = cx.alloc_f32_rows(&[if in_place { 0 } else { width }, c], width)?;
    for first in (0..v).step_by(width) {
        let count = (first + width).min(v) - first;
        let part = part(w, first, count, &mut widened)?;
        let zs = z.f32_mut()?;
        let to = ViewMut::strided(zs, n, count, stride);
        match &part {
            Part::F32(w) => matmul(to, Into::Overwrite, 1.0, x, View::new(w, count, c).t()),
            Part::Bf16(w) => matmul_bf16(to, Into::Overwrite, 1.0, x, View::new(w, count, c).t()),
        }
        let rows = zs.par_chunks_mut(stride).zip(d.f32_mut()?.par_chunks_mut(c));
        let rows = rows.zip(&mut *running).zip(targets);
        rows.with_min_len(4).for_each(|(((z, d), running), &t)| {
            let z = &mut z[..count];
            running.meet(t, first, z);
            simd::vectorized(
                #[inline(always)]
                || {
                    running.raise(simd::max(z).max(running.top), d);
                    running.sum += simd::exp_sum(z, running.top);
                },
            );
        });
        if coefficients.is_some() {
            let (to, p) = (ViewMut::new(d.f32_mut()?, n, c), View::strided(zs, n, count, stride));
            match &part {
                Part::F32(w) => matmul(to, Into::Add, 1.0, p, View::new(w, count, c)),
                Part::Bf16(w) => matmul_bf16(to, Into::Add, 1.0, p, View::new(w, count, c)),
            }
        }
    }
    let Some(coefficients) = coefficients else { return Ok(None) };
    let rows = embedding::forward(cx, w, &Mirror::new(cx, targets)?)?;
    let rows = rows.f32()?;
    let mut dh = cx.alloc_rows(&[n, c], room)?;
    gradient::<f32, f32>(&mut dh, d.f32()?, running, coefficients, |i| &rows[i * c..][..c])?;
    Ok(Some(dh))
}
