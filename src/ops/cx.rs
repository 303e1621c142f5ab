//! The context of every op: where buffers come from, what computes (this processor's threads or a CUDA device), and how values
//! between ops are rounded.
//!
//! Ops take `&Cx`: the pool is behind a lock because buffers find their own way back when dropped, and everything else here is
//! read-only during a run. Threads are rayon's current pool: the caller installs one ([`Cx::install`]). On the CPU values between
//! ops are f32, rounded; on a device they are stored in the compute dtype.
//!
//! Buffers whose first dimension counts tokens are given room for the longest batch of the run
//! ([`Cx::set_token_capacity`]), so that after the first steps every request is met by a buffer given back earlier. Unused room is
//! never touched and so never resident.

use super::bf16_gemm;
use super::buf::Buf;
use super::pool::Pool;
use super::simd;
use crate::gpu::{self, Arg, Gpu, Memory};
use candle_core::{CpuStorage, DType, Error, Result, bail};
use half::{bf16, f16};
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Where buffers come from, what computes, and the rounding of values between ops.
pub struct Cx {
    engine: Engine,
    compute: DType,
    bf16_products: bool,
    poison: AtomicBool,
}

enum Engine {
    Cpu { pool: Arc<Pool>, threads: rayon::ThreadPool, token_capacity: AtomicUsize },
    Gpu(OnGpu),
}

/// The device of a context and the kernels for its dtype.
pub struct OnGpu {
    gpu: Arc<Gpu>,
    suffix: &'static str,
}

impl std::ops::Deref for OnGpu {
    type Target = Arc<Gpu>;
    fn deref(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

impl OnGpu {
    /// Launches the kernel for this context's dtype with a thread for each of `elements`.
    ///
    /// # Safety
    /// `args` must be the kernel's parameters in number, order and type, and its pointers must cover all that it touches.
    ///
    /// # Errors
    /// When the launch fails.
    pub(crate) unsafe fn each(&self, kernel: &str, elements: usize, args: &[Arg]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.gpu.launch_each(&format!("{kernel}_{}", self.suffix), elements, args) }
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
        unsafe { self.gpu.launch(&format!("{kernel}_{}", self.suffix), rows, gpu::BLOCK, args) }
    }
}

impl Cx {
    /// A CPU context that computes in `compute` (f32 or bf16) on `threads` threads (0: all cores).
    ///
    /// # Errors
    /// When threads cannot be started or the dtype is not supported.
    pub fn cpu(compute: DType, threads: usize) -> Result<Self> {
        if !matches!(compute, DType::F32 | DType::BF16) {
            bail!("the CPU computes in f32 or bf16, not {compute:?}");
        }
        let threads =
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(Error::wrap)?;
        let token_capacity = AtomicUsize::new(0);
        let bf16_products = bf16_gemm::available()? && compute == DType::BF16;
        Ok(Self {
            engine: Engine::Cpu { pool: Arc::default(), threads, token_capacity },
            compute,
            bf16_products,
            poison: AtomicBool::new(false),
        })
    }

    /// A context on a device that computes in `compute`: f32, bf16 or f16.
    ///
    /// # Errors
    /// When there are no kernels for the dtype.
    pub fn on_gpu(compute: DType, gpu: Arc<Gpu>) -> Result<Self> {
        let suffix = gpu::suffix(compute)?;
        let engine = Engine::Gpu(OnGpu { gpu, suffix });
        Ok(Self { engine, compute, bf16_products: false, poison: AtomicBool::new(false) })
    }

    /// The dtype of weights and activations.
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// Whether frozen bf16 weights are multiplied in bf16 on the CPU.
    pub(super) fn has_bf16_products(&self) -> bool {
        self.bf16_products
    }

    /// The device, if this context is on one.
    pub fn gpu(&self) -> Option<&OnGpu> {
        match &self.engine {
            Engine::Gpu(on) => Some(on),
            Engine::Cpu { .. } => None,
        }
    }

    fn on_cpu(&self) -> Result<(&Arc<Pool>, usize)> {
        match &self.engine {
            Engine::Cpu { pool, token_capacity, .. } => {
                Ok((pool, token_capacity.load(Ordering::Relaxed)))
            }
            Engine::Gpu(_) => bail!("a CPU buffer is asked for on a device"),
        }
    }

