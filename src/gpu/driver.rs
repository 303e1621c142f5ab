//! The device through the driver's and cuBLAS' own functions.

use super::library::{Blas, Driver, Handle, Refusal, codes};
use super::{Arg, Info, Matrix};
use candle_core::{DType, Error, Result, bail};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was opened: all of it belongs to `context` and lives as long as the process.
pub(super) struct Opened {
    pub(super) info: Info,
    pub(super) driver: &'static Driver,
    pub(super) blas: &'static Blas,
    pub(super) context: Handle,
    pub(super) stream: Handle,
    pub(super) module: Handle,
    pub(super) products: Handle,
}

/// An open device.
pub struct Gpu {
    open: Opened,
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

fn failed(what: &str, refusal: &Refusal) -> Error {
    if refusal.is_out_of_memory() {
        return Error::Msg(format!("CUDA out of memory: {what} failed: {refusal}"));
    }
    Error::Msg(format!("CUDA: {what} failed: {refusal}")).bt()
}

impl Gpu {
    pub(super) fn new(open: Opened) -> Self {
        Self {
            open,
            functions: Mutex::default(),
            sizes: Mutex::default(),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        }
    }

    fn check(&self, what: &str, code: u32) -> Result<()> {
        self.open.driver.check(code).map_err(|refusal| failed(what, &refusal))
    }

    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as the process.
        self.check("the context", unsafe { (self.open.driver.set_context)(self.open.context) })
    }

    /// What the device is.
    pub fn info(&self) -> &Info {
        &self.open.info
    }

