//! The tile in registers.

use super::sink::Sink;
use crate::ops::prefetch::Lines;
use half::bf16;

/// Most rows and vectors of a tile: V vectors with [`ROWS`]`[V]` rows.
pub(super) const ROWS: [usize; 5] = [0, 8, 8, 8, 6];

/// A part of the inner dimension: rows of x and the panel that they meet.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    /// All of x from the first row's first pair of this part on; rows `stride` elements apart.
    pub(super) x: &'a [bf16],
    pub(super) stride: usize,
    /// First word of this part in the panel.
    pub(super) at: usize,
    /// Pairs of this part.
    pub(super) pairs: usize,
}

/// All tiles of one panel.
pub(super) struct Tiles<'a> {
    pub(super) segments: &'a [Segment<'a>],
    pub(super) panel: &'a [u32],
    /// Rows of the product, and those that are done now.
    pub(super) rows: usize,
    pub(super) range: std::ops::Range<usize>,
    /// Columns of the product, the panel's first, and how many of the panel are stored.
    pub(super) columns: usize,
    pub(super) first_column: usize,
    pub(super) width: usize,
    /// Sums of earlier parts of the inner dimension (range.len(), 16·V), where it takes several.
    pub(super) sums: *mut f32,
    pub(super) first: bool,
    pub(super) last: bool,
    pub(super) sink: &'a Sink<'a>,
}

#[cfg(target_arch = "x86_64")]
pub(super) fn supported() -> bool {
    is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn supported() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn dot(_: &[bf16], _: &[bf16]) -> f32 {
    unreachable!("no context has bf16 products here")
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn run<const V: usize>(_: &Tiles<'_>, _: &mut Lines<'_>) {
    unreachable!("no context has bf16 products here")
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{dot, run};

#[cfg(target_arch = "x86_64")]
#[expect(clippy::needless_range_loop, reason = "row and vector indices name registers of a tile")]
mod x86 {
    use super::{Lines, ROWS, Tiles, bf16};
    use crate::ops::bf16_gemm::epilogue::{each_row, put};
    use std::arch::x86_64::*;
    use std::mem::transmute;

    /// Σ aᵢbᵢ of two rows of one length, in f32.
    ///
    /// # Safety
    /// The processor must have what `supported` asks for.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(in super::super) unsafe fn dot(a: &[bf16], b: &[bf16]) -> f32 {
        let n = a.len().min(b.len());
        // SAFETY: whole vectors end before n; the last is masked to it.
        unsafe {
            let load = |p: *const bf16| -> __m512bh { transmute(_mm512_loadu_si512(p.cast())) };
            let mut sums = [_mm512_setzero_ps(); 4];
            let mut i = 0;
            while i + 128 <= n {
                for (v, sum) in sums.iter_mut().enumerate() {
                    let (a, b) = (a.as_ptr().add(i + v * 32), b.as_ptr().add(i + v * 32));
                    *sum = _mm512_dpbf16_ps(*sum, load(a), load(b));
                }
                i += 128;
            }
            while i < n {
                let left = (n - i).min(32);
                let mask = (u64::MAX >> (64 - left)) as __mmask32;
                let part = |p: *const bf16| -> __m512bh {
                    transmute(_mm512_maskz_loadu_epi16(mask, p.cast()))
                };
                sums[0] =
                    _mm512_dpbf16_ps(sums[0], part(a.as_ptr().add(i)), part(b.as_ptr().add(i)));
                i += left;
            }
            let sum =
                _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
            _mm512_reduce_add_ps(sum)
        }
    }

    /// Runs rows against the panel, V vectors wide, and asks for lines meanwhile.
    ///
    /// # Safety
    /// The processor must have what `supported` asks for; the sink fits the product and no other task has these rows and columns;
    /// `sums` has room for the rows if `first` and `last` are not both true.
    pub(in super::super) unsafe fn run<const V: usize>(t: &Tiles<'_>, lines: &mut Lines<'_>) {
        for s in t.segments {
            let end = t.range.end.max(1);
            assert!((end - 1) * s.stride + 2 * s.pairs <= s.x.len(), "rows outside the operand");
            assert!(s.at + s.pairs * V * 16 <= t.panel.len(), "a part outside the panel");
        }
        assert!(t.range.end <= t.rows && t.first_column + t.width <= t.columns, "outside the sink");
        let mut row = t.range.start;
        while row < t.range.end {
            let left = t.range.end - row;
            // SAFETY: these rows exist in every x (asserted); the rest is the caller's promise.
            unsafe {
                macro_rules! by_rows {
                    ($($r:literal)*) => {
                        match left.min(ROWS[V]) {
                            $($r if V * $r <= 24 => tile::<$r, V>(t, row, lines),)*
                            _ => {}
                        }
                    };
                }
                by_rows!(1 2 3 4 5 6 7 8);
            }
            row += ROWS[V];
        }
    }

    /// acc + Σ over `pairs` of x's pairs (rows `stride` elements apart) against a panel of V vectors.
    ///
    /// Plain loops: closures do not take over the instructions that the function enables.
    ///
    /// # Safety
    /// R rows of x and the panel have `pairs` pairs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn multiply<const R: usize, const V: usize>(
        mut sums: [[__m512; V]; R],
        x: *const bf16,
        stride: usize,
        panel: *const u32,
        pairs: usize,
        lines: &mut Lines<'_>,
    ) -> [[__m512; V]; R] {
        let mut p = 0;
        while p < pairs {
            let end = (p + lines.ask(pairs - p)).min(pairs);
            while p < end {
                // SAFETY: pair p exists in every row and in the panel (the caller's promise); the two vector types are the same 64 bytes.
                unsafe {
                    let mut b = [_mm512_setzero_si512(); V];
                    for (v, b) in b.iter_mut().enumerate() {
                        *b = _mm512_loadu_si512(panel.add((p * V + v) * 16).cast());
                    }
                    for r in 0..R {
                        let pair = x.add(r * stride + 2 * p).cast::<i32>().read_unaligned();
                        let a = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair));
                        for v in 0..V {
                            let b = transmute::<__m512i, __m512bh>(b[v]);
                            sums[r][v] = _mm512_dpbf16_ps(sums[r][v], a, b);
                        }
                    }
                }
                p += 1;
            }
        }
        sums
    }

    /// R rows × V vectors.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn tile<const R: usize, const V: usize>(
        t: &Tiles<'_>,
        row: usize,
        lines: &mut Lines<'_>,
    ) {
        // SAFETY: `run` checked the rows of x and the panel; masks keep to the columns of the panel that are stored.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); V]; R];
            let kept = t.sums.wrapping_add((row - t.range.start) * V * 16);
            if !t.first {
                each_row!(r of R {
                    for v in 0..V {
                        sums[r][v] = _mm512_loadu_ps(kept.add((r * V + v) * 16));
                    }
                });
            }
            for s in t.segments {
                let (x, panel) = (s.x.as_ptr().add(row * s.stride), t.panel.as_ptr().add(s.at));
                sums = multiply::<R, V>(sums, x, s.stride, panel, s.pairs, lines);
            }
            if !t.last {
                each_row!(r of R {
                    for v in 0..V {
                        _mm512_storeu_ps(kept.add((r * V + v) * 16), sums[r][v]);
                    }
                });
                return;
            }
            put(t, row, sums);
        }
    }
}
