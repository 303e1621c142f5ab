//! Products of few rows whose matrix is read where it lies, by its columns: uᵀ·x, the gradients of low-rank factors. A panel would be
//! laid out for a single tile.
//!
//! Eight rows meet 32 columns. Two rows of the matrix are one pair of the inner dimension: interleaved inside their 128-bit lanes they
//! give the columns 0–3, 8–11, 16–19, 24–27 and those between, which are put in order in the end.

use super::run::Product;
use super::source::Stored;
#[cfg(target_arch = "x86_64")]
use crate::ops::spread::spread;

/// Rows of a pass, and of a product that is made here.
const ROWS: usize = 8;
const MOST: usize = 16;
/// Columns of a pass and of a task.
const COLUMNS: usize = 32;
const TASK: usize = 192;

/// Whether the product is one for this file.
pub(super) fn applies(p: &Product<'_>) -> bool {
    p.rows <= MOST
        && p.columns >= COLUMNS
        && p.terms.len() == 1
        && p.terms
            .iter()
            .all(|t| !t.source.transposed && matches!(t.source.stored, Stored::Bf16(_)))
}

/// Runs products that [`applies`] to.
///
/// # Safety
/// The processor has what the kernel needs; shapes were checked.
pub(super) unsafe fn run(products: &[&Product<'_>]) {
    #[cfg(target_arch = "x86_64")]
    {
        let columns = |p: &Product<'_>| (0..p.columns).step_by(TASK);
        let tasks: Vec<_> =
            products.iter().flat_map(|p| columns(p).map(move |first| (*p, first))).collect();
        spread(&tasks, |(p, first)| {
            for column in (*first..(first + TASK).min(p.columns)).step_by(COLUMNS) {
                // SAFETY: the caller's promise; tasks differ in their product or its columns.
                unsafe { x86::columns(p, column) };
            }
        });
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (products, TASK, ROWS);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{COLUMNS, Product, ROWS, Stored};
    use crate::ops::bf16_gemm::sink::Sink;
    use std::arch::x86_64::*;
    use std::mem::transmute;

    /// Pairs ahead of which rows of the matrix are asked for.
    const AHEAD: usize = 16;

    /// All rows of up to 32 columns from `first` on.
    ///
    /// # Safety
    /// As [`super::run`]; nobody else writes these columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn columns(p: &Product<'_>, first: usize) {
        let mut sums = [[0f32; COLUMNS]; ROWS];
        for row in (0..p.rows).step_by(ROWS) {
            let rows = (p.rows - row).min(ROWS);
            // SAFETY: the caller's promise.
            unsafe {
                let mut done = 0;
                while done < rows {
                    let (row, sums) = (row + done, &mut sums[done..]);
                    match rows - done {
                        ROWS => pass::<ROWS>(p, row, first, sums),
                        4.. => pass::<4>(p, row, first, sums),
                        2.. => pass::<2>(p, row, first, sums),
                        _ => pass::<1>(p, row, first, sums),
                    }
                    done += match rows - done {
                        left @ (1 | 2 | 4 | ROWS) => left,
                        5.. => 4,
                        _ => 2,
                    };
                }
                put(p, row, first, &sums[..rows]);
            }
        }
    }

    /// Sums of rows from `row` and columns from `first` on to their places.
    ///
    /// # Safety
    /// As [`columns`]; the rows exist.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn put(p: &Product<'_>, row: usize, first: usize, sums: &[[f32; COLUMNS]]) {
        let width = (p.columns - first).min(COLUMNS);
        match &p.sink {
            Sink::Transposed { c, scale } => {
                for j in 0..width {
                    // SAFETY: the sink fits the product (checked), whose rows and columns these are.
                    let to = unsafe { c.slice((first + j) * p.rows + row, sums.len()) };
                    to.iter_mut().zip(sums).for_each(|(to, sums)| *to += scale * sums[j]);
                }
            }
            Sink::F32 { c, add: true, scale, bias: None, residual: None } => {
                for (r, sums) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    let to = unsafe { c.slice((row + r) * p.columns + first, width) };
                    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += scale * sum);
                }
            }
            sink => {
                for (r, sums) in sums.iter().enumerate() {
                    for (j, sum) in sums.iter().enumerate().take(width) {
                        // SAFETY: as above.
                        unsafe { sink.put(p.rows, p.columns, (row + r, first + j), *sum) };
                    }
                }
            }
        }
    }

    /// The sums of R rows from `row` on.
    ///
    /// # Safety
    /// As [`columns`]; the rows exist.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[expect(clippy::needless_range_loop, reason = "row numbers name registers")]
    unsafe fn pass<const R: usize>(
        p: &Product<'_>,
        row: usize,
        first: usize,
        to: &mut [[f32; COLUMNS]],
    ) {
        let [term] = p.terms else { return };
        let Stored::Bf16(values) = term.source.stored else { return };
        let (inner, width) = (term.source.rows, term.source.cols);
        let mask = u32::MAX >> (COLUMNS - (p.columns - first).min(COLUMNS));
        let (x, start) = (term.x[row * term.stride..].as_ptr(), values[first..].as_ptr());
        // SAFETY: the matrix has `inner` rows, masked to its columns; x has as many elements a row, one more where that is odd.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); 2]; R];
            for pair in 0..inner.div_ceil(2) {
                let at = start.wrapping_add(2 * pair * width);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(2 * AHEAD * width).cast());
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add((2 * AHEAD + 1) * width).cast());
                let even = _mm512_maskz_loadu_epi16(mask, at.cast());
                let odd = if 2 * pair + 1 < inner { mask } else { 0 };
                let odd = _mm512_maskz_loadu_epi16(odd, at.wrapping_add(width).cast());
                let low: __m512bh = transmute(_mm512_unpacklo_epi16(even, odd));
                let high: __m512bh = transmute(_mm512_unpackhi_epi16(even, odd));
                for r in 0..R {
                    let a = x.add(r * term.stride + 2 * pair).cast::<i32>().read_unaligned();
                    let a = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a));
                    sums[r][0] = _mm512_dpbf16_ps(sums[r][0], a, low);
                    sums[r][1] = _mm512_dpbf16_ps(sums[r][1], a, high);
                }
            }
            // Lanes of the two vectors, the second's from 16 on, in the order of their columns.
            let halves = [
                [0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23],
                [8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31],
            ];
            for r in 0..R {
                for (half, to) in halves.iter().zip(to[r].chunks_exact_mut(16)) {
                    let order = _mm512_loadu_si512(half.as_ptr().cast::<i32>().cast());
                    let sum = _mm512_permutex2var_ps(sums[r][0], order, sums[r][1]);
                    _mm512_storeu_ps(to.as_mut_ptr(), sum);
                }
            }
        }
    }
}
