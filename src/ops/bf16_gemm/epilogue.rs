//! What becomes of a tile's sums: from registers to the [`Sink`], once.

use super::kernel::Tiles;
use super::sink::Sink;
use std::arch::x86_64::*;
use std::mem::transmute;

/// Repeats a block for each row of a tile with a row number that the compiler knows: sums that are found by a number known only
/// at run time would live in memory.
macro_rules! each_row {
    ($r:ident of $rows:ident $body:block) => {
        each_row!($r of $rows $body 0 1 2 3 4 5 6 7);
    };
    ($r:ident of $rows:ident $body:block $($n:literal)*) => {
        $(if $n < $rows {
            let $r = $n;
            $body
        })*
    };
}
pub(super) use each_row;

/// Sums of R rows from `row` on, V vectors wide, to their places.
///
/// # Safety
/// The processor must have what `supported` asks for; the rows and the panel's columns lie in the sink and are this task's own.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[expect(clippy::needless_range_loop, reason = "row and vector numbers name registers")]
pub(super) unsafe fn put<const R: usize, const V: usize>(
    t: &Tiles<'_>,
    row: usize,
    sums: [[__m512; V]; R],
) {
    const { assert!(R <= 8, "`each_row` has eight rows") };
    // SAFETY: masks keep to the columns of the panel that are stored; the rest is the caller's promise.
    unsafe {
        let mut masks = [0; V];
        for (v, mask) in masks.iter_mut().enumerate() {
            *mask = ((1u32 << t.width.saturating_sub(v * 16).min(16)) - 1) as __mmask16;
        }
        // Most tiles are as wide as their panel: nothing is masked, and two bf16 vectors are stored at once.
        match t.sink {
            Sink::F32 { c, add, scale, bias: None, residual: None } if t.width == V * 16 => {
                let scale = _mm512_set1_ps(*scale);
                each_row!(r of R {
                    let at = c.base().add((row + r) * t.columns + t.first_column);
                    for v in 0..V {
                        let at = at.add(v * 16);
                        let before = if *add { _mm512_loadu_ps(at) } else { _mm512_setzero_ps() };
                        _mm512_storeu_ps(at, _mm512_fmadd_ps(sums[r][v], scale, before));
                    }
                });
            }
            Sink::F32 { c, add, scale, bias, residual } => {
                let scale = _mm512_set1_ps(*scale);
                each_row!(r of R {
                    for v in 0..V {
                        let column = t.first_column + v * 16;
                        let i = (row + r) * t.columns + column;
                        // Beyond the array where no column of this vector is stored.
                        let at = c.base().wrapping_add(i);
                        let before = if *add { masks[v] } else { 0 };
                        let before = _mm512_maskz_loadu_ps(before, at);
                        let mut sum = _mm512_fmadd_ps(sums[r][v], scale, before);
                        if let Some(bias) = bias {
                            let bias = bias.as_ptr().wrapping_add(column);
                            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(masks[v], bias));
                        }
                        if let Some(x) = residual {
                            let x = x.as_ptr().wrapping_add(i);
                            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(masks[v], x));
                        }
                        _mm512_mask_storeu_ps(at, masks[v], sum);
                    }
                });
            }
            Sink::Bf16 { y, bias: None, residual } if t.width == V * 16 => {
                each_row!(r of R {
                    let at = (row + r) * t.columns + t.first_column;
                    let mut sums = sums[r];
                    if let Some(x) = residual {
                        for v in 0..V {
                            let x = _mm256_loadu_si256(x.as_ptr().add(at + v * 16).cast());
                            let x = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x));
                            sums[v] = _mm512_add_ps(sums[v], _mm512_castsi512_ps(x));
                        }
                    }
                    let y = y.base().add(at);
                    for v in 0..V / 2 {
                        let two = _mm512_cvtne2ps_pbh(sums[2 * v + 1], sums[2 * v]);
                        _mm512_storeu_si512(y.add(v * 32).cast(), transmute::<__m512bh, __m512i>(two));
                    }
                    if V % 2 == 1 {
                        let one = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(sums[V - 1]));
                        _mm256_storeu_si256(y.add((V - 1) * 16).cast(), one);
                    }
                });
            }
            Sink::Bf16 { y, bias, residual } => {
                each_row!(r of R {
                    for v in 0..V {
                        let (mut sum, column) = (sums[r][v], t.first_column + v * 16);
                        let at = (row + r) * t.columns + column;
                        if let Some(bias) = bias {
                            let bias = bias.as_ptr().wrapping_add(column);
                            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(masks[v], bias));
                        }
                        if let Some(x) = residual {
                            let x = x.as_ptr().wrapping_add(at).cast();
                            let x =
                                _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(masks[v], x));
                            sum = _mm512_add_ps(
                                sum,
                                _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                            );
                        }
                        let narrow: __m256i = transmute(_mm512_cvtneps_pbh(sum));
                        let y = y.base().wrapping_add(at).cast();
                        _mm256_mask_storeu_epi16(y, masks[v], narrow);
                    }
                });
            }
            Sink::Transposed { .. } => {
                let mut spilled = [0f32; 64];
                each_row!(r of R {
                    for v in 0..V {
                        _mm512_storeu_ps(spilled.as_mut_ptr().add(v * 16), sums[r][v]);
                    }
                    for (j, &sum) in spilled.iter().take(t.width).enumerate() {
                        t.sink.put(t.rows, t.columns, (row + r, t.first_column + j), sum);
                    }
                });
            }
        }
    }
}
