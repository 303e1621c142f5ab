//! The optimizer and the schedule that a config asks for.

use crate::config::{OptimizerKind, OptimizerSection, Scheduler, TrainSection};
use crate::optim::adamw::AdamWConfig;
use crate::optim::sgd::SgdConfig;
use crate::optim::{OptimizerConfig, Schedule, Shape};

/// The optimizer's kind and numbers. Paged kinds keep their state where the others do.
pub fn optimizer(o: &OptimizerSection) -> OptimizerConfig {
    let moments = AdamWConfig { betas: o.betas, eps: o.eps, weight_decay: o.weight_decay };
    match o.kind {
        OptimizerKind::AdamW | OptimizerKind::PagedAdamW => OptimizerConfig::AdamW(moments),
        OptimizerKind::AdamW8bit | OptimizerKind::PagedAdamW8bit => {
            OptimizerConfig::AdamW8bit(moments)
        }
        OptimizerKind::Adam => OptimizerConfig::Adam(moments),
        OptimizerKind::Sgd => OptimizerConfig::Sgd(SgdConfig {
            momentum: o.momentum,
            dampening: o.dampening,
            weight_decay: o.weight_decay,
            nesterov: o.nesterov,
        }),
    }
}

/// Whether the optimizer's state is meant to leave the device's memory.
pub fn is_paged(kind: OptimizerKind) -> bool {
    matches!(kind, OptimizerKind::PagedAdamW | OptimizerKind::PagedAdamW8bit)
}

/// The rates of a run of `total_steps`, and what to tell when the warm-up does not fit into them.
pub fn schedule(
    t: &TrainSection,
    lr: f64,
    steps_per_epoch: usize,
    total_steps: usize,
) -> (Schedule, Option<String>) {
    let shape = match t.lr_scheduler {
        Scheduler::Cosine => Shape::Cosine,
        Scheduler::Linear => Shape::Linear,
        Scheduler::Constant => Shape::Constant,
        Scheduler::Wsd => Shape::Wsd { decay_fraction: t.lr_decay_fraction },
    };
    // A fraction of an epoch, as in LitGPT's `TrainArgs.warmup_iters`.
    let asked = match t.lr_warmup_fraction {
        Some(fraction) => (fraction * steps_per_epoch as f64).ceil() as usize,
        None => t.lr_warmup_steps,
    };
    let mut note = None;
    let mut warmup_steps = asked;
    if warmup_steps > 0 && warmup_steps >= total_steps {
        warmup_steps = total_steps.saturating_sub(1);
        note = Some(format!(
            "a warm-up of {asked} steps does not fit into {total_steps} steps; {warmup_steps} are used"
        ));
    }
    (Schedule { shape, lr, min_lr: t.min_lr, warmup_steps, total_steps }, note)
}
