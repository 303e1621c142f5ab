//! A frozen weight as it lies in memory: dense f32, bf16 or f16 (memory-mapped or owned), or packed NF4.
//!
//! A product never needs the whole matrix in f32: [`Weight::for_row_blocks`] hands out blocks of rows, borrowed where they are
//! f32, or bf16 that a product of many rows widens itself, and widened or dequantised into a reused scratch buffer otherwise. A
//! product multiplies the values that are stored: what loads a weight rounds it to the products' dtype.

use super::Buf;
use super::bf16_gemm::Stored;
use super::cx::{self, Cx};
use super::matmul::{FEW_ROWS, Operand, View};
use crate::gpu::{Arg, Matrix, Memory, NULL};
use crate::quant::dynamic_map::dynamic_map;
use crate::quant::nf4::{Absmax, Nf4};
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
    /// On a device: in the products' dtype, a table that is only looked up maybe in another.
    DeviceDense(Buf),
    DeviceNf4(DeviceNf4),
}

/// Packed NF4 on a device, as bitsandbytes lays it out.
struct DeviceNf4 {
    packed: Memory,
    /// Scales of blocks of 64, or of 256 nested scales.
    absmax: Memory,
    /// Codes of nested scales and the map that they index.
    nested: Option<(Memory, Memory)>,
    offset: f32,
    /// Of the dequantised values.
    dtype: DType,
}

/// A weight's values on a device: as they lie there, or dequantised into scratch for one use.
pub(super) enum DeviceValues<'a> {
    Kept(&'a Buf),
    Scratch(Buf),
}

