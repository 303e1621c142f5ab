//! A block of depth: what each term has in it, and where the panels of its B lie.

use super::pack;
use super::product::{TERMS, Term};
use super::tile::{Out, Right};
use super::view::{Operand, View};
use pulp::Simd;
use std::ops::Range;

/// Up to this many rows, B's rows are read in place: packing would cost as much as the product.
pub const FEW_ROWS: usize = 16;

/// What a term has in the block.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    pub(super) a: View<'a>,
    b: Operand<'a>,
    scale: f32,
    /// Where it begins in the term.
    pub(super) from: usize,
    /// Where it begins in the block.
    at: usize,
    pub(super) depth: usize,
}

/// A block on its way through the tiles of a task.
pub(super) struct Block<'a> {
    segments: [Segment<'a>; TERMS],
    count: usize,
    pub(super) depth: usize,
    /// Its panels: that of column c at depth·c.
    panels: *mut f32,
    /// The task's columns of C.
    pub(super) c: Out,
    /// The first of them.
    first: usize,
}

impl<'a> Block<'a> {
    /// What `terms` have in `range` of their depth, for columns of C from `first` on.
    #[inline(always)]
    pub(super) fn new(
        terms: &[Term<'a>],
        range: Range<usize>,
        panels: *mut f32,
        c: Out,
        first: usize,
    ) -> Self {
        let (a, b, scale) = (terms[0].a, terms[0].b, 1.0);
        let mut segments = [Segment { a, b, scale, from: 0, at: 0, depth: 0 }; TERMS];
        let (mut count, mut before) = (0, 0);
        for term in terms {
            let (lo, hi) = (range.start.max(before), range.end.min(before + term.a.cols));
            if lo < hi {
                let (from, at, depth) = (lo - before, lo - range.start, hi - lo);
                segments[count] =
                    Segment { a: term.a, b: term.b, scale: term.scale, from, at, depth };
                count += 1;
            }
            before += term.a.cols;
        }
        Self { segments, count, depth: range.len(), panels, c, first }
    }

    /// What has something in it.
    #[inline(always)]
    pub(super) fn segments(&self) -> &[Segment<'a>] {
        &self.segments[..self.count]
    }

    /// Packs every panel of B that is not read in place, each W vectors wide or what is left.
    ///
    /// # Safety
    /// B has the block's rows and the task's columns; there is room for the panels; the processor has S.
    #[inline(always)]
    pub(super) unsafe fn pack<S: Simd, const W: usize>(&self) {
        let (c, mut col) = (self.c, 0);
        while let Some(v) = panel::<S, W>(c.cols, col) {
            let lanes = v * S::F32_LANES;
            let width = lanes.min(c.cols - col);
            for seg in self.segments() {
                if self.in_place(seg, width, lanes).is_some() {
                    continue;
                }
                let to = self.panel(col).wrapping_add(seg.at * lanes);
                let from = [seg.from, self.first + col];
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

    /// B of the panel from `col` on, `width` of `lanes` columns wide, as a tile reads it: all segments, or one as it lies.
    #[inline(always)]
    pub(super) fn right(&self, col: usize, width: usize, lanes: usize) -> Right {
        let seg = &self.segments[0];
        match self.in_place(seg, width, lanes) {
            Some(b) => Right { ptr: b.from(seg.from, self.first + col), step: b.row_stride },
            None => Right { ptr: self.panel(col), step: lanes },
        }
    }

    /// Where the panel from `col` on lies: the segments one below the other.
    #[inline(always)]
    fn panel(&self, col: usize) -> *mut f32 {
        self.panels.wrapping_add(self.depth * col)
    }

    /// B, where a panel `width` of `lanes` columns wide is read as it lies: only where there is nothing below it.
    #[inline(always)]
    fn in_place(&self, seg: &Segment<'a>, width: usize, lanes: usize) -> Option<View<'a>> {
        let few = self.count == 1 && self.c.rows <= FEW_ROWS;
        match seg.b {
            Operand::F32(b) if b.col_stride == 1 && few && width == lanes && seg.scale == 1.0 => {
                Some(b)
            }
            _ => None,
        }
    }
}

/// Vectors of the panel that starts at `col`: W, but the last four are split evenly.
#[inline(always)]
pub(super) fn panel<S: Simd, const W: usize>(cols: usize, col: usize) -> Option<usize> {
    match cols.saturating_sub(col).div_ceil(S::F32_LANES) {
        0 => None,
        4 if W == 3 => Some(2),
        left => Some(left.min(W)),
    }
}
