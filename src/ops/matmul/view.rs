//! Matrix operands: borrowed slices with strides, of f32, or of bf16 for a B that is widened on its way into panels.
//!
//! Element (r, c) of a [`View`] lies at `data[r·row_stride + c·col_stride]`; one of the strides is 1, so that every operand is a
//! row-major matrix or the transpose of one. Results are row-major, with a stride between rows so that a head's columns can be
//! written in place.

use crate::ops::prefetch::Ahead;
use half::bf16;
use std::ops::Range;

/// Whether C is overwritten or added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// C ← s·A·B.
    Overwrite,
    /// C ← C + s·A·B.
    Add,
}

/// A read-only matrix view: rows or columns contiguous.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T = f32> {
    pub(super) data: &'a [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// A row-major (rows, cols) matrix.
    ///
    /// # Panics
    /// When `data` is too short for the shape.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows lie `row_stride` elements apart.
    ///
    /// # Panics
    /// When `data` is too short for the shape.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        check(data.len(), rows, cols, row_stride);
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Rows `r0..r1` of a row-major matrix.
    fn rows(self, r0: usize, r1: usize) -> Self {
        assert!(
            self.col_stride == 1 && r0 <= r1 && r1 <= self.rows,
            "rows {r0}..{r1} of {}",
            self.rows
        );
        Self::strided(&self.data[r0 * self.row_stride..], r1 - r0, self.cols, self.row_stride)
    }

    /// Where the part from a row and a column on begins.
    #[inline(always)]
    pub(super) fn from(&self, row: usize, col: usize) -> *const T {
        self.data.as_ptr().wrapping_add(row * self.row_stride + col * self.col_stride)
    }

    /// Where these columns lie.
    fn place(&self, columns: Range<usize>) -> Ahead {
        let start = self.from(0, columns.start).addr();
        let (rows, cols, stride) = match self.col_stride {
            1 => (self.rows, columns.len(), self.row_stride),
            stride => (columns.len(), self.rows, stride),
        };
        Ahead { start, rows, bytes: cols * size_of::<T>(), stride: stride * size_of::<T>() }
    }

    /// The transpose, without moving anything.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// B as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// Packed, or read in place for few rows.
    F32(View<'a>),
    /// Widened while it is packed, whatever the rows of A: for few of them it is better widened first.
    Bf16(View<'a, bf16>),
}

impl Operand<'_> {
    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::F32(b) => [b.rows, b.cols],
            Self::Bf16(b) => [b.rows, b.cols],
        }
    }

    /// Where these columns lie.
    pub(super) fn place(&self, columns: Range<usize>) -> Ahead {
        match self {
            Self::F32(b) => b.place(columns),
            Self::Bf16(b) => b.place(columns),
        }
    }

    /// Rows `r0..r1` of a row-major operand.
    ///
    /// # Panics
    /// When it is transposed or has fewer rows.
    #[must_use]
    pub fn rows(self, r0: usize, r1: usize) -> Self {
        match self {
            Self::F32(b) => Self::F32(b.rows(r0, r1)),
            Self::Bf16(b) => Self::Bf16(b.rows(r0, r1)),
        }
    }

    /// The transpose, without moving anything.
    #[must_use]
    pub fn t(self) -> Self {
        match self {
            Self::F32(b) => Self::F32(b.t()),
            Self::Bf16(b) => Self::Bf16(b.t()),
        }
    }
}

impl<'a> From<View<'a>> for Operand<'a> {
    fn from(b: View<'a>) -> Self {
        Self::F32(b)
    }
}

impl<'a> From<View<'a, bf16>> for Operand<'a> {
    fn from(b: View<'a, bf16>) -> Self {
        Self::Bf16(b)
    }
}

/// A writable row-major matrix view; nothing between its rows is touched.
#[derive(Debug)]
pub struct ViewMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
}

impl<'a> ViewMut<'a> {
    /// A row-major (rows, cols) matrix.
    ///
    /// # Panics
    /// When `data` is too short for the shape.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows lie `row_stride` elements apart.
    ///
    /// # Panics
    /// When `data` is too short for the shape.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        check(data.len(), rows, cols, row_stride);
        Self { data, rows, cols, row_stride }
    }
}

/// Every element lies inside the slice and rows do not overlap: the unsafe code relies on both.
fn check(len: usize, rows: usize, cols: usize, row_stride: usize) {
    if rows == 0 || cols == 0 {
        return;
    }
    let end = (rows - 1).checked_mul(row_stride).and_then(|start| start.checked_add(cols));
    assert!(
        row_stride >= cols && end.is_some_and(|end| end <= len),
        "a {rows}x{cols} view with rows {row_stride} apart exceeds its {len} values"
    );
}
