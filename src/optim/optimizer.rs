//! The optimizers by kind: what a run updates its arena with, and what their states will take.

use super::adamw::{self, AdamW, AdamWConfig};
use super::adamw8bit::{self, AdamW8bit};
use super::arena::Arena;
use super::sgd::{Sgd, SgdConfig};
use super::state::Place;
use crate::ops::Cx;
use candle_core::Result;

/// An optimizer with its hyper-parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerConfig {
    /// AdamW, 32-bit moments.
    AdamW(AdamWConfig),
    /// AdamW, 8-bit moments.
    AdamW8bit(AdamWConfig),
    /// Adam: weight decay in the gradient.
    Adam(AdamWConfig),
    /// Stochastic gradient descent.
    Sgd(SgdConfig),
}

impl OptimizerConfig {
    /// Bytes of the states for slices of so many elements each.
    pub fn state_bytes(&self, slices: impl IntoIterator<Item = usize>) -> u64 {
        let padded = |n: usize| n.next_multiple_of(super::arena::ALIGN);
        let of = |n: usize| match self {
            Self::AdamW(_) | Self::Adam(_) => adamw::STATE_BYTES * padded(n),
            Self::AdamW8bit(_) => adamw8bit::state_bytes(n),
            Self::Sgd(sgd) if sgd.momentum == 0.0 => 0,
            Self::Sgd(_) => size_of::<f32>() * padded(n),
        };
        slices.into_iter().map(|n| of(n) as u64).sum()
    }
}

/// An optimizer with its state.
pub enum Optimizer {
    /// AdamW or Adam, 32-bit moments.
    AdamW(AdamW),
    /// AdamW, 8-bit moments.
    AdamW8bit(AdamW8bit),
    /// Stochastic gradient descent.
    Sgd(Sgd),
}

impl Optimizer {
    /// Fresh state for an arena, where the arena is.
    ///
    /// # Errors
    /// When a device has no memory left.
    pub fn new(config: OptimizerConfig, cx: &Cx, arena: &Arena) -> Result<Self> {
        Ok(match config {
            OptimizerConfig::AdamW(c) => Self::AdamW(AdamW::new(c, cx, arena)?),
            OptimizerConfig::Adam(c) => Self::AdamW(AdamW::adam(c, cx, arena)?),
            OptimizerConfig::AdamW8bit(c) => Self::AdamW8bit(AdamW8bit::new(c, cx, arena)?),
            OptimizerConfig::Sgd(c) => Self::Sgd(Sgd::new(c, cx, arena)?),
        })
    }

    /// Updates done.
    pub fn updates(&self) -> i32 {
        match self {
            Self::AdamW(o) => o.t,
            Self::AdamW8bit(o) => o.t,
            Self::Sgd(o) => o.t,
        }
    }

    /// The count of updates and the arrays of the state.
    pub(super) fn places(&mut self) -> Result<(&mut i32, Vec<(&'static str, Place<'_>)>)> {
        match self {
            Self::AdamW(o) => o.places(),
            Self::AdamW8bit(o) => o.places(),
            Self::Sgd(o) => o.places(),
        }
    }

    /// One update with the arena's gradients times `factor` (clipping) at learning rate `lr`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step(&mut self, cx: &Cx, arena: &mut Arena, lr: f64, factor: f32) -> Result<()> {
        match self {
            Self::AdamW(o) => o.step(cx, arena, lr, factor),
            Self::AdamW8bit(o) => o.step(cx, arena, lr, factor),
            Self::Sgd(o) => o.step(cx, arena, lr, factor),
        }
    }
}
