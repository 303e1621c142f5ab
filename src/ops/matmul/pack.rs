//! Packed operands: B's column panels and a transposed A's rows, in the order the tile reads.
//!
//! A panel holds element (k, c) at `dst[k·lanes + c]`; columns past B's last are zeros, so that
//! the tile always reads whole vectors.

use super::view::View;
use crate::ops::value::Value;
use half::bf16;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128, _MM_TRANSPOSE4_PS, _mm_castsi128_ps, _mm_loadl_epi64, _mm_loadu_ps, _mm_setzero_si128,
    _mm_storeu_ps, _mm_unpacklo_epi16,
};
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

/// An element of B: read as it lies, written to the panel in f32.
pub(super) trait Element: Value {
    /// Four of them, in f32.
    ///
    /// # Safety
    /// `from` has four.
    #[cfg(target_arch = "x86_64")]
    unsafe fn four(from: *const Self) -> __m128;
}

impl Element for f32 {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn four(from: *const Self) -> __m128 {
        // SAFETY: the caller's promise; SSE is part of x86-64.
        unsafe { _mm_loadu_ps(from) }
    }
}

impl Element for bf16 {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn four(from: *const Self) -> __m128 {
        // SAFETY: the caller's promise: 8 bytes; SSE2 is part of x86-64.
        unsafe {
            let four = _mm_loadl_epi64(from.cast());
            _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), four))
        }
    }
}

/// Packs `depth` rows and `cols` columns of B, from a row and a column on, into a panel `lanes` wide.
///
/// # Safety
/// B has them and `dst` takes `depth·lanes` values; `cols` ≤ `lanes`.
#[inline(always)]
pub(super) unsafe fn panel<T: Element>(
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
            columns(dst, lanes, src, b.col_stride, depth, cols);
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
            let whole = cols - cols % 8;
            for c in (0..whole).step_by(8) {
                // No closure, which would not be inlined into a function of more target features.
                let (eight, mut wide) = (from.add(c).cast::<[T; 8]>().read(), [0.0; 8]);
                for i in 0..8 {
                    wide[i] = eight[i].wide();
                }
                to.add(c).cast::<[f32; 8]>().write(wide);
            }
            for c in whole..cols {
                *to.add(c) = (*from.add(c)).wide();
            }
        }
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
/// Transposes 4 x 4 blocks in registers, a cache line of source at a time: element by element
/// the packing would cost 6 % of a product of 512 rows.
///
/// # Safety
/// The source is readable and `dst` takes `depth·lanes` values; `cols` ≤ `lanes`.
#[inline(always)]
unsafe fn columns<T: Element>(
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
            for c in (0..cols).step_by(4) {
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

/// Transposes one 4 x 4 block of rows `src_stride` apart into rows `dst_stride` apart.
///
/// # Safety
/// Both blocks lie inside their buffers.
#[inline(always)]
unsafe fn transpose<T: Element>(
    dst: *mut f32,
    dst_stride: usize,
    src: *const T,
    src_stride: usize,
) {
    // The compiler moves the portable form element by element; SSE is part of x86-64.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise.
    unsafe {
        let mut r0 = T::four(src);
        let mut r1 = T::four(src.add(src_stride));
        let mut r2 = T::four(src.add(2 * src_stride));
        let mut r3 = T::four(src.add(3 * src_stride));
        _MM_TRANSPOSE4_PS(&mut r0, &mut r1, &mut r2, &mut r3);
        _mm_storeu_ps(dst, r0);
        _mm_storeu_ps(dst.add(dst_stride), r1);
        _mm_storeu_ps(dst.add(2 * dst_stride), r2);
        _mm_storeu_ps(dst.add(3 * dst_stride), r3);
    }
    #[cfg(not(target_arch = "x86_64"))]
    for i in 0..4 {
        for j in 0..4 {
            // SAFETY: the caller's promise.
            unsafe { *dst.add(j * dst_stride + i) = (*src.add(i * src_stride + j)).wide() };
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
