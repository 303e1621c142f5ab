//! One task: a group of column panels, whose rows are taken by its thread and by those that have nothing else left.
//!
//! Whoever takes rows packs the group's columns of B, the terms one below the other, then goes down the rows: a tile of A stays in L1
//! while the panels of B pass by from L2. A is read in place when its rows are contiguous; a transposed A is packed a few tiles at a
//! time, so that its cache lines are used whole.

use super::pack;
use super::plan::Plan;
use super::product::{Pass, TERMS};
use super::tile::{Left, Out, Right, Side, tile};
use super::view::{Into, Operand, View};
use crate::ops::prefetch::{Ahead, Lines, PLACES, Places};
use pulp::{Simd, WithSimd};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Up to this many rows, B's rows are read in place: packing would cost as much as the product.
pub const FEW_ROWS: usize = 16;
/// Tiles of a transposed A packed at a time.
const TILES: usize = 8;
/// Rows of a tile one vector wide: it has registers to spare, and needs the rows to hide latency.
pub(super) const NARROW: usize = 8;

/// The columns of C from `col` on, as many as the plan says.
pub(super) struct Task<'a> {
    pass: &'a Pass<'a>,
    plan: Plan,
    col: usize,
    /// The first row that nobody has taken.
    next: AtomicUsize,
    /// Its part of what the ops behind the product read.
    pub(super) behind: Places,
}

impl<'a> Task<'a> {
    pub(super) fn new(pass: &'a Pass<'a>, plan: Plan, col: usize) -> Self {
        Self { pass, plan, col, next: AtomicUsize::new(0), behind: [Ahead::NOTHING; PLACES] }
    }

    /// Multiply-adds.
    pub(super) fn work(&self) -> usize {
        self.pass.c.rows * self.plan.cols.min(self.pass.c.cols - self.col) * self.pass.depth
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

    /// How often rows can be taken.
    pub(super) fn takes(&self) -> usize {
        self.pass.c.rows.div_ceil(self.plan.take)
    }

    /// Rows that nobody else gets.
    fn take(&self) -> Option<Range<usize>> {
        let (rows, end) = (self.plan.take, self.pass.c.rows);
        if self.next.load(Ordering::Relaxed) >= end {
            return None;
        }
        let row = self.next.fetch_add(rows, Ordering::Relaxed);
        (row < end).then(|| row..(row + rows).min(end))
    }
}

/// Computes what nobody else has taken of a task.
pub(super) struct Run<'a, const R: usize, const W: usize, const FMA: bool, const ASK: bool> {
    pub(super) task: &'a Task<'a>,
    /// What its thread runs next: its weights are asked for meanwhile.
    pub(super) next: Option<&'a Task<'a>>,
}

/// What a term has in a depth block.
#[derive(Clone, Copy)]
struct Segment<'a> {
    a: View<'a>,
    b: Operand<'a>,
    scale: f32,
    /// Where it begins in the term and in the block.
    from: usize,
    at: usize,
    depth: usize,
}

