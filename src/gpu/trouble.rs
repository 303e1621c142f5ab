//! What it means to who starts a run when driver, cuBLAS or card do not: in words, with a way out.
//!
//! The codes are those of `CUresult` (CUDA Driver API, "Data types used by CUDA driver"); the causes are the ones met on rented
//! machines and in containers.

use super::Info;
use super::library::{Refusal, codes};
use crate::error::{Problem, UserError};

/// What the kernels and cuBLAS need.
pub(super) const DRIVER: &str = "driver 580 or newer";

pub(super) fn refuse(message: impl Into<String>, hint: impl Into<String>) -> UserError {
    Problem::new(message).hint(hint).into()
}

/// What fails though the driver has started.
pub(super) fn silent(what: &str) -> impl Fn(Refusal) -> UserError {
    move |refusal| {
        refuse(format!("CUDA: {what}: {refusal}"), "see whether `nvidia-smi` lists the card")
    }
}

/// No driver to be loaded, because of `why`.
pub(super) fn no_driver(why: &str) -> UserError {
    let message = format!("no NVIDIA driver: libcuda.so.1 cannot be loaded: {why}");
    let hint = format!(
        "install NVIDIA's {DRIVER} (`nvidia-smi` shows it); a container needs `--gpus all` and, where it is set, `compute` in \
         NVIDIA_DRIVER_CAPABILITIES; without a card set `device: cpu`"
    );
    refuse(message, hint)
}

/// No cuBLAS to be loaded, because of `why`.
pub(super) fn no_cublas(why: &str) -> UserError {
    let message = format!("no cuBLAS: libcublas.so.13 cannot be loaded: {why}");
    let hint = "install the CUDA 13 runtime libraries (package `libcublas-13-0`, or `pip install nvidia-cublas`) and name their folder \
                (pip's: `site-packages/nvidia/cu13/lib`) in LD_LIBRARY_PATH";
    refuse(message, hint)
}

/// No card that the driver shows, as `told` by it.
pub(super) fn no_card(told: &str) -> UserError {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => refuse(
            format!(
                "the NVIDIA driver shows no card, and CUDA_VISIBLE_DEVICES is \"{visible}\" ({told})"
            ),
            "unset it, or name a card that `nvidia-smi -L` lists; a container needs `--gpus all`",
        ),
        Err(_) => refuse(
            format!("the NVIDIA driver finds no card ({told})"),
            "`nvidia-smi -L` lists the cards; a container needs `--gpus all`; without a card set `device: cpu`",
        ),
    }
}

/// The driver does not start.
pub(super) fn no_start(refusal: &Refusal) -> UserError {
    let (what, hint) = match refusal.code {
        codes::NO_DEVICE => return no_card(&refusal.to_string()),
        codes::STUB_LIBRARY => (
            "libcuda.so.1 is not the driver but the CUDA toolkit's stub, which is for linking",
            "take the toolkit's folder `stubs` off LD_LIBRARY_PATH".into(),
        ),
        codes::SYSTEM_DRIVER_MISMATCH => (
            "the NVIDIA driver's library and kernel module are of different versions",
            "after an update of the driver restart the machine; in a container take cuda-compat off LD_LIBRARY_PATH".into(),
        ),
        codes::COMPAT_NOT_SUPPORTED_ON_DEVICE => (
            "this card's driver cannot be lifted by the libcuda.so.1 of cuda-compat",
            format!("take cuda-compat off LD_LIBRARY_PATH and install NVIDIA's {DRIVER}"),
        ),
        codes::SYSTEM_NOT_READY => (
            "the NVIDIA driver is not ready",
            "a machine with NVSwitch needs its fabric manager: `sudo systemctl start nvidia-fabricmanager`".into(),
        ),
        _ => (
            "the NVIDIA driver does not start",
            "see whether `nvidia-smi` lists the card; `sudo modprobe nvidia_uvm` or a restart helps where the module is not loaded"
                .into(),
        ),
    };
    refuse(format!("{what} ({refusal})"), hint)
}

/// A card on which `what` failed while it was opened.
pub(super) fn no_device(info: &Info, what: &str, refusal: &Refusal) -> UserError {
    let (major, minor) = info.capability;
    let hint = match refusal.code {
        _ if refusal.is_out_of_memory() => "another process holds the card's memory: see `nvidia-smi`".into(),
        _ if what == CUBLAS => {
            "too little memory may be free (`nvidia-smi`), or libcublas and libcublasLt be of different versions".into()
        }
        codes::DEVICE_UNAVAILABLE => "another process has the card for itself: see `nvidia-smi`".into(),
        codes::INVALID_IMAGE | codes::NO_BINARY_FOR_GPU | codes::UNSUPPORTED_PTX_VERSION => {
            format!("compute capability {major}.{minor}: a newer driver may know this card better")
        }
        _ => "see `nvidia-smi`; shared and virtual cards may lack what is needed (memory pools: CUDA 11.2)".into(),
    };
    refuse(format!("{} cannot be used: {what} failed: {refusal}", info.name), hint)
}

/// What fails where cuBLAS does.
pub(super) const CUBLAS: &str = "starting cuBLAS";
