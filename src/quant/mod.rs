//! NF4 and 8-bit blocks in bitsandbytes' layout.

pub mod blockwise;
mod decode;
pub mod dynamic_map;
mod encode;
pub mod mean;
pub mod nf4;

pub use encode::{block, nest};
pub use nf4::{Absmax, Nf4};

/// The largest magnitude, of 16 lanes at a time; what is no number does not count.
#[inline(always)]
fn largest<const N: usize>(values: &[f32; N]) -> f32 {
    const { assert!(N.is_multiple_of(16)) };
    let mut lanes = [0.0f32; 16];
    for chunk in values.as_chunks::<16>().0 {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = if v.abs() > *lane { v.abs() } else { *lane };
        }
    }
    lanes.iter().fold(0.0, |a: f32, b| a.max(*b))
}
