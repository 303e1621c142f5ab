//! Who runs what: passes as tasks on all threads, with the vectors and the tile of an instruction set.
//!
//! | pulp         | lanes | tile (rows × vectors) |
//! |--------------|-------|-----------------------|
//! | `V4`         | 16    | 8 × 3 of 32 registers |
//! | `V3`         | 8     | 6 × 2 of 16 registers |
//! | `Scalar128b` | 4     | 6 × 2 of 16 registers |
//!
//! 4 × 3 would load less but fills all 16 registers: the compiler then spills one per step.

use super::dots::Dots;
use super::plan::{self, Grid, Plan};
use super::product::Pass;
use super::task::{NARROW, Run, Task};
use super::tile::Out;
use super::view::View;
use crate::ops::prefetch::Places;
use crate::ops::spread::spread_rows;
use pulp::{Arch, Scalar128b, Simd};
use rayon::prelude::*;

/// What is run with the vectors and the tile of an instruction set.
pub(super) trait Tiled {
    /// With tiles of `R` rows × `W` vectors; `FMA`: multiply-add is one instruction.
    fn run<S: Simd, const R: usize, const W: usize, const FMA: bool>(self, simd: S);
}

pub(super) fn on(arch: Arch, what: impl Tiled) {
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(simd) => what.run::<_, 8, 3, true>(simd),
        #[cfg(target_arch = "x86_64")]
        Arch::V3(simd) => what.run::<_, 6, 2, true>(simd),
        _ => what.run::<_, 6, 2, false>(Scalar128b),
    }
}

fn team(threads: bool) -> usize {
    if threads { rayon::current_num_threads() } else { 1 }
}

/// Elements that are dot products: C (few, many) of the rows of two operands, which are contiguous.
pub(super) struct DotProducts<'a> {
    pub(super) few: View<'a>,
    pub(super) many: View<'a>,
    pub(super) c: Out,
    /// On rayon's current threads, or on this one.
    pub(super) threads: bool,
}

impl Tiled for DotProducts<'_> {
    fn run<S: Simd, const R: usize, const W: usize, const FMA: bool>(self, simd: S) {
        let DotProducts { few, many, c, threads } = self;
        let width = plan::dot_columns(many.rows, many.cols, team(threads));
        let task = |task| simd.vectorize(Dots::<FMA> { few, many, c, col: task * width, width });
        let tasks = many.rows.div_ceil(width);
        if threads && tasks > 1 {
            (0..tasks).into_par_iter().with_max_len(1).for_each(task);
        } else {
            (0..tasks).for_each(task);
        }
    }
}

/// Runs passes that write apart from each other, on rayon's current `threads` or on this one.
pub(super) fn all(arch: Arch, passes: &[Pass<'_>], behind: Places, threads: bool) {
    if !passes.is_empty() {
        on(arch, All { passes, behind, threads, half: half(arch) });
    }
}

/// Vectors of half the length, for C that is no wider than they are: some processors compute twice as many of them at a time.
#[cfg(target_arch = "x86_64")]
fn half(arch: Arch) -> Option<Half> {
    if let Arch::V4(simd) = arch { Some(*simd) } else { None }
}

#[cfg(not(target_arch = "x86_64"))]
fn half(_: Arch) -> Option<Half> {
    None
}

#[cfg(target_arch = "x86_64")]
type Half = pulp::x86::V3;
#[cfg(not(target_arch = "x86_64"))]
type Half = Scalar128b;

struct All<'a> {
    passes: &'a [Pass<'a>],
    behind: Places,
    threads: bool,
    half: Option<Half>,
}

impl Tiled for All<'_> {
    fn run<S: Simd, const R: usize, const W: usize, const FMA: bool>(self, simd: S) {
        let team = team(self.threads);
        let half = |pass: &Pass<'_>| self.half.filter(|_| pass.c.cols <= Half::F32_LANES);
        let tasks = self.passes.iter().flat_map(|pass| {
            let (lanes, panel) = match half(pass) {
                Some(_) => (Half::F32_LANES, Half::F32_LANES),
                None => (S::F32_LANES, W * S::F32_LANES),
            };
            let tile_rows = if pass.c.cols <= lanes { NARROW } else { R };
            let packed = pass.terms()[0].a.col_stride != 1;
            let shape = [pass.c.rows, pass.c.cols, pass.depth];
            let plan = Plan::new(shape, Grid { tile_rows, panel, lanes }, packed, team);
            (0..pass.c.cols).step_by(plan.cols).map(move |col| Task::new(pass, plan, col))
        });
        if !self.threads {
            tasks.for_each(|task| match half(task.pass()) {
                Some(half) => run_task::<_, 6, 2, FMA, false>(half, &task, None),
                None => run_task::<_, R, W, FMA, false>(simd, &task, None),
            });
            return;
        }
        let run = |task: &Task<'_>, next: Option<&_>| match half(task.pass()) {
            Some(half) => run_task::<_, 6, 2, FMA, true>(half, task, next),
            None => run_task::<_, R, W, FMA, true>(simd, task, next),
        };
        spread_rows(tasks.collect(), self.behind, run);
    }
}

/// Computes with an instruction set what nobody else has taken of a task.
fn run_task<S: Simd, const R: usize, const W: usize, const FMA: bool, const ASK: bool>(
    simd: S,
    task: &Task<'_>,
    next: Option<&Task<'_>>,
) {
    simd.vectorize(Run::<R, W, FMA, ASK> { task, next });
}
