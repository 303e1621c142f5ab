//! Panels: (pairs, 16·V) words, each two neighbours of the inner dimension of one column. Columns beyond the matrix are zero, as is
//! the second half of the last pair of an odd inner dimension.

#[cfg(target_arch = "x86_64")]
use super::nf4_panel;
use super::source::{Source, Stored};
#[cfg(target_arch = "x86_64")]
use crate::ops::avx512;
#[cfg(target_arch = "x86_64")]
use crate::quant::nf4::BLOCK;
use half::bf16;
use std::ops::Range;

/// Lays out `columns` (at most 16·V) of a source over `pairs` of its inner dimension. `scratch` is reused between calls.
pub(super) fn fill<const V: usize>(
    panel: &mut [u32],
    source: &Source<'_>,
    columns: Range<usize>,
    pairs: Range<usize>,
    scratch: &mut Vec<bf16>,
) {
    if source.transposed {
        of_rows::<V>(panel, source, columns, pairs, scratch);
    } else {
        of_columns::<V>(panel, source, columns, pairs, scratch);
    }
}

/// Columns of the panel are rows of the matrix: word (p, j) is `M[j][2p], M[j][2p + 1]`. A transposition of 32-bit words, 16 rows
/// at a time.
fn of_rows<const V: usize>(
    panel: &mut [u32],
    source: &Source<'_>,
    columns: Range<usize>,
    pairs: Range<usize>,
    scratch: &mut Vec<bf16>,
) {
    let k = source.cols;
    let (first, width) = (2 * pairs.start, (2 * pairs.end).min(k) - 2 * pairs.start);
    for v in 0..V {
        let rows = (columns.start + v * 16).min(columns.end)
            ..(columns.start + v * 16 + 16).min(columns.end);
        let words = 2 * pairs.len();
        match source.stored {
            #[cfg(target_arch = "x86_64")]
            Stored::Nf4(q)
                if rows.len() == 16
                    && nf4_panel::applies(k)
                    && [first, words].iter().all(|n| n.is_multiple_of(BLOCK)) =>
            {
                // SAFETY: it applies; sizes are asserted there.
                unsafe {
                    nf4_panel::of_rows::<V>(&mut panel[v * 16..], q, k, rows.start, pairs.clone())
                };
            }
            Stored::Bf16(values) if rows.len() == 16 && width == words => {
                let from = &values[rows.start * k + first..(rows.end - 1) * k + first + words];
                transpose::<V>(&mut panel[v * 16..], from, k, pairs.len());
            }
            stored => {
                scratch.clear();
                scratch.resize(16 * words, bf16::ZERO);
                if width == k && width == words {
                    // Whole rows, as a low rank's are, lie one after the other.
                    stored.read(rows.start * k, &mut scratch[..rows.len() * k]);
                } else {
                    for (row, to) in rows.zip(scratch.chunks_mut(words)) {
                        stored.read(row * k + first, &mut to[..width]);
                    }
                }
                transpose::<V>(&mut panel[v * 16..], scratch, words, pairs.len());
            }
        }
    }
}

/// 16 rows of words, `k` halves apart, to the first 16 of each 16·V words of the panel.
fn transpose<const V: usize>(panel: &mut [u32], rows: &[bf16], k: usize, pairs: usize) {
    let rows: &[u16] = bytemuck::cast_slice(rows);
    assert!(pairs == 0 || 15 * k + 2 * pairs <= rows.len(), "rows outside the weight");
    assert!(pairs == 0 || (pairs - 1) * V * 16 + 16 <= panel.len(), "pairs outside the panel");
    #[cfg(target_arch = "x86_64")]
    if super::kernel::supported() {
        // SAFETY: asked for; sizes are asserted.
        return unsafe { transpose_blocks::<V>(panel, rows, k, pairs) };
    }
    for p in 0..pairs {
        transpose_pair::<V>(panel, rows, k, p);
    }
}

fn transpose_pair<const V: usize>(panel: &mut [u32], rows: &[u16], k: usize, p: usize) {
    for (r, to) in panel[p * V * 16..][..16].iter_mut().enumerate() {
        let at = r * k + 2 * p;
        *to = u32::from(rows[at]) | u32::from(rows[at + 1]) << 16;
    }
}

/// Blocks of 16 × 16 words, pairs beyond the last block one by one.
///
/// # Safety
/// The processor must have what `supported` asks for; `rows` has 16 rows of `pairs` words, `panel` as many pairs.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn transpose_blocks<const V: usize>(
    panel: &mut [u32],
    rows: &[u16],
    k: usize,
    pairs: usize,
) {
    use std::arch::x86_64::*;
    for p in (0..pairs / 16 * 16).step_by(16) {
        // SAFETY: 16 rows have words p..p + 16, the panel has pairs p..p + 16 (the caller's promise).
        unsafe {
            let mut a = [_mm512_setzero_si512(); 16];
            for (r, a) in a.iter_mut().enumerate() {
                *a = _mm512_loadu_si512(rows.as_ptr().add(r * k + 2 * p).cast());
            }
            // By reference: an iterator that owns the vectors lies in memory.
            for (i, word) in avx512::transpose(a).iter().enumerate() {
                let to = panel.as_mut_ptr().add((p + i) * V * 16);
                _mm512_storeu_si512(to.cast(), *word);
            }
        }
    }
    for p in pairs / 16 * 16..pairs {
        transpose_pair::<V>(panel, rows, k, p);
    }
}

