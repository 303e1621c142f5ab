//! Where the right-hand factor of a term comes from: a weight as it is stored, seen from either side.

use crate::ops::Cx;
#[cfg(target_arch = "x86_64")]
use crate::ops::avx512;
use crate::ops::prefetch::Ahead;
use crate::quant::nf4::Nf4;
use candle_core::Result;
use half::bf16;
use std::ops::Range;

/// A stored (rows, cols) matrix, row-major.
#[derive(Clone, Copy)]
pub enum Stored<'a> {
    /// bf16 values.
    Bf16(&'a [bf16]),
    /// Packed NF4 that is dequantised at each use.
    Nf4(&'a Nf4),
    /// f32 values that are scaled and rounded at each use: an adapter's factor.
    F32(&'a [f32], f32),
}

/// A matrix and which of its sides is the product's inner dimension.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub(super) stored: Stored<'a>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) transposed: bool,
}

impl<'a> Source<'a> {
    /// x·Mᵀ for M (rows, cols): x has `cols` columns, the product `rows`.
    pub fn rows(stored: Stored<'a>, rows: usize, cols: usize) -> Self {
        Self { stored, rows, cols, transposed: true }
    }

    /// x·M for M (rows, cols): x has `rows` columns, the product `cols`.
    pub fn columns(stored: Stored<'a>, rows: usize, cols: usize) -> Self {
        Self { stored, rows, cols, transposed: false }
    }

    /// The inner dimension.
    pub fn inner(&self) -> usize {
        if self.transposed { self.cols } else { self.rows }
    }

    /// Columns of the product.
    pub(super) fn out(&self) -> usize {
        if self.transposed { self.rows } else { self.cols }
    }

    /// Where the columns of the product that are `columns` lie in memory.
    pub(super) fn place(&self, columns: Range<usize>) -> Ahead {
        let (first, len, rows) = if self.transposed {
            (columns.start * self.cols, columns.len() * self.cols, 1)
        } else {
            (columns.start, columns.len(), self.rows)
        };
        let (start, bytes, stride) = match self.stored {
            Stored::Bf16(v) => (v.as_ptr().addr() + 2 * first, 2 * len, 2 * self.cols),
            Stored::Nf4(q) => (q.packed.as_ptr().addr() + first / 2, len / 2, self.cols / 2),
            // Adapters are small and near already.
            Stored::F32(..) => return Ahead::NOTHING,
        };
        Ahead { start, rows, bytes, stride }
    }

    /// Whether the matrix is as large as it says.
    pub(super) fn is_whole(&self) -> bool {
        let len = match self.stored {
            Stored::Bf16(v) => v.len(),
            Stored::Nf4(q) => q.len,
            Stored::F32(v, _) => v.len(),
        };
        self.rows.checked_mul(self.cols) == Some(len)
    }
}

impl Stored<'_> {
    /// Elements from `start` on.
    pub(super) fn read(&self, start: usize, out: &mut [bf16]) {
        match self {
            Self::Bf16(values) => out.copy_from_slice(&values[start..start + out.len()]),
            Self::Nf4(packed) => packed.decode_bf16(start, out),
            Self::F32(values, scale) => {
                let values = &values[start..start + out.len()];
                #[cfg(target_arch = "x86_64")]
                if super::kernel::supported() {
                    // SAFETY: asked for.
                    return unsafe { avx512::narrow(out, values, *scale) };
                }
                out.iter_mut().zip(values).for_each(|(o, v)| *o = bf16::from_f32(v * scale));
            }
        }
    }
}

/// Sees to it that `Cx` is only asked where products run in bf16.
pub(super) fn check(cx: &Cx) -> Result<()> {
    if !cx.has_bf16_products() {
        candle_core::bail!("products do not run in bf16 here");
    }
    Ok(())
}
