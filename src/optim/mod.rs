//! The arena of trainable slices and what updates it: the optimizers, the schedule, clipping.

pub mod adamw;
pub mod adamw8bit;
pub mod arena;
pub mod optimizer;
pub mod schedule;
pub mod sgd;
pub mod state;

pub use adamw::AdamW;
pub use arena::{Arena, Slice};
pub use optimizer::{Optimizer, OptimizerConfig};
pub use schedule::{Schedule, Shape};
