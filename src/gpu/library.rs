//! The functions of NVIDIA's driver and of cuBLAS that are called, opened by name when a run asks for a device.
//!
//! Declared here and not taken from a crate of bindings. cudarc, candle's, reads result codes as a Rust enum, so that a code of a
//! newer driver is undefined behaviour; it panics where a library lacks a function; and it opens `libcublas.so`, whichever
//! version that is, before `libcublas.so.13`. Signatures: `cuda.h` and `cublas_api.h` of CUDA 13.0.

use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::sync::OnceLock;

/// An opaque handle: a context, a stream, a module, a function, a memory pool, cuBLAS.
pub(super) type Handle = *mut c_void;

/// A code other than 0, as the library itself names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// A `CUresult` or a `cublasStatus_t`.
    pub(super) code: u32,
    /// Its name, and what it says of it.
    name: String,
}

impl Refusal {
    /// Whether the driver or cuBLAS found no memory.
    pub(super) fn is_out_of_memory(&self) -> bool {
        ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"]
            .iter()
            .any(|n| self.name.starts_with(n))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

macro_rules! library {
    ($(#[$doc:meta])* $name:ident from $file:literal: $($function:ident = $symbol:literal ($($argument:ty),*);)*) => {
        $(#[$doc])*
        pub(super) struct $name {
            $(pub(super) $function: unsafe extern "C" fn($($argument),*) -> u32,)*
        }

        impl $name {
            fn open() -> Result<Self, String> {
                // SAFETY: these libraries may be loaded at any time; what they run then is theirs.
                let library = unsafe { Library::new($file) }.map_err(|e| why(&e))?;
                // It stays open as long as the process: its functions are kept.
                let library: &'static Library = Box::leak(Box::new(library));
                Ok(Self {
                    $($function: {
                        // SAFETY: the signature is that of the library's header.
                        let found = unsafe {
                            library.get::<unsafe extern "C" fn($($argument),*) -> u32>($symbol.as_bytes())
                        };
                        *found.map_err(|_| format!("it has no function `{}`", $symbol))?
                    },)*
                })
            }

            /// The library, opened at the first call.
            ///
            /// # Errors
            /// What the loader says, or which function is missing.
            pub(super) fn get() -> Result<&'static Self, String> {
                static OPEN: OnceLock<Result<$name, String>> = OnceLock::new();
                OPEN.get_or_init(Self::open).as_ref().map_err(Clone::clone)
            }
        }
    };
}

library! {
    /// The driver.
    Driver from "libcuda.so.1":
    init = "cuInit"(u32);
    version = "cuDriverGetVersion"(*mut c_int);
    error_name = "cuGetErrorName"(u32, *mut *const c_char);
    error_string = "cuGetErrorString"(u32, *mut *const c_char);
    device_count = "cuDeviceGetCount"(*mut c_int);
    device = "cuDeviceGet"(*mut c_int, c_int);
    device_name = "cuDeviceGetName"(*mut c_char, c_int, c_int);
    device_attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    device_memory = "cuDeviceTotalMem_v2"(*mut usize, c_int);
    device_pool = "cuDeviceGetDefaultMemPool"(*mut Handle, c_int);
    pool_attribute = "cuMemPoolSetAttribute"(Handle, c_int, *mut c_void);
    context = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    set_context = "cuCtxSetCurrent"(Handle);
    stream = "cuStreamCreate"(*mut Handle, u32);
    synchronize = "cuStreamSynchronize"(Handle);
    module = "cuModuleLoadData"(*mut Handle, *const c_void);
    function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    launch = "cuLaunchKernel"(Handle, u32, u32, u32, u32, u32, u32, u32, Handle, *mut *mut c_void, *mut *mut c_void);
    memory = "cuMemGetInfo_v2"(*mut usize, *mut usize);
    allocate = "cuMemAllocAsync"(*mut u64, usize, Handle);
    free = "cuMemFreeAsync"(u64, Handle);
    to_device = "cuMemcpyHtoDAsync_v2"(u64, *const c_void, usize, Handle);
    to_host = "cuMemcpyDtoHAsync_v2"(*mut c_void, u64, usize, Handle);
    copy = "cuMemcpyDtoDAsync_v2"(u64, u64, usize, Handle);
    fill = "cuMemsetD8Async"(u64, u8, usize, Handle);
}

library! {
    /// cuBLAS.
    Blas from "libcublas.so.13":
    create = "cublasCreate_v2"(*mut Handle);
    set_stream = "cublasSetStream_v2"(Handle, Handle);
    set_math_mode = "cublasSetMathMode"(Handle, u32);
    gemm = "cublasGemmEx"(
        Handle, u32, u32, c_int, c_int, c_int, *const c_void, *const c_void, u32, c_int, *const c_void, u32, c_int,
        *const c_void, *mut c_void, u32, c_int, u32, c_int
    );
}

/// What the loader says, without the name of the call that it was asked by.
fn why(error: &libloading::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

impl Driver {
    /// `Ok` for 0.
    pub(super) fn check(&self, code: u32) -> Result<(), Refusal> {
        if code == 0 {
            return Ok(());
        }
        let text = |ask: unsafe extern "C" fn(u32, *mut *const c_char) -> u32| {
            let mut text = std::ptr::null();
            // SAFETY: it writes a pointer to a text that lives as long as the library, or none for a code that it does not know.
            let told = unsafe { ask(code, &raw mut text) };
            // SAFETY: as above.
            (told == 0 && !text.is_null())
                .then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy())
        };
        let name = match (text(self.error_name), text(self.error_string)) {
            (Some(name), Some(text)) => format!("{name}: {text}"),
            (Some(name), None) => name.into_owned(),
            _ => format!("error {code}"),
        };
        Err(Refusal { code, name })
    }
}

impl Blas {
    /// `Ok` for 0.
    pub(super) fn check(code: u32) -> Result<(), Refusal> {
        let name = match code {
            0 => return Ok(()),
            1 => "CUBLAS_STATUS_NOT_INITIALIZED",
            3 => "CUBLAS_STATUS_ALLOC_FAILED",
            7 => "CUBLAS_STATUS_INVALID_VALUE",
            8 => "CUBLAS_STATUS_ARCH_MISMATCH",
            11 => "CUBLAS_STATUS_MAPPING_ERROR",
            13 => "CUBLAS_STATUS_EXECUTION_FAILED",
            14 => "CUBLAS_STATUS_INTERNAL_ERROR",
            15 => "CUBLAS_STATUS_NOT_SUPPORTED",
            16 => "CUBLAS_STATUS_LICENSE_ERROR",
            _ => return Err(Refusal { code, name: format!("cuBLAS status {code}") }),
        };
        Err(Refusal { code, name: name.into() })
    }
}

/// Codes that are told apart (`CUresult`, `cublasStatus_t`) and values of flags, as the headers of CUDA 13.0 have them.
pub(super) mod codes {
    pub(crate) const OUT_OF_MEMORY: u32 = 2;
    pub(crate) const STUB_LIBRARY: u32 = 34;
    pub(crate) const DEVICE_UNAVAILABLE: u32 = 46;
    pub(crate) const NO_DEVICE: u32 = 100;
    pub(crate) const INVALID_IMAGE: u32 = 200;
    pub(crate) const NO_BINARY_FOR_GPU: u32 = 209;
    pub(crate) const UNSUPPORTED_PTX_VERSION: u32 = 222;
    pub(crate) const SYSTEM_NOT_READY: u32 = 802;
    pub(crate) const SYSTEM_DRIVER_MISMATCH: u32 = 803;
    pub(crate) const COMPAT_NOT_SUPPORTED_ON_DEVICE: u32 = 804;
    pub(crate) const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
    pub(crate) const COMPUTE_CAPABILITY_MINOR: i32 = 76;
    pub(crate) const MEMPOOL_RELEASE_THRESHOLD: i32 = 4;
    pub(crate) const STREAM_NON_BLOCKING: u32 = 1;
    pub(crate) const CUBLAS_OP_N: u32 = 0;
    pub(crate) const CUBLAS_OP_T: u32 = 1;
    pub(crate) const CUBLAS_DISALLOW_REDUCED_PRECISION_REDUCTION: u32 = 16;
    pub(crate) const CUBLAS_COMPUTE_32F: u32 = 68;
    pub(crate) const CUBLAS_GEMM_DEFAULT: i32 = -1;
    pub(crate) const R_32F: u32 = 0;
    pub(crate) const R_16F: u32 = 2;
    pub(crate) const R_16BF: u32 = 14;
}
