//! Packed operands: B's column panels and a transposed A's rows, in the order the tile reads.
//!
//! A panel holds element (k, c) at `dst[k·lanes + c]`; columns past B's last are zeros, so that
//! the tile always reads whole vectors.

#[cfg(target_arch = "x86_64")]
use super::element::transpose_eight;
use super::element::{Element, transpose};
use super::view::View;
use pulp::Simd;
use std::cell::Cell;

/// Floats of a cache line.
const LINE: usize = 16;
const LINE_BYTES: usize = 64;
/// Columns of A and rows of B asked for in advance: each lies in a page of its own where rows are long.
const AHEAD: usize = 8;

/// A cache line: vectors of a packed panel never straddle two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([f32; LINE]);

thread_local! {
    static SCRATCH: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// This thread's scratch, for at least `len` floats (contents unspecified); `put` gives it back.
///
/// Taken out, not borrowed: a nested call finds an empty one and allocates its own.
pub(super) fn take(len: usize) -> Vec<Line> {
    let mut lines = SCRATCH.take();
    if lines.len() < len.div_ceil(LINE) {
        lines.resize(len.div_ceil(LINE), Line([0.0; LINE]));
    }
    lines
}

/// Keeps `lines` for this thread's next `take`.
pub(super) fn put(lines: Vec<Line>) {
    SCRATCH.set(lines);
}

/// Multiplies what is packed.
///
/// # Safety
/// There are `len` values.
#[inline(always)]
pub(super) unsafe fn scale(panel: *mut f32, len: usize, by: f32) {
    for i in 0..len {
        // SAFETY: the caller's promise.
        unsafe { *panel.add(i) *= by };
    }
}

/// Packs `depth` rows and `cols` columns of B, from a row and a column on, into a panel `lanes` wide.
///
/// # Safety
/// B has them and `dst` takes `depth·lanes` values; `cols` ≤ `lanes`; the processor has S.
#[inline(always)]
pub(super) unsafe fn panel<S: Simd, T: Element>(
    dst: *mut f32,
    lanes: usize,
    b: View<'_, T>,
    [row, col]: [usize; 2],
    [depth, cols]: [usize; 2],
) {
    let src = b.from(row, col);
    // SAFETY: the caller's promise.
    unsafe {
        if b.col_stride == 1 {
            rows(dst, lanes, src, b.row_stride, depth, cols);
        } else {
            columns::<S, T>(dst, lanes, src, b.col_stride, depth, cols);
        }
    }
}

/// Packs `depth` x `cols` elements, (k, c) at `src[k·stride + c]`, into a panel `lanes` wide.
///
/// # Safety
/// The source is readable and `dst` takes `depth·lanes` values; `cols` ≤ `lanes`.
#[inline(always)]
unsafe fn rows<T: Element>(
    dst: *mut f32,
    lanes: usize,
    src: *const T,
    stride: usize,
    depth: usize,
    cols: usize,
) {
    // SAFETY: row k < depth of both; lanes ≥ cols.
    unsafe {
        if cols < lanes {
            dst.write_bytes(0, depth * lanes);
        }
        for k in 0..depth {
            let (to, from) = (dst.add(k * lanes), src.add(k * stride));
            for c in (0..cols).step_by(LINE_BYTES / size_of::<T>()) {
                prefetch(from.wrapping_add(AHEAD * stride + c).cast());
            }
            let (lines, whole) = (cols - cols % LINE, cols - cols % 8);
            for c in (0..lines).step_by(LINE) {
                copy::<T, LINE>(to.add(c), from.add(c));
            }
            for c in (lines..whole).step_by(8) {
                copy::<T, 8>(to.add(c), from.add(c));
            }
            for c in whole..cols {
                *to.add(c) = (*from.add(c)).wide();
            }
        }
    }
}

/// Copies N elements, widened.
///
/// # Safety
/// Both have N.
#[inline(always)]
unsafe fn copy<T: Element, const N: usize>(to: *mut f32, from: *const T) {
    // SAFETY: the caller's promise. No closure, which would not be inlined into a function of more target features.
    unsafe {
        let (values, mut wide) = (from.cast::<[T; N]>().read(), [0.0; N]);
        for i in 0..N {
            wide[i] = values[i].wide();
        }
        to.cast::<[f32; N]>().write(wide);
    }
}

/// From one packed tile of A to the next: a cache line more than needed, since tiles a power of
/// two apart would evict each other while they are filled side by side.
#[inline(always)]
pub(super) fn pitch(rows: usize, depth: usize) -> usize {
    rows * depth + LINE
}

/// Packs `rows` x `depth` elements, (r, k) at `src[k·stride + r]`, into tiles of `H` rows:
/// (r, k) at `dst[k·H + r]`, a tile every `pitch(H, depth)`.
///
/// # Safety
/// The source is readable and `dst` takes whole tiles.
#[inline(always)]
pub(super) unsafe fn tiles<const H: usize>(
    dst: *mut f32,
    src: *const f32,
    stride: usize,
    depth: usize,
    rows: usize,
) {
    for k in 0..depth {
        let from = src.wrapping_add(k * stride);
        for row in (0..rows).step_by(LINE) {
            prefetch(from.wrapping_add(AHEAD * stride + row));
        }
        for row in (0..rows).step_by(H) {
            let to = dst.wrapping_add(row / H * pitch(H, depth) + k * H);
            // SAFETY: column k < depth of both, rows below `rows`.
            unsafe {
                if row + H <= rows {
                    to.cast::<[f32; H]>().write(from.add(row).cast::<[f32; H]>().read());
                } else {
                    to.copy_from_nonoverlapping(from.add(row), rows - row);
                }
            }
        }
    }
}

/// Packs `depth` x `cols` elements, (k, c) at `src[c·stride + k]`, into a panel `lanes` wide.
///
/// Transposes 16, 8 or 4 columns at a time in registers, a cache line of source at a time: element by element
/// the packing would cost 6 % of a product of 512 rows.
///
/// # Safety
/// The source is readable and `dst` takes `depth·lanes` values; `cols` ≤ `lanes`; the processor has S.
#[inline(always)]
unsafe fn columns<S: Simd, T: Element>(
    dst: *mut f32,
    lanes: usize,
    src: *const T,
    stride: usize,
    depth: usize,
    cols: usize,
) {
    // SAFETY: columns below `cols` ≤ `lanes` and rows below `depth` of both; prefetches may miss.
    unsafe {
        if cols < lanes {
            dst.write_bytes(0, depth * lanes);
        }
        let line = LINE_BYTES / size_of::<T>();
        for k0 in (0..depth).step_by(line) {
            let k1 = (k0 + line).min(depth);
            for c in 0..cols {
                prefetch(src.wrapping_add(c * stride + k0 + 2 * line).cast());
            }
            let mut first = 0;
            #[cfg(target_arch = "x86_64")]
            if S::F32_LANES >= 16 && k1 - k0 == line {
                while first + 16 <= cols {
                    let from = (src.wrapping_add(first * stride + k0), stride);
                    T::sixteen((dst.wrapping_add(k0 * lanes + first), lanes), from);
                    first += 16;
                }
            }
            #[cfg(target_arch = "x86_64")]
            if S::F32_LANES >= 8 && (k1 - k0).is_multiple_of(8) {
                while first + 8 <= cols {
                    for k in (k0..k1).step_by(8) {
                        let from = src.add(first * stride + k);
                        transpose_eight(dst.add(k * lanes + first), lanes, from, stride);
                    }
                    first += 8;
                }
            }
            for c in (first..cols).step_by(4) {
                let mut k = k0;
                while c + 4 <= cols && k + 4 <= k1 {
                    transpose(dst.add(k * lanes + c), lanes, src.add(c * stride + k), stride);
                    k += 4;
                }
                for k in k..k1 {
                    for c in c..(c + 4).min(cols) {
                        *dst.add(k * lanes + c) = (*src.add(c * stride + k)).wide();
                    }
                }
            }
        }
    }
}

/// Asks for the cache line of `ptr`, which need not be valid.
#[inline(always)]
pub(super) fn prefetch(ptr: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(ptr.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ptr;
}