impl DeviceValues<'_> {
    fn buf(&self) -> &Buf {
        match self {
            Self::Kept(buf) => buf,
            Self::Scratch(buf) => buf,
        }
    }

    /// As a (rows, cols) operand.
    pub(super) fn matrix(&self) -> Result<Matrix<'_>> {
        self.buf().matrix()
    }

    /// As the argument of a kernel, and the dtype.
    pub(super) fn arg(&self) -> Result<(Arg, DType)> {
        Ok((self.buf().arg()?, self.buf().dtype()))
    }
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

    /// A packed NF4 matrix whose dequantised values are rounded to `compute`, the dtype of products.
    ///
    /// # Errors
    /// When the number of elements is wrong.
    pub fn nf4(packed: Nf4, compute: DType, rows: usize, cols: usize) -> Result<Self> {
        if packed.len != rows * cols {
            bail!("{} NF4 elements do not fill {rows} x {cols}", packed.len);
        }
        Ok(Self { rows, cols, data: Data::Nf4(packed, compute) })
    }

    /// The same weight where `cx` computes: itself on the CPU, a copy in the products' dtype (or packed) on a device.
    ///
    /// # Errors
    /// When there is no memory left or a copy fails.
    pub fn to_device(self, cx: &Cx) -> Result<Self> {
        self.placed(cx, cx.products())
    }

    /// As [`Self::to_device`], of a table whose rows are looked up: not rounded in mixed precision.
    ///
    /// # Errors
    /// As [`Self::to_device`].
    pub fn table_to_device(self, cx: &Cx) -> Result<Self> {
        let dtype = if self.dtype() == cx.products() { cx.products() } else { cx.compute() };
        self.placed(cx, dtype)
    }

    /// The dtype of the values that it stands for.
    pub fn dtype(&self) -> DType {
        match &self.data {
            Data::Dense(_, dtype) | Data::Nf4(_, dtype) => *dtype,
            Data::DeviceDense(buf) => buf.dtype(),
            Data::DeviceNf4(q) => q.dtype,
        }
    }

    fn placed(self, cx: &Cx, dtype: DType) -> Result<Self> {
        let Some(gpu) = cx.gpu() else { return Ok(self) };
        let (rows, cols) = (self.rows, self.cols);
        let data = match &self.data {
            Data::Nf4(q, _) => {
                let (absmax, nested, offset) = match &q.absmax {
                    Absmax::Plain(scales) => (Memory::upload(gpu, scales)?, None, 0.0),
                    Absmax::Nested { codes, absmax2, offset } => {
                        let map = Memory::upload(gpu, &dynamic_map(true))?;
                        let nested = (Memory::upload(gpu, codes)?, map);
                        (Memory::upload(gpu, absmax2)?, Some(nested), *offset)
                    }
                };
                let packed = Memory::upload(gpu, &q.packed)?;
                Data::DeviceNf4(DeviceNf4 { packed, absmax, nested, offset, dtype })
            }
            Data::Dense(..) => {
                let on_device = cx.alloc_as(dtype, &[rows, cols], None)?;
                let block = (BLOCK / cols.max(1)).max(1);
                let size = dtype.size_in_bytes();
                for r0 in (0..rows).step_by(block) {
                    let mut values = vec![0.0; ((r0 + block).min(rows) - r0) * cols];
                    self.read_rows(r0, (r0 + block).min(rows), &mut values)?;
                    on_device.memory()?.write(r0 * cols * size, &cx::bytes(&values, dtype))?;
                }
                Data::DeviceDense(on_device)
            }
            Data::DeviceDense(_) | Data::DeviceNf4(_) => return Ok(self),
        };
        Ok(Self { rows, cols, data })
    }

    /// The values on the device of `cx`, dequantised where they are packed.
    pub(super) fn on_gpu(&self, cx: &Cx) -> Result<DeviceValues<'_>> {
        let (q, gpu) = match (&self.data, cx.gpu()) {
            (Data::DeviceDense(buf), Some(_)) => return Ok(DeviceValues::Kept(buf)),
            (Data::DeviceNf4(q), Some(gpu)) => (q, gpu),
            _ => bail!("{self:?} is not on the device"),
        };
        let out = cx.alloc_as(q.dtype, &[self.rows, self.cols], None)?;
        let (codes, map) =
            q.nested.as_ref().map_or((NULL, NULL), |(codes, map)| (codes.into(), map.into()));
        let args = [
            out.arg()?,
            (&q.packed).into(),
            (&q.absmax).into(),
            codes,
            map,
            Arg::F32(q.offset),
            Arg::U64(out.len() as u64),
        ];
        // SAFETY: nf4_dequantize(T *out, const u8 *packed, const float *absmax, const u8 *codes, const float *map,
        // float offset, u64 n), a thread for each eight of n elements; quantising made the parts for n elements.
        unsafe { gpu.each_of(q.dtype, "nf4_dequantize", out.len().div_ceil(8), &args) }?;
        Ok(DeviceValues::Scratch(out))
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
            Data::DeviceDense(_) | Data::DeviceNf4(_) => bail!("{self:?} is on a device"),
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

    /// The values as they are stored, if they are bf16 without rounding: what products in bf16 take.
    pub fn stored(&self) -> Option<Stored<'_>> {
        match &self.data {
            Data::Dense(bytes, DType::BF16) => cast(bytes).ok().map(Stored::Bf16),
            Data::Nf4(packed, DType::BF16) => Some(Stored::Nf4(packed)),
            _ => None,
        }
    }

    /// The values as they lie (rows, cols), where f32 products with `n` rows multiply them so.
    ///
    /// # Errors
    /// Never for a weight that was constructed; the signature is candle's.
    pub(super) fn operand(&self, n: usize) -> Result<Option<Operand<'_>>> {
        Ok(match (self.as_f32()?, self.stored()) {
            (Some(all), _) => Some(Operand::F32(View::new(all, self.rows, self.cols))),
            (_, Some(Stored::Bf16(all))) if n > FEW_ROWS => {
                Some(Operand::Bf16(View::new(all, self.rows, self.cols)))
            }
            _ => None,
        })
    }

    /// Calls `f(first row, block)` for blocks of at most `most` rows that cover the matrix in order, each (rows, in): operands of f32
    /// products with `n` rows.
    ///
    /// # Errors
    /// What `f` returns.
    pub fn for_row_blocks(
        &self,
        cx: &Cx,
        n: usize,
        most: usize,
        mut f: impl FnMut(usize, Operand<'_>) -> Result<()>,
    ) -> Result<()> {
        let blocks = |rows: usize| {
            (0..self.rows).step_by(rows).map(move |r0| (r0, (r0 + rows).min(self.rows)))
        };
        if let Some(all) = self.operand(n)? {
            for (r0, r1) in blocks(most) {
                f(r0, all.rows(r0, r1))?;
            }
            return Ok(());
        }
        let block = block_rows(self.rows, self.cols).min(most);
        let mut scratch = cx.alloc_f32_rows(&[block, self.cols], block)?;
        for (r0, r1) in blocks(block) {
            let values = &mut scratch.f32_mut()?[..(r1 - r0) * self.cols];
            self.read_rows(r0, r1, values)?;
            f(r0, View::new(values, r1 - r0, self.cols).into())?;
        }
        Ok(())
    }
}

/// Rows that are widened at once. NF4 blocks of 64 elements must not be cut: a multiple of 64 rows never cuts one.
pub fn block_rows(rows: usize, cols: usize) -> usize {
    (BLOCK / cols.max(1)).next_multiple_of(64).min(rows)
}

fn widen<T: Copy + Sync>(from: &[T], to: &mut [f32], f: impl Fn(T) -> f32 + Sync) {
    to.par_chunks_mut(1 << 14).zip(from.par_chunks(1 << 14)).for_each(|(to, from)| {
        super::simd::vectorized(
            #[inline(always)]
            || to.iter_mut().zip(from).for_each(|(o, i)| *o = f(*i)),
        );
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
