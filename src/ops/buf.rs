//! A buffer: storage with a shape, owned by one place, given back to the pool when dropped.
//!
//! Candle's `Tensor` shares its storage behind a lock and allocates for every op; a training step wants neither. A [`Buf`] is
//! plain owned storage, so an op may write into several of them at once. [`Buf::to_tensor`] copies one out for the reference
//! compositions in the tests.

use super::pool::Pool;
use crate::gpu::{Arg, Matrix, Memory};
use candle_core::{CpuStorage, DType, Result, Tensor, bail};
use half::{bf16, f16};
use std::sync::Arc;

/// Owned storage of `shape`, row-major and contiguous: f32 or bf16 on the CPU, the compute dtype or f32 on a device.
pub struct Buf {
    store: Store,
    shape: Vec<usize>,
}

enum Store {
    Cpu(CpuStorage, Arc<Pool>),
    Gpu(Memory, DType),
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({:?}, {:?})", self.shape, self.dtype())
    }
}

impl Buf {
    pub(super) fn new(storage: CpuStorage, shape: &[usize], pool: Arc<Pool>) -> Self {
        Self { store: Store::Cpu(storage, pool), shape: shape.to_vec() }
    }

    pub(super) fn on_gpu(memory: Memory, dtype: DType, shape: &[usize]) -> Self {
        Self { store: Store::Gpu(memory, dtype), shape: shape.to_vec() }
    }

    /// The shape, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Rows: the first dimension.
    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Columns: all dimensions but the first, as one.
    pub fn cols(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Agrees on a shape with the buffers of the same op.
    ///
    /// # Errors
    /// When the shape is another.
    pub(super) fn expect(&self, shape: &[usize]) -> Result<()> {
        if self.shape != shape {
            bail!("a buffer of shape {:?} where {shape:?} is wanted", self.shape);
        }
        Ok(())
    }

    /// Rows that the storage has room for.
    pub(super) fn room(&self) -> usize {
        let elements = match &self.store {
            Store::Cpu(CpuStorage::F32(v), _) => v.capacity(),
            Store::Cpu(CpuStorage::BF16(v), _) => v.capacity(),
            _ => self.len(),
        };
        (elements / self.cols().max(1)).max(self.rows())
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The dtype: f32, bf16 or f16.
    pub fn dtype(&self) -> DType {
        match &self.store {
            Store::Cpu(CpuStorage::BF16(_), _) => DType::BF16,
            Store::Cpu(..) => DType::F32,
            Store::Gpu(_, dtype) => *dtype,
        }
    }

    /// The device memory.
    ///
    /// # Errors
    /// When the buffer lies on the CPU.
    pub fn memory(&self) -> Result<&Memory> {
        match &self.store {
            Store::Gpu(memory, _) => Ok(memory),
            Store::Cpu(..) => bail!("a buffer of shape {:?} is not on the device", self.shape),
        }
    }

    /// As the argument of a kernel.
    ///
    /// # Errors
    /// When the buffer lies on the CPU.
    pub fn arg(&self) -> Result<Arg> {
        Ok(self.memory()?.into())
    }

    /// As a (rows, cols) operand of a product on the device.
    ///
    /// # Errors
    /// When the buffer lies on the CPU.
    pub fn matrix(&self) -> Result<Matrix<'_>> {
        Matrix::new(self.memory()?, 0, self.dtype(), self.rows(), self.cols())
    }

    /// A copy of all values as f32, from wherever they are.
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let n = self.len();
        Ok(match &self.store {
            Store::Cpu(CpuStorage::F32(v), _) => v.clone(),
            Store::Cpu(CpuStorage::BF16(v), _) => v.iter().map(|v| v.to_f32()).collect(),
            Store::Cpu(..) => bail!("no such buffer on the CPU"),
            Store::Gpu(m, DType::BF16) => {
                m.download::<bf16>(0, n)?.into_iter().map(bf16::to_f32).collect()
            }
            Store::Gpu(m, DType::F16) => {
                m.download::<f16>(0, n)?.into_iter().map(f16::to_f32).collect()
            }
            Store::Gpu(m, _) => m.download(0, n)?,
        })
    }

    /// The values of an f32 buffer.
    ///
    /// # Errors
    /// When the buffer holds another dtype.
    pub fn f32(&self) -> Result<&[f32]> {
        match &self.store {
            Store::Cpu(CpuStorage::F32(v), _) => Ok(v),
            _ => bail!("expected an f32 buffer, got {:?} of shape {:?}", self.dtype(), self.shape),
        }
    }

    /// The values of an f32 buffer, to be written.
    ///
    /// # Errors
    /// When the buffer holds another dtype.
    pub fn f32_mut(&mut self) -> Result<&mut [f32]> {
        match &mut self.store {
            Store::Cpu(CpuStorage::F32(v), _) => Ok(v),
            _ => bail!("expected an f32 buffer of shape {:?}", self.shape),
        }
    }

    /// The values of a bf16 buffer.
    ///
    /// # Errors
    /// When the buffer holds another dtype.
    pub fn bf16(&self) -> Result<&[bf16]> {
        match &self.store {
            Store::Cpu(CpuStorage::BF16(v), _) => Ok(v),
            _ => bail!("expected a bf16 buffer, got {:?} of shape {:?}", self.dtype(), self.shape),
        }
    }

    /// The values of a bf16 buffer, to be written.
    ///
    /// # Errors
    /// When the buffer holds another dtype.
    pub(super) fn bf16_mut(&mut self) -> Result<&mut [bf16]> {
        match &mut self.store {
            Store::Cpu(CpuStorage::BF16(v), _) => Ok(v),
            _ => bail!("expected a bf16 buffer of shape {:?}", self.shape),
        }
    }

    /// Writes all values of `from` over those from element `at` on; both on the CPU and of one dtype.
    ///
    /// # Errors
    /// When a buffer is elsewhere or of another dtype.
    pub fn write(&mut self, at: usize, from: &Self) -> Result<()> {
        let part = at..at + from.len();
        match from.dtype() {
            DType::BF16 => self.bf16_mut()?[part].copy_from_slice(from.bf16()?),
            _ => self.f32_mut()?[part].copy_from_slice(from.f32()?),
        }
        Ok(())
    }

    /// Itself with the given f32 values, for an f32 buffer anywhere.
    ///
    /// # Errors
    /// When the number of values is wrong or the device fails.
    pub fn filled(mut self, values: &[f32]) -> Result<Self> {
        if values.len() != self.len() || self.dtype() != DType::F32 {
            bail!("{} values do not fill {self:?}", values.len());
        }
        match self.memory() {
            Ok(memory) => memory.write(0, bytemuck::cast_slice(values))?,
            Err(_) => self.f32_mut()?.copy_from_slice(values),
        }
        Ok(self)
    }

    /// A copy as a candle tensor on the CPU, for reference compositions.
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let values =
            Tensor::from_vec(self.to_f32()?, self.shape.as_slice(), &candle_core::Device::Cpu)?;
        values.to_dtype(self.dtype())
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if let Store::Cpu(storage, pool) = &mut self.store {
            pool.give_back(std::mem::replace(storage, CpuStorage::U8(Vec::new())));
        }
    }
}
