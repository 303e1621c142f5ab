//! One f32 matrix product: C ← [C +] s·A·B on strided views, with the chosen instruction set ([`super::isa`]).
//!
//! A: (m, k), B: (k, n), C: (m, n). A and B are row-major or transposed ([`View`]), C is row-major ([`ViewMut`]).
//!
//! `plan` cuts C into tasks, `product` runs them. A task lays its columns of B out in panels (`pack`) and goes down its rows with a
//! tile of C in registers (`tile`); where up to four rows meet rows of B, every element is a dot product (`dots`).
//!
//! ```text
//!                      panels of B, packed in L2
//!                    ┌─────────┬─────────┬─────────┐
//!                    │ depth×W │         │         │
//!                    └─────────┴─────────┴─────────┘
//!   A: R rows ─────▶   R × W vectors of C in registers ──▶ C ← [C +] s·Σ
//! ```
//!
//! Each element of C is summed over k in an order that depends on the shapes and the instruction set alone, so the result is the
//! same for any number of threads.

mod dots;
mod pack;
mod plan;
mod product;
mod task;
mod tile;
mod view;

pub use task::FEW_ROWS;
pub use view::{Into, View, ViewMut};

use super::isa;
use half::bf16;
use view::Lying;

/// C (m, n) ← [C +] `scale`·A (m, k)·B (k, n) on all of rayon's current threads.
///
/// # Panics
/// When the shapes disagree.
pub fn matmul(c: ViewMut<'_>, into: Into, scale: f32, a: View<'_>, b: View<'_>) {
    product::run(isa::chosen_arch(), c, into, scale, a, Lying::F32(b), true);
}

/// As [`matmul`], with a B in bf16 that is widened on its way into panels: for more than [`FEW_ROWS`] rows, below which B is better
/// widened first and read in place.
///
/// # Panics
/// When the shapes disagree.
pub fn matmul_bf16(c: ViewMut<'_>, into: Into, scale: f32, a: View<'_>, b: View<'_, bf16>) {
    product::run(isa::chosen_arch(), c, into, scale, a, Lying::Bf16(b), true);
}

/// As [`matmul`], on the calling thread: for many small products in parallel.
///
/// # Panics
/// When the shapes disagree.
pub fn matmul_here(c: ViewMut<'_>, into: Into, scale: f32, a: View<'_>, b: View<'_>) {
    product::run(isa::chosen_arch(), c, into, scale, a, Lying::F32(b), false);
}

#[cfg(test)]
mod tests;
