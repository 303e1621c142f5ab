//! The head and its cross-entropy in one pass over the vocabulary, on processors with bf16 products: the logits never exist, and each
//! part of W is read once for both directions.
//!
//! h: (n, C), W: (V, C), targets: (n). For parts of the vocabulary, with a running maximum m and sum s per row, as attention with
//! K = V = W: z = h·W_partᵀ, m' = max(m, z), p = exp(z − m'), s ← s·exp(m − m') + Σp, d ← d·exp(m − m') + p·W_part. In the end
//! ℓᵢ = ln sᵢ + mᵢ − zᵢ,tᵢ and dhᵢ = cᵢ·(dᵢ/sᵢ − `W[tᵢ]`). p is rounded to bf16 for its product, as the logits' gradient would be.
//! Milakov & Gimelshein 2018, arXiv:1805.02867 (running maximum) · Wijmans et al. 2024, arXiv:2411.09009

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::bf16_gemm::{self, Product, Sink, Source, Stored, Term};
use super::linear::Even;
use super::value::{Value, by_type};
use super::{Buf, Cx, Weight, simd};
use candle_core::{Result, bail};
use half::bf16;
use rayon::prelude::*;

/// Rows that go over the vocabulary together.
pub const ROWS: usize = 512;
/// Elements of a part of the logits: 2 MiB of f32.
const PART: usize = 1 << 19;

/// Columns of a part of the logits.
pub fn width(vocab: usize) -> usize {
    (PART / ROWS).min(vocab).next_multiple_of(2)
}

/// Whether [`forward_backward`] can run with this weight.
pub fn applies(cx: &Cx, w: &Weight) -> bool {
    cx.has_bf16_products() && matches!(w.stored(), Some(Stored::Bf16(_)))
}

/// A row's running maximum, sum of exponentials, and its target's logit.
#[derive(Clone, Copy)]
struct Running {
    top: f32,
    sum: f32,
    target: f32,
}

/// Writes ℓ (n) to `nll`; with coefficients (n), returns dh (n, C). At most [`ROWS`] rows.
///
/// # Errors
/// When the shapes disagree, a target lies outside the vocabulary, or [`applies`] says no.
pub fn forward_backward(
    cx: &Cx,
    h: &Buf,
    w: &Weight,
    targets: &[u32],
    coefficients: Option<&[f32]>,
    nll: &mut [f32],
) -> Result<Option<Buf>> {
    let (n, c, v) = (h.rows(), h.cols(), w.rows());
    let (true, Some(Stored::Bf16(values))) = (cx.has_bf16_products(), w.stored()) else {
        bail!("head: {w:?} has no bf16 products here");
    };
    let lengths = [targets.len(), nll.len(), coefficients.map_or(n, <[f32]>::len)];
    if lengths != [n; 3] || n > ROWS || w.cols() != c {
        bail!("head: h {:?}, {w:?}, lengths {lengths:?}", h.shape());
    }
    if let Some(t) = targets.iter().find(|t| **t as usize >= v) {
        bail!("head: target {t} lies outside the vocabulary of {v}");
    }
    let width = width(v);
    let x = Even::new(cx, h)?;
    let room = cx.room(n, ROWS);
    let mut z = cx.alloc_f32_rows(&[n, width], room)?;
    let mut p = cx.alloc_operand_rows(&[n, width], room)?;
    let mut d = cx.alloc_f32_rows(&[n, c], room)?;
    d.f32_mut()?.fill(0.0);
    let mut running = vec![Running { top: f32::NEG_INFINITY, sum: 0.0, target: 0.0 }; n];
    for first in (0..v).step_by(width) {
        let count = (first + width).min(v) - first;
        let part = Stored::Bf16(&values[first * c..(first + count) * c]);
        let terms = [x.term(Source::rows(part, count, c))?];
        let sink = Sink::f32(&mut z.f32_mut()?[..n * count], false, 1.0);
        bf16_gemm::run(cx, &[Product { rows: n, columns: count, terms: &terms, sink }])?;
        let rows = z.f32_mut()?.par_chunks_mut(count).zip(p.bf16_mut()?.par_chunks_mut(width));
        let rows = rows.zip(d.f32_mut()?.par_chunks_mut(c)).zip(&mut running).zip(targets);
        rows.with_min_len(4).for_each(|((((z, p), d), running), &t)| {
            if let Some(z) = (t as usize).checked_sub(first).and_then(|t| z.get(t)) {
                running.target = *z;
            }
            p[count..].fill(bf16::ZERO);
            advance(running, z, &mut p[..count], d);
        });
        if coefficients.is_some() {
            let terms =
                [Term { x: p.bf16()?, stride: width, source: Source::columns(part, count, c) }];
            let sink = Sink::f32(d.f32_mut()?, true, 1.0);
            bf16_gemm::run(cx, &[Product { rows: n, columns: c, terms: &terms, sink }])?;
        }
    }
    for (nll, r) in nll.iter_mut().zip(&running) {
        *nll = r.sum.ln() + r.top - r.target;
    }
    let Some(coefficients) = coefficients else { return Ok(None) };
    let mut dh = cx.alloc_rows(&[n, c], room)?;
    let end = End { d: d.f32()?, running: &running, targets, coefficients, values };
    by_type!(dh.dtype(), gradient(&end, &mut dh))?;
    Ok(Some(dh))
}

