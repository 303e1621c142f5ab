//! Products in bf16 on processors with AVX512-BF16, summed in f32: Σₜ xₜ·Wₜᵀ (forward), Σₜ dyₜ·Wₜ (backward).
//!
//! A [`Product`] is a sum of [`Term`]s of one inner dimension each, laid end to end: the low-rank part of an adapter and the
//! projections that share an input are more of the inner dimension, not more passes. What becomes of the sum is its [`Sink`].
//!
//! One copy of a weight, row-major as it lies in the file (or packed NF4), serves both directions. A panel of 16·V output columns
//! is laid out for the kernel in a cache-sized buffer of the thread (`panel.rs`) and used for all rows of the batch; activations
//! are bf16, row-major, never packed. A tile is R rows × V vectors: 24 accumulators in registers over the inner dimension
//! (`kernel.rs`).
//!
//! ```text
//!                 panel: (pairs, 16·V) words          vdpbf16ps multiplies pairs: both operands hold two
//!            ┌────────┬────────┬────────┐             neighbours of the inner dimension in a 32-bit word
//!   x: R ──▶ │ Σ Σ Σ Σ Σ Σ Σ Σ Σ Σ Σ  │ ──▶ sink
//! ```
//!
//! An element is summed by one thread in one order, and work is cut by shape: results do not depend on the number of threads.

mod few;
mod kernel;
mod panel;
mod run;
mod sink;
mod source;

pub use run::{Product, Term, run};
pub use sink::Sink;
pub use source::{Source, Stored};

use candle_core::{Result, bail};

/// Whether products run in bf16 here: the processor has the instructions, unless `VFT_CPU` says otherwise (`avx512bf16` or `f32`).
///
/// # Errors
/// When `VFT_CPU` asks for what the processor has not, or is none of the two.
pub fn available() -> Result<bool> {
    match std::env::var("VFT_CPU").as_deref() {
        Err(_) => Ok(kernel::supported()),
        Ok("f32") => Ok(false),
        Ok("avx512bf16") if kernel::supported() => Ok(true),
        Ok("avx512bf16") => bail!("VFT_CPU=avx512bf16: this processor has no AVX512-BF16"),
        Ok(other) => bail!("VFT_CPU={other}: write `avx512bf16`, `f32`, or nothing for the best"),
    }
}

#[cfg(test)]
mod tests;
