//! NF4 in bitsandbytes' layout.

mod decode;
pub mod dynamic_map;
pub mod mean;
pub mod nf4;

pub use nf4::{Absmax, Nf4, quantize};
