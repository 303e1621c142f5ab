//! The training loop and what it decides before it starts.

pub mod fit;
pub mod guard;
pub mod objective;
pub mod prepare;
