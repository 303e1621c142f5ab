//! Products of so few columns that 16 lanes are not filled by them: x·Aᵀ and dy·B of adapters of a low rank.
//!
//! Eight columns fill a vector when the pairs of four neighbours of the inner dimension lie in it side by side: 64 bits of x are
//! broadcast instead of 32, and neighbouring lanes are added in the end. Up to three such vectors meet an x that several products
//! share, so that it is read once.

mod panel;

use super::run::Product;
use super::sink::Sink;
use crate::ops::lines::Buffer;
use half::bf16;
use std::cell::RefCell;

/// Columns of a vector; and of a product that is made here: more fill the lanes of a panel anyway.
const LANES: usize = 8;
const MOST: usize = 16;
/// Vectors of a pass.
const VECTORS: usize = 3;
/// Rows of a tile: what keeps enough sums going. A lone vector takes twice as many.
const ROWS: usize = 8;
/// Most rows of a task.
const TASK: usize = 64;
/// Words of panels from which on they are laid out by all threads.
const MANY: usize = 1 << 15;

thread_local! {
    static PANELS: RefCell<(Buffer, Vec<bf16>)> = RefCell::default();
}

/// Whether the product is one for this file.
pub(super) fn applies(p: &Product<'_>) -> bool {
    (1..=MOST).contains(&p.columns)
        && p.terms.len() == 1
        && matches!(p.sink, Sink::Bf16 { bias: None, residual: None, .. })
}

fn vectors(p: &Product<'_>) -> usize {
    p.columns.div_ceil(LANES)
}

/// Whether two products have one x.
fn share(a: &Product<'_>, b: &Product<'_>) -> bool {
    let of = |p: &Product<'_>| p.terms.first().map(|t| (t.x.as_ptr(), t.stride, t.source.inner()));
    of(a) == of(b) && a.rows == b.rows
}

