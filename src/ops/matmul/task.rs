//! One task: a group of column panels, whose rows are taken by its thread and by those that have nothing else left.
//!
//! Whoever takes rows packs the group's columns of B, the terms one below the other, then goes down the rows: a tile of A stays in L1
//! while the panels of B pass by from L2. A is read in place when its rows are contiguous; a transposed A is packed a few tiles at a
//! time, so that its cache lines are used whole.

use super::block::{Block, panel};
use super::pack;
use super::plan::Plan;
use super::product::{Pass, TERMS};
use super::tile::{Left, Out, tile};
use super::view::Into;
use crate::ops::prefetch::{Ahead, Lines, PLACES, Places};
use crate::ops::spread::{ByRows, Takes};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Tiles of a transposed A packed at a time.
const TILES: usize = 8;
/// Rows of a tile one vector wide: it has registers to spare, and needs the rows to hide latency.
pub(super) const NARROW: usize = 8;

/// The columns of C from `col` on, as many as the plan says.
pub(super) struct Task<'a> {
    pass: &'a Pass<'a>,
    plan: Plan,
    col: usize,
    takes: Takes,
    /// Its part of what the ops behind the product read.
    behind: Places,
}

impl<'a> Task<'a> {
    pub(super) fn new(pass: &'a Pass<'a>, plan: Plan, col: usize) -> Self {
        let (takes, behind) = (Takes::new(pass.c.rows, plan.take), [Ahead::NOTHING; PLACES]);
        Self { pass, plan, col, takes, behind }
    }

    pub(super) fn pass(&self) -> &'a Pass<'a> {
        self.pass
    }

    /// Its columns of C.
    fn columns(&self) -> Out {
        self.pass.c.part(0, self.col, usize::MAX, self.plan.cols)
    }

    /// Where its parts of the terms' B lie.
    fn places(&self) -> [Ahead; TERMS] {
        let (mut places, columns) =
            ([Ahead::NOTHING; TERMS], self.col..self.col + self.columns().cols);
        for (place, term) in places.iter_mut().zip(self.pass.terms()) {
            *place = term.b.place(columns.clone());
        }
        places
    }
}

impl ByRows for Task<'_> {
    fn takes(&self) -> &Takes {
        &self.takes
    }

    fn work(&self) -> usize {
        self.pass.c.rows * self.plan.cols.min(self.pass.c.cols - self.col) * self.pass.depth
    }

    fn set_behind(&mut self, behind: Places) {
        self.behind = behind;
    }
}

/// Computes what nobody else has taken of a task.
pub(super) struct Run<'a, const R: usize, const W: usize, const FMA: bool, const ASK: bool> {
    pub(super) task: &'a Task<'a>,
    /// What its thread runs next: its weights are asked for meanwhile.
    pub(super) next: Option<&'a Task<'a>>,
}

impl<const R: usize, const W: usize, const FMA: bool, const ASK: bool> WithSimd
    for Run<'_, R, W, FMA, ASK>
{
    type Output = ();

    // Everything below is inlined into pulp's function of the right target features; closures
    // would not be.
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let c = self.task.columns();
        if c.cols <= S::F32_LANES {
            self.all::<S, NARROW>(s, c)
        } else if R == 6 && (7..=8).contains(&c.rows) {
            // Two tiles of 4 rows: the second of 6 and 2 would leave most of its registers idle.
            self.all::<S, 4>(s, c)
        } else {
            self.all::<S, R>(s, c)
        }
    }
}

