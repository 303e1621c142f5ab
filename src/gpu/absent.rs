//! The device of a build without CUDA: there is none.

use super::{Arg, Info, Matrix};
use crate::error::{Problem, UserError};
use candle_core::Result;
use std::sync::Arc;

/// No value of this type exists.
pub enum Gpu {}

impl Gpu {
    /// The number of devices.
    ///
    /// # Errors
    /// Always.
    pub fn count() -> std::result::Result<usize, UserError> {
        Self::open(0).map(|gpu| match *gpu {})
    }

    /// Says that this build has no CUDA.
    ///
    /// # Errors
    /// Always.
    pub fn open(_ordinal: usize) -> std::result::Result<Arc<Self>, UserError> {
        let problem = Problem::new("this vft was built without CUDA");
        Err(problem
            .hint("build it with `cargo build --release --features cuda`, or set `device: cpu`")
            .into())
    }

    pub(super) fn allocate(&self, _bytes: usize) -> Result<u64> {
        match *self {}
    }

    pub(super) fn release(&self, _at: u64) {
        match *self {}
    }

    pub(super) fn write(&self, _at: u64, _bytes: &[u8]) -> Result<()> {
        match *self {}
    }

    pub(super) fn read(&self, _at: u64, _bytes: &mut [u8]) -> Result<()> {
        match *self {}
    }

    pub(super) fn fill(&self, _at: u64, _bytes: usize, _value: u8) -> Result<()> {
        match *self {}
    }

    pub(super) fn copy(&self, _to: u64, _from: u64, _bytes: usize) -> Result<()> {
        match *self {}
    }

    pub(super) fn gemm(
        &self,
        _c: Matrix<'_>,
        _beta: f32,
        _alpha: f32,
        _a: Matrix<'_>,
        _b: Matrix<'_>,
    ) -> Result<()> {
        match *self {}
    }

    /// As with CUDA.
    ///
    /// # Safety
    /// None is needed: it cannot be called.
    ///
    /// # Errors
    /// None.
    pub unsafe fn launch(
        &self,
        _kernel: &str,
        _blocks: usize,
        _threads: u32,
        _args: &[Arg],
    ) -> Result<()> {
        match *self {}
    }

    /// As with CUDA.
    ///
    /// # Errors
    /// None.
    pub fn synchronize(&self) -> Result<()> {
        match *self {}
    }

    /// As with CUDA.
    pub fn info(&self) -> &Info {
        match *self {}
    }

    /// As with CUDA.
    pub fn available_bytes(&self) -> Option<u64> {
        match *self {}
    }

    /// As with CUDA.
    pub fn peak_bytes(&self) -> u64 {
        match *self {}
    }
}
