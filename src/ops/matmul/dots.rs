//! Thin products whose depth runs along the rows of both operands: a few tokens against a weight, ranks of up to 4.
//!
//! C(r, c) = s·Σₖ few(r, k)·many(c, k). Every row of `many` is read once, as it lies, against all of `few`: packing it would be the
//! work, and a tile of few columns would leave most lanes empty.
//!
//! A sum runs in the lanes of V vectors, which are added by halves. The product is as fast as memory is read, so rows of `many` come
//! one after the other: two side by side are read from memory at half the rate. V leaves 8 additions under way for any number
//! of rows, which hides their latency.

use super::pack::prefetch;
use super::tile::{Out, load, mul_add};
use super::view::View;
use pulp::{Simd, WithSimd};

/// Rows up to which a product is made of dot products.
pub(super) const FEW: usize = 4;
/// Floats asked for in advance, which may lie in the next rows: the processor's own prefetches end at each page.
const AHEAD: usize = 2048;
/// Floats of the longest vector.
const LONGEST: usize = 16;

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
        match self.few.rows {
            1 => self.all::<S, 1, 8>(s),
            2 => self.all::<S, 2, 4>(s),
            _ => self.all::<S, FEW, 2>(s),
        }
    }
}

impl<const FMA: bool> Dots<'_, FMA> {
    /// All columns of the task.
    #[inline(always)]
    fn all<S: Simd, const R: usize, const V: usize>(&self, s: S) {
        let c = self.c.part(0, self.col, self.c.rows, self.width);
        // Rows past the end repeat the last one: computed, never stored.
        let mut few = [self.few.data.as_ptr(); R];
        for (r, row) in few.iter_mut().enumerate() {
            *row = row.wrapping_add(r.min(c.rows - 1) * self.few.row_stride);
        }
        for col in 0..c.cols {
            let row = self.many.data.as_ptr().wrapping_add((self.col + col) * self.many.row_stride);
            // SAFETY: rows of `few.cols` = `many.cols` elements.
            let sums = unsafe { tile::<S, R, V, FMA>(s, self.few.cols, few, row) };
            for (r, sum) in sums.iter().enumerate().take(c.rows) {
                // SAFETY: inside the part, which is this task's own.
                unsafe { c.put::<FMA>(r, col, *sum) };
            }
        }
    }
}

/// The dot products of R rows with one, of `depth` elements.
///
/// # Safety
/// All rows have `depth` elements.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const V: usize, const FMA: bool>(
    s: S,
    depth: usize,
    few: [*const f32; R],
    one: *const f32,
) -> [f32; R] {
    let mut acc = [[s.splat_f32s(0.0); V]; R];
    let mut k = 0;
    while k + V * S::F32_LANES <= depth {
        for v in 0..V {
            // SAFETY: V vectors from k on.
            unsafe { step::<S, R, V, FMA>(s, few, one, k + v * S::F32_LANES, v, &mut acc) };
        }
        k += V * S::F32_LANES;
    }
    while k + S::F32_LANES <= depth {
        // SAFETY: a vector from k on.
        unsafe { step::<S, R, V, FMA>(s, few, one, k, 0, &mut acc) };
        k += S::F32_LANES;
    }
    if k < depth {
        // The rest between zeros, which add nothing.
        let (mut few_end, mut one_end) = ([[0.0f32; LONGEST]; R], [0.0f32; LONGEST]);
        for (end, row) in few_end.iter_mut().zip(few).chain([(&mut one_end, one)]) {
            // SAFETY: the last `depth` − k elements of the row, less than a vector.
            unsafe { end.as_mut_ptr().copy_from_nonoverlapping(row.add(k), depth - k) };
        }
        let mut few = few;
        for (row, end) in few.iter_mut().zip(&few_end) {
            *row = end.as_ptr();
        }
        // SAFETY: a vector each.
        unsafe { step::<S, R, V, FMA>(s, few, one_end.as_ptr(), 0, 0, &mut acc) };
    }
    let mut sums = [0.0; R];
    for (sum, vectors) in sums.iter_mut().zip(&mut acc) {
        let mut half = V / 2;
        while half > 0 {
            for v in 0..half {
                vectors[v] = s.add_f32s(vectors[v], vectors[v + half]);
            }
            half /= 2;
        }
        *sum = s.reduce_sum_f32s(vectors[0]);
    }
    sums
}

/// Adds the products of the vectors at `k` to the `v`-th vector of every sum.
///
/// # Safety
/// All rows have a vector at `k`.
#[inline(always)]
unsafe fn step<S: Simd, const R: usize, const V: usize, const FMA: bool>(
    s: S,
    few: [*const f32; R],
    one: *const f32,
    k: usize,
    v: usize,
    acc: &mut [[S::f32s; V]; R],
) {
    // SAFETY: the caller's promise.
    let right = unsafe { load::<S>(one.add(k), 0) };
    prefetch(one.wrapping_add(k + AHEAD));
    for r in 0..R {
        // SAFETY: the caller's promise.
        let left = unsafe { load::<S>(few[r].add(k), 0) };
        acc[r][v] = mul_add::<S, FMA>(s, left, right, acc[r][v]);
    }
}
