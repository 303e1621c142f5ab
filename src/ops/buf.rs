//! A buffer: candle storage with a shape, owned by one place, given back to the pool when dropped.
//!
//! Candle's `Tensor` shares its storage behind a lock and allocates for every op; a training step wants neither. A [`Buf`] is
//! plain owned storage, so an op may write into several of them at once. [`Buf::to_tensor`] copies one out for the reference
//! compositions in the tests.

use super::pool::Pool;
use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};
use half::bf16;
use std::sync::Arc;

/// Owned storage of `shape`, row-major and contiguous; f32 or bf16 on the CPU.
pub struct Buf {
    storage: CpuStorage,
    shape: Vec<usize>,
    pool: Arc<Pool>,
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({:?}, {:?})", self.shape, self.dtype())
    }
}

impl Buf {
    pub(super) fn new(storage: CpuStorage, shape: &[usize], pool: Arc<Pool>) -> Self {
        Self { storage, shape: shape.to_vec(), pool }
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

    /// The dtype: f32 or bf16.
    pub fn dtype(&self) -> DType {
        match self.storage {
            CpuStorage::BF16(_) => DType::BF16,
            _ => DType::F32,
        }
    }

    /// The values of an f32 buffer.
    ///
    /// # Errors
    /// When the buffer holds another dtype.
    pub fn f32(&self) -> Result<&[f32]> {
        match &self.storage {
            CpuStorage::F32(v) => Ok(v),
            _ => bail!("expected an f32 buffer, got {:?} of shape {:?}", self.dtype(), self.shape),
        }
    }

    /// The values of an f32 buffer, to be written.
    ///
    /// # Errors
    /// When the buffer holds another dtype.
    pub fn f32_mut(&mut self) -> Result<&mut [f32]> {
        match &mut self.storage {
            CpuStorage::F32(v) => Ok(v),
            _ => bail!("expected an f32 buffer of shape {:?}", self.shape),
        }
    }

    /// The values of a bf16 buffer.
    ///
    /// # Errors
    /// When the buffer holds another dtype.
    pub fn bf16(&self) -> Result<&[bf16]> {
        match &self.storage {
            CpuStorage::BF16(v) => Ok(v),
            _ => bail!("expected a bf16 buffer, got {:?} of shape {:?}", self.dtype(), self.shape),
        }
    }

    /// The values of a bf16 buffer, to be written.
    ///
    /// # Errors
    /// When the buffer holds another dtype.
    pub fn bf16_mut(&mut self) -> Result<&mut [bf16]> {
        match &mut self.storage {
            CpuStorage::BF16(v) => Ok(v),
            _ => bail!("expected a bf16 buffer of shape {:?}", self.shape),
        }
    }

    /// A copy as a candle tensor, for reference compositions.
    ///
    /// # Errors
    /// Never on the CPU; the signature is candle's.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let storage = Storage::Cpu(self.storage.clone());
        let op = candle_core::op::BackpropOp::none();
        Ok(Tensor::from_storage(storage, self.shape.as_slice(), op, false))
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let empty = CpuStorage::U8(Vec::new());
        self.pool.give_back(std::mem::replace(&mut self.storage, empty));
    }
}
