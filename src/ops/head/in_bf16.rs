//! The pass in bf16: logits and gradients by [`bf16_gemm`], probabilities rounded between them.

use super::{ROWS, Rows, Running, gradient, stride, width};
#[cfg(target_arch = "x86_64")]
use crate::ops::avx512;
use crate::ops::bf16_gemm::{self, Product, Sink, Source, Stored, Term};
use crate::ops::linear::Even;
use crate::ops::value::{Value, by_type};
use crate::ops::{Buf, Cx};
use candle_core::{Result, bail};
use half::bf16;
use rayon::prelude::*;

/// Runs every part of the vocabulary; with coefficients, returns dh.
pub(super) fn pass(cx: &Cx, of: Rows<'_>, running: &mut [Running]) -> Result<Option<Buf>> {
    let Rows { h, w, targets, coefficients } = of;
    let (n, c, v) = (h.rows(), h.cols(), w.rows());
    let Some(Stored::Bf16(values)) = w.stored() else { bail!("head: {w:?} is not bf16") };
    let width = width(v);
    let x = Even::new(cx, h)?;
    let room = cx.room(n, ROWS);
    let mut z = cx.alloc_f32_rows(&[n, width], room)?;
    let stride = stride(width);
    let mut p = cx.alloc_operand_rows(&[n, stride], room)?;
    let mut d = cx.alloc_f32_rows(&[n, c], room)?;
    d.f32_mut()?.fill(0.0);
    for first in (0..v).step_by(width) {
        let count = (first + width).min(v) - first;
        let part = Stored::Bf16(&values[first * c..(first + count) * c]);
        let terms = [x.term(Source::rows(part, count, c))?];
        let sink = Sink::f32(&mut z.f32_mut()?[..n * count], false, 1.0);
        bf16_gemm::run(cx, &[Product { rows: n, columns: count, terms: &terms, sink }])?;
        let rows = z.f32_mut()?.par_chunks_mut(count).zip(p.bf16_mut()?.par_chunks_mut(stride));
        let rows = rows.zip(d.f32_mut()?.par_chunks_mut(c)).zip(&mut *running).zip(targets);
        rows.with_min_len(4).for_each(|((((z, p), d), running), &t)| {
            running.note_target(t, first, z);
            p[count..count.next_multiple_of(2)].fill(bf16::ZERO);
            advance(running, z, &mut p[..count], d);
        });
        if coefficients.is_some() {
            let terms = [Term { x: p.bf16()?, stride, source: Source::columns(part, count, c) }];
            let sink = Sink::f32(d.f32_mut()?, true, 1.0);
            bf16_gemm::run(cx, &[Product { rows: n, columns: c, terms: &terms, sink }])?;
        }
    }
    let Some(coefficients) = coefficients else { return Ok(None) };
    let mut dh = cx.alloc_rows(&[n, c], room)?;
    let target = |i: usize| &values[targets[i] as usize * c..][..c];
    let d = d.f32()?;
    by_type!(dh.dtype(), write_gradient(&mut dh, d, running, coefficients, &target))?;
    Ok(Some(dh))
}

fn write_gradient<'w, T: Value>(
    dh: &mut Buf,
    d: &[f32],
    running: &[Running],
    coefficients: &[f32],
    target: &(impl Fn(usize) -> &'w [bf16] + Sync),
) -> Result<()> {
    gradient::<T, bf16>(dh, d, running, coefficients, target)
}

/// Takes a part of a row's logits in: p = exp(z − m'), and what was summed so far is brought to the new maximum.
#[cfg(target_arch = "x86_64")]
fn advance(r: &mut Running, z: &[f32], p: &mut [bf16], d: &mut [f32]) {
    // SAFETY: `applies` asks for bf16 products, which a context has only where the processor has the instructions.
    let top = unsafe { avx512::softmax::max(z, r.top) };
    if top == f32::NEG_INFINITY {
        return p.fill(bf16::ZERO);
    }
    r.raise(top, d);
    // SAFETY: as above.
    r.sum += unsafe { avx512::softmax::exponentials(p, z, top) };
}

/// Where no processor has bf16 products.
#[cfg(not(target_arch = "x86_64"))]
fn advance(_: &mut Running, _: &[f32], _: &mut [bf16], _: &mut [f32]) {}
