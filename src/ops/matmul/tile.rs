//! The register tile: R rows x V vectors of C, summed over one depth block.
//!
//! For k ascending: acc[r][v] ← acc[r][v] + A(r, k)·B(k, v), then C ← [C +] s·acc. Every element
//! is summed in this one order whatever R and V are, so tiles of any size give the same bits.

use super::view::{Into, ViewMut};
use crate::ops::prefetch::Lines;
use pulp::Simd;
#[cfg(target_arch = "x86_64")]
use std::{
    arch::x86_64::{__m128, _mm_add_ps, _mm_mul_ps},
    mem::transmute_copy,
};

/// What a term has of A: element (r, k) at `ptr[r·row_stride + k·step]`, k < depth.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) ptr: *const f32,
    pub(super) row_stride: usize,
    pub(super) step: usize,
    pub(super) depth: usize,
}

impl Left {
    /// Nothing.
    pub(super) const EMPTY: Self = Left { ptr: std::ptr::null(), row_stride: 0, step: 0, depth: 0 };
}

/// B's columns of one tile, the terms one below the other: element (k, c) at `ptr[k·step + c]`, all V vectors readable.
#[derive(Clone, Copy)]
pub(super) struct Right {
    pub(super) ptr: *const f32,
    pub(super) step: usize,
}

/// C, or a part of it: element (r, c) at `ptr[r·row_stride + c·col_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub(super) ptr: *mut f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
    pub(super) into: Into,
    pub(super) scale: f32,
    pub(super) plus: Plus,
}

/// What is added to the sums besides: where it lies for C's first element, and how far rows of the residual are apart. Not for a
/// transposed C.
#[derive(Clone, Copy, Default)]
pub(super) struct Plus {
    pub(super) bias: Option<*const f32>,
    pub(super) residual: Option<(*const f32, usize)>,
}

impl Plus {
    fn is_none(self) -> bool {
        self.bias.is_none() && self.residual.is_none()
    }
}

// SAFETY: tasks hold disjoint parts of a C that `product` borrows mutably while they run.
unsafe impl Send for Out {}
// SAFETY: as above; nothing is written through a shared `Out` but a task's own part.
unsafe impl Sync for Out {}

impl Out {
    /// All of C, without a factor on the sum.
    pub(super) fn new(c: &mut ViewMut<'_>, into: Into) -> Self {
        let ViewMut { data, rows, cols, row_stride } = c;
        let (ptr, scale, plus) = (data.as_mut_ptr(), 1.0, Plus::default());
        Out {
            ptr,
            rows: *rows,
            cols: *cols,
            row_stride: *row_stride,
            col_stride: 1,
            into,
            scale,
            plus,
        }
    }

