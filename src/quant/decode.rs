//! NF4 to bf16: a block's 16 values are rounded once and then looked up, 32 elements an instruction where the processor has
//! AVX-512 with bf16.

use super::nf4::{BLOCK, CODEBOOK};
use half::bf16;
use std::ops::Range;

/// Elements `start..start + out.len()`: `packed` holds two codes a byte, `scale(b)` is that of block b.
pub(super) fn to_bf16(packed: &[u8], scale: impl Fn(usize) -> f32, start: usize, out: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if start.is_multiple_of(2)
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
    {
        // SAFETY: the features were asked for; AVX512-BF16 includes F.
        return unsafe { by_permutation(packed, scale, start, out) };
    }
    plain(packed, scale, start, out);
}

/// The parts of `start..start + len` that lie in one block each: (block, first element, where in the output).
fn parts(start: usize, len: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
    let end = start + len;
    (start / BLOCK..end.div_ceil(BLOCK)).map(move |b| {
        let (from, to) = ((b * BLOCK).max(start), ((b + 1) * BLOCK).min(end));
        (b, from, from - start..to - start)
    })
}

fn plain(packed: &[u8], scale: impl Fn(usize) -> f32, start: usize, out: &mut [bf16]) {
    for (b, first, part) in parts(start, out.len()) {
        let scale = scale(b);
        let table = CODEBOOK.map(|c| bf16::from_f32(c * scale));
        for (i, out) in (first..).zip(&mut out[part]) {
            *out = table[usize::from(packed[i / 2] >> (4 * (1 - i % 2)) & 15)];
        }
    }
}

/// # Safety
/// The processor must have the features named; `start` must be even.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn by_permutation(
    packed: &[u8],
    scale: impl Fn(usize) -> f32,
    start: usize,
    out: &mut [bf16],
) {
    use std::arch::x86_64::*;
    // SAFETY: the codebook has 16 values.
    let codebook = unsafe { _mm512_loadu_ps(CODEBOOK.as_ptr()) };
    for (b, first, part) in parts(start, out.len()) {
        let scaled = _mm512_mul_ps(codebook, _mm512_set1_ps(scale(b)));
        // SAFETY: both types are 256 bits of 16 bf16 values.
        let table: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(scaled)) };
        let table = _mm512_castsi256_si512(table);
        for (i, out) in out[part].chunks_mut(32).enumerate() {
            let bytes = &packed[first / 2 + i * 16..][..out.len().div_ceil(2)];
            // SAFETY: masks keep to `bytes` and `out`.
            unsafe {
                let mask = ((1u32 << bytes.len()) - 1) as __mmask16;
                let bytes = _mm_maskz_loadu_epi8(mask, bytes.as_ptr().cast());
                let bytes = _mm512_cvtepu8_epi32(bytes);
                let low = _mm512_slli_epi32(_mm512_and_si512(bytes, _mm512_set1_epi32(15)), 16);
                let codes = _mm512_or_si512(_mm512_srli_epi32(bytes, 4), low);
                let values = _mm512_permutexvar_epi16(codes, table);
                let mask = u32::MAX >> (32 - out.len());
                _mm512_mask_storeu_epi16(out.as_mut_ptr().cast(), mask, values);
            }
        }
    }
}

/// Σ ŵᵢ·xᵢ over `x.len()` elements from `start` on, without writing the ŵ anywhere; `None` where that is not whole blocks or the processor lacks AVX-512 with bf16. Summed in one order.
pub(super) fn dot(
    packed: &[u8],
    scale: impl Fn(usize) -> f32,
    start: usize,
    x: &[bf16],
) -> Option<f32> {
    let len = x.len();
    let whole = start.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK);
    #[cfg(target_arch = "x86_64")]
    if whole && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw") {
        // SAFETY: the features were asked for; AVX512-BF16 includes F.
        return Some(unsafe { dot_blocks(packed, scale, start / BLOCK, len / BLOCK, x) });
    }
    let _ = (packed, scale, whole);
    None
}

