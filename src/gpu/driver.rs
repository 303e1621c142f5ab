//! The device through the driver's and cuBLAS' own functions, opened at run time.

use super::{Arg, Info, Matrix};
use crate::error::{Problem, UserError};
use candle_core::{DType, Error, Result, bail};
use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Every kernel for every supported card, and PTX for later ones.
static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// The CUDA version that the kernels and the bindings are made for.
const NEEDED: u32 = 13_000;
const DRIVER: &str = "driver 580 or newer";
/// Older cards have no f16 tensor cores and no kernels here.
const OLDEST: (u32, u32) = (7, 5);

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

fn refuse(message: impl Into<String>, hint: impl Into<String>) -> UserError {
    Problem::new(message).hint(hint).into()
}

fn silent(what: &'static str) -> impl Fn(result::DriverError) -> UserError {
    move |e| refuse(format!("CUDA: {what}: {e:?}"), "see whether `nvidia-smi` lists the card")
}

fn failed(what: &str, error: impl std::fmt::Debug) -> Error {
    Error::Msg(format!("CUDA: {what} failed: {error:?}")).bt()
}

impl Gpu {
    /// The number of devices, once driver and cuBLAS are found to be there.
    ///
    /// # Errors
    /// When one is missing or too old; the hint says what to install.
    pub fn count() -> std::result::Result<usize, UserError> {
        // SAFETY: opens a library by name and closes it again.
        if !unsafe { sys::is_culib_present() } {
            let message = "no NVIDIA driver: libcuda.so.1 cannot be loaded";
            let hint =
                format!("install NVIDIA's {DRIVER} (`nvidia-smi` shows it), or set `device: cpu`");
            return Err(refuse(message, hint));
        }
        result::init().map_err(silent("the driver does not start"))?;
        let driver = driver_version().map_err(silent("the driver tells no version"))?;
        if driver < NEEDED {
            let version = |v: u32| format!("{}.{}", v / 1000, v % 1000 / 10);
            let message =
                format!("the NVIDIA driver is too old: it supports CUDA {}", version(driver));
            return Err(refuse(message, format!("CUDA {} is needed: {DRIVER}", version(NEEDED))));
        }
        // SAFETY: as above.
        if !unsafe { blas_sys::is_culib_present() } {
            let hint = "install the CUDA 13 runtime libraries (package `libcublas-13-0`, or `pip install nvidia-cublas`) and \
                        name their folder in LD_LIBRARY_PATH";
            return Err(refuse("cuBLAS is missing: libcublas.so.13 cannot be loaded", hint));
        }
        Ok(result::device::get_count().map_err(silent("no devices"))? as usize)
    }

    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// As [`Self::count`]; when the device is not there, too old, or cannot be used.
    pub fn open(ordinal: usize) -> std::result::Result<Arc<Self>, UserError> {
        let count = Self::count()?;
        if ordinal >= count {
            let message = format!("there is no device cuda:{ordinal}: this machine has {count}");
            return Err(refuse(message, "`nvidia-smi -L` lists the devices, counted from 0"));
        }
        let info = describe(ordinal).map_err(silent("the device does not answer"))?;
        let (major, minor) = info.capability;
        if info.capability < OLDEST {
            let message = format!("{} has compute capability {major}.{minor}", info.name);
            return Err(refuse(message, "cards from 7.5 on are supported: T4, RTX 20 and newer"));
        }
        let name = info.name.clone();
        Self::start(info).map(Arc::new).map_err(|e| {
            let hint = if format!("{e}").contains("OUT_OF_MEMORY") {
                "another process holds the card's memory: see `nvidia-smi`".to_owned()
            } else {
                format!("{name}, compute capability {major}.{minor}: a newer driver may know this card better")
            };
            refuse(format!("{e}"), hint)
        })
    }

    fn start(info: Info) -> Result<Self> {
        let device =
            result::device::get(info.ordinal as i32).map_err(|e| failed("the device", e))?;
        // SAFETY: `device` is valid; the primary context lives as long as the process, and everything below belongs to it.
        unsafe {
            let context =
                result::primary_ctx::retain(device).map_err(|e| failed("a context", e))?;
            result::ctx::set_current(context).map_err(|e| failed("a context", e))?;
            let pool = result::device::get_default_mem_pool(device)
                .map_err(|e| failed("the memory pool", e))?;
            // Without this the pool gives all that is free back to the system at each synchronisation.
            let mut keep = u64::MAX;
            let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, threshold, (&raw mut keep).cast())
                .map_err(|e| failed("the memory pool", e))?;
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
                .map_err(|e| failed("a stream", e))?;
            let module = result::module::load_data(IMAGE.as_ptr().cast())
                .map_err(|e| failed("loading the kernels", e))?;
            let blas = blas::create_handle().map_err(|e| failed("cuBLAS", e))?;
            blas::set_stream(blas, stream.cast()).map_err(|e| failed("cuBLAS", e))?;
            // Partial sums of 16-bit products stay in f32 too.
            let exact = blas_sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
            blas_sys::cublasSetMathMode(blas, exact).result().map_err(|e| failed("cuBLAS", e))?;
            Ok(Self {
                info,
                context,
                stream,
                module,
                blas,
                functions: Mutex::default(),
                sizes: Mutex::default(),
                used: AtomicU64::new(0),
                peak: AtomicU64::new(0),
            })
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

fn driver_version() -> std::result::Result<u32, result::DriverError> {
    let mut version = 0;
    // SAFETY: the driver is loaded; it writes one int.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version as u32)
}

fn describe(ordinal: usize) -> std::result::Result<Info, result::DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(ordinal as i32)?;
    // SAFETY: `device` is valid.
    let (major, minor, memory) = unsafe {
        (
            result::device::get_attribute(device, MAJOR)?,
            result::device::get_attribute(device, MINOR)?,
            result::device::total_mem(device)?,
        )
    };
    let name = result::device::get_name(device)?;
    let driver = driver_version()?;
    Ok(Info { ordinal, name, capability: (major as u32, minor as u32), memory, driver })
}