/// Columns of the panel are columns of the matrix: word (p, j) is `M[2p][j], M[2p + 1][j]`. Two rows interleaved.
fn of_columns<const V: usize>(
    panel: &mut [u32],
    source: &Source<'_>,
    columns: Range<usize>,
    pairs: Range<usize>,
    scratch: &mut Vec<bf16>,
) {
    let (k, n) = (source.cols, columns.len());
    let row = |r: usize| r * k + columns.start;
    // Pairs of whole rows of a whole panel are read where they lie, the others through scratch.
    let direct = match source.stored {
        Stored::Bf16(_) => n == V * 16,
        #[cfg(target_arch = "x86_64")]
        Stored::Nf4(_) => n == V * 16 && columns.start.is_multiple_of(16) && nf4_panel::applies(k),
        _ => false,
    };
    let whole = if direct { pairs.end.min(source.rows / 2).max(pairs.start) } else { pairs.start };
    let (direct, rest) = panel.split_at_mut((whole - pairs.start) * V * 16);
    match source.stored {
        Stored::Bf16(values) => interleave::<V>(direct, values, row(2 * pairs.start), k),
        #[cfg(target_arch = "x86_64")]
        Stored::Nf4(q) if whole > pairs.start => {
            // SAFETY: it applies, or nothing would be whole; sizes are asserted there.
            unsafe { nf4_panel::of_columns::<V>(direct, q, k, columns.start, pairs.start..whole) };
        }
        _ => {}
    }
    scratch.clear();
    scratch.resize(V * 32, bf16::ZERO);
    for (p, to) in (whole..pairs.end).zip(rest.chunks_exact_mut(V * 16)) {
        let (even, odd) = scratch.split_at_mut(V * 16);
        source.stored.read(row(2 * p), &mut even[..n]);
        if 2 * p + 1 < source.rows {
            source.stored.read(row(2 * p + 1), &mut odd[..n]);
        } else {
            odd[..n].fill(bf16::ZERO);
        }
        interleave::<V>(to, scratch, 0, V * 16);
    }
}

/// Pairs of rows of 16·V values from `first` on, rows `k` apart.
fn interleave<const V: usize>(to: &mut [u32], values: &[bf16], first: usize, k: usize) {
    let pairs = to.len() / (V * 16);
    assert!(pairs == 0 || first + (2 * pairs - 1) * k + V * 16 <= values.len(), "rows of a panel");
    #[cfg(target_arch = "x86_64")]
    if super::kernel::supported() {
        // SAFETY: asked for; sizes are asserted.
        return unsafe { interleave_vectors::<V>(to, values, first, k) };
    }
    for (p, to) in to.chunks_exact_mut(V * 16).enumerate() {
        let rows = values[first + 2 * p * k..].iter().zip(&values[first + (2 * p + 1) * k..]);
        for (to, (a, b)) in to.iter_mut().zip(rows) {
            *to = u32::from(a.to_bits()) | u32::from(b.to_bits()) << 16;
        }
    }
}

/// # Safety
/// The processor must have AVX-512 F and BW; every pair of rows lies inside `values`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn interleave_vectors<const V: usize>(
    to: &mut [u32],
    values: &[bf16],
    first: usize,
    k: usize,
) {
    use std::arch::x86_64::*;
    /// Pairs ahead of which rows are asked for: each is another page or line that no prefetcher guesses.
    const AHEAD: usize = 12;
    // Element j of one row, then that of the other, which begins at 32.
    let words = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let both = _mm512_or_si512(words, _mm512_slli_epi32(words, 16));
    let low = _mm512_add_epi32(both, _mm512_set1_epi32(32 << 16));
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(16 << 16 | 16));
    let start = values.as_ptr().wrapping_add(first);
    for p in 0..to.len() / (V * 16) {
        let (even, odd) = (start.wrapping_add(2 * p * k), start.wrapping_add((2 * p + 1) * k));
        for v in 0..V.div_ceil(2) {
            let ahead = 2 * AHEAD * k + v * 32;
            _mm_prefetch::<_MM_HINT_T0>(even.wrapping_add(ahead).cast());
            _mm_prefetch::<_MM_HINT_T0>(odd.wrapping_add(ahead).cast());
        }
        for v in (0..V).step_by(2) {
            // SAFETY: vectors v and, where there is one, v + 1 of both rows and of the pair exist (the caller's promise).
            unsafe {
                let to = to.as_mut_ptr().add((p * V + v) * 16);
                let (even, odd) = (even.add(v * 16), odd.add(v * 16));
                if v + 1 < V {
                    let (a, b) = (_mm512_loadu_si512(even.cast()), _mm512_loadu_si512(odd.cast()));
                    let low = _mm512_permutex2var_epi16(a, low, b);
                    _mm512_storeu_si512(to.cast(), low);
                    let high = _mm512_permutex2var_epi16(a, high, b);
                    _mm512_storeu_si512(to.add(16).cast(), high);
                } else {
                    let a = _mm512_cvtepu16_epi32(_mm256_loadu_si256(even.cast()));
                    let b = _mm512_cvtepu16_epi32(_mm256_loadu_si256(odd.cast()));
                    let words = _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
                    _mm512_storeu_si512(to.cast(), words);
                }
            }
        }
    }
}
