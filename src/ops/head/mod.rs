//! The head and its cross-entropy in one pass over the vocabulary: the logits never exist, and each part of W is read once for both
//! directions.
//!
//! h: (n, C), W: (V, C), targets: (n). For parts of the vocabulary, with a running maximum m and sum s per row, as attention with
//! K = V = W: z = h·W_partᵀ, m' = max(m, z), p = exp(z − m'), s ← s·exp(m − m') + Σp, d ← d·exp(m − m') + p·W_part. In the end
//! ℓᵢ = ln sᵢ + mᵢ − zᵢ,tᵢ and dhᵢ = cᵢ·(dᵢ/sᵢ − `W[tᵢ]`). Where products run in bf16 (`in_bf16`), p is rounded for its product, as the
//! logits' gradient would be; in f32 (`in_f32`) it takes z's place.
//! Milakov & Gimelshein 2018, arXiv:1805.02867 (running maximum) · Wijmans et al. 2024, arXiv:2411.09009

mod in_bf16;
mod in_f32;

use super::bf16_gemm::Stored;
use super::value::Value;
use super::{Buf, Cx, Weight, simd};
use candle_core::{Result, bail};
use rayon::prelude::*;

/// Rows that go over the vocabulary together.
pub const ROWS: usize = 512;
/// Elements of a part of the logits: 2 MiB of f32.
const PART: usize = 1 << 19;

/// Columns of a part of the logits.
pub fn width(vocab: usize) -> usize {
    (PART / ROWS).min(vocab).next_multiple_of(2)
}

/// From one row of probabilities to the next: rows a power of two apart would evict each other while several are read side by side.
pub fn stride(width: usize) -> usize {
    width + 32
}

/// Whether a context can go over the vocabulary: with bf16 products or, on a processor, where all is f32.
pub fn has_pass(cx: &Cx) -> bool {
    cx.has_bf16_products() || cx.is_all_f32()
}

/// Whether [`forward_backward`] can run with this weight.
pub fn applies(cx: &Cx, w: &Weight) -> bool {
    has_pass(cx) && (!cx.has_bf16_products() || matches!(w.stored(), Some(Stored::Bf16(_))))
}

/// What goes over the vocabulary: hidden states (n, C) with their targets, W (V, C), and, where dh is wanted, a factor for each row.
#[derive(Clone, Copy)]
struct Rows<'a> {
    h: &'a Buf,
    w: &'a Weight,
    targets: &'a [u32],
    coefficients: Option<&'a [f32]>,
}

/// A row's running maximum, sum of exponentials, and its target's logit. A part of nothing but −∞ adds nothing.
#[derive(Clone, Copy)]
struct Running {
    top: f32,
    sum: f32,
    target: f32,
}

impl Running {
    const START: Self = Self { top: f32::NEG_INFINITY, sum: 0.0, target: 0.0 };

    /// Notes the target's logit if it lies in the part from `first` on.
    fn note_target(&mut self, target: u32, first: usize, z: &[f32]) {
        if let Some(z) = (target as usize).checked_sub(first).and_then(|t| z.get(t)) {
            self.target = *z;
        }
    }

    /// Brings what was summed so far to a new maximum, which is not below the old one.
    fn raise(&mut self, top: f32, d: &mut [f32]) {
        if top > self.top {
            let factor = (self.top - top).exp();
            self.sum *= factor;
            simd::vectorized(
                #[inline(always)]
                || d.iter_mut().for_each(|d| *d *= factor),
            );
            self.top = top;
        }
    }
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
    if !applies(cx, w) {
        bail!("head: {w:?} has no pass over the vocabulary here");
    }
    let lengths = [targets.len(), nll.len(), coefficients.map_or(n, <[f32]>::len)];
    if lengths != [n; 3] || n > ROWS || w.cols() != c {
        bail!("head: h {:?}, {w:?}, lengths {lengths:?}", h.shape());
    }
    if let Some(t) = targets.iter().find(|t| **t as usize >= v) {
        bail!("head: target {t} lies outside the vocabulary of {v}");
    }
    let mut running = vec![Running::START; n];
    let rows = Rows { h, w, targets, coefficients };
    let dh = if cx.has_bf16_products() {
        in_bf16::pass(cx, rows, &mut running)?
    } else {
        in_f32::pass(cx, rows, &mut running)?
    };
    for (nll, r) in nll.iter_mut().zip(&running) {
        *nll = r.sum.ln() + r.top - r.target;
    }
    Ok(dh)
}

