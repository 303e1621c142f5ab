//! Cross-entropy of one chunk of logits: per-token negative log-probability, and the logits' gradient.
//!
//! logits: (n, V) f32, targets: (n), ℓᵢ = logΣⱼexp(zᵢⱼ) − zᵢ,tᵢ. With a coefficient cᵢ on each token the gradient is
//! dzᵢⱼ = cᵢ·(softmax(zᵢ)ⱼ − [j = tᵢ]), an operand of products, in the logits' place where the dtype allows. The caller walks over
//! chunks, so the whole (N, V) never exists.

use super::{Buf, Cx, Mirror, simd};
use crate::gpu::{Arg, NULL};
use candle_core::{DType, Result, bail};
use rayon::prelude::*;

/// Writes ℓ (n) to `nll`; with coefficients (n), returns the gradient (n, V).
///
/// # Errors
/// When the shapes disagree or a target lies outside the vocabulary.
pub fn forward_backward(
    cx: &Cx,
    mut logits: Buf,
    targets: &Mirror<'_, u32>,
    coefficients: Option<&Mirror<'_, f32>>,
    nll: &mut [f32],
) -> Result<Option<Buf>> {
    let (n, v) = (logits.rows(), logits.cols());
    if targets.len() != n || nll.len() != n || coefficients.is_some_and(|c| c.len() != n) {
        bail!("cross_entropy: logits {:?}, {} targets", logits.shape(), targets.len());
    }
    if let Some(t) = targets.iter().find(|t| **t as usize >= v) {
        bail!("cross_entropy: target {t} lies outside the vocabulary of {v}");
    }
    if let Some(gpu) = cx.gpu() {
        if logits.dtype() != DType::F32 {
            bail!("cross_entropy: logits are {:?}, not f32", logits.dtype());
        }
        let out = cx.alloc_f32(&[n])?;
        let narrow = match coefficients {
            Some(_) if cx.products() != DType::F32 => Some(cx.alloc_operand(&[n, v])?),
            _ => None,
        };
        let args = [
            narrow.as_ref().unwrap_or(&logits).arg()?,
            out.arg()?,
            logits.arg()?,
            targets.arg()?,
            coefficients.map_or(Ok(NULL), Mirror::arg)?,
            Arg::I32(v as i32),
        ];
        // SAFETY: cross_entropy(T *dz, float *nll, const float *z, const u32 *targets, const float *coefficients, int v), a
        // block a row; dz is of T: the logits themselves where T is f32, and not written without coefficients.
        unsafe { gpu.by_row_of(cx.products(), "cross_entropy", n, &args) }?;
        nll.copy_from_slice(&out.to_f32()?);
        return Ok(coefficients.map(|_| narrow.unwrap_or(logits)));
    }
    let rows = logits.f32_mut()?.par_chunks_mut(v).zip(nll.par_iter_mut()).zip(&targets[..]);
    rows.enumerate().for_each(|(i, ((z, nll), &t))| {
        simd::vectorized(
            #[inline(always)]
            || {
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
            },
        );
    });
    coefficients.map(|_| cx.into_operand(logits)).transpose()
}
