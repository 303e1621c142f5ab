//! f32 matrix products C ← [C +] Σ s·A·B + bias + residual on strided views, with the chosen instruction set ([`super::isa`]).
//!
//! A: (m, k), B: (k, n), C: (m, n). A and B are row-major or transposed ([`View`]), C is row-major ([`ViewMut`]).
//!
//! A [`Product`] is a sum of [`Term`]s: the low-rank part of an adapter and the projections that share an input are more depth of one
//! pass, not more passes over C. `product` says what is one pass, `plan` cuts its C into tasks, `run` hands them out. A `task` lays its
//! columns of B out in panels, a `block` of depth at a time (`pack`), and goes down its rows with a tile of C in registers (`tile`);
//! where up to four rows meet rows of B, every element is a dot product (`dots`).
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

mod block;
mod dots;
mod element;
mod pack;
mod plan;
mod product;
mod run;
mod task;
mod tile;
mod view;

pub use block::FEW_ROWS;
pub use product::{Product, Term};
pub use view::{Into, Operand, View, ViewMut};

use super::isa;
use super::prefetch::Places;

/// Runs products that write apart from each other, on all of rayon's current threads, and has what the ops `behind` them read
/// prefetched.
///
/// # Panics
/// When shapes disagree.
pub(super) fn run(products: Vec<Product<'_>>, behind: Places) {
    product::run(isa::chosen_arch(), products, behind);
}

/// C (m, n) ← [C +] `scale`·A (m, k)·B (k, n) on all of rayon's current threads.
///
/// # Panics
/// When the shapes disagree.
pub fn matmul<'a>(
    c: ViewMut<'_>,
    into: Into,
    scale: f32,
    a: View<'a>,
    b: impl std::convert::Into<Operand<'a>>,
) {
    product::run_one(isa::chosen_arch(), c, into, Term { a, b: b.into(), scale }, true);
}

/// As [`matmul`], on the calling thread: for many small products in parallel.
///
/// # Panics
/// When the shapes disagree.
pub fn matmul_here(c: ViewMut<'_>, into: Into, scale: f32, a: View<'_>, b: View<'_>) {
    let term = Term { a, b: Operand::F32(b), scale };
    product::run_one(isa::chosen_arch(), c, into, term, false);
}

#[cfg(test)]
mod tests;
