//! A CUDA device: memory, transfers, launches of the kernels in `src/kernels`, matrix products by cuBLAS.
//!
//! Nothing here knows an op. The driver and cuBLAS are opened when a run asks for a device, not when the process starts: one binary
//! serves machines with and without a card, and what is missing is an error with words. Candle's own CUDA backend is not used: it
//! links the driver at start, costs nine CPU minutes, most of them for kernels of which none is needed here, has none for bf16 on a T4,
//! and cannot write into a given buffer.
//!
//! One stream, driven by one thread at a time; memory comes from the device's stream-ordered pool, which keeps what is given back.
//! Without the feature `cuda` the same types exist and [`Gpu::open`] says why it cannot.

#[cfg_attr(feature = "cuda", path = "driver.rs")]
#[cfg_attr(not(feature = "cuda"), path = "absent.rs")]
mod driver;
#[cfg(feature = "cuda")]
mod library;
#[cfg(feature = "cuda")]
mod open;
mod product;
#[cfg(feature = "cuda")]
mod trouble;

pub use driver::Gpu;
pub use product::{Add, Matrix};

use candle_core::{DType, Result, bail};
use std::sync::Arc;

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its number among this machine's devices.
    pub ordinal: usize,
    /// The name that the driver gives it.
    pub name: String,
    /// Compute capability: (8, 0) for an A100, (7, 5) for a T4.
    pub capability: (u32, u32),
    /// Memory in bytes.
    pub memory: usize,
    /// The CUDA version that the driver supports, as 13000 for 13.0.
    pub driver: u32,
}

/// Device memory, given back to the pool when dropped.
pub struct Memory {
    gpu: Arc<Gpu>,
    at: u64,
    bytes: usize,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.bytes)
    }
}

impl Memory {
    /// `bytes` bytes of any content.
    ///
    /// # Errors
    /// When the device has not so much left.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        let at = gpu.allocate(bytes.max(16))?;
        Ok(Self { gpu: gpu.clone(), at, bytes })
    }

    /// A copy of `values`.
    ///
    /// # Errors
    /// When the device has not so much left, or the transfer fails.
    pub fn upload<T: bytemuck::NoUninit>(gpu: &Arc<Gpu>, values: &[T]) -> Result<Self> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let memory = Self::new(gpu, bytes.len())?;
        memory.write(0, bytes)?;
        Ok(memory)
    }

    /// The device's address of byte `offset`, for a launch.
    pub fn at(&self, offset: usize) -> u64 {
        self.at + offset as u64
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes host bytes from byte `offset` on.
    ///
    /// # Errors
    /// When they do not fit or the transfer fails.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.check(offset, bytes.len())?;
        if bytes.is_empty() { Ok(()) } else { self.gpu.write(self.at(offset), bytes) }
    }

    /// Reads into host bytes from byte `offset` on, after all work given to the device before.
    ///
    /// # Errors
    /// When the range is too long or the transfer fails.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.check(offset, bytes.len())?;
        if bytes.is_empty() { Ok(()) } else { self.gpu.read(self.at(offset), bytes) }
    }

    /// All bytes from `offset` on as values.
    ///
    /// # Errors
    /// When the range is too long or the transfer fails.
    pub fn download<T: bytemuck::Pod>(&self, offset: usize, len: usize) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); len];
        self.read(offset, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Sets all bytes to `value`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn fill(&self, value: u8) -> Result<()> {
        if self.bytes == 0 { Ok(()) } else { self.gpu.fill(self.at, self.bytes, value) }
    }

    /// Copies `bytes` bytes of `from` at `from_offset` to `offset`.
    ///
    /// # Errors
    /// When a range is too long or the device fails.
    pub fn copy(
        &self,
        offset: usize,
        from: &Memory,
        from_offset: usize,
        bytes: usize,
    ) -> Result<()> {
        self.check(offset, bytes)?;
        from.check(from_offset, bytes)?;
        if bytes == 0 {
            Ok(())
        } else {
            self.gpu.copy(self.at(offset), from.at(from_offset), bytes)
        }
    }

    fn check(&self, offset: usize, bytes: usize) -> Result<()> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            bail!("{bytes} bytes at {offset} exceed device memory of {}", self.bytes);
        }
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.gpu.release(self.at);
    }
}

/// An argument of a kernel, in C's types.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "named after the types")]
pub enum Arg {
    Pointer(u64),
    U64(u64),
    U32(u32),
    I32(i32),
    F32(f32),
}

impl From<&Memory> for Arg {
    fn from(memory: &Memory) -> Self {
        Self::Pointer(memory.at)
    }
}

/// No memory: C's null pointer.
pub const NULL: Arg = Arg::Pointer(0);

/// Threads of a block where each handles one element.
pub const BLOCK: u32 = 256;

impl Gpu {
    /// Launches `kernel` for `threads` threads in blocks of [`BLOCK`]; each looks up its own element.
    ///
    /// # Safety
    /// As [`Self::launch`].
    ///
    /// # Errors
    /// When the launch fails.
    pub unsafe fn launch_each(&self, kernel: &str, threads: usize, args: &[Arg]) -> Result<()> {
        let blocks = threads.div_ceil(BLOCK as usize);
        // SAFETY: the caller's promise.
        unsafe { self.launch(kernel, blocks, BLOCK, args) }
    }
}

/// The suffix of the kernels for a dtype.
///
/// # Errors
/// When there are none for it.
pub fn suffix(dtype: DType) -> Result<&'static str> {
    Ok(match dtype {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        other => bail!("no kernels for {other:?}"),
    })
}