/// # Safety
/// The processor must have the features named.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn dot_blocks(
    packed: &[u8],
    scale: impl Fn(usize) -> f32,
    first: usize,
    blocks: usize,
    x: &[bf16],
) -> f32 {
    use std::arch::x86_64::*;
    use std::mem::transmute;
    let packed = &packed[first * BLOCK / 2..][..blocks * BLOCK / 2];
    assert!(x.len() == blocks * BLOCK, "a value for each weight");
    // SAFETY: the codebook has 16 values.
    let codebook = unsafe { _mm512_loadu_ps(CODEBOOK.as_ptr()) };
    let high = _mm512_set1_epi32(15 << 16);
    let mut sums = [_mm512_setzero_ps(); 2];
    for b in 0..blocks {
        let scaled = _mm512_mul_ps(codebook, _mm512_set1_ps(scale(first + b)));
        // SAFETY: both types are 256 bits of 16 bf16 values; block b has 32 bytes and x 64 values of it.
        unsafe {
            let table =
                _mm512_castsi256_si512(transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(scaled)));
            for (half, sum) in sums.iter_mut().enumerate() {
                let bytes = _mm_loadu_si128(packed.as_ptr().add(b * 32 + half * 16).cast());
                let bytes = _mm512_cvtepu8_epi32(bytes);
                // The even element's code, and 16 bits above it the odd one's: a | (b & mask).
                let codes = _mm512_ternarylogic_epi32::<0xEA>(
                    high,
                    _mm512_slli_epi32::<16>(bytes),
                    _mm512_srli_epi32::<4>(bytes),
                );
                let w = transmute::<__m512i, __m512bh>(_mm512_permutexvar_epi16(codes, table));
                let x = _mm512_loadu_si512(x.as_ptr().add(b * BLOCK + half * 32).cast());
                *sum = _mm512_dpbf16_ps(*sum, w, transmute::<__m512i, __m512bh>(x));
            }
        }
    }
    _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_product_is_that_of_the_decoded_values() {
        let packed: Vec<u8> = (0..160).map(|i| (i * 37 % 251) as u8).collect();
        let scale = |b: usize| [0.3, -1.7, 2.5, 1.1, 0.9][b];
        let x = |seed: usize| -> Vec<bf16> {
            (0..192).map(|i| bf16::from_f32(((i * 7 + seed) % 13) as f32 / 6.0 - 1.0)).collect()
        };
        let (a, b) = (x(1), x(2));
        let mut w = vec![bf16::ZERO; 192];
        plain(&packed, scale, 64, &mut w);
        for x in [a, b] {
            let Some(sum) = dot(&packed, scale, 64, &x) else { return };
            let want: f64 = w.iter().zip(&x).map(|(w, x)| w.to_f64() * x.to_f64()).sum();
            assert!((f64::from(sum) - want).abs() < 1e-4, "{sum} {want}");
        }
    }

    #[test]
    fn parts_of_blocks_have_no_fused_product() {
        let x = [bf16::ONE; 64];
        assert!(dot(&[0; 64], |_| 1.0, 32, &x).is_none());
    }

    #[test]
    fn permuted_is_plain() {
        let packed: Vec<u8> = (0..100).map(|i| (i * 37 % 251) as u8).collect();
        let scale = |b: usize| [0.3, -1.7, 2.5, 1.1][b];
        for (start, len) in
            [(0, 200), (0, 139), (64, 128), (6, 63), (2, 1), (48, 48), (62, 2), (7, 30)]
        {
            let (mut ours, mut theirs) = (vec![bf16::NAN; len], vec![bf16::ZERO; len]);
            to_bf16(&packed, scale, start, &mut ours);
            plain(&packed, scale, start, &mut theirs);
            assert_eq!(ours, theirs, "{len} elements from {start}");
        }
    }
}
