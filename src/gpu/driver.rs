//! The device through the driver's and cuBLAS' own functions.

use super::{Arg, Info, Matrix};
use candle_core::{DType, Error, Result, bail};
use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open device.
pub struct Gpu {
    info: Info,
    context: sys::CUcontext,
    stream: sys::CUstream,
    module: sys::CUmodule,
    blas: blas_sys::cublasHandle_t,
    functions: Mutex<HashMap<String, usize>>,
    sizes: Mutex<HashMap<u64, usize>>,
    used: AtomicU64,
    peak: AtomicU64,
}

// SAFETY: the driver's handles may be used from any thread once its context is current there, which every method sees to; the
// cuBLAS handle is used by one thread at a time because a run drives its device from one thread.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

pub(super) fn failed(what: &str, error: impl std::fmt::Debug) -> Error {
    Error::Msg(format!("CUDA: {what} failed: {error:?}")).bt()
}

impl Gpu {
    /// Takes over what was opened; all of it belongs to `context` and lives as long as the process.
    pub(super) fn new(
        info: Info,
        context: sys::CUcontext,
        stream: sys::CUstream,
        module: sys::CUmodule,
        blas: blas_sys::cublasHandle_t,
    ) -> Self {
        Self {
            info,
            context,
            stream,
            module,
            blas,
            functions: Mutex::default(),
            sizes: Mutex::default(),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        }
    }

    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as the process.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("the context", e))
    }

    /// What the device is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The most memory that was in use at a time, in bytes, as far as this process asked for it.
    pub fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub(super) fn allocate(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        // SAFETY: the stream is alive.
        let at = unsafe { result::malloc_async(self.stream, bytes) }.map_err(|e| {
            if e.0 != sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                return failed("allocating memory", e);
            }
            let gib = |b: f64| b / f64::from(1 << 30);
            Error::Msg(format!(
                "CUDA out of memory: {:.2} GiB are asked for beyond the {:.2} GiB in use, of {:.2} GiB; lower \
                 train.micro_batch_size or train.max_seq_length, or set quantize: bnb.nf4-dq",
                gib(bytes as f64),
                gib(self.used.load(Ordering::Relaxed) as f64),
                gib(self.info.memory as f64),
            ))
        })?;
        let used = self.used.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.peak.fetch_max(used, Ordering::Relaxed);
        if let Ok(mut sizes) = self.sizes.lock() {
            sizes.insert(at, bytes);
        }
        Ok(at)
    }

    pub(super) fn release(&self, at: u64) {
        let bytes = self.sizes.lock().ok().and_then(|mut s| s.remove(&at)).unwrap_or(0);
        self.used.fetch_sub(bytes as u64, Ordering::Relaxed);
        // An error here is one of work given before and is reported by the next call that waits for it.
        if self.bind().is_ok() {
            // SAFETY: `at` came from `allocate` and its owner is being dropped; the stream's order keeps it alive for work
            // given before.
            let _ = unsafe { result::free_async(at, self.stream) };
        }
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller checked the range; pageable host memory is staged before the call returns.
        unsafe { result::memcpy_htod_async(at, bytes, self.stream) }
            .map_err(|e| failed("a copy to the device", e))
    }

    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller checked the range; the copy is waited for while `bytes` is borrowed.
        unsafe {
            result::memcpy_dtoh_async(bytes, at, self.stream)
                .map_err(|e| failed("a copy from the device", e))?;
        }
        self.synchronize()
    }

    pub(super) fn fill(&self, at: u64, bytes: usize, value: u8) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller owns the range.
        unsafe { result::memset_d8_async(at, value, bytes, self.stream) }
            .map_err(|e| failed("filling memory", e))
    }

    pub(super) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller checked both ranges.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }
            .map_err(|e| failed("a copy on the device", e))
    }

    /// Waits until all work given to the device is done.
    ///
    /// # Errors
    /// When some of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(|e| failed("work on the device", e))
    }

    fn function(&self, kernel: &str) -> Result<sys::CUfunction> {
        let Ok(mut functions) = self.functions.lock() else { bail!("a kernel's look-up failed") };
        if let Some(f) = functions.get(kernel) {
            return Ok(*f as sys::CUfunction);
        }
        let name = CString::new(kernel).map_err(Error::wrap)?;
        // SAFETY: the module is loaded.
        let f = unsafe { result::module::get_function(self.module, name) }
            .map_err(|e| failed(&format!("finding the kernel `{kernel}`"), e))?;
        functions.insert(kernel.to_owned(), f as usize);
        Ok(f)
    }

    /// Launches a kernel in `blocks` blocks of `threads` threads; nothing for no blocks.
    ///
    /// # Safety
    /// `args` must be the kernel's parameters in number, order and type, and its pointers must cover all that it touches.
    ///
    /// # Errors
    /// When the kernel does not exist or the launch is refused.
    pub unsafe fn launch(
        &self,
        kernel: &str,
        blocks: usize,
        threads: u32,
        args: &[Arg],
    ) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        let Ok(blocks) = i32::try_from(blocks) else { bail!("{kernel}: too many blocks") };
        self.bind()?;
        let function = self.function(kernel)?;
        let mut parameters: Vec<*mut c_void> = args
            .iter()
            .map(|arg| {
                match arg {
                    Arg::Pointer(x) | Arg::U64(x) => (&raw const *x).cast::<c_void>(),
                    Arg::U32(x) => (&raw const *x).cast(),
                    Arg::I32(x) => (&raw const *x).cast(),
                    Arg::F32(x) => (&raw const *x).cast(),
                }
                .cast_mut()
            })
            .collect();
        let (grid, block) = ((blocks as u32, 1, 1), (threads, 1, 1));
        // SAFETY: the parameters are as the caller promises; the driver copies them before the call returns.
        unsafe { result::launch_kernel(function, grid, block, 0, self.stream, &mut parameters) }
            .map_err(|e| failed(&format!("launching `{kernel}`"), e))
    }

    pub(super) fn gemm(
        &self,
        c: Matrix<'_>,
        beta: f32,
        alpha: f32,
        a: Matrix<'_>,
        b: Matrix<'_>,
    ) -> Result<()> {
        use blas_sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        self.bind()?;
        let op = |m: Matrix<'_>| if m.transposed { CUBLAS_OP_T } else { CUBLAS_OP_N };
        let at = |m: Matrix<'_>| m.memory.at(m.offset) as *const c_void;
        // SAFETY: the views lie inside their memory (checked where they are made), shapes and dtypes agree (checked by
        // `product`), alpha and beta are read from the host before the call returns.
        unsafe {
            blas::gemm_ex(
                self.blas,
                op(b),
                op(a),
                c.cols as i32,
                c.rows as i32,
                a.cols as i32,
                (&raw const alpha).cast(),
                at(b),
                data_type(b.dtype)?,
                b.stride as i32,
                at(a),
                data_type(a.dtype)?,
                a.stride as i32,
                (&raw const beta).cast(),
                at(c).cast_mut(),
                data_type(c.dtype)?,
                c.stride as i32,
                blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|e| failed("a matrix product", e))
    }
}

fn data_type(dtype: DType) -> Result<blas_sys::cudaDataType> {
    use blas_sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F};
    Ok(match dtype {
        DType::F32 => CUDA_R_32F,
        DType::BF16 => CUDA_R_16BF,
        DType::F16 => CUDA_R_16F,
        other => bail!("no products of {other:?}"),
    })
}
