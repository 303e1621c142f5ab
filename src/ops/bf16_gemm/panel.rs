//! Panels: (pairs, 48) words, each two neighbours of the inner dimension of one column. Columns beyond the matrix are zero.

use super::WIDTH;
use crate::ops::simd;
use half::bf16;
use std::ops::Range;

/// Columns of the panel are rows of W (out, K): word (p, j) is `W[j][2p], W[j][2p + 1]`. A transposition of 32-bit words.
pub(super) fn of_rows(
    panel: &mut [u32],
    w: &[bf16],
    k: usize,
    columns: Range<usize>,
    pairs: Range<usize>,
) {
    let bits: &[u16] = bytemuck::cast_slice(w);
    let whole = pairs.end.min(k / 2).max(pairs.start) - pairs.start;
    let first = columns.start * k + 2 * pairs.start;
    if columns.len() == WIDTH && whole == pairs.len() && super::kernel::supported() {
        // SAFETY: asked for; 48 rows of `whole` pairs from `first` on exist, and the panel holds them (checked by the slices).
        unsafe {
            transpose(
                &mut panel[..whole * WIDTH],
                &bits[first..(columns.end - 1) * k + 2 * pairs.end],
                k,
            )
        };
        return;
    }
    for j in 0..WIDTH {
        let Some(row) = columns.clone().nth(j) else {
            panel[j..].iter_mut().step_by(WIDTH).take(pairs.len()).for_each(|w| *w = 0);
            continue;
        };
        let row = &bits[row * k..(row + 1) * k];
        let source = row[2 * pairs.start..].chunks_exact(2).take(whole);
        for (to, pair) in panel[j..].iter_mut().step_by(WIDTH).zip(source) {
            *to = u32::from(pair[0]) | u32::from(pair[1]) << 16;
        }
        if whole < pairs.len() {
            panel[whole * WIDTH + j] = u32::from(row[k - 1]);
        }
    }
}

/// 48 rows of words, `k` halves apart, to (pairs, 48): blocks of 16 × 16 words, pairs beyond the last block one by one.
///
/// # Safety
/// The processor must have AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose(panel: &mut [u32], rows: &[u16], k: usize) {
    use std::arch::x86_64::*;
    let pairs = panel.len() / WIDTH;
    assert!((WIDTH - 1) * k + 2 * pairs <= rows.len(), "rows of a panel outside the weight");
    for (group, p) in (0..WIDTH / 16).flat_map(|g| (0..pairs / 16).map(move |p| (g, p * 16))) {
        // SAFETY: 16 rows from group·16 on have words p..p + 16 (asserted), the panel has pairs p..p + 16.
        unsafe {
            let row = |r: usize| {
                _mm512_loadu_si512(rows.as_ptr().add((group * 16 + r) * k + 2 * p).cast())
            };
            let mut a: [__m512i; 16] = std::array::from_fn(row);
            let mut b = a;
            for i in (0..16).step_by(2) {
                b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
                b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
            }
            for i in (0..16).step_by(4) {
                a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
                a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
                a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
                a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
            }
            for i in 0..4 {
                for half in 0..2 {
                    let (x, y) = (a[half * 8 + i], a[half * 8 + 4 + i]);
                    b[half * 8 + i] = _mm512_shuffle_i32x4(x, y, 0x88);
                    b[half * 8 + 4 + i] = _mm512_shuffle_i32x4(x, y, 0xdd);
                }
            }
            for i in 0..8 {
                a[i] = _mm512_shuffle_i32x4(b[i], b[8 + i], 0x88);
                a[8 + i] = _mm512_shuffle_i32x4(b[i], b[8 + i], 0xdd);
            }
            for (i, word) in a.into_iter().enumerate() {
                let to = panel.as_mut_ptr().add((p + i) * WIDTH + group * 16);
                _mm512_storeu_si512(to.cast(), word);
            }
        }
    }
    for p in pairs / 16 * 16..pairs {
        for j in 0..WIDTH {
            let at = j * k + 2 * p;
            panel[p * WIDTH + j] = u32::from(rows[at]) | u32::from(rows[at + 1]) << 16;
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn transpose(_: &mut [u32], _: &[u16], _: usize) {}

/// Columns of the panel are columns of W (out, K): word (p, j) is `W[2p][j], W[2p + 1][j]`.
pub(super) fn of_columns(
    panel: &mut [u32],
    w: &[bf16],
    k: usize,
    out: usize,
    columns: Range<usize>,
    pairs: Range<usize>,
) {
    let bits: &[u16] = bytemuck::cast_slice(w);
    simd::vectorized(|| interleave(panel, bits, k, out, columns, pairs));
}

#[inline(always)]
fn interleave(
    panel: &mut [u32],
    bits: &[u16],
    k: usize,
    out: usize,
    columns: Range<usize>,
    pairs: Range<usize>,
) {
    for (p, to) in pairs.zip(panel.chunks_exact_mut(WIDTH)) {
        let row = |r: usize| &bits[r * k..][columns.clone()];
        let first = row(2 * p);
        if 2 * p + 1 < out {
            let second = row(2 * p + 1);
            for ((to, a), b) in to.iter_mut().zip(first).zip(second) {
                *to = u32::from(*a) | u32::from(*b) << 16;
            }
        } else {
            to.iter_mut().zip(first).for_each(|(to, a)| *to = u32::from(*a));
        }
        to[columns.len()..].fill(0);
    }
}
