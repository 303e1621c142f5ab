//! The arithmetic of a merge: one weight's rows, block by block, in f32.

use super::plan::{LowRank, Piece};
use crate::error::{Problem, UserError};
use crate::model::convert::to_nf4;
use crate::model::load::Nf4;
use crate::ops::cx;
use crate::ops::simd::{narrow_bits, vectorized};
use crate::ops::weight::block_rows;
use crate::quant;
use anyhow::Result;
use candle_core::DType;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

/// Values that a thread takes at a time.
const PART: usize = 1 << 14;

impl Piece {
    /// Whether the tensor is written as it lies in the base.
    pub(super) fn is_copy(&self) -> bool {
        self.nf4.is_none() && self.low_rank.is_none()
    }

    /// Calls `take` with the rows of a weight that is no copy, in order: W or Ŵ, plus s·B·A, in f32, not rounded yet.
    ///
    /// # Errors
    /// When the base holds a value that is not finite, and what `take` returns.
    pub(super) fn for_blocks(&self, mut take: impl FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
        let [rows, cols] = self.source.shape[..] else {
            anyhow::bail!("`{}` is no matrix", self.name);
        };
        let packed = self.nf4.map(|(kind, compute)| self.pack(kind, compute)).transpose()?;
        let block = block_rows(rows, cols).max(1);
        let mut values = vec![0.0f32; block * cols];
        for first in (0..rows).step_by(block) {
            let count = block.min(rows - first);
            let values = &mut values[..count * cols];
            match (&packed, self.nf4) {
                (Some(packed), Some((_, compute))) => {
                    packed.dequantize_range(first * cols, values);
                    round(values, compute);
                }
                _ => self.widen(first * cols, values),
            }
            if let Some(low_rank) = &self.low_rank {
                low_rank.add(first, cols, values);
            }
            take(values)?;
        }
        Ok(())
    }

    /// The NF4 codes that training would have computed with.
    fn pack(&self, kind: Nf4, compute: DType) -> Result<quant::Nf4> {
        to_nf4(&self.source, kind, compute)
            .ok_or_else(|| self.not_finite("holds values that are not finite"))
    }

    /// Elements from `start` on in f32, exactly.
    fn widen(&self, start: usize, out: &mut [f32]) {
        out.par_chunks_mut(PART)
            .enumerate()
            .for_each(|(i, out)| self.source.widen(start + i * PART, out));
    }

    /// The nearest values of the source's dtype as little-endian bytes.
    ///
    /// # Errors
    /// When one of them is not finite.
    pub(super) fn narrow(&self, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
        let size = self.source.dtype.bitsize() / 8;
        out.resize(values.len() * size, 0);
        let all_finite = |(out, values): (&mut [u8], &[f32])| {
            let parts = out.chunks_exact_mut(size).zip(values);
            match self.source.dtype {
                Dtype::BF16 => parts.fold(true, |good, (o, v)| {
                    let bits = narrow_bits(*v);
                    o.copy_from_slice(&bits.to_le_bytes());
                    good & bf16::from_bits(bits).is_finite()
                }),
                Dtype::F16 => parts.fold(true, |good, (o, v)| {
                    let near = f16::from_f32(*v);
                    o.copy_from_slice(&near.to_le_bytes());
                    good & near.is_finite()
                }),
                _ => parts.fold(true, |good, (o, v)| {
                    o.copy_from_slice(&v.to_le_bytes());
                    good & v.is_finite()
                }),
            }
        };
        let good = out.par_chunks_mut(PART * size).zip(values.par_chunks(PART)).map(all_finite);
        if good.reduce(|| true, |a, b| a & b) {
            Ok(())
        } else {
            Err(self.not_finite("merged with the adapter holds values that are not finite"))
        }
    }

    fn not_finite(&self, what: &str) -> anyhow::Error {
        let message = format!("`{}` {what} in {:?}", self.name, self.source.dtype);
        let hint = "the adapter or the base is broken, or its scale too large for the base's dtype; nothing was written";
        UserError::from(Problem::in_file(&self.source.file, message).hint(hint)).into()
    }
}

impl LowRank {
    /// Adds s·B·A to the rows of a (out, in) weight from `first` on.
    fn add(&self, first: usize, cols: usize, values: &mut [f32]) {
        let r = self.a.len() / cols;
        let rows = values.par_chunks_mut(cols).zip(self.b[first * r..].par_chunks(r));
        rows.for_each_init(
            || vec![0.0f32; cols],
            |product, (row, b)| {
                product.fill(0.0);
                vectorized(
                    #[inline(always)]
                    || {
                        for (b, a) in b.iter().zip(self.a.chunks_exact(cols)) {
                            product.iter_mut().zip(a).for_each(|(p, a)| *p += b * a);
                        }
                        row.iter_mut().zip(&*product).for_each(|(w, p)| *w += p * self.scale);
                    },
                );
            },
        );
    }
}

/// Rounds to the dtype that a run computes in, on all threads.
pub(super) fn round(values: &mut [f32], dtype: DType) {
    if dtype == DType::F32 {
        return;
    }
    values.par_chunks_mut(PART).for_each(|values| cx::round(values, dtype));
}
