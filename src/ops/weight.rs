//! A frozen weight as it lies in memory: dense f32, bf16 or f16 (memory-mapped or owned), or packed NF4.
//!
//! A product never needs the whole matrix in f32: [`Weight::for_row_blocks`] hands out blocks of rows, borrowed where they are
//! f32 already and widened or dequantised into a reused scratch buffer otherwise.

use super::cx::Cx;
use crate::quant::Nf4;
use candle_core::{DType, Result, bail};
use half::{bf16, f16};
use rayon::prelude::*;
use std::sync::Arc;

/// Bytes of a tensor, owned or memory-mapped.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Elements of a block that is widened at once: 2 MiB of f32.
const BLOCK: usize = 1 << 19;

enum Data {
    Dense(Bytes, DType),
    Nf4(Nf4, DType),
}

/// A frozen (rows, cols) matrix, or a vector with `rows` = 1.
pub struct Weight {
    rows: usize,
    cols: usize,
    data: Data,
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weight({}, {})", self.rows, self.cols)
    }
}

impl Weight {
    /// A dense matrix over little-endian `bytes` of f32, bf16 or f16.
    ///
    /// # Errors
    /// When the size is wrong, the dtype is another, or the bytes are not aligned for it.
    pub fn dense(bytes: Bytes, dtype: DType, rows: usize, cols: usize) -> Result<Self> {
        let len = (*bytes).as_ref().len();
        if Some(len) != rows.checked_mul(cols).and_then(|n| n.checked_mul(dtype.size_in_bytes())) {
            bail!("{len} bytes do not hold a {rows} x {cols} matrix of {dtype:?}");
        }
        let weight = Self { rows, cols, data: Data::Dense(bytes, dtype) };
        match &weight.data {
            Data::Dense(b, DType::F32) => drop(cast::<f32>(b)?),
            Data::Dense(b, DType::BF16) => drop(cast::<bf16>(b)?),
            Data::Dense(b, DType::F16) => drop(cast::<f16>(b)?),
            _ => bail!("weights are f32, bf16 or f16, not {dtype:?}"),
        }
        Ok(weight)
    }

    /// A dense f32 matrix of its own memory.
    ///
    /// # Errors
    /// When the size is wrong.
    pub fn from_f32(values: Vec<f32>, rows: usize, cols: usize) -> Result<Self> {
        Self::dense(Arc::new(Owned(values)), DType::F32, rows, cols)
    }

    /// A dense bf16 matrix of its own memory.
    ///
    /// # Errors
    /// When the size is wrong.
    pub fn from_bf16(values: Vec<bf16>, rows: usize, cols: usize) -> Result<Self> {
        Self::dense(Arc::new(Owned(values)), DType::BF16, rows, cols)
    }

    /// A packed NF4 matrix whose dequantised values are rounded to `compute`.
    ///
    /// # Errors
    /// When the number of elements is wrong.
    pub fn nf4(packed: Nf4, compute: DType, rows: usize, cols: usize) -> Result<Self> {
        if packed.len != rows * cols {
            bail!("{} NF4 elements do not fill {rows} x {cols}", packed.len);
        }
        Ok(Self { rows, cols, data: Data::Nf4(packed, compute) })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All values as they are, if they are f32.
    ///
    /// # Errors
    /// Never for a weight that was constructed; the signature is candle's.
    pub fn as_f32(&self) -> Result<Option<&[f32]>> {
        match &self.data {
            Data::Dense(bytes, DType::F32) => cast(bytes).map(Some),
            _ => Ok(None),
        }
    }

    /// Rows `r0..r1` as f32 into `out`, on all threads.
    ///
    /// # Errors
    /// When the range or `out` does not fit.
    pub fn read_rows(&self, r0: usize, r1: usize, out: &mut [f32]) -> Result<()> {
        let (lo, hi) = (r0 * self.cols, r1 * self.cols);
        if r1 > self.rows || r0 > r1 || out.len() != hi - lo {
            bail!("rows {r0}..{r1} of {} do not fit a buffer of {}", self.rows, out.len());
        }
        match &self.data {
            Data::Dense(b, DType::F32) => out.copy_from_slice(&cast::<f32>(b)?[lo..hi]),
            Data::Dense(b, DType::BF16) => {
                widen(&cast::<bf16>(b)?[lo..hi], out, |v| {
                    f32::from_bits(u32::from(v.to_bits()) << 16)
                });
            }
            Data::Dense(b, _) => widen(&cast::<f16>(b)?[lo..hi], out, f16::to_f32),
            Data::Nf4(q, compute) => {
                q.dequantize_range(lo, out);
                if *compute == DType::BF16 {
                    out.par_chunks_mut(1 << 12).for_each(|c| {
                        c.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32());
                    });
                }
            }
        }
        Ok(())
    }

    /// The whole matrix as f32.
    ///
    /// # Errors
    /// Never for a weight that was constructed; the signature is candle's.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.rows * self.cols];
        self.read_rows(0, self.rows, &mut out)?;
        Ok(out)
    }

    /// Calls `f(first row, rows, values)` for blocks of rows that cover the matrix in order.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn for_row_blocks(
        &self,
        cx: &Cx,
        mut f: impl FnMut(usize, usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if let Some(all) = self.as_f32()? {
            return f(0, self.rows, all);
        }
        // NF4 blocks of 64 elements must not be cut: a multiple of 64 rows never cuts one.
        let block = (BLOCK / self.cols.max(1)).next_multiple_of(64).min(self.rows);
        let mut scratch = cx.alloc_rows(&[block, self.cols], block)?;
        for r0 in (0..self.rows).step_by(block) {
            let r1 = (r0 + block).min(self.rows);
            let values = &mut scratch.f32_mut()?[..(r1 - r0) * self.cols];
            self.read_rows(r0, r1, values)?;
            f(r0, r1 - r0, values)?;
        }
        Ok(())
    }
}

fn widen<T: Copy + Sync>(from: &[T], to: &mut [f32], f: impl Fn(T) -> f32 + Sync) {
    to.par_chunks_mut(1 << 14).zip(from.par_chunks(1 << 14)).for_each(|(to, from)| {
        super::simd::vectorized(|| to.iter_mut().zip(from).for_each(|(o, i)| *o = f(*i)));
    });
}

fn cast<T: bytemuck::Pod>(bytes: &Bytes) -> Result<&[T]> {
    match bytemuck::try_cast_slice((**bytes).as_ref()) {
        Ok(slice) => Ok(slice),
        Err(e) => bail!("a weight's bytes cannot be read in place: {e}"),
    }
}

struct Owned<T>(Vec<T>);

impl<T: bytemuck::Pod> AsRef<[u8]> for Owned<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}
