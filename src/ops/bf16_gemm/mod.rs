//! Products in bf16 on processors with AVX512-BF16, summed in f32: Σₜ xₜ·Wₜᵀ (forward), Σₜ dyₜ·Wₜ (backward).
//!
//! A [`Product`] is a sum of [`Term`]s of one inner dimension each, laid end to end: the low-rank part of an adapter and the
//! projections that share an input are more of the inner dimension, not more passes. What becomes of the sum is its [`Sink`].
//!
//! One copy of a weight, row-major as it lies in the file (or packed NF4), serves both directions. A panel of 16·V output columns
//! is laid out for the kernel in a cache-sized buffer of the thread (`panel.rs`, `nf4_panel.rs`) and used for all rows of
//! the batch; a thread without one of its own lays out that of another and takes some of its rows. Activations are bf16, row-major,
//! never packed. A tile is R rows × V vectors: 24 accumulators in registers over the inner dimension
//! (`kernel.rs`).
//!
//! ```text
//!                 panel: (pairs, 16·V) words          vdpbf16ps multiplies pairs: both operands hold two
//!            ┌────────┬────────┬────────┐             neighbours of the inner dimension in a 32-bit word
//!   x: R ──▶ │ Σ Σ Σ Σ Σ Σ Σ Σ Σ Σ Σ  │ ──▶ sink
//! ```
//!
//! Sums stay in registers until the sink has them (`epilogue.rs`), and while a tile is computed the weights of the next panel and what
//! the ops behind the product read ([`Cx::prefetch`]) are prefetched. Where a panel would serve a single tile others do the work:
//! `narrow/` products of up to 16 columns, `outer.rs` those of up to 16 rows with a matrix seen by its columns, `few.rs` up to four
//! rows with one seen by its rows.
//!
//! An element is summed by one thread in one order, whoever takes it: results do not depend on the number of threads.

#[cfg(target_arch = "x86_64")]
mod epilogue;
mod few;
mod kernel;
mod narrow;
#[cfg(target_arch = "x86_64")]
mod nf4_panel;
mod outer;
mod panel;
mod run;
mod sink;
mod source;

pub use run::{Product, Term, run};
pub use sink::Sink;
pub use source::{Source, Stored};

#[cfg(doc)]
use super::Cx;
use super::isa::{self, Isa};
use candle_core::Result;

/// Whether products run in bf16 here: the chosen instruction set has them.
///
/// # Errors
/// As [`isa::chosen`].
pub fn available() -> Result<bool> {
    Ok(isa::chosen()? == Isa::Avx512Bf16)
}

/// Whether the processor has the instructions, whatever was chosen.
pub(super) fn supported() -> bool {
    kernel::supported()
}

#[cfg(test)]
mod tests;
