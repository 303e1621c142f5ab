//! Launches of kernels by dtype: those for values between ops, and those for operands of products.

use crate::gpu::{self, Arg, Gpu};
use candle_core::{DType, Result};
use std::sync::Arc;

/// The device of a context and the dtype whose kernels it launches.
pub struct OnGpu {
    pub(super) gpu: Arc<Gpu>,
    pub(super) compute: DType,
}

impl std::ops::Deref for OnGpu {
    type Target = Arc<Gpu>;
    fn deref(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

impl OnGpu {
    /// Launches the kernel for values between ops with a thread for each of `elements`.
    ///
    /// # Safety
    /// `args` must be the kernel's parameters in number, order and type, and its pointers must cover all that it touches.
    ///
    /// # Errors
    /// When the launch fails.
    pub(crate) unsafe fn each(&self, kernel: &str, elements: usize, args: &[Arg]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.each_of(self.compute, kernel, elements, args) }
    }

    /// As [`Self::each`], the kernel for another dtype.
    ///
    /// # Safety
    /// As [`Self::each`].
    ///
    /// # Errors
    /// When the launch fails.
    pub(crate) unsafe fn each_of(
        &self,
        dtype: DType,
        kernel: &str,
        elements: usize,
        args: &[Arg],
    ) -> Result<()> {
        let kernel = format!("{kernel}_{}", gpu::suffix(dtype)?);
        // SAFETY: the caller's promise.
        unsafe { self.gpu.launch_each(&kernel, elements, args) }
    }

    /// As [`Self::each`], with a block of 256 threads for each of `rows`.
    ///
    /// # Safety
    /// As [`Self::each`].
    ///
    /// # Errors
    /// When the launch fails.
    pub(crate) unsafe fn by_row(&self, kernel: &str, rows: usize, args: &[Arg]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.by_row_of(self.compute, kernel, rows, args) }
    }

    /// As [`Self::by_row`], the kernel for another dtype.
    ///
    /// # Safety
    /// As [`Self::each`].
    ///
    /// # Errors
    /// When the launch fails.
    pub(crate) unsafe fn by_row_of(
        &self,
        dtype: DType,
        kernel: &str,
        rows: usize,
        args: &[Arg],
    ) -> Result<()> {
        let kernel = format!("{kernel}_{}", gpu::suffix(dtype)?);
        // SAFETY: the caller's promise.
        unsafe { self.gpu.launch(&kernel, rows, gpu::BLOCK, args) }
    }
}