/// A depth block on its way through the tiles.
struct Block<'a> {
    segments: [Segment<'a>; TERMS],
    count: usize,
    depth: usize,
    /// Its panels: that of column c at depth·c.
    panels: *mut f32,
    /// The task's columns of C.
    c: Out,
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
        let Some(mut rows) = task.take() else { return };
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
                let (segments, count) = self.segments(k..end);
                let block = Block { segments, count, depth, panels, c: Out { into, plus, ..c } };
                let missing = if whole { laid < end } else { laid != end };
                if missing {
                    // SAFETY: B has these rows and the columns of this task, the scratch room for its panels.
                    unsafe { self.pack::<S>(&block) };
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
            match task.take() {
                Some(next) => rows = next,
                None => break,
            }
        }
        pack::put(scratch);
    }

    /// What the terms have in a block, and how many of them have something.
    #[inline(always)]
    fn segments(&self, block: Range<usize>) -> ([Segment<'_>; TERMS], usize) {
        let terms = self.task.pass.terms();
        let (a, b, scale) = (terms[0].a, terms[0].b, 1.0);
        let mut segments = [Segment { a, b, scale, from: 0, at: 0, depth: 0 }; TERMS];
        let (mut count, mut before) = (0, 0);
        for term in terms {
            let (lo, hi) = (block.start.max(before), block.end.min(before + term.a.cols));
            if lo < hi {
                let (from, at, depth) = (lo - before, lo - block.start, hi - lo);
                segments[count] =
                    Segment { a: term.a, b: term.b, scale: term.scale, from, at, depth };
                count += 1;
            }
            before += term.a.cols;
        }
        (segments, count)
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
        let (c, first) = (block.c, block.segments[0]);
        let pack_a = first.a.col_stride != 1 && c.cols > W * S::F32_LANES;
        let mut sides = [Side::EMPTY; TERMS];
        for row in range.clone().step_by(H) {
            let rows = H.min(range.end - row);
            for (side, seg) in sides.iter_mut().zip(&block.segments).take(block.count) {
                let (ptr, a) = (seg.a.from(row, seg.from), seg.a);
                side.left = Left { ptr, row_stride: a.row_stride, step: a.col_stride };
                side.depth = seg.depth;
            }
            if pack_a {
                let (tile, at) = ((row - range.start) / H, sides[0].left);
                if tile % TILES == 0 {
                    let rows = (TILES * H).min(range.end - row);
                    // SAFETY: `rows` x `depth` elements of A; there is room for TILES tiles.
                    unsafe { pack::tiles::<H>(packed_a, at.ptr, at.step, block.depth, rows) };
                }
                let ptr = packed_a.wrapping_add(tile % TILES * pack::pitch(H, block.depth));
                sides[0].left = Left { ptr, row_stride: 1, step: H };
            }
            let mut col = 0;
            while let Some(v) = panel::<S, W>(c.cols, col) {
                let lanes = v * S::F32_LANES;
                let out = c.part(row, col, rows, lanes);
                for (side, seg) in sides.iter_mut().zip(&block.segments).take(block.count) {
                    side.right = match in_place(seg, c.rows, out.cols, lanes) {
                        Some(b) => {
                            Right { ptr: b.from(seg.from, self.task.col + col), step: b.row_stride }
                        }
                        None => Right { ptr: block.panel(seg, col, lanes), step: lanes },
                    };
                }
                let sides = &sides[..block.count];
                // SAFETY: `rows` rows of A and v vectors of B, as deep as the block, and rows of C that are this call's own.
                unsafe {
                    match (v, rows) {
                        (3, 1) if W == 3 => tile::<S, 1, 3, FMA, ASK>(s, sides, out, lines),
                        (3, 2..=4) if W == 3 => tile::<S, 4, 3, FMA, ASK>(s, sides, out, lines),
                        (3, _) if W == 3 => tile::<S, R, 3, FMA, ASK>(s, sides, out, lines),
                        (2, 1) => tile::<S, 1, 2, FMA, ASK>(s, sides, out, lines),
                        (2, 2..=4) => tile::<S, 4, 2, FMA, ASK>(s, sides, out, lines),
                        (2, _) => tile::<S, R, 2, FMA, ASK>(s, sides, out, lines),
                        (_, 1) => tile::<S, 1, 1, FMA, ASK>(s, sides, out, lines),
                        (_, 2..=4) => tile::<S, 4, 1, FMA, ASK>(s, sides, out, lines),
                        _ => tile::<S, NARROW, 1, FMA, ASK>(s, sides, out, lines),
                    }
                }
                col += lanes;
            }
        }
    }

    /// Packs every panel of B that is not read in place.
    ///
    /// # Safety
    /// B has the block's rows and the task's columns; there is room for the panels.
    #[inline(always)]
    unsafe fn pack<S: Simd>(&self, block: &Block<'_>) {
        let (c, mut col) = (block.c, 0);
        while let Some(v) = panel::<S, W>(c.cols, col) {
            let lanes = v * S::F32_LANES;
            let width = lanes.min(c.cols - col);
            for seg in &block.segments[..block.count] {
                if in_place(seg, c.rows, width, lanes).is_some() {
                    continue;
                }
                let (to, from) = (block.panel(seg, col, lanes), [seg.from, self.task.col + col]);
                // SAFETY: the panel's part of both.
                unsafe {
                    match seg.b {
                        Operand::F32(b) => {
                            pack::panel::<S, _>(to, lanes, b, from, [seg.depth, width])
                        }
                        Operand::Bf16(b) => {
                            pack::panel::<S, _>(to, lanes, b, from, [seg.depth, width])
                        }
                    }
                    if seg.scale != 1.0 {
                        pack::scale(to, seg.depth * lanes, seg.scale);
                    }
                }
            }
            col += lanes;
        }
    }
}

impl Block<'_> {
    /// Where a segment's part of the panel from `col` on lies.
    #[inline(always)]
    fn panel(&self, seg: &Segment<'_>, col: usize, lanes: usize) -> *mut f32 {
        self.panels.wrapping_add(self.depth * col + seg.at * lanes)
    }
}

/// B, where a panel `width` of `lanes` columns wide is read as it lies.
#[inline(always)]
fn in_place<'a>(seg: &Segment<'a>, rows: usize, width: usize, lanes: usize) -> Option<View<'a>> {
    match seg.b {
        Operand::F32(b)
            if b.col_stride == 1 && rows <= FEW_ROWS && width == lanes && seg.scale == 1.0 =>
        {
            Some(b)
        }
        _ => None,
    }
}

/// Vectors of the panel that starts at `col`: W, but the last four are split evenly.
#[inline(always)]
fn panel<S: Simd, const W: usize>(cols: usize, col: usize) -> Option<usize> {
    match cols.saturating_sub(col).div_ceil(S::F32_LANES) {
        0 => None,
        4 if W == 3 => Some(2),
        left => Some(left.min(W)),
    }
}
