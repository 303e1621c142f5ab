//! The training loop and what it decides before it starts.

pub mod device;
pub mod fault;
pub mod fit;
pub mod guard;
pub mod loss_scale;
pub mod objective;
pub mod plan;
pub mod prepare;
pub mod remote;
pub mod save;
pub mod sources;
pub mod validate;