/// What is there after the last part of the vocabulary.
struct End<'a> {
    d: &'a [f32],
    running: &'a [Running],
    targets: &'a [u32],
    coefficients: &'a [f32],
    values: &'a [bf16],
}

fn gradient<T: Value>(end: &End<'_>, dh: &mut Buf) -> Result<()> {
    let c = dh.cols();
    let rows = T::of_mut(dh)?.par_chunks_mut(c).zip(end.d.par_chunks(c)).zip(end.running);
    let rows = rows.zip(end.targets).zip(end.coefficients);
    rows.for_each(|((((dh, d), r), &t), &coefficient)| {
        let target = &end.values[t as usize * c..][..c];
        let (scale, sum) = (coefficient, 1.0 / r.sum);
        simd::vectorized(
            #[inline(always)]
            || {
                for ((dh, d), w) in dh.iter_mut().zip(d).zip(target) {
                    *dh = T::near(scale * (d * sum - w.wide()));
                }
            },
        );
    });
    Ok(())
}

/// Takes a part of a row's logits in: p = exp(z − m'), and what was summed so far is brought to the new maximum.
#[cfg(target_arch = "x86_64")]
fn advance(r: &mut Running, z: &[f32], p: &mut [bf16], d: &mut [f32]) {
    // SAFETY: `forward_backward` asks for bf16 products, which a context has only where the processor has the instructions.
    let top = unsafe { avx512::softmax::max(z, r.top) };
    if top > r.top {
        let factor = (r.top - top).exp();
        r.sum *= factor;
        simd::vectorized(
            #[inline(always)]
            || d.iter_mut().for_each(|d| *d *= factor),
        );
        r.top = top;
    }
    // SAFETY: as above.
    r.sum += unsafe { avx512::softmax::exponentials(p, z, top) };
}

/// Where no processor has bf16 products.
#[cfg(not(target_arch = "x86_64"))]
fn advance(_: &mut Running, _: &[f32], _: &mut [bf16], _: &mut [f32]) {}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    /// Many parts, the last one short, with maxima that rise from part to part, against plain sums.
    #[test]
    fn parts_of_the_vocabulary_are_the_whole() {
        let cx = Cx::cpu(DType::BF16, 2).unwrap();
        let (n, c, v) = (37, 50, 2 * width(1 << 20) + 453);
        let noise = |i: usize| ((i * 7919 % 1009) as f32 / 504.0 - 1.0) * 0.4;
        let narrow = |x: f32| bf16::from_f32(x);
        let w: Vec<bf16> = (0..v * c)
            .map(|i| narrow(noise(i) * (1.0 + 4.0 * (i / c) as f32 / v as f32)))
            .collect();
        let weight = Weight::from_bf16(w.clone(), v, c).unwrap();
        if !applies(&cx, &weight) {
            return;
        }
        let x: Vec<f32> = (0..n * c).map(|i| narrow(noise(3 * i + 1)).to_f32()).collect();
        let targets: Vec<u32> = (0..n).map(|i| (i * 997 % v) as u32).collect();
        let coefficients: Vec<f32> = (0..n).map(|i| 0.5 + i as f32 / 50.0).collect();
        let mut nll = vec![f32::NAN; n];
        let h = cx.from_slice(&x, &[n, c]).unwrap();
        let dh = forward_backward(&cx, &h, &weight, &targets, Some(&coefficients), &mut nll);
        let dh = dh.unwrap().unwrap().to_f32().unwrap();
        let (mut far, mut size) = (0.0, 0.0);
        for i in 0..n {
            let row = |j: usize| (0..c).map(move |p| (p, j * c + p));
            let z: Vec<f64> = (0..v)
                .map(|j| row(j).map(|(p, at)| f64::from(x[i * c + p]) * w[at].to_f64()).sum())
                .collect();
            let top = z.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
            let target = targets[i] as usize;
            let want = sum.ln() + top - z[target];
            assert!((f64::from(nll[i]) - want).abs() < 1e-4, "row {i}: {} {want}", nll[i]);
            for p in 0..c {
                let mean: f64 =
                    (0..v).map(|j| (z[j] - top).exp() / sum * w[j * c + p].to_f64()).sum();
                let want = f64::from(coefficients[i]) * (mean - w[target * c + p].to_f64());
                far += (f64::from(dh[i * c + p]) - want).powi(2);
                size += want.powi(2);
            }
        }
        assert!((far / size).sqrt() < 5e-3, "relative error {}", (far / size).sqrt());
    }
}