    /// Runs `f` with this context's threads as rayon's current pool; on a device, on this thread.
    pub fn install<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        match &self.engine {
            Engine::Cpu { threads, .. } => threads.install(f),
            Engine::Gpu(_) => f(),
        }
    }

    /// Gives token buffers room for `tokens` rows from now on.
    pub fn set_token_capacity(&self, tokens: usize) {
        if let Engine::Cpu { token_capacity, .. } = &self.engine {
            token_capacity.store(tokens, Ordering::Relaxed);
        }
    }

    /// Fills each new buffer with NaN from now on, so that a test sees what an op did not write.
    pub fn poison(&self) {
        self.poison.store(true, Ordering::Relaxed);
    }

    /// How many buffers were newly allocated so far; 0 on a device, whose pool is the driver's.
    pub fn fresh_allocations(&self) -> usize {
        self.on_cpu().map_or(0, |(pool, _)| pool.fresh())
    }

    /// A buffer of any content for values between ops: f32 on the CPU, the compute dtype on a device. The first dimension of
    /// `shape` counts tokens.
    ///
    /// # Errors
    /// When the size overflows or there is no memory left.
    pub fn alloc(&self, shape: &[usize]) -> Result<Buf> {
        self.alloc_as(self.compute, shape)
    }

    /// A buffer of any content that is f32 everywhere; the first dimension of `shape` counts tokens.
    ///
    /// # Errors
    /// When the size overflows or there is no memory left.
    pub fn alloc_f32(&self, shape: &[usize]) -> Result<Buf> {
        self.alloc_as(DType::F32, shape)
    }

    /// A bf16 buffer of any content on the CPU; the first dimension of `shape` counts tokens.
    ///
    /// # Errors
    /// When the size overflows or this context is on a device.
    pub(super) fn alloc_bf16(&self, shape: &[usize]) -> Result<Buf> {
        let (pool, tokens) = self.on_cpu()?;
        let (len, capacity) = sizes(shape, tokens)?;
        Ok(Buf::new(CpuStorage::BF16(pool.bf16(len, capacity)?), shape, pool.clone()))
    }

    /// As [`Self::alloc_bf16`], with room for exactly these rows: for scratch that is not one row per token.
    ///
    /// # Errors
    /// When this context is on a device.
    pub(super) fn alloc_bf16_rows(&self, shape: &[usize]) -> Result<Buf> {
        let (pool, _) = self.on_cpu()?;
        let len = shape.iter().product();
        Ok(Buf::new(CpuStorage::BF16(pool.bf16(len, len.max(1))?), shape, pool.clone()))
    }

    /// As [`Self::alloc_f32`], with room for exactly `rows` rows: for chunks that are cut to a size of their own.
    ///
    /// # Errors
    /// When `shape` has more rows or there is no memory left.
    pub fn alloc_f32_rows(&self, shape: &[usize], rows: usize) -> Result<Buf> {
        if self.gpu().is_some() {
            return self.alloc_f32(shape);
        }
        self.alloc_rows(shape, rows)
    }

    fn alloc_as(&self, dtype: DType, shape: &[usize]) -> Result<Buf> {
        if let Some(on) = self.gpu() {
            let (len, _) = sizes(shape, 0)?;
            let memory = Memory::new(on, len * dtype.size_in_bytes())?;
            if self.poison.load(Ordering::Relaxed) {
                memory.fill(0xFF)?;
            }
            return Ok(Buf::on_gpu(memory, dtype, shape));
        }
        let (pool, tokens) = self.on_cpu()?;
        let (len, capacity) = sizes(shape, tokens)?;
        let mut values = pool.f32(len, capacity)?;
        if self.poison.load(Ordering::Relaxed) {
            values.fill(f32::NAN);
        }
        Ok(Buf::new(CpuStorage::F32(values), shape, pool.clone()))
    }

    /// As [`Self::alloc`], with room for exactly `rows` rows: for scratch that is not one row per token.
    ///
    /// # Errors
    /// When the size overflows or `shape` has more rows.
    pub fn alloc_rows(&self, shape: &[usize], rows: usize) -> Result<Buf> {
        if self.gpu().is_some() {
            return self.alloc(shape);
        }
        let len: usize = shape.iter().product();
        let capacity = shape[1..].iter().product::<usize>() * rows;
        if len > capacity {
            bail!("shape {shape:?} does not fit {rows} rows");
        }
        let (pool, _) = self.on_cpu()?;
        Ok(Buf::new(CpuStorage::F32(pool.f32(len, capacity.max(1))?), shape, pool.clone()))
    }

