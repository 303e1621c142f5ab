//! The context of every op: where buffers come from, what computes (this processor's threads or a CUDA device), and how values
//! between ops are rounded.
//!
//! Ops take `&Cx`: the pool is behind a lock because buffers find their own way back when dropped, what is to be prefetched because it is said during a run;
//! everything else here is read-only then. Threads are rayon's current pool: the caller installs one ([`Cx::install`]). Values between
//! ops are stored in the compute dtype; products take their operands in the products' dtype, which is another one in mixed
//! precision ([`super::operand`]).
//!
//! Buffers whose first dimension counts tokens are given room for the longest batch of the run
//! ([`Cx::set_token_capacity`]), so that after the first steps every request is met by a buffer given back earlier. Unused room is
//! never touched and so never resident.

use super::bf16_gemm;
use super::buf::Buf;
use super::on_gpu::OnGpu;
use super::pool::Pool;
use super::prefetch::{Places, Prefetch};
use super::simd;
use crate::gpu::{self, Gpu, Memory};
use candle_core::{CpuStorage, DType, Error, Result, bail};
use half::{bf16, f16};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Where buffers come from, what computes, and the rounding of values between ops.
pub struct Cx {
    engine: Engine,
    compute: DType,
    products: DType,
    bf16_products: bool,
    prefetch: Prefetch,
    poison: AtomicBool,
}

