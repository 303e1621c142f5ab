//! From nothing to an open device: what must be there, and what to install where it is not.

use super::Info;
use super::driver::{Gpu, failed};
use super::trouble::no_start;
use crate::error::{Problem, UserError};
use candle_core::Result;
use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{result, sys};
use std::sync::Arc;

/// Every kernel for every supported card, and PTX for later ones.
static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// The CUDA version that the kernels and the bindings are made for.
const NEEDED: u32 = 13_000;
pub(super) const DRIVER: &str = "driver 580 or newer";
/// Older cards have no f16 tensor cores and no kernels here.
const OLDEST: (u32, u32) = (7, 5);

pub(super) fn refuse(message: impl Into<String>, hint: impl Into<String>) -> UserError {
    Problem::new(message).hint(hint).into()
}

fn silent(what: &'static str) -> impl Fn(result::DriverError) -> UserError {
    move |e| refuse(format!("CUDA: {what}: {e:?}"), "see whether `nvidia-smi` lists the card")
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
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        result::init().map_err(|e| no_start(e, visible.as_deref()))?;
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
            Ok(Self::new(info, context, stream, module, blas))
        }
    }
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
