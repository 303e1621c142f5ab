//! What it means to who starts a run when the driver does not start.
//!
//! The codes are those of `CUresult` (CUDA Driver API, "Data types used by CUDA driver"); the causes are the ones met on rented
//! machines and in containers.

use super::open::{DRIVER, refuse};
use crate::error::UserError;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;

/// The error of `cuInit`, with `visible` the value of CUDA_VISIBLE_DEVICES.
pub(super) fn no_start(error: DriverError, visible: Option<&str>) -> UserError {
    let (what, hint) = match (error.0, visible) {
        (CUresult::CUDA_ERROR_NO_DEVICE, Some(visible)) => (
            format!("the NVIDIA driver shows no card: CUDA_VISIBLE_DEVICES is \"{visible}\""),
            "unset it, or name a card that `nvidia-smi -L` lists".to_owned(),
        ),
        (CUresult::CUDA_ERROR_NO_DEVICE, None) => (
            "the NVIDIA driver finds no card".into(),
            "`nvidia-smi -L` lists the cards; a container needs `--gpus all`; without a card set `device: cpu`".into(),
        ),
        (CUresult::CUDA_ERROR_STUB_LIBRARY, _) => (
            "libcuda.so is not the driver but the CUDA toolkit's stub, which is for linking".into(),
            "take the toolkit's folder `stubs` off LD_LIBRARY_PATH".into(),
        ),
        (CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, _) => (
            "the NVIDIA driver's library and kernel module are of different versions".into(),
            "after an update of the driver restart the machine; in a container take cuda-compat off LD_LIBRARY_PATH".into(),
        ),
        (CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE, _) => (
            "this card's driver cannot be lifted by the libcuda.so.1 of cuda-compat".into(),
            format!("take cuda-compat off LD_LIBRARY_PATH and install NVIDIA's {DRIVER}"),
        ),
        (CUresult::CUDA_ERROR_SYSTEM_NOT_READY, _) => (
            "the NVIDIA driver is not ready".into(),
            "a machine with NVSwitch needs its fabric manager: `sudo systemctl start nvidia-fabricmanager`".into(),
        ),
        _ => (
            "the NVIDIA driver does not start".into(),
            "see whether `nvidia-smi` lists the card; `sudo modprobe nvidia_uvm` or a restart helps where the module is not loaded"
                .into(),
        ),
    };
    refuse(format!("{what} ({:?})", error.0), hint)
}
