//! Thin products whose depth runs along the rows of both operands: a few tokens against a weight, ranks of up to 4.
//!
//! C(r, c) = s·Σₖ few(r, k)·many(c, k). Every row of `many` is read once, as it lies, against all of `few`: packing it would be the
//! work, and a tile of few columns would leave most lanes empty.
//!
//! A sum runs in 16 lanes, whatever the width of a vector, and the lanes are then added by halves. Several rows of `many` at a time
//! give the additions something to wait with: a chain of one would be bound by their latency.

use super::tile::{Out, load, mul_add};
use super::view::View;
use pulp::{Simd, WithSimd};

/// Rows up to which a product is made of dot products.
pub(super) const FEW: usize = 4;
/// Lanes of a sum.
const LANES: usize = 16;
/// Vectors of a sum, at most.
const VECTORS: usize = 4;

/// `width` columns of C from `col` on.
pub(super) struct Dots<'a, const FMA: bool> {
    pub(super) few: View<'a>,
    pub(super) many: View<'a>,
    pub(super) c: Out,
    pub(super) col: usize,
    pub(super) width: usize,
}

impl<const FMA: bool> WithSimd for Dots<'_, FMA> {
    type Output = ();

    // Inlined, as everything below, into pulp's function of the right target features.
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        // 8 sums in registers, or as many as the weights' rows should be read once.
        match (S::F32_LANES, self.few.rows) {
            (16, 1) => self.all::<S, 1, 8>(s),
            (16, 2) => self.all::<S, 2, 4>(s),
            (16, _) => self.all::<S, 4, 4>(s),
            (8, 1) => self.all::<S, 1, 4>(s),
            (8, 2) => self.all::<S, 2, 2>(s),
            (8, _) => self.all::<S, 4, 1>(s),
            (_, 1) => self.all::<S, 1, 2>(s),
            (..) => self.all::<S, 2, 1>(s),
        }
    }
}

impl<const FMA: bool> Dots<'_, FMA> {
    /// All columns of the task, R rows and C columns at a time.
    #[inline(always)]
    fn all<S: Simd, const R: usize, const C: usize>(&self, s: S) {
        let c = self.c.part(0, self.col, self.c.rows, self.width);
        for col in (0..c.cols).step_by(C) {
            for row in (0..c.rows).step_by(R) {
                // Rows and columns past the end repeat the last one: computed, never stored.
                let few = rows::<R>(self.few, row, c.rows);
                let many = rows::<C>(self.many, self.col + col, self.col + c.cols);
                // SAFETY: rows of `few.cols` = `many.cols` elements.
                let sums = unsafe { tile::<S, R, C, FMA>(s, self.few.cols, few, many) };
                let out = c.part(row, col, R, C);
                for (r, sums) in sums.iter().enumerate().take(out.rows) {
                    for (c, sum) in sums.iter().enumerate().take(out.cols) {
                        // SAFETY: inside the part, which is this task's own.
                        unsafe { out.put::<FMA>(r, c, *sum) };
                    }
                }
            }
        }
    }
}

/// Where N rows from `first` on start, none at or past `end`.
#[inline(always)]
fn rows<const N: usize>(x: View<'_>, first: usize, end: usize) -> [*const f32; N] {
    let mut rows = [x.data.as_ptr(); N];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = row.wrapping_add((first + i).min(end - 1) * x.row_stride);
    }
    rows
}

/// R × C dot products of `depth` elements.
///
/// # Safety
/// All rows have `depth` elements.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const C: usize, const FMA: bool>(
    s: S,
    depth: usize,
    few: [*const f32; R],
    many: [*const f32; C],
) -> [[f32; C]; R] {
    let mut acc = [[[s.splat_f32s(0.0); VECTORS]; C]; R];
    let whole = depth - depth % LANES;
    for k in (0..whole).step_by(LANES) {
        // SAFETY: k + LANES ≤ depth.
        unsafe { step::<S, R, C, FMA>(s, few, many, k, &mut acc) };
    }
    if whole < depth {
        // The rest between zeros, which add nothing.
        let (mut few_end, mut many_end) = ([[0.0f32; LANES]; R], [[0.0f32; LANES]; C]);
        let ends = few_end.iter_mut().zip(few).chain(many_end.iter_mut().zip(many));
        for (end, row) in ends {
            // SAFETY: the last `depth` − `whole` < LANES elements of the row.
            unsafe { end.as_mut_ptr().copy_from_nonoverlapping(row.add(whole), depth - whole) };
        }
        let few = few_end.each_ref().map(|end| end.as_ptr());
        let many = many_end.each_ref().map(|end| end.as_ptr());
        // SAFETY: LANES elements each.
        unsafe { step::<S, R, C, FMA>(s, few, many, 0, &mut acc) };
    }
    let mut sums = [[0.0; C]; R];
    for r in 0..R {
        for c in 0..C {
            let mut lanes = [0.0f32; LANES];
            lanes.copy_from_slice(pulp::bytemuck::cast_slice(&acc[r][c][..LANES / S::F32_LANES]));
            for half in [8, 4, 2, 1] {
                for i in 0..half {
                    lanes[i] += lanes[i + half];
                }
            }
            sums[r][c] = lanes[0];
        }
    }
    sums
}

/// Adds the products of LANES elements from `k` on.
///
/// # Safety
/// All rows have them.
#[inline(always)]
unsafe fn step<S: Simd, const R: usize, const C: usize, const FMA: bool>(
    s: S,
    few: [*const f32; R],
    many: [*const f32; C],
    k: usize,
    acc: &mut [[[S::f32s; VECTORS]; C]; R],
) {
    for v in 0..LANES / S::F32_LANES {
        let mut right = [s.splat_f32s(0.0); C];
        for c in 0..C {
            // SAFETY: elements of the row from k on (the caller's promise).
            right[c] = unsafe { load::<S>(many[c].add(k), v) };
        }
        for r in 0..R {
            // SAFETY: as above.
            let left = unsafe { load::<S>(few[r].add(k), v) };
            for c in 0..C {
                acc[r][c][v] = mul_add::<S, FMA>(s, left, right[c], acc[r][c][v]);
            }
        }
    }
}
