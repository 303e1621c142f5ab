//! The context of every op: where buffers come from and how values between ops are rounded.
//!
//! Ops take `&Cx`: the pool is behind a lock because buffers find their own way back when dropped, and everything else here is
//! read-only during a run. Threads are rayon's current pool: the caller installs one ([`Cx::install`]).
//!
//! Buffers whose first dimension counts tokens are given room for the longest batch of the run
//! ([`Cx::set_token_capacity`]), so that after the first steps every request is met by a buffer given back earlier. Unused room is
//! never touched and so never resident.

use super::buf::Buf;
use super::pool::Pool;
use candle_core::{CpuStorage, DType, Error, Result, bail};
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Buffer pool, threads and the rounding of values between ops.
pub struct Cx {
    pool: Arc<Pool>,
    threads: rayon::ThreadPool,
    compute: DType,
    token_capacity: AtomicUsize,
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
        Ok(Self { pool: Arc::default(), threads, compute, token_capacity })
    }

    /// The dtype of weights and activations.
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// Runs `f` with this context's threads as rayon's current pool.
    pub fn install<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.threads.install(f)
    }

    /// Gives token buffers room for `tokens` rows from now on.
    pub fn set_token_capacity(&self, tokens: usize) {
        self.token_capacity.store(tokens, Ordering::Relaxed);
    }

    /// How many buffers were newly allocated so far.
    pub fn fresh_allocations(&self) -> usize {
        self.pool.fresh()
    }

    /// An f32 buffer of any content; the first dimension of `shape` counts tokens.
    ///
    /// # Errors
    /// When the size overflows.
    pub fn alloc(&self, shape: &[usize]) -> Result<Buf> {
        let (len, capacity) = self.sizes(shape)?;
        let v = self.pool.f32(len, capacity);
        Ok(Buf::new(CpuStorage::F32(v), shape, self.pool.clone()))
    }

    /// An f32 buffer of any content with room for exactly `rows` rows: for scratch that is not one row per token.
    ///
    /// # Errors
    /// When the size overflows or `shape` has more rows.
    pub fn alloc_rows(&self, shape: &[usize], rows: usize) -> Result<Buf> {
        let len: usize = shape.iter().product();
        let capacity = shape[1..].iter().product::<usize>() * rows;
        if len > capacity {
            bail!("shape {shape:?} does not fit {rows} rows");
        }
        let v = self.pool.f32(len, capacity.max(1));
        Ok(Buf::new(CpuStorage::F32(v), shape, self.pool.clone()))
    }

    /// An f32 buffer of zeros; the first dimension of `shape` counts tokens.
    ///
    /// # Errors
    /// When the size overflows.
    pub fn zeros(&self, shape: &[usize]) -> Result<Buf> {
        let mut buf = self.alloc(shape)?;
        buf.f32_mut()?.fill(0.0);
        Ok(buf)
    }

    /// A copy of `values` as an f32 buffer.
    ///
    /// # Errors
    /// When `values` and `shape` disagree.
    pub fn from_slice(&self, values: &[f32], shape: &[usize]) -> Result<Buf> {
        let mut buf = self.alloc(shape)?;
        if buf.f32()?.len() != values.len() {
            bail!("{} values do not fill shape {shape:?}", values.len());
        }
        buf.f32_mut()?.copy_from_slice(values);
        Ok(buf)
    }

    fn sizes(&self, shape: &[usize]) -> Result<(usize, usize)> {
        let product =
            |dims: &[usize]| dims.iter().try_fold(1usize, |a, &b| a.checked_mul(b)).unwrap_or(0);
        let Some((&rows, rest)) = shape.split_first() else { bail!("a buffer needs a shape") };
        let len = product(shape);
        let capacity = rows.max(self.token_capacity.load(Ordering::Relaxed)) * product(rest).max(1);
        if len == 0 && !shape.contains(&0) {
            bail!("a buffer of shape {shape:?} is too large");
        }
        Ok((len, capacity.max(1)))
    }

    /// Rounds the values of `x` to the compute dtype, in place; nothing to do in f32.
    ///
    /// # Errors
    /// When `x` is no f32 buffer.
    pub fn round(&self, x: &mut Buf) -> Result<()> {
        if self.compute == DType::BF16 {
            x.f32_mut()?.par_chunks_mut(1 << 14).for_each(|c| {
                for v in c {
                    *v = bf16::from_f32(*v).to_f32();
                }
            });
        }
        Ok(())
    }

    /// `x` in the dtype that activations are kept in: itself in f32, a bf16 copy in bf16.
    ///
    /// # Errors
    /// When `x` is no f32 buffer.
    pub fn pack(&self, x: Buf) -> Result<Buf> {
        if self.compute == DType::F32 {
            return Ok(x);
        }
        let (len, capacity) = self.sizes(x.shape())?;
        let mut out = self.pool.bf16(len, capacity);
        let pairs = out.par_chunks_mut(1 << 14).zip(x.f32()?.par_chunks(1 << 14));
        pairs.for_each(|(o, i)| o.iter_mut().zip(i).for_each(|(o, i)| *o = bf16::from_f32(*i)));
        Ok(Buf::new(CpuStorage::BF16(out), x.shape(), self.pool.clone()))
    }

    /// A kept activation as f32 again.
    ///
    /// # Errors
    /// When the size overflows.
    pub fn unpack(&self, x: Buf) -> Result<Buf> {
        if x.dtype() == DType::F32 {
            return Ok(x);
        }
        let mut out = self.alloc(x.shape())?;
        let pairs = out.f32_mut()?.par_chunks_mut(1 << 14).zip(x.bf16()?.par_chunks(1 << 14));
        pairs.for_each(|(o, i)| o.iter_mut().zip(i).for_each(|(o, i)| *o = i.to_f32()));
        Ok(out)
    }
}
