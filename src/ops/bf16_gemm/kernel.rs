//! The tile in registers.

use super::WIDTH;
use half::bf16;

/// Rows of x against one panel.
pub(super) struct Tiles<'a> {
    /// First row's first pair; rows `x_stride` elements apart.
    pub(super) x: &'a [bf16],
    pub(super) x_stride: usize,
    pub(super) rows: usize,
    /// (pairs, 48) words.
    pub(super) panel: &'a [u32],
    /// Columns of the panel that are stored.
    pub(super) columns: usize,
    /// Whether the target is added to.
    pub(super) add: bool,
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

/// Σ aᵢbᵢ of two rows of one length, in f32.
///
/// # Safety
/// The processor must have what [`supported`] asks for.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn dot(a: &[bf16], b: &[bf16]) -> f32 {
    use std::arch::x86_64::*;
    let n = a.len().min(b.len());
    // SAFETY: whole vectors end before n; the last is masked to it.
    unsafe {
        let load = |p: *const half::bf16| -> __m512bh {
            std::mem::transmute(_mm512_loadu_si512(p.cast()))
        };
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
            let part = |p: *const half::bf16| -> __m512bh {
                std::mem::transmute(_mm512_maskz_loadu_epi16(mask, p.cast()))
            };
            sums[0] = _mm512_dpbf16_ps(sums[0], part(a.as_ptr().add(i)), part(b.as_ptr().add(i)));
            i += left;
        }
        let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        _mm512_reduce_add_ps(sum)
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn dot(_: &[bf16], _: &[bf16]) -> f32 {
    0.0
}

/// Runs all rows of the tiles against the panel into `c`, whose rows lie `c_stride` elements apart.
///
/// # Safety
/// The processor must have what [`supported`] asks for; `c` must be valid for `rows` rows of `columns` elements that nobody else
/// uses meanwhile.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn run(t: &Tiles<'_>, c: *mut f32, c_stride: usize) {
    let pairs = t.panel.len() / WIDTH;
    assert!(
        t.rows == 0 || (t.rows - 1) * t.x_stride + 2 * pairs <= t.x.len(),
        "rows outside the operand"
    );
    let mut row = 0;
    while row < t.rows {
        // SAFETY: rows `row..row + R` exist in x (asserted) and in c (the caller's promise).
        unsafe {
            let x = t.x.as_ptr().add(row * t.x_stride);
            let c = c.add(row * c_stride);
            match t.rows - row {
                8.. => tile::<8>(t, pairs, x, c, c_stride),
                7 => tile::<7>(t, pairs, x, c, c_stride),
                6 => tile::<6>(t, pairs, x, c, c_stride),
                5 => tile::<5>(t, pairs, x, c, c_stride),
                4 => tile::<4>(t, pairs, x, c, c_stride),
                3 => tile::<3>(t, pairs, x, c, c_stride),
                2 => tile::<2>(t, pairs, x, c, c_stride),
                _ => tile::<1>(t, pairs, x, c, c_stride),
            }
        }
        row += 8;
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn run(_: &Tiles<'_>, _: *mut f32, _: usize) {}

/// R rows × 48 columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile<const R: usize>(
    t: &Tiles<'_>,
    pairs: usize,
    x: *const bf16,
    c: *mut f32,
    c_stride: usize,
) {
    use std::arch::x86_64::*;
    // SAFETY: the caller gave R rows of x with `pairs` pairs each, a panel of `pairs` × 48 words, and R rows of c with
    // `t.columns` elements each; masks keep to these columns.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 3]; R];
        let panel = t.panel.as_ptr();
        for p in 0..pairs {
            let b: [__m512bh; 3] = std::array::from_fn(|v| {
                std::mem::transmute(_mm512_loadu_si512(panel.add(p * WIDTH + v * 16).cast()))
            });
            for (r, sums) in sums.iter_mut().enumerate() {
                let pair = x.add(r * t.x_stride + 2 * p).cast::<i32>().read_unaligned();
                let a: __m512bh = std::mem::transmute(_mm512_set1_epi32(pair));
                for v in 0..3 {
                    sums[v] = _mm512_dpbf16_ps(sums[v], a, b[v]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let left = t.columns.saturating_sub(v * 16).min(16);
                let mask = ((1u32 << left) - 1) as __mmask16;
                let at = c.add(r * c_stride + v * 16);
                let sum =
                    if t.add { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), sum) } else { sum };
                _mm512_mask_storeu_ps(at, mask, sum);
            }
        }
    }
}