/// Products that share an x, as many as fit in a pass.
fn groups<'a, 'b>(products: &'b [&'a Product<'a>]) -> Vec<&'b [&'a Product<'a>]> {
    let (mut groups, mut first, mut taken) = (Vec::new(), 0, 0);
    for (i, p) in products.iter().enumerate() {
        if i > first && (taken + vectors(p) > VECTORS || !share(products[first], p)) {
            groups.push(&products[first..i]);
            (first, taken) = (i, 0);
        }
        taken += vectors(p);
    }
    groups.push(&products[first..]);
    groups
}

/// Runs products that [`applies`] to.
///
/// # Safety
/// The processor has what the kernel needs; shapes were checked.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn run(products: &[&Product<'_>]) {
    use crate::ops::shared::Shared;
    use crate::ops::spread::spread;
    if products.is_empty() {
        return;
    }
    let quads = |p: &Product<'_>| p.terms[0].source.inner().div_ceil(4);
    // Taken, not borrowed: while this thread waits for the others it may come here again.
    let (mut kept, mut scratch) = PANELS.take();
    let words = products.iter().map(|p| vectors(p) * quads(p) * 16).sum();
    let panels = kept.take::<u32>(words);
    let (mut tasks, mut vectors, mut at) = (Vec::new(), Vec::new(), 0);
    for group in groups(products) {
        let start = at;
        for p in group {
            for first in (0..p.columns).step_by(LANES) {
                vectors.push((&p.terms[0].source, first, at..at + quads(p) * 16));
                at += quads(p) * 16;
            }
        }
        let share = group[0].rows.div_ceil(4 * rayon::current_num_threads());
        let task = share.next_multiple_of(2 * ROWS).clamp(2 * ROWS, TASK);
        let rows = (0..group[0].rows).step_by(task);
        tasks.extend(rows.map(|row| (group, start..at, row..(row + task).min(group[0].rows))));
    }
    if words < MANY {
        for (source, first, range) in &vectors {
            panel::lay_out(&mut panels[range.clone()], source, *first, &mut scratch);
        }
    } else {
        let shared = Shared::new(panels);
        spread(&vectors, |(source, first, range)| {
            // SAFETY: every vector has a range of its own.
            let own = unsafe { shared.part(range.clone()) };
            panel::lay_out(own, source, *first, &mut Vec::new());
        });
    }
    let panels = &*panels;
    spread(&tasks, |(group, panel, rows)| {
        // SAFETY: the caller's promise; tasks differ in their products or rows.
        unsafe { x86::rows(group, &panels[panel.clone()], rows.clone()) };
    });
    PANELS.set((kept, scratch));
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn run(products: &[&Product<'_>]) {
    let _ = (groups(products), panel::lay_out, PANELS, ROWS, TASK, MANY);
    unreachable!("no context has bf16 products here")
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Product, ROWS, Sink, bf16, vectors};
    use std::arch::x86_64::*;
    use std::mem::transmute;
    use std::ops::Range;

    /// The rows of `range` of all products of a group.
    ///
    /// # Safety
    /// As [`super::run`]; nobody else writes these rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn rows(group: &[&Product<'_>], panel: &[u32], range: Range<usize>) {
        let taken: usize = group.iter().map(|p| vectors(p)).sum();
        let mut row = range.start;
        while row < range.end {
            // SAFETY: these rows exist; the rest is the caller's promise.
            row += unsafe {
                match (taken, range.end - row) {
                    (1, 16..) => tile::<16, 1>(group, panel, row),
                    (1, ROWS..) => tile::<ROWS, 1>(group, panel, row),
                    (1, _) => tile::<1, 1>(group, panel, row),
                    (2, ROWS..) => tile::<ROWS, 2>(group, panel, row),
                    (2, _) => tile::<1, 2>(group, panel, row),
                    (_, ROWS..) => tile::<ROWS, 3>(group, panel, row),
                    _ => tile::<1, 3>(group, panel, row),
                }
            };
        }
    }

    /// sum + a·b of pairs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn multiply(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: vectors of 64 bytes under two names.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                transmute::<__m512i, __m512bh>(a),
                transmute::<__m512i, __m512bh>(b),
            )
        }
    }

    /// R rows × A vectors; returns R. Each sum goes over the inner dimension in one order, whatever else is computed with it.
    ///
    /// # Safety
    /// As [`rows`]; the group has A vectors.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[expect(clippy::needless_range_loop, reason = "row and vector numbers name registers")]
    unsafe fn tile<const R: usize, const A: usize>(
        group: &[&Product<'_>],
        panel: &[u32],
        row: usize,
    ) -> usize {
        let term = &group[0].terms[0];
        let inner = term.source.inner();
        let (quads, whole) = (inner.div_ceil(4), inner / 4);
        let x = &term.x[row * term.stride..];
        assert!((R - 1) * term.stride + inner <= x.len() && panel.len() == A * quads * 16);
        // SAFETY: R rows of x and A panels have as many quads (asserted); rows of the sinks exist (the caller's promise).
        unsafe {
            let load = |v: usize, q: usize| panel.as_ptr().add((v * quads + q) * 16);
            let mut sums = [[_mm512_setzero_ps(); A]; R];
            for q in 0..whole {
                let mut b = [_mm512_setzero_si512(); A];
                for v in 0..A {
                    b[v] = _mm512_loadu_si512(load(v, q).cast());
                }
                for r in 0..R {
                    let a = x.as_ptr().add(r * term.stride + 4 * q).cast::<i64>();
                    let a = _mm512_set1_epi64(a.read_unaligned());
                    for v in 0..A {
                        sums[r][v] = multiply(sums[r][v], a, b[v]);
                    }
                }
            }
            if whole < quads {
                for r in 0..R {
                    let from = &x[r * term.stride..][4 * whole..inner];
                    let mut quad = [bf16::ZERO; 4];
                    quad[..from.len()].copy_from_slice(from);
                    let a = _mm512_set1_epi64(transmute::<[bf16; 4], i64>(quad));
                    for v in 0..A {
                        let b = _mm512_loadu_si512(load(v, whole).cast());
                        sums[r][v] = multiply(sums[r][v], a, b);
                    }
                }
            }
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15);
            let mut targets = [(std::ptr::null_mut::<bf16>(), 0, 0u8); A];
            let all = group.iter().flat_map(|p| (0..p.columns).step_by(LANES).map(move |c| (p, c)));
            for ((p, first), to) in all.zip(&mut targets) {
                let Sink::Bf16 { y, .. } = &p.sink else { unreachable!("bf16 (`applies`)") };
                let mask = 0xff >> (LANES - (p.columns - first).min(LANES));
                *to = (y.base().wrapping_add(row * p.columns + first), p.columns, mask);
            }
            for r in 0..R {
                for v in 0..A {
                    let all = sums[r][v];
                    let (a, b) =
                        (_mm512_permutexvar_ps(even, all), _mm512_permutexvar_ps(odd, all));
                    let sum: __m256i = transmute(_mm512_cvtneps_pbh(_mm512_add_ps(a, b)));
                    let (y, columns, mask) = targets[v];
                    let at = y.wrapping_add(r * columns).cast();
                    _mm_mask_storeu_epi16(at, mask, _mm256_castsi256_si128(sum));
                }
            }
        }
        R
    }
}
