//! One task: a block of C's rows times a group of column panels.
//!
//! Per depth block the task packs its columns of B, then goes down its rows: a tile of A stays
//! in L1 while the panels of B pass by from L2. A is read in place when its rows are contiguous;
//! a transposed A is packed a few tiles at a time, so that its cache lines are used whole.

use super::pack;
use super::plan::Plan;
use super::tile::{Left, Out, Right, tile};
use super::view::{Into, Operand, View};
use pulp::{Simd, WithSimd};

/// Up to this many rows, B's rows are read in place: packing would cost as much as the product.
pub const FEW_ROWS: usize = 16;
/// Tiles of a transposed A packed at a time.
const TILES: usize = 8;
/// Rows of a tile one vector wide: it has registers to spare, and needs the rows to hide latency.
pub(super) const NARROW: usize = 8;

/// The part of C that starts at (row, col) and has the plan's size.
pub(super) struct Task<'a, const R: usize, const W: usize, const FMA: bool> {
    pub(super) a: View<'a>,
    pub(super) b: Operand<'a>,
    pub(super) c: Out,
    pub(super) plan: Plan,
    pub(super) row: usize,
    pub(super) col: usize,
}

impl<const R: usize, const W: usize, const FMA: bool> WithSimd for Task<'_, R, W, FMA> {
    type Output = ();

    // Everything below is inlined into pulp's function of the right target features; closures
    // would not be.
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let c = self.c.part(self.row, self.col, self.plan.rows, self.plan.cols);
        if c.cols <= S::F32_LANES {
            self.block::<S, NARROW>(s, c)
        } else if R == 6 && (7..=8).contains(&c.rows) {
            // Two tiles of 4 rows: the second of 6 and 2 would leave most of its registers idle.
            self.block::<S, 4>(s, c)
        } else {
            self.block::<S, R>(s, c)
        }
    }
}

impl<const R: usize, const W: usize, const FMA: bool> Task<'_, R, W, FMA> {
    /// All depth blocks of `c`, in tiles `H` rows high.
    #[inline(always)]
    fn block<S: Simd, const H: usize>(&self, s: S, c: Out) {
        let a = self.a;
        let panels_end = c.cols.next_multiple_of(S::F32_LANES);
        let pack_a = a.col_stride != 1 && c.cols > W * S::F32_LANES;
        let mut scratch =
            pack::take(self.plan.depth * panels_end + TILES * pack::pitch(H, self.plan.depth));
        let scratch_ptr = scratch.as_mut_ptr().cast::<f32>();
        for k in (0..a.cols).step_by(self.plan.depth) {
            let depth = self.plan.depth.min(a.cols - k);
            let c = if k > 0 { Out { into: Into::Add, ..c } } else { c };
            let left = Left {
                ptr: a.data.as_ptr().wrapping_add(self.row * a.row_stride + k * a.col_stride),
                row_stride: a.row_stride,
                step: a.col_stride,
            };
            let packed_a = scratch_ptr.wrapping_add(depth * panels_end);
            // SAFETY: B has `depth` rows from k on and `c.cols` columns from this task's on, the scratch room for its panels.
            unsafe { self.pack_b::<S>(scratch_ptr, k, depth, c) };
            for row in (0..c.rows).step_by(H) {
                let rows = H.min(c.rows - row);
                let mut at = left.down(row);
                if pack_a {
                    if row % (TILES * H) == 0 {
                        let rows = (TILES * H).min(c.rows - row);
                        // SAFETY: `rows` x `depth` elements of A; the scratch's end has room
                        // for TILES tiles.
                        unsafe { pack::tiles::<H>(packed_a, at.ptr, at.step, depth, rows) };
                    }
                    let tile = row / H % TILES;
                    at = Left {
                        ptr: packed_a.wrapping_add(tile * pack::pitch(H, depth)),
                        row_stride: 1,
                        step: H,
                    };
                }
                let mut col = 0;
                while let Some(v) = panel::<S, W>(c.cols, col) {
                    let out = c.part(row, col, rows, v * S::F32_LANES);
                    let b = match self.in_place(c.rows, out.cols, v * S::F32_LANES) {
                        Some(b) => Right { ptr: b.from(k, self.col + col), step: b.row_stride },
                        None => Right {
                            ptr: scratch_ptr.wrapping_add(depth * col),
                            step: v * S::F32_LANES,
                        },
                    };
                    // SAFETY: `rows` rows of A and v vectors of B, `depth` deep, and this
                    // task's own part of C.
                    unsafe {
                        match (v, rows) {
                            (3, 1) if W == 3 => tile::<S, 1, 3, FMA>(s, depth, at, b, out),
                            (3, 2..=4) if W == 3 => tile::<S, 4, 3, FMA>(s, depth, at, b, out),
                            (3, _) if W == 3 => tile::<S, R, 3, FMA>(s, depth, at, b, out),
                            (2, 1) => tile::<S, 1, 2, FMA>(s, depth, at, b, out),
                            (2, 2..=4) => tile::<S, 4, 2, FMA>(s, depth, at, b, out),
                            (2, _) => tile::<S, R, 2, FMA>(s, depth, at, b, out),
                            (_, 1) => tile::<S, 1, 1, FMA>(s, depth, at, b, out),
                            (_, 2..=4) => tile::<S, 4, 1, FMA>(s, depth, at, b, out),
                            _ => tile::<S, NARROW, 1, FMA>(s, depth, at, b, out),
                        }
                    }
                    col += v * S::F32_LANES;
                }
            }
        }
        pack::put(scratch);
    }

    /// Packs every panel of B that is not read in place, from row `k` on; the panel of column c at `depth`·c.
    ///
    /// # Safety
    /// B has `depth` x `c.cols` elements from there on; `dst` takes the panels.
    #[inline(always)]
    unsafe fn pack_b<S: Simd>(&self, dst: *mut f32, k: usize, depth: usize, c: Out) {
        let mut col = 0;
        while let Some(v) = panel::<S, W>(c.cols, col) {
            let lanes = v * S::F32_LANES;
            let width = lanes.min(c.cols - col);
            let to = dst.wrapping_add(depth * col);
            if self.in_place(c.rows, width, lanes).is_none() {
                // SAFETY: the panel's part of both.
                unsafe {
                    match self.b {
                        Operand::F32(b) => {
                            pack::panel::<S, _>(to, lanes, b, [k, self.col + col], [depth, width])
                        }
                        Operand::Bf16(b) => {
                            pack::panel::<S, _>(to, lanes, b, [k, self.col + col], [depth, width])
                        }
                    }
                }
            }
            col += lanes;
        }
    }

    /// B, where a panel `width` of `lanes` columns wide is read as it lies.
    #[inline(always)]
    fn in_place(&self, rows: usize, width: usize, lanes: usize) -> Option<View<'_>> {
        match self.b {
            Operand::F32(b) if b.col_stride == 1 && rows <= FEW_ROWS && width == lanes => Some(b),
            _ => None,
        }
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
