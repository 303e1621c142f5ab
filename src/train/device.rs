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

/// A context, and what the user should know about the choice.
///
/// # Errors
/// When the device asked for is missing, or cannot compute in this precision.
pub fn open(device: Device, precision: Precision, threads: usize) -> Result<(Cx, Option<String>)> {
    if threads > MOST_THREADS {
        let message = format!("`--threads`: {threads} is more than {MOST_THREADS}");
        return Err(UserError::from(Problem::new(message).hint("0 takes all cores")).into());
    }
    let (gpu, note) = match device {
        Device::Cpu => (None, None),
        Device::Cuda(ordinal) => (Some(Gpu::open(ordinal)?), None),
        Device::Auto if !cfg!(feature = "cuda") => (None, None),
        Device::Auto => match Gpu::open(0) {
            Ok(gpu) => (Some(gpu), None),
            Err(e) => (None, Some(format!("device: cpu, because {}", first_message(&e)))),
        },
    };
    let compute = dtype(precision);
    let cx = match gpu {
        Some(gpu) => {
            check(&gpu, precision)?;
            Cx::on_gpu(compute, gpu)?
        }
        None if precision == Precision::F16 => {
            let problem = Problem::new("`precision: 16-true` needs a CUDA device");
            let hint = "on the CPU use `bf16-true` or `32-true`";
            return Err(UserError::from(problem.hint(hint)).into());
        }
        None => {
            Cx::cpu(compute, threads).map_err(|e| UserError::from(Problem::new(e.to_string())))?
        }
    };
    Ok((cx, note))
}

/// The dtype of weights and activations.
pub fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
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
            format!("cuda:{} ({}, {gib:.0} GiB)", info.ordinal, info.name)
        },
    )
}

fn check(gpu: &Arc<Gpu>, precision: Precision) -> Result<(), UserError> {
    let info = gpu.info();
    if precision == Precision::Bf16 && info.capability < (8, 0) {
        let (major, minor) = info.capability;
        let message = format!(
            "`precision: bf16-true`: {} (compute capability {major}.{minor}) has no bf16 products",
            info.name
        );
        return Err(Problem::new(message).hint("use `precision: 16-true` on this card").into());
    }
    Ok(())
}

fn first_message(error: &UserError) -> String {
    error.problems.first().map(|p| p.message.clone()).unwrap_or_default()
}
