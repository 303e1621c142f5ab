//! From nothing to an open device: what must be there.

use super::Info;
use super::driver::{Gpu, Opened};
use super::library::{Blas, Driver, Handle, Refusal, codes};
use super::trouble::{
    CUBLAS, DRIVER, no_card, no_cublas, no_device, no_driver, no_start, refuse, silent,
};
use crate::error::UserError;
use std::ffi::CStr;
use std::ptr::null_mut;
use std::sync::Arc;

/// Every kernel for every supported card, and PTX for later ones.
static IMAGE: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));

/// A fat binary starts with 64-bit fields.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

/// The CUDA version that the kernels are made for.
const NEEDED: u32 = 13_000;
/// Older cards have no f16 tensor cores and no kernels here.
const OLDEST: (u32, u32) = (7, 5);

impl Gpu {
    /// The number of devices, once driver and cuBLAS are found to be there.
    ///
    /// # Errors
    /// When one is missing or too old; the hint says what to install.
    pub fn count() -> Result<usize, UserError> {
        let driver = Driver::get().map_err(|why| no_driver(&why))?;
        // SAFETY: may be called at any time.
        let started = driver.check(unsafe { (driver.init)(0) });
        started.map_err(|refusal| no_start(&refusal))?;
        let known = version(driver).map_err(silent("the driver tells no version"))?;
        if known < NEEDED {
            let text = |v: u32| format!("{}.{}", v / 1000, v % 1000 / 10);
            let message = format!("the NVIDIA driver is too old: it supports CUDA {}", text(known));
            return Err(refuse(message, format!("CUDA {} is needed: {DRIVER}", text(NEEDED))));
        }
        Blas::get().map_err(|why| no_cublas(&why))?;
        let mut count = 0;
        // SAFETY: the driver has started; it writes one int.
        let code = unsafe { (driver.device_count)(&raw mut count) };
        driver.check(code).map_err(silent("no devices"))?;
        match usize::try_from(count) {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(no_card("it counts none")),
        }
    }

    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// As [`Self::count`]; when the device is not there, too old, or cannot be used.
    pub fn open(ordinal: usize) -> Result<Arc<Self>, UserError> {
        let count = Self::count()?;
        if ordinal >= count {
            let message = format!("there is no device cuda:{ordinal}: this machine has {count}");
            let hint = "`nvidia-smi -L` lists the cards; CUDA counts from 0, the fastest first (CUDA_DEVICE_ORDER=PCI_BUS_ID: as \
                        nvidia-smi), and only those in CUDA_VISIBLE_DEVICES";
            return Err(refuse(message, hint));
        }
        let driver = Driver::get().map_err(|why| no_driver(&why))?;
        let blas = Blas::get().map_err(|why| no_cublas(&why))?;
        let info = describe(driver, ordinal).map_err(silent("the device does not answer"))?;
        let (major, minor) = info.capability;
        if info.capability < OLDEST {
            let message = format!("{} has compute capability {major}.{minor}", info.name);
            return Err(refuse(message, "cards from 7.5 on are supported: T4, RTX 20 and newer"));
        }
        start(driver, blas, info.clone())
            .map(|open| Arc::new(Self::new(open)))
            .map_err(|(what, refusal)| no_device(&info, what, &refusal))
    }
}

/// Everything that a device needs, or what of it failed.
fn start(
    driver: &'static Driver,
    blas: &'static Blas,
    info: Info,
) -> Result<Opened, (&'static str, Refusal)> {
    let check = |what, code| driver.check(code).map_err(|refusal| (what, refusal));
    let check_blas = |code| Blas::check(code).map_err(|refusal| (CUBLAS, refusal));
    let (mut context, mut pool, mut stream): (Handle, Handle, Handle) =
        (null_mut(), null_mut(), null_mut());
    let (mut module, mut products): (Handle, Handle) = (null_mut(), null_mut());
    let mut device = 0;
    // Without this the pool gives all that is free back to the system at each synchronisation.
    let mut keep = u64::MAX;
    // SAFETY: each writes one handle, made of those before it, which live as long as the process; the image is a fat binary; the
    // threshold is a u64.
    unsafe {
        check("finding it", (driver.device)(&raw mut device, info.ordinal as i32))?;
        check("a context", (driver.context)(&raw mut context, device))?;
        check("a context", (driver.set_context)(context))?;
        check("its memory pool", (driver.device_pool)(&raw mut pool, device))?;
        let threshold = (&raw mut keep).cast();
        let code = (driver.pool_attribute)(pool, codes::MEMPOOL_RELEASE_THRESHOLD, threshold);
        check("its memory pool", code)?;
        check("a stream", (driver.stream)(&raw mut stream, codes::STREAM_NON_BLOCKING))?;
        check("loading the kernels", (driver.module)(&raw mut module, IMAGE.0.as_ptr().cast()))?;
        check_blas((blas.create)(&raw mut products))?;
        check_blas((blas.set_stream)(products, stream))?;
        // Partial sums of 16-bit products stay in f32 too.
        let exact = codes::CUBLAS_DISALLOW_REDUCED_PRECISION_REDUCTION;
        check_blas((blas.set_math_mode)(products, exact))?;
    }
    Ok(Opened { info, driver, blas, context, stream, module, products })
}

fn version(driver: &Driver) -> Result<u32, Refusal> {
    let mut version = 0;
    // SAFETY: it writes one int.
    driver.check(unsafe { (driver.version)(&raw mut version) })?;
    Ok(u32::try_from(version).unwrap_or(0))
}

fn describe(driver: &Driver, ordinal: usize) -> Result<Info, Refusal> {
    let (mut device, mut major, mut minor, mut memory) = (0, 0, 0, 0);
    let mut name = [0; 256];
    // SAFETY: the driver has started; each writes one number, the last a text that ends inside the array.
    unsafe {
        driver.check((driver.device)(&raw mut device, ordinal as i32))?;
        let ask = driver.device_attribute;
        driver.check(ask(&raw mut major, codes::COMPUTE_CAPABILITY_MAJOR, device))?;
        driver.check(ask(&raw mut minor, codes::COMPUTE_CAPABILITY_MINOR, device))?;
        driver.check((driver.device_memory)(&raw mut memory, device))?;
        driver.check((driver.device_name)(name.as_mut_ptr(), name.len() as i32 - 1, device))?;
    }
    let bytes = name.map(|c| c as u8);
    let name = CStr::from_bytes_until_nul(&bytes).map(CStr::to_string_lossy).unwrap_or_default();
    let capability = (major.max(0) as u32, minor.max(0) as u32);
    Ok(Info { ordinal, name: name.into_owned(), capability, memory, driver: version(driver)? })
}
