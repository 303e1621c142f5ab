//! NF4 and 8-bit blocks in bitsandbytes' layout.

pub mod blockwise;
mod decode;
pub mod dynamic_map;
pub mod mean;
pub mod nf4;

pub use nf4::{Absmax, Nf4, quantize};