enum Engine {
    Cpu {
        pool: Arc<Pool>,
        threads: rayon::ThreadPool,
        token_capacity: AtomicUsize,
        longest: AtomicUsize,
    },
    Gpu(OnGpu),
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
        let (token_capacity, longest) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        let bf16_products = bf16_gemm::available()? && compute == DType::BF16;
        Ok(Self {
            engine: Engine::Cpu { pool: Arc::default(), threads, token_capacity, longest },
            compute,
            products: compute,
            bf16_products,
            prefetch: Prefetch::new(),
            poison: AtomicBool::new(false),
        })
    }

    /// A context on a device that computes in `compute`: f32, bf16 or f16.
    ///
    /// # Errors
    /// When there are no kernels for the dtype.
    pub fn on_gpu(compute: DType, gpu: Arc<Gpu>) -> Result<Self> {
        gpu::suffix(compute)?;
        let engine = Engine::Gpu(OnGpu { gpu, compute });
        let (prefetch, poison) = (Prefetch::new(), AtomicBool::new(false));
        Ok(Self { engine, compute, products: compute, bf16_products: false, prefetch, poison })
    }

    /// Mixed precision: an f32 context whose products take their operands in `products`: bf16, on a device also f16.
    ///
    /// # Errors
    /// When the context does not compute in f32 or has no such products.
    pub fn with_products(self, products: DType) -> Result<Self> {
        let bf16_products = match (&self.engine, products) {
            _ if self.compute != DType::F32 => {
                bail!("values are mixed with narrower products in f32, not in {:?}", self.compute)
            }
            (Engine::Cpu { .. }, DType::BF16) => bf16_gemm::available()?,
            (Engine::Gpu(_), DType::BF16 | DType::F16) => false,
            _ => bail!("no products in {products:?} here"),
        };
        Ok(Self { products, bf16_products, ..self })
    }

    /// The dtype of values between ops.
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// The dtype of products' operands: weights, and what they are multiplied with.
    pub fn products(&self) -> DType {
        self.products
    }

    /// Whether frozen bf16 weights are multiplied in bf16 on the CPU.
    pub fn has_bf16_products(&self) -> bool {
        self.bf16_products
    }

    /// Whether values and operands are f32 on the CPU.
    pub fn is_all_f32(&self) -> bool {
        self.gpu().is_none() && [self.compute, self.products] == [DType::F32; 2]
    }

    /// Whether values between ops are bf16 and the CPU has instructions for rows of them.
    pub fn has_bf16_rows(&self) -> bool {
        self.bf16_products && self.compute == DType::BF16
    }

    /// Has up to four buffers prefetched while the next layer's product is computed, in place of those of an earlier call: what ops
    /// behind it read that was written long ago. A hint; on a device there is none.
    pub fn prefetch(&self, bufs: &[&Buf]) {
        if self.gpu().is_none() {
            self.prefetch.say(bufs);
        }
    }

    /// What is to be prefetched, once.
    pub(super) fn take_prefetch(&self) -> Places {
        self.prefetch.take()
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
            // Pairs of tokens are laid side by side in places.
            token_capacity.store(tokens.next_multiple_of(2), Ordering::Relaxed);
        }
    }

    /// Says that no sequence of a batch has more than `tokens`: what only long ones need has room for these from now on.
    pub fn set_longest_sequence(&self, tokens: usize) {
        if let Engine::Cpu { longest, .. } = &self.engine {
            longest.store(tokens, Ordering::Relaxed);
        }
    }

    /// Tokens of the longest sequence that a batch of `n` may have, as far as is known.
    pub(super) fn longest_sequence(&self, n: usize) -> usize {
        match &self.engine {
            Engine::Cpu { longest, .. } => longest.load(Ordering::Relaxed).min(n),
            Engine::Gpu(_) => n,
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

    /// Rows to make room for where `n` tokens, and never more than `most`, are worked on at a time.
    pub fn room(&self, n: usize, most: usize) -> usize {
        self.on_cpu().map_or(most, |(_, tokens)| tokens.max(n).min(most))
    }

    /// Bytes of the CPU's buffers; 0 on a device.
    pub fn pooled_bytes(&self) -> usize {
        self.on_cpu().map_or(0, |(pool, _)| pool.bytes())
    }

    /// A buffer of any content for values between ops, in the compute dtype. The first dimension of `shape` counts tokens.
    ///
    /// # Errors
    /// When the size overflows or there is no memory left.
    pub fn alloc(&self, shape: &[usize]) -> Result<Buf> {
        self.alloc_as(self.compute, shape, None)
    }

    /// A buffer of any content that is f32 everywhere; the first dimension of `shape` counts tokens.
    ///
    /// # Errors
    /// When the size overflows or there is no memory left.
    pub fn alloc_f32(&self, shape: &[usize]) -> Result<Buf> {
        self.alloc_as(DType::F32, shape, None)
    }

    /// As [`Self::alloc`], with room for exactly `rows` rows: for what is not one row per token.
    ///
    /// # Errors
    /// When the size overflows or `shape` has more rows.
    pub fn alloc_rows(&self, shape: &[usize], rows: usize) -> Result<Buf> {
        self.alloc_as(self.compute, shape, Some(rows))
    }

    /// As [`Self::alloc_rows`], in f32 everywhere: for chunks of logits.
    ///
    /// # Errors
    /// When the size overflows or `shape` has more rows.
    pub fn alloc_f32_rows(&self, shape: &[usize], rows: usize) -> Result<Buf> {
        self.alloc_as(DType::F32, shape, Some(rows))
    }

    pub(super) fn alloc_as(
        &self,
        dtype: DType,
        shape: &[usize],
        rows: Option<usize>,
    ) -> Result<Buf> {
        let poison = self.poison.load(Ordering::Relaxed);
        if let Some(on) = self.gpu() {
            let (len, _) = sizes(shape, 0)?;
            let memory = Memory::new(on, len * dtype.size_in_bytes())?;
            if poison {
                memory.fill(0xFF)?;
            }
            return Ok(Buf::on_gpu(memory, dtype, shape));
        }
        let (pool, tokens) = self.on_cpu()?;
        if rows.is_some_and(|rows| shape[0] > rows) {
            bail!("shape {shape:?} does not fit {} rows", rows.unwrap_or(0));
        }
        let (len, capacity) = sizes(shape, rows.unwrap_or(tokens))?;
        let storage = if dtype == DType::BF16 {
            let mut values = pool.bf16(len, capacity)?;
            if poison {
                values.fill(bf16::NAN);
            }
            CpuStorage::BF16(values)
        } else {
            let mut values = pool.f32(len, capacity)?;
            if poison {
                values.fill(f32::NAN);
            }
            CpuStorage::F32(values)
        };
        Ok(Buf::new(storage, shape, pool.clone()))
    }

    /// As [`Self::alloc`], of zeros.
    ///
    /// # Errors
    /// As [`Self::alloc`].
    pub fn zeros(&self, shape: &[usize]) -> Result<Buf> {
        let mut buf = self.alloc(shape)?;
        match self.gpu() {
            Some(_) => buf.memory()?.fill(0)?,
            None if self.compute == DType::BF16 => buf.bf16_mut()?.fill(bf16::ZERO),
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
            Some(_) => buf.memory()?.write(0, &bytes(values, self.compute))?,
            None if self.compute == DType::BF16 => simd::narrow(values, buf.bf16_mut()?),
            None => buf.f32_mut()?.copy_from_slice(values),
        }
        Ok(buf)
    }
}

/// f32 values as the bytes of a dtype.
pub(super) fn bytes(values: &[f32], dtype: DType) -> Vec<u8> {
    let cast = |v: Vec<u16>| bytemuck::cast_slice(&v).to_vec();
    match dtype {
        DType::BF16 => cast(values.iter().map(|v| bf16::from_f32(*v).to_bits()).collect()),
        DType::F16 => cast(values.iter().map(|v| f16::from_f32(*v).to_bits()).collect()),
        _ => bytemuck::cast_slice(values).to_vec(),
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

/// `values` as the dtype holds them, on the calling thread.
pub fn round(values: &mut [f32], dtype: DType) {
    match dtype {
        DType::F32 => (),
        DType::BF16 => simd::vectorized(
            #[inline(always)]
            || {
                let bits = |v: f32| u32::from(simd::narrow_bits(v)) << 16;
                values.iter_mut().for_each(|v| *v = f32::from_bits(bits(*v)));
            },
        ),
        _ => values.iter_mut().for_each(|v| *v = rounded(*v, dtype)),
    }
}

/// `x` as the dtype holds it.
pub fn rounded(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => bf16::from_f32(x).to_f32(),
        DType::F16 => f16::from_f32(x).to_f32(),
        _ => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_largest_batch_of_odd_length_has_room_for_its_pairs() {
        let cx = Cx::cpu(DType::BF16, 1).unwrap();
        cx.set_token_capacity(5);
        drop(cx.alloc(&[4, 3]).unwrap());
        drop(cx.alloc(&[6, 3]).unwrap());
        assert_eq!(cx.fresh_allocations(), 1);
    }
}
