//! From the keys `device` and `precision` to a context.

use crate::config::{Device, Precision, Quantize};
use crate::error::{Problem, UserError};
use crate::gpu::Gpu;
use crate::model::load::Nf4;
use crate::ops::Cx;
use anyhow::Result;
use candle_core::DType;
use std::sync::Arc;

/// More threads than any machine has cores only hinder each other.
const MOST_THREADS: usize = 1024;

/// Where a run computes, how, and what the user should know about the choice.
pub struct Opened {
    /// The context.
    pub cx: Cx,
    /// The precision, chosen where none was asked for.
    pub precision: Precision,
    /// Choices that the user did not make.
    pub notes: Vec<String>,
}

/// A context on `device`; without a precision bf16, or f16 on a card that has no bf16.
///
/// # Errors
/// When the device asked for is missing, or cannot compute in this precision.
pub fn open(device: Device, precision: Option<Precision>, threads: usize) -> Result<Opened> {
    if threads > MOST_THREADS {
        let message = format!("`--threads`: {threads} is more than {MOST_THREADS}");
        return Err(UserError::from(Problem::new(message).hint("0 takes all cores")).into());
    }
    let (gpu, without) = match device {
        Device::Cpu => (None, None),
        Device::Cuda(ordinal) => (Some(Gpu::open(ordinal)?), None),
        // Who has no card need not hear of it.
        Device::Auto if !cfg!(feature = "cuda") && !has_driver() => (None, None),
        Device::Auto => match first_that_works() {
            Ok(gpu) => (Some(gpu), None),
            Err(e) => (None, e.problems.into_iter().next().map(|p| p.message)),
        },
    };
    let Some(gpu) = gpu else { return on_cpu(precision, threads, without) };
    let mut notes = Vec::new();
    let info = gpu.info();
    let precision = match precision {
        Some(bf16 @ (Precision::Bf16 | Precision::Bf16Mixed)) if !has_bf16(&gpu) => {
            let (major, minor) = info.capability;
            let message = format!(
                "`precision: {bf16}`: {} (compute capability {major}.{minor}) has no bf16 products",
                info.name
            );
            let f16 = if bf16 == Precision::Bf16 { Precision::F16 } else { Precision::F16Mixed };
            let hint = format!("use `precision: {f16}` on this card");
            return Err(UserError::from(Problem::new(message).hint(hint)).into());
        }
        Some(precision) => precision,
        None if has_bf16(&gpu) => Precision::Bf16,
        None => {
            notes.push(format!("precision: 16-true, because {} has no bf16 products", info.name));
            Precision::F16
        }
    };
    Ok(Opened { cx: mixed(Cx::on_gpu(dtype(precision), gpu)?, precision)?, precision, notes })
}

/// The CPU; `without` says why there is no card, where one was looked for.
fn on_cpu(precision: Option<Precision>, threads: usize, without: Option<String>) -> Result<Opened> {
    let precision = precision.unwrap_or(Precision::Bf16);
    if matches!(precision, Precision::F16 | Precision::F16Mixed) {
        let built = || (!cfg!(feature = "cuda")).then(|| "this vft was built without CUDA".into());
        let why = without.or_else(built).map(|why| format!(": {why}")).unwrap_or_default();
        let problem = Problem::new(format!("`precision: {precision}` needs a CUDA device{why}"));
        let hint = match precision {
            Precision::F16 => "on the CPU use `bf16-true` or `32-true`",
            _ => "on the CPU use `bf16-mixed` or `32-true`",
        };
        return Err(UserError::from(problem.hint(hint)).into());
    }
    let cx = Cx::cpu(dtype(precision), threads)
        .and_then(|cx| mixed(cx, precision))
        .map_err(|e| UserError::from(Problem::new(e.to_string())))?;
    let notes = without.map(|why| format!("device: cpu, because {why}")).into_iter().collect();
    Ok(Opened { cx, precision, notes })
}

/// Whether NVIDIA's kernel module is loaded, or WSL has its driver.
fn has_driver() -> bool {
    let signs = ["/proc/driver/nvidia/version", "/usr/lib/wsl/lib/libcuda.so.1"];
    signs.iter().any(|path| std::path::Path::new(path).exists())
}

/// The first device that opens, else the reason of the first that did not.
fn first_that_works() -> Result<Arc<Gpu>, UserError> {
    let mut reason = None;
    for ordinal in 0..Gpu::count()? {
        match Gpu::open(ordinal) {
            Ok(gpu) => return Ok(gpu),
            Err(e) => reason = reason.or(Some(e)),
        }
    }
    Err(reason.unwrap_or_else(|| Problem::new("there is no CUDA device").into()))
}

/// Whether the card multiplies bf16.
pub fn has_bf16(gpu: &Gpu) -> bool {
    gpu.info().capability >= (8, 0)
}

fn mixed(cx: Cx, precision: Precision) -> candle_core::Result<Cx> {
    let products = products(precision);
    if products == cx.compute() { Ok(cx) } else { cx.with_products(products) }
}

/// The dtype of products' operands: frozen weights, and what they are multiplied with.
pub fn products(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 | Precision::Bf16Mixed => DType::BF16,
        Precision::F16 | Precision::F16Mixed => DType::F16,
    }
}

/// The dtype of values between ops.
fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 | Precision::Bf16Mixed | Precision::F16Mixed => DType::F32,
        Precision::Bf16 => DType::BF16,
        Precision::F16 => DType::F16,
    }
}

/// The model's name of a quantisation.
pub fn nf4(quantize: Quantize) -> Nf4 {
    match quantize {
        Quantize::Nf4 => Nf4::Single,
        Quantize::Nf4Dq => Nf4::Double,
    }
}

/// What runs compute on, in words.
pub fn describe(cx: &Cx) -> String {
    cx.gpu().map_or_else(
        || "cpu".into(),
        |gpu| {
            let info = gpu.info();
            let gib = info.memory as f64 / f64::from(1 << 30);
            let driver = format!("{}.{}", info.driver / 1000, info.driver % 1000 / 10);
            format!("cuda:{} ({}, {gib:.0} GiB, driver for CUDA {driver})", info.ordinal, info.name)
        },
    )
}
