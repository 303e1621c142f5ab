//! The training loop and what it decides before it starts.

mod check;
pub mod device;
pub mod disk;
pub mod evaluate;
pub mod fault;
pub mod finish;
pub mod fit;
pub mod guard;
pub mod judge;
mod locate;
pub mod loss_scale;
pub mod objective;
pub mod optimizer;
pub mod plan;
pub mod preemption;
pub mod prepare;
pub mod record;
pub mod remote;
pub mod reproduce;
pub mod resume;
pub mod sample;
pub mod save;
pub mod sources;
pub mod step;
pub mod sums;
pub mod validate;
