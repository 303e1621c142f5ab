//! The arena of trainable slices and what updates it: AdamW, the schedule, clipping.

pub mod adamw;
pub mod arena;
pub mod schedule;

pub use adamw::AdamW;
pub use arena::{Arena, Slice};
pub use schedule::Cosine;