    /// The transpose of the same memory.
    pub(super) fn t(self) -> Self {
        Out {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Rows from `row` and columns from `col`, at most `rows` x `cols` of them.
    #[inline(always)]
    pub(super) fn part(self, row: usize, col: usize, rows: usize, cols: usize) -> Self {
        Out {
            ptr: self.ptr.wrapping_add(row * self.row_stride + col * self.col_stride),
            rows: rows.min(self.rows - row),
            cols: cols.min(self.cols - col),
            plus: Plus {
                bias: self.plus.bias.map(|b| b.wrapping_add(col)),
                residual: self.plus.residual.map(|(x, s)| (x.wrapping_add(row * s + col), s)),
            },
            ..self
        }
    }

    /// Element (r, c) ← [its old value +] s·`sum`.
    ///
    /// # Safety
    /// It lies inside, and nobody else accesses it.
    #[inline(always)]
    pub(super) unsafe fn put<const FMA: bool>(self, r: usize, c: usize, sum: f32) {
        let at = self.ptr.wrapping_add(r * self.row_stride + c * self.col_stride);
        // SAFETY: the caller's promise.
        unsafe {
            *at = match self.into {
                Into::Overwrite => self.scale * sum,
                Into::Add if FMA => self.scale.mul_add(sum, *at),
                Into::Add => *at + self.scale * sum,
            };
        }
    }
}

/// One tile of at most R rows x V vectors: the sums of all terms, whose rows of A begin at `row`. Asks for lines meanwhile.
///
/// # Safety
/// Every term has `out.rows` ≥ 1 rows and `depth` columns of A, and B has as many rows of V vectors as they have columns together; `out`
/// has at most R x V vectors that nobody else accesses, and what is added to them is readable.
#[inline(always)]
pub(super) unsafe fn tile<
    S: Simd,
    const R: usize,
    const V: usize,
    const FMA: bool,
    const ASK: bool,
>(
    s: S,
    lefts: &[Left],
    row: usize,
    right: Right,
    out: Out,
    lines: &mut Lines<'_>,
) {
    let mut acc = [[s.splat_f32s(0.0); V]; R];
    let mut next = lefts.as_ptr_range();
    let mut at = right.ptr;
    // Entered at least once: for sums that may never have been touched the compiler keeps zeros in memory.
    loop {
        // SAFETY: before the end.
        let a = unsafe { next.start.read() };
        // Rows past the end repeat the last one: computed, never stored.
        let mut rows = [a.ptr; R];
        for (r, ptr) in rows.iter_mut().enumerate() {
            *ptr = a.ptr.wrapping_add((row + r.min(out.rows - 1)) * a.row_stride);
        }
        // Without the checks of a build for tests, which would keep the sums out of registers.
        let (mut offset, mut depth) = (0usize, a.depth);
        while depth > 0 {
            let steps = if ASK { lines.ask(depth) } else { depth };
            depth -= steps;
            for _ in 0..steps {
                let mut vectors = [s.splat_f32s(0.0); V];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    // SAFETY: row k of B, of which all V vectors are readable.
                    *vector = unsafe { load::<S>(at, v) };
                }
                for r in 0..R {
                    // SAFETY: column k < depth of a row of A.
                    let left =
                        s.splat_f32s(unsafe { rows[r].wrapping_add(offset).read_unaligned() });
                    for v in 0..V {
                        acc[r][v] = mul_add::<S, FMA>(s, left, vectors[v], acc[r][v]);
                    }
                }
                offset = offset.wrapping_add(a.step);
                at = at.wrapping_add(right.step);
            }
        }
        next.start = next.start.wrapping_add(1);
        if next.start == next.end {
            break;
        }
    }
    let scale = s.splat_f32s(out.scale);
    if out.col_stride == 1 && out.cols == V * S::F32_LANES {
        for (r, acc) in acc.iter().enumerate() {
            // A constant bound with an early exit: a variable one would spill all of `acc`.
            if r == out.rows {
                break;
            }
            let row = out.ptr.wrapping_add(r * out.row_stride);
            for (v, &acc) in acc.iter().enumerate() {
                // SAFETY: the row has V whole vectors.
                unsafe {
                    let new = match out.into {
                        Into::Overwrite => s.mul_f32s(scale, acc),
                        Into::Add => mul_add::<S, FMA>(s, scale, acc, load::<S>(row, v)),
                    };
                    row.cast::<S::f32s>().add(v).write_unaligned(new);
                }
            }
        }
    } else {
        let spilled = acc;
        for (r, acc) in spilled.iter().enumerate().take(out.rows) {
            let sums: &[f32] = pulp::bytemuck::cast_slice(acc);
            for (c, &sum) in sums.iter().enumerate().take(out.cols) {
                // SAFETY: element (r, c) of the part, r < rows and c < cols.
                unsafe { out.put::<FMA>(r, c, sum) };
            }
        }
    }
    // After the sums are stored: with more to do for each of them the compiler would keep them in memory.
    if !out.plus.is_none() {
        // SAFETY: the caller's promise.
        unsafe { add::<S>(s, out) };
    }
}

/// Adds bias and residual to a tile that was stored a moment ago.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn add<S: Simd>(s: S, out: Out) {
    // SAFETY: the caller's promise; vectors end at the last column.
    unsafe {
        for r in 0..out.rows {
            let row = out.ptr.wrapping_add(r * out.row_stride);
            let rows =
                [out.plus.bias, out.plus.residual.map(|(x, stride)| x.wrapping_add(r * stride))];
            for more in rows.into_iter().flatten() {
                let whole = out.cols / S::F32_LANES;
                for v in 0..whole {
                    let new = s.add_f32s(load::<S>(row, v), load::<S>(more, v));
                    row.cast::<S::f32s>().add(v).write_unaligned(new);
                }
                for c in whole * S::F32_LANES..out.cols {
                    *row.add(c) += *more.add(c);
                }
            }
        }
    }
}

/// The `v`-th vector from `ptr` on.
///
/// # Safety
/// That vector is readable.
#[inline(always)]
pub(super) unsafe fn load<S: Simd>(ptr: *const f32, v: usize) -> S::f32s {
    // SAFETY: the caller's promise; any bits are an f32.
    unsafe { ptr.cast::<S::f32s>().wrapping_add(v).read_unaligned() }
}

/// a·b + c, fused where that is one instruction: elsewhere pulp would call libm's fma.
#[inline(always)]
pub(super) fn mul_add<S: Simd, const FMA: bool>(
    s: S,
    a: S::f32s,
    b: S::f32s,
    c: S::f32s,
) -> S::f32s {
    if FMA {
        return s.mul_add_f32s(a, b, c);
    }
    // pulp's portable vectors are loops over arrays, of which optimisation below level 3 makes single floats; SSE is part of x86-64.
    #[cfg(target_arch = "x86_64")]
    if size_of::<S::f32s>() == size_of::<__m128>() {
        // SAFETY: vectors of the same size, of which any bits are floats.
        return unsafe {
            let (a, b, c) = (transmute_copy(&a), transmute_copy(&b), transmute_copy(&c));
            transmute_copy(&_mm_add_ps(_mm_mul_ps(a, b), c))
        };
    }
    s.add_f32s(s.mul_f32s(a, b), c)
}
