//! Products of few rows whose matrix is read where it lies, by its columns: uᵀ·x, the gradients of low-rank factors. A panel would be
//! laid out for a single tile.
//!
//! Eight rows meet 32 columns. Two rows of the matrix are one pair of the inner dimension: interleaved inside their 128-bit lanes they
//! give the columns 0–3, 8–11, 16–19, 24–27 and those between, which are put in order in the end.

use super::run::Product;
use super::source::Stored;

/// Rows of a pass; and of a product that is made here: with more, a panel serves tiles enough to be worth laying out.
const ROWS: usize = 8;
const MOST: usize = 16;
/// Columns of a pass, and most of a task.
const COLUMNS: usize = 32;
const TASK: usize = 192;
/// Pairs of the inner dimension that a task's columns go over together: what they share of cache lines and pages stays near.
const PAIRS: usize = 512;

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
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn run(products: &[&Product<'_>]) {
    use crate::ops::spread::spread;
    let all: usize = products.iter().map(|p| p.columns).sum();
    let share = all.div_ceil(4 * rayon::current_num_threads());
    let groups = groups(products);
    let mut tasks = Vec::new();
    for group in &groups {
        let columns = group[0].columns;
        let width = (share / group.len()).next_multiple_of(COLUMNS).clamp(COLUMNS, TASK);
        let starts = (0..columns).step_by(width);
        tasks.extend(starts.map(|first| (group, first..(first + width).min(columns))));
    }
    spread(&tasks, |(group, columns)| {
        for p in *group {
            // SAFETY: the caller's promise; tasks differ in their products or the columns.
            unsafe { x86::columns(p, columns.clone()) };
        }
    });
}

/// Products that share their matrix: columns that one has read are near for the next.
#[cfg(target_arch = "x86_64")]
fn groups<'a>(products: &[&'a Product<'a>]) -> Vec<Vec<&'a Product<'a>>> {
    use super::source::Source;
    let of = |p: &Product<'_>| match p.terms[0].source {
        Source { stored: Stored::Bf16(v), rows, cols, .. } => (v.as_ptr(), rows, cols),
        _ => unreachable!("bf16 (`applies`)"),
    };
    let mut groups: Vec<Vec<&Product<'_>>> = Vec::new();
    for p in products {
        match groups.iter_mut().find(|group| of(group[0]) == of(p)) {
            Some(group) => group.push(p),
            None => groups.push(vec![p]),
        }
    }
    groups
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn run(_: &[&Product<'_>]) {
    let _ = (ROWS, TASK, PAIRS);
    unreachable!("no context has bf16 products here")
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{COLUMNS, MOST, PAIRS, Product, ROWS, Stored, TASK};
    use crate::ops::bf16_gemm::sink::Sink;
    use std::arch::x86_64::*;
    use std::mem::transmute;
    use std::ops::Range;

    /// Pairs ahead of which rows of the matrix are asked for.
    const AHEAD: usize = 16;
    /// The sums of a row and 32 columns, their lanes as interleaving leaves them.
    type Sums = [__m512; 2];

    /// All rows of `columns`, at most [`TASK`].
    ///
    /// # Safety
    /// As [`super::run`]; nobody else writes these columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn columns(p: &Product<'_>, columns: Range<usize>) {
        let [term] = p.terms else { unreachable!("one term (`applies`)") };
        let (inner, even) = (term.source.rows, term.source.rows.next_multiple_of(2));
        assert!(p.rows <= MOST && columns.len() <= TASK && columns.end <= p.columns);
        assert!(p.rows == 0 || (p.rows - 1) * term.stride + even <= term.x.len());
        let mut sums = [[[_mm512_setzero_ps(); 2]; MOST]; TASK / COLUMNS];
        for first in (0..inner.div_ceil(2)).step_by(PAIRS) {
            let pairs = first..(first + PAIRS).min(inner.div_ceil(2));
            for (column, sums) in columns.clone().step_by(COLUMNS).zip(&mut sums) {
                let mut row = 0;
                while row < p.rows {
                    let (pairs, sums) = (pairs.clone(), &mut sums[row..]);
                    // SAFETY: these rows, columns and pairs exist (asserted, and checked before).
                    row += unsafe {
                        match p.rows - row {
                            ROWS.. => pass::<ROWS>(p, row, column, pairs, sums),
                            4.. => pass::<4>(p, row, column, pairs, sums),
                            2.. => pass::<2>(p, row, column, pairs, sums),
                            _ => pass::<1>(p, row, column, pairs, sums),
                        }
                    };
                }
            }
        }
        for (column, sums) in columns.step_by(COLUMNS).zip(&sums) {
            // SAFETY: the caller's promise.
            unsafe { put(p, column, &sums[..p.rows]) };
        }
    }

    /// Adds some pairs to the sums of R rows from `row` and 32 columns from `first` on; returns R. Not inlined, it keeps them in
    /// registers.
    ///
    /// # Safety
    /// As [`columns`]; the rows and the pairs exist.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[expect(clippy::needless_range_loop, reason = "row numbers name registers")]
    unsafe fn pass<const R: usize>(
        p: &Product<'_>,
        row: usize,
        first: usize,
        pairs: Range<usize>,
        kept: &mut [Sums],
    ) -> usize {
        let term = &p.terms[0];
        let Stored::Bf16(values) = term.source.stored else { unreachable!("bf16 (`applies`)") };
        let (inner, width) = (term.source.rows, term.source.cols);
        let mask = u32::MAX >> (COLUMNS - (p.columns - first).min(COLUMNS));
        let x = term.x[row * term.stride..].as_ptr();
        let start = values.as_ptr().wrapping_add(first);
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        let kept = &mut kept[..R];
        for r in 0..R {
            (sums[r][0], sums[r][1]) = (kept[r][0], kept[r][1]);
        }
        for pair in pairs {
            let at = start.wrapping_add(2 * pair * width);
            // SAFETY: the matrix has `inner` rows, masked to its columns; x has as many elements a row, one more where that is odd.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(2 * AHEAD * width).cast());
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add((2 * AHEAD + 1) * width).cast());
                let even = _mm512_maskz_loadu_epi16(mask, at.cast());
                let odd = if 2 * pair + 1 < inner { mask } else { 0 };
                let odd = _mm512_maskz_loadu_epi16(odd, at.wrapping_add(width).cast());
                let low = transmute::<__m512i, __m512bh>(_mm512_unpacklo_epi16(even, odd));
                let high = transmute::<__m512i, __m512bh>(_mm512_unpackhi_epi16(even, odd));
                for r in 0..R {
                    let a = x.add(r * term.stride + 2 * pair).cast::<i32>().read_unaligned();
                    let a = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(a));
                    sums[r][0] = _mm512_dpbf16_ps(sums[r][0], a, low);
                    sums[r][1] = _mm512_dpbf16_ps(sums[r][1], a, high);
                }
            }
        }
        for r in 0..R {
            (kept[r][0], kept[r][1]) = (sums[r][0], sums[r][1]);
        }
        R
    }

    /// Sums of all rows and of 32 columns from `first` on to their places.
    ///
    /// # Safety
    /// As [`columns`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn put(p: &Product<'_>, first: usize, sums: &[Sums]) {
        // Lanes of the two vectors, the second's from 16 on, in the order of their columns.
        let halves = [
            _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23),
            _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31),
        ];
        let mut in_order = [[0f32; COLUMNS]; MOST];
        for (sums, to) in sums.iter().zip(&mut in_order) {
            for (order, to) in halves.into_iter().zip(to.chunks_exact_mut(16)) {
                let sum = _mm512_permutex2var_ps(sums[0], order, sums[1]);
                // SAFETY: 16 values.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sum) };
            }
        }
        let sums = &in_order[..sums.len()];
        let width = (p.columns - first).min(COLUMNS);
        match &p.sink {
            Sink::Transposed { c, scale } => {
                for j in 0..width {
                    // SAFETY: the sink fits the product (checked), whose rows and columns these are.
                    let to = unsafe { c.slice((first + j) * p.rows, p.rows) };
                    to.iter_mut().zip(sums).for_each(|(to, sums)| *to += scale * sums[j]);
                }
            }
            Sink::F32 { c, add: true, scale, bias: None, residual: None } => {
                for (r, sums) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    let to = unsafe { c.slice(r * p.columns + first, width) };
                    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += scale * sum);
                }
            }
            sink => {
                for (r, sums) in sums.iter().enumerate() {
                    for (j, sum) in sums.iter().enumerate().take(width) {
                        // SAFETY: as above.
                        unsafe { sink.put(p.rows, p.columns, (r, first + j), *sum) };
                    }
                }
            }
        }
    }
}