    /// As [`Self::alloc`], of zeros.
    ///
    /// # Errors
    /// As [`Self::alloc`].
    pub fn zeros(&self, shape: &[usize]) -> Result<Buf> {
        let mut buf = self.alloc(shape)?;
        match self.gpu() {
            Some(_) => buf.memory()?.fill(0)?,
            None => buf.f32_mut()?.fill(0.0),
        }
        Ok(buf)
    }

    /// A copy of `values` as [`Self::alloc`] would hold them.
    ///
    /// # Errors
    /// When `values` and `shape` disagree.
    pub fn from_slice(&self, values: &[f32], shape: &[usize]) -> Result<Buf> {
        let mut buf = self.alloc(shape)?;
        if buf.len() != values.len() {
            bail!("{} values do not fill shape {shape:?}", values.len());
        }
        match self.gpu() {
            Some(_) => buf.memory()?.write(0, &self.narrow(values))?,
            None => buf.f32_mut()?.copy_from_slice(values),
        }
        Ok(buf)
    }

    /// f32 values as the bytes of this context's dtype.
    pub(crate) fn narrow(&self, values: &[f32]) -> Vec<u8> {
        let cast = |v: Vec<u16>| bytemuck::cast_slice(&v).to_vec();
        match self.compute {
            DType::BF16 => cast(values.iter().map(|v| bf16::from_f32(*v).to_bits()).collect()),
            DType::F16 => cast(values.iter().map(|v| f16::from_f32(*v).to_bits()).collect()),
            _ => bytemuck::cast_slice(values).to_vec(),
        }
    }

    /// Rounds the values of `x` to the compute dtype, in place; nothing to do in f32 and on a device.
    ///
    /// # Errors
    /// When `x` is no f32 buffer.
    pub fn round(&self, x: &mut Buf) -> Result<()> {
        if self.compute == DType::BF16 && self.gpu().is_none() {
            x.f32_mut()?.par_chunks_mut(1 << 14).for_each(simd::round);
        }
        Ok(())
    }

    /// `x` in the dtype that activations are kept in: itself in f32 and on a device, a bf16 copy in bf16.
    ///
    /// # Errors
    /// When `x` is no f32 buffer.
    pub fn pack(&self, x: Buf) -> Result<Buf> {
        if self.compute == DType::F32 || self.gpu().is_some() {
            return Ok(x);
        }
        let (pool, tokens) = self.on_cpu()?;
        let (len, capacity) = sizes(x.shape(), tokens)?;
        let mut out = pool.bf16(len, capacity)?;
        let pairs = out.par_chunks_mut(1 << 14).zip(x.f32()?.par_chunks(1 << 14));
        pairs.for_each(|(o, i)| simd::narrow(i, o));
        Ok(Buf::new(CpuStorage::BF16(out), x.shape(), pool.clone()))
    }

    /// A kept activation as values between ops again.
    ///
    /// # Errors
    /// When the size overflows.
    pub fn unpack(&self, x: Buf) -> Result<Buf> {
        if x.dtype() == DType::F32 || self.gpu().is_some() {
            return Ok(x);
        }
        let mut out = self.alloc(x.shape())?;
        let pairs = out.f32_mut()?.par_chunks_mut(1 << 14).zip(x.bf16()?.par_chunks(1 << 14));
        pairs.for_each(|(o, i)| simd::widen(i, o));
        Ok(out)
    }
}

/// Elements of a shape, and those to make room for when its first dimension may grow to `tokens`.
fn sizes(shape: &[usize], tokens: usize) -> Result<(usize, usize)> {
    let product =
        |dims: &[usize]| dims.iter().try_fold(1usize, |a, &b| a.checked_mul(b)).unwrap_or(0);
    let Some((&rows, rest)) = shape.split_first() else { bail!("a buffer needs a shape") };
    let len = product(shape);
    let capacity = rows.max(tokens) * product(rest).max(1);
    if len == 0 && !shape.contains(&0) {
        bail!("a buffer of shape {shape:?} is too large");
    }
    Ok((len, capacity.max(1)))
}

/// `x` as the dtype holds it.
pub fn rounded(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => bf16::from_f32(x).to_f32(),
        DType::F16 => f16::from_f32(x).to_f32(),
        _ => x,
    }
}
