//! The pass in f32: probabilities in the place of logits.

use super::{ROWS, Rows, Running, gradient, stride, width};
use crate::ops::matmul::{Into, View, ViewMut, matmul};
use crate::ops::{Buf, Cx, Mirror, embedding, simd};
use candle_core::Result;
use rayon::prelude::*;

/// Runs every part of the vocabulary; with coefficients, returns dh.
pub(super) fn pass(cx: &Cx, of: Rows<'_>, running: &mut [Running]) -> Result<Option<Buf>> {
    let Rows { h, w, targets, coefficients } = of;
    let (n, c) = (h.rows(), h.cols());
    let (width, room) = (width(w.rows()), cx.room(n, ROWS));
    let stride = stride(width);
    let x = View::new(h.f32()?, n, c);
    let mut z = cx.alloc_f32_rows(&[n, stride], room)?;
    let mut d = cx.alloc_f32_rows(&[n, c], room)?;
    d.f32_mut()?.fill(0.0);
    w.for_row_blocks(cx, n, width, |first, part| {
        let [count, _] = part.shape();
        let z = z.f32_mut()?;
        matmul(ViewMut::strided(z, n, count, stride), Into::Overwrite, 1.0, x, part.t());
        let rows = z.par_chunks_mut(stride).zip(d.f32_mut()?.par_chunks_mut(c));
        let rows = rows.zip(&mut *running).zip(targets);
        rows.with_min_len(4).for_each(|(((z, d), running), &t)| {
            let z = &mut z[..count];
            running.note_target(t, first, z);
            simd::vectorized(
                #[inline(always)]
                || advance(running, z, d),
            );
        });
        if coefficients.is_some() {
            let (to, p) = (ViewMut::new(d.f32_mut()?, n, c), View::strided(z, n, count, stride));
            matmul(to, Into::Add, 1.0, p, part);
        }
        Ok(())
    })?;
    let Some(coefficients) = coefficients else { return Ok(None) };
    let rows = embedding::forward(cx, w, &Mirror::new(cx, targets)?)?;
    let rows = rows.f32()?;
    let mut dh = cx.alloc_rows(&[n, c], room)?;
    gradient::<f32, f32>(&mut dh, d.f32()?, running, coefficients, |i| &rows[i * c..][..c])?;
    Ok(Some(dh))
}

/// Takes a part of a row's logits in, which become p = exp(z − m').
#[inline(always)]
fn advance(r: &mut Running, z: &mut [f32], d: &mut [f32]) {
    let top = simd::max(z).max(r.top);
    if top == f32::NEG_INFINITY {
        return z.fill(0.0);
    }
    r.raise(top, d);
    r.sum += simd::exp_sum(z, top);
}