/// dh of rows after the last part of the vocabulary; `target` gives a row's `W[t]`.
fn gradient<'w, T: Value, W: Value>(
    dh: &mut Buf,
    d: &[f32],
    running: &[Running],
    coefficients: &[f32],
    target: impl Fn(usize) -> &'w [W] + Sync,
) -> Result<()> {
    let c = dh.cols();
    let rows = T::of_mut(dh)?.par_chunks_mut(c).zip(d.par_chunks(c)).zip(running);
    rows.zip(coefficients).enumerate().for_each(|(i, (((dh, d), r), &coefficient))| {
        let (scale, sum, target) = (coefficient, 1.0 / r.sum, target(i));
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;
    use half::{bf16, f16};
    use std::sync::Arc;

    /// Many parts, the last one short, with maxima that rise from part to part, against plain sums.
    #[test]
    fn parts_of_the_vocabulary_are_the_whole() {
        let bf16 = |w: &[f32], v, c| {
            Weight::from_bf16(w.iter().map(|w| narrow(*w)).collect(), v, c).unwrap()
        };
        let f16 = |w: &[f32], v, c| {
            let bytes: Vec<u8> = w.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()).collect();
            Weight::dense(Arc::new(bytes), DType::F16, v, c).unwrap()
        };
        // Few rows, for which weights are widened first, and many.
        for n in [1, 37] {
            check(DType::BF16, n, bf16, 5e-3);
            check(DType::F32, n, bf16, 1e-5);
            check(DType::F32, n, |w, v, c| Weight::from_f32(w.to_vec(), v, c).unwrap(), 1e-5);
            check(DType::F32, n, f16, 1e-5);
        }
    }

    /// The first part's logits are all −∞, the others' 0.
    #[test]
    fn a_part_of_minus_infinity_adds_nothing() {
        for dtype in [DType::BF16, DType::F32] {
            let cx = Cx::cpu(dtype, 2).unwrap();
            let (first, c) = (width(1 << 20), 4);
            let mut w = vec![bf16::MIN; first * c];
            w.resize(3 * first * c, bf16::ZERO);
            let weight = Weight::from_bf16(w, 3 * first, c).unwrap();
            let h = cx.from_slice(&vec![1.0; 20 * c], &[20, c]).unwrap();
            let (targets, coefficients, mut nll) = (vec![first as u32; 20], [1.0; 20], [0.0; 20]);
            if !applies(&cx, &weight) {
                continue;
            }
            let dh = forward_backward(&cx, &h, &weight, &targets, Some(&coefficients), &mut nll);
            assert!((nll[0] - (2.0 * first as f32).ln()).abs() < 1e-5, "{dtype:?}: {}", nll[0]);
            assert_eq!(dh.unwrap().unwrap().to_f32().unwrap(), vec![0.0; 20 * c], "{dtype:?}");
        }
    }

    fn narrow(x: f32) -> bf16 {
        bf16::from_f32(x)
    }

    fn check(dtype: DType, n: usize, weight: impl Fn(&[f32], usize, usize) -> Weight, bound: f64) {
        let cx = Cx::cpu(dtype, 2).unwrap();
        let (c, v) = (50, 2 * width(1 << 20) + 453);
        let noise = |i: usize| ((i * 7919 % 1009) as f32 / 504.0 - 1.0) * 0.4;
        let w: Vec<f32> = (0..v * c)
            .map(|i| narrow(noise(i) * (1.0 + 4.0 * (i / c) as f32 / v as f32)).to_f32())
            .collect();
        let weight = weight(&w, v, c);
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
        let mut alone = vec![f32::NAN; n];
        forward_backward(&cx, &h, &weight, &targets, None, &mut alone).unwrap();
        assert_eq!(alone, nll, "losses without gradients");
        let (mut far, mut size) = (0.0, 0.0);
        for i in 0..n {
            let row = |j: usize| (0..c).map(move |p| (p, j * c + p));
            let z: Vec<f64> = (0..v)
                .map(|j| row(j).map(|(p, at)| f64::from(x[i * c + p]) * f64::from(w[at])).sum())
                .collect();
            let top = z.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
            let target = targets[i] as usize;
            let want = sum.ln() + top - z[target];
            assert!((f64::from(nll[i]) - want).abs() < 1e-4, "row {i}: {} {want}", nll[i]);
            for p in 0..c {
                let mean: f64 =
                    (0..v).map(|j| (z[j] - top).exp() / sum * f64::from(w[j * c + p])).sum();
                let want = f64::from(coefficients[i]) * (mean - f64::from(w[target * c + p]));
                far += (f64::from(dh[i * c + p]) - want).powi(2);
                size += want.powi(2);
            }
        }
        let error = (far / size).sqrt();
        assert!(error < bound, "{weight:?} in {dtype:?}: relative error {error}");
    }
}
