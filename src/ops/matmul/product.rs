//! From views to tasks: which operand is the left one, how elements are summed, who runs what.
//!
//! | pulp         | lanes | tile (rows × vectors) |
//! |--------------|-------|-----------------------|
//! | `V4`         | 16    | 8 × 3 of 32 registers |
//! | `V3`         | 8     | 6 × 2 of 16 registers |
//! | `Scalar128b` | 4     | 6 × 2 of 16 registers |
//!
//! 4 × 3 would load less but fills all 16 registers: the compiler then spills one per step.
//!
//! An element's sum depends on the depth blocks only, never on the task or thread that computes it, so the bits are the same for
//! any number of threads.

use super::dots::{Dots, FEW};
use super::plan::{self, Grid, Plan};
use super::task::{FEW_ROWS, NARROW, Task};
use super::tile::Out;
use super::view::{Into, Operand, View, ViewMut};
use pulp::{Arch, Scalar128b, Simd};
use rayon::prelude::*;

/// C ← [C +] scale·A·B for an instruction set, on rayon's current `threads` or on this one.
pub(super) fn run(
    arch: Arch,
    c: ViewMut<'_>,
    into: Into,
    scale: f32,
    a: View<'_>,
    b: Operand<'_>,
    threads: bool,
) {
    let [b_rows, b_cols] = b.shape();
    assert!(
        a.cols == b_rows && c.rows == a.rows && c.cols == b_cols,
        "matmul shapes disagree: {}x{} = {}x{} · {}x{}",
        c.rows,
        c.cols,
        a.rows,
        a.cols,
        b_rows,
        b_cols
    );
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    if a.cols == 0 {
        if into == Into::Overwrite {
            let rows = c.data.chunks_mut(c.row_stride).take(c.rows);
            rows.for_each(|row| row[..c.cols].fill(0.0));
        }
        return;
    }
    let c = Out {
        ptr: c.data.as_mut_ptr(),
        rows: c.rows,
        cols: c.cols,
        row_stride: c.row_stride,
        col_stride: 1,
        into,
        scale,
    };
    let product = match b {
        Operand::F32(b) if swap(&a, &b) => {
            Product { a: b.t(), b: Operand::F32(a.t()), c: c.t(), threads }
        }
        _ => Product { a, b, c, threads },
    };
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(simd) => product.run::<_, 8, 3, true>(simd),
        #[cfg(target_arch = "x86_64")]
        Arch::V3(simd) => product.run::<_, 6, 2, true>(simd),
        _ => product.run::<_, 6, 2, false>(Scalar128b),
    }
}

/// Whether k runs along contiguous memory in both operands and one of them is so thin that elements are dot products.
fn are_dots(a: &View<'_>, b: &View<'_>) -> bool {
    a.col_stride == 1 && b.row_stride == 1 && a.rows.min(b.cols) <= FEW
}

/// Whether Cᵀ = Bᵀ·Aᵀ is the better product. Dot products take the thin operand as A. Otherwise the operand beside a thin one
/// should be read in place, as a B contiguous along rows or an A contiguous along depth.
fn swap(a: &View<'_>, b: &View<'_>) -> bool {
    if are_dots(a, b) {
        return a.rows > b.cols;
    }
    let thin = a.rows.min(b.cols) <= FEW_ROWS;
    thin && if a.rows < b.cols { b.col_stride != 1 } else { a.col_stride != 1 }
}

struct Product<'a> {
    a: View<'a>,
    b: Operand<'a>,
    c: Out,
    threads: bool,
}

impl Product<'_> {
    /// With tiles of `R` rows × `W` vectors; `FMA`: multiply-add is one instruction.
    fn run<S: Simd, const R: usize, const W: usize, const FMA: bool>(self, simd: S) {
        let Product { a, b, c, threads } = self;
        let team = if threads { rayon::current_num_threads() } else { 1 };
        if let Operand::F32(b) = b
            && are_dots(&a, &b)
        {
            let width = plan::dot_columns(b.cols, b.rows, team);
            spread(b.cols.div_ceil(width), threads, |task| {
                simd.vectorize(Dots::<FMA> { few: a, many: b.t(), c, col: task * width, width });
            });
            return;
        }
        let tile_rows = if c.cols <= S::F32_LANES { NARROW } else { R };
        let grid = Grid { tile_rows, panel: W * S::F32_LANES, lanes: S::F32_LANES };
        let plan = Plan::new(c.rows, c.cols, a.cols, grid, a.col_stride != 1, team);
        spread(plan.row_blocks * plan.col_groups, threads, |task| {
            let (row, col) =
                (task % plan.row_blocks * plan.rows, task / plan.row_blocks * plan.cols);
            simd.vectorize(Task::<R, W, FMA> { a, b, c, plan, row, col });
        });
    }
}

/// Runs every task, on rayon's current threads or on this one.
fn spread(tasks: usize, threads: bool, run: impl Fn(usize) + Send + Sync) {
    if threads && tasks > 1 {
        (0..tasks).into_par_iter().with_max_len(1).for_each(run);
    } else {
        (0..tasks).for_each(run);
    }
}