impl<const R: usize, const W: usize, const FMA: bool, const ASK: bool> Run<'_, R, W, FMA, ASK> {
    /// All depth blocks of rows that are taken, in tiles `H` rows high.
    #[inline(always)]
    fn all<S: Simd, const H: usize>(&self, s: S, c: Out) {
        let (task, pass, plan) = (self.task, self.task.pass, self.task.plan);
        let Some(mut rows) = task.takes.take() else { return };
        let columns = c.cols.next_multiple_of(S::F32_LANES);
        let mut scratch =
            pack::take(plan.kept * columns + TILES * pack::pitch(H, plan.depth.min(pass.depth)));
        let scratch_ptr = scratch.as_mut_ptr().cast::<f32>();
        let packed_a = scratch_ptr.wrapping_add(plan.kept * columns);
        // Where all panels are kept, those up to this depth are there; otherwise those of the block that ends there.
        let mut laid = 0;
        let ahead = self.next.map_or([Ahead::NOTHING; TERMS], Task::places);
        let mut lines = Lines::NONE;
        loop {
            for k in (0..pass.depth).step_by(plan.depth) {
                let depth = plan.depth.min(pass.depth - k);
                let (end, whole) = (k + depth, plan.kept == pass.depth);
                let plus = if end == pass.depth { c.plus } else { Default::default() };
                let into = if k > 0 { Into::Add } else { c.into };
                let panels = scratch_ptr.wrapping_add(if whole { k * columns } else { 0 });
                let c = Out { into, plus, ..c };
                let block = Block::new(pass.terms(), k..end, panels, c, task.col);
                let missing = if whole { laid < end } else { laid != end };
                if missing {
                    // SAFETY: B has these rows and the columns of this task, the scratch room for its panels.
                    unsafe { block.pack::<S, W>() };
                    laid = end;
                }
                if missing && end == pass.depth {
                    // Whoever packs once has all rows that are left before it.
                    let later = if whole { end * (c.rows - rows.end).div_ceil(H) } else { 0 };
                    let panels = c.cols.div_ceil(W * S::F32_LANES);
                    let steps = (depth * rows.len().div_ceil(H) + later) * panels;
                    let behind = if rows.start == 0 { &task.behind[..] } else { &[] };
                    lines = Lines::new(behind, &ahead, steps);
                }
                // SAFETY: the panels are there, the rows were taken once, and the scratch has room for TILES tiles of A.
                unsafe { self.tiles::<S, H>(s, &block, rows.clone(), packed_a, &mut lines) };
            }
            match task.takes.take() {
                Some(next) => rows = next,
                None => break,
            }
        }
        pack::put(scratch);
    }

    /// Runs rows against the panels of a block.
    ///
    /// # Safety
    /// The panels are packed, nobody else accesses these rows of C, and `packed_a` takes TILES tiles.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const H: usize>(
        &self,
        s: S,
        block: &Block<'_>,
        range: Range<usize>,
        packed_a: *mut f32,
        lines: &mut Lines<'_>,
    ) {
        let (c, segments) = (block.c, block.segments());
        let pack_a = segments[0].a.col_stride != 1 && c.cols > W * S::F32_LANES;
        let mut lefts = [Left::EMPTY; TERMS];
        for (left, seg) in lefts.iter_mut().zip(segments) {
            let (ptr, a) = (seg.a.from(0, seg.from), seg.a);
            *left = Left { ptr, row_stride: a.row_stride, step: a.col_stride, depth: seg.depth };
        }
        let (a, lefts) = (segments[0].a, &mut lefts[..segments.len()]);
        for row in range.clone().step_by(H) {
            let (rows, mut first) = (H.min(range.end - row), row);
            if pack_a {
                let tile = (row - range.start) / H;
                if tile.is_multiple_of(TILES) {
                    let (at, rows) =
                        (a.from(row, segments[0].from), (TILES * H).min(range.end - row));
                    // SAFETY: `rows` x `depth` elements of A; there is room for TILES tiles.
                    unsafe { pack::tiles::<H>(packed_a, at, a.col_stride, block.depth, rows) };
                }
                let ptr = packed_a.wrapping_add(tile % TILES * pack::pitch(H, block.depth));
                (first, lefts[0]) = (0, Left { ptr, row_stride: 1, step: H, ..lefts[0] });
            }
            let mut col = 0;
            while let Some(v) = panel::<S, W>(c.cols, col) {
                let lanes = v * S::F32_LANES;
                let out = c.part(row, col, rows, lanes);
                let right = block.right(col, out.cols, lanes);
                // SAFETY: `rows` rows of A and v vectors of B, as deep as the block, and rows of C that are this call's own.
                unsafe {
                    match (v, rows) {
                        (3, 1) if W == 3 => {
                            tile::<S, 1, 3, FMA, ASK>(s, lefts, first, right, out, lines)
                        }
                        (3, 2..=4) if W == 3 => {
                            tile::<S, 4, 3, FMA, ASK>(s, lefts, first, right, out, lines)
                        }
                        (3, _) if W == 3 => {
                            tile::<S, R, 3, FMA, ASK>(s, lefts, first, right, out, lines)
                        }
                        (2, 1) => tile::<S, 1, 2, FMA, ASK>(s, lefts, first, right, out, lines),
                        (2, 2..=4) => tile::<S, 4, 2, FMA, ASK>(s, lefts, first, right, out, lines),
                        (2, _) => tile::<S, R, 2, FMA, ASK>(s, lefts, first, right, out, lines),
                        (_, 1) => tile::<S, 1, 1, FMA, ASK>(s, lefts, first, right, out, lines),
                        (_, 2..=4) => tile::<S, 4, 1, FMA, ASK>(s, lefts, first, right, out, lines),
                        _ => tile::<S, NARROW, 1, FMA, ASK>(s, lefts, first, right, out, lines),
                    }
                }
                col += lanes;
            }
        }
    }
}
