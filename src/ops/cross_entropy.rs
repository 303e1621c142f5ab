//! Cross-entropy of one chunk of logits: per-token negative log-probability, and the logits' gradient in place.
//!
//! logits: (n, V) f32, targets: (n), ℓᵢ = logΣⱼexp(zᵢⱼ) − zᵢ,tᵢ. With a coefficient cᵢ on each token the gradient is
//! dzᵢⱼ = cᵢ·(softmax(zᵢ)ⱼ − [j = tᵢ]), written over the logits. The caller walks over chunks, so the whole (N, V) never exists.

use super::{Buf, simd};
use candle_core::{Result, bail};
use rayon::prelude::*;

/// Writes ℓ to `nll`, and with coefficients the gradient over `logits`.
///
/// # Errors
/// When the shapes disagree or a target lies outside the vocabulary.
pub fn forward_backward(
    logits: &mut Buf,
    targets: &[u32],
    coefficients: Option<&[f32]>,
    nll: &mut [f32],
) -> Result<()> {
    let (n, v) = (logits.rows(), logits.cols());
    if targets.len() != n || nll.len() != n || coefficients.is_some_and(|c| c.len() != n) {
        bail!("cross_entropy: logits {:?}, {} targets", logits.shape(), targets.len());
    }
    if let Some(t) = targets.iter().find(|t| **t as usize >= v) {
        bail!("cross_entropy: target {t} lies outside the vocabulary of {v}");
    }
    let rows = logits.f32_mut()?.par_chunks_mut(v).zip(nll.par_iter_mut()).zip(targets).enumerate();
    rows.for_each(|(i, ((z, nll), &t))| {
        simd::vectorized(|| {
            let t = t as usize;
            let top = simd::max(z);
            let target = z[t] - top;
            let sum = simd::exp_sum(z, top);
            *nll = sum.ln() - target;
            if let Some(c) = coefficients {
                let scale = c[i] / sum;
                z.iter_mut().for_each(|z| *z *= scale);
                z[t] -= c[i];
            }
        });
    });
    Ok(())
}