    /// The most memory that was in use at a time, in bytes, as far as this process asked for it.
    pub fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// What the driver could still give out, in bytes.
    fn free(&self) -> Result<u64> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: it writes two sizes.
        let code = unsafe { (self.open.driver.memory)(&raw mut free, &raw mut total) };
        self.check("asking for memory", code)?;
        Ok(free as u64)
    }

    /// Memory that this process has or could have, in bytes: the card's less what CUDA itself and other processes hold.
    pub fn available_bytes(&self) -> Option<u64> {
        self.free().ok().map(|free| free + self.used.load(Ordering::Relaxed))
    }

    pub(super) fn allocate(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        let mut at = 0;
        // SAFETY: the stream is alive; it writes one address.
        let code = unsafe { (self.open.driver.allocate)(&raw mut at, bytes, self.open.stream) };
        if code == codes::OUT_OF_MEMORY {
            return Err(Error::Msg(self.too_much(bytes as u64)));
        }
        self.check("allocating memory", code)?;
        let used = self.used.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.peak.fetch_max(used, Ordering::Relaxed);
        if let Ok(mut sizes) = self.sizes.lock() {
            sizes.insert(at, bytes);
        }
        Ok(at)
    }

    fn too_much(&self, bytes: u64) -> String {
        let gib = |b: u64| b as f64 / f64::from(1 << 30);
        let (used, all) = (self.used.load(Ordering::Relaxed), self.open.info.memory as u64);
        let others = all.saturating_sub(self.free().unwrap_or(0) + used);
        format!(
            "CUDA out of memory: {:.2} GiB are asked for beyond the {:.2} GiB in use; of the card's {:.2} GiB CUDA itself and other \
             processes hold {:.2}; a run takes less with a smaller train.micro_batch_size or train.max_seq_length, \
             train.gradient_checkpointing: full, or quantize: bnb.nf4-dq",
            gib(bytes),
            gib(used),
            gib(all),
            gib(others),
        )
    }

    pub(super) fn release(&self, at: u64) {
        let bytes = self.sizes.lock().ok().and_then(|mut s| s.remove(&at)).unwrap_or(0);
        self.used.fetch_sub(bytes as u64, Ordering::Relaxed);
        // An error here is one of work given before and is reported by the next call that waits for it.
        if self.bind().is_ok() {
            // SAFETY: `at` came from `allocate` and its owner is being dropped; the stream's order keeps it alive for work
            // given before.
            unsafe { (self.open.driver.free)(at, self.open.stream) };
        }
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller checked the range; the copy is waited for while `bytes` is borrowed. That pageable memory is staged
        // before the call returns is promised for synchronous copies alone (CUDA Driver API, "API synchronization behavior").
        let code = unsafe {
            (self.open.driver.to_device)(at, bytes.as_ptr().cast(), bytes.len(), self.open.stream)
        };
        self.check("a copy to the device", code)?;
        self.synchronize()
    }

    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        let (to, len) = (bytes.as_mut_ptr().cast(), bytes.len());
        // SAFETY: the caller checked the range; the copy is waited for while `bytes` is borrowed.
        let code = unsafe { (self.open.driver.to_host)(to, at, len, self.open.stream) };
        self.check("a copy from the device", code)?;
        self.synchronize()
    }

    pub(super) fn fill(&self, at: u64, bytes: usize, value: u8) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller owns the range.
        let code = unsafe { (self.open.driver.fill)(at, value, bytes, self.open.stream) };
        self.check("filling memory", code)
    }

    pub(super) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller checked both ranges.
        let code = unsafe { (self.open.driver.copy)(to, from, bytes, self.open.stream) };
        self.check("a copy on the device", code)
    }

    /// Waits until all work given to the device is done.
    ///
    /// # Errors
    /// When some of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream is alive.
        let code = unsafe { (self.open.driver.synchronize)(self.open.stream) };
        self.check("work on the device", code)
    }

    fn function(&self, kernel: &str) -> Result<Handle> {
        let Ok(mut functions) = self.functions.lock() else { bail!("a kernel's look-up failed") };
        if let Some(f) = functions.get(kernel) {
            return Ok(*f as Handle);
        }
        let name = CString::new(kernel).map_err(Error::wrap)?;
        let mut f = std::ptr::null_mut();
        // SAFETY: the module is loaded; it writes one handle.
        let code =
            unsafe { (self.open.driver.function)(&raw mut f, self.open.module, name.as_ptr()) };
        self.check(&format!("finding the kernel `{kernel}`"), code)?;
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
        let (blocks, parameters) = (blocks as u32, parameters.as_mut_ptr());
        let (stream, none) = (self.open.stream, std::ptr::null_mut());
        // SAFETY: the parameters are as the caller promises; the driver copies them before the call returns.
        let code = unsafe {
            let launch = self.open.driver.launch;
            launch(function, blocks, 1, 1, threads, 1, 1, 0, stream, parameters, none)
        };
        self.check(&format!("launching `{kernel}`"), code)
    }

    pub(super) fn gemm(
        &self,
        c: Matrix<'_>,
        beta: f32,
        alpha: f32,
        a: Matrix<'_>,
        b: Matrix<'_>,
    ) -> Result<()> {
        self.bind()?;
        let op = |m: Matrix<'_>| if m.transposed { codes::CUBLAS_OP_T } else { codes::CUBLAS_OP_N };
        let at = |m: Matrix<'_>| m.memory.at(m.offset) as *const c_void;
        // SAFETY: the views lie inside their memory (checked where they are made), shapes and dtypes agree (checked by
        // `product`), alpha and beta are read from the host before the call returns.
        let code = unsafe {
            (self.open.blas.gemm)(
                self.open.products,
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
                codes::CUBLAS_COMPUTE_32F,
                codes::CUBLAS_GEMM_DEFAULT,
            )
        };
        Blas::check(code).map_err(|refusal| failed("a matrix product", &refusal))
    }
}

fn data_type(dtype: DType) -> Result<u32> {
    Ok(match dtype {
        DType::F32 => codes::R_32F,
        DType::BF16 => codes::R_16BF,
        DType::F16 => codes::R_16F,
        other => bail!("no products of {other:?}"),
    })
}
