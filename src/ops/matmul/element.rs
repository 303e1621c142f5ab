//! Elements of B on their way into a panel: widened to f32, and transposed in blocks where their columns are contiguous.

#[cfg(target_arch = "x86_64")]
use crate::ops::avx512;
use crate::ops::value::Value;
use half::bf16;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m128, __m256, __m512i, _MM_TRANSPOSE4_PS, _mm_castsi128_ps, _mm_loadl_epi64, _mm_loadu_ps,
    _mm_loadu_si128, _mm_setzero_si128, _mm_storeu_ps, _mm_unpacklo_epi16, _mm256_castsi256_ps,
    _mm256_cvtepu16_epi32, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_setzero_ps,
    _mm256_shuffle_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    _mm512_and_si512, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_slli_epi32, _mm512_storeu_si512,
};

/// An element of B: read as it lies, written to the panel in f32.
pub(super) trait Element: Value {
    /// Four of them, in f32.
    ///
    /// # Safety
    /// `from` has four.
    #[cfg(target_arch = "x86_64")]
    unsafe fn four(from: *const Self) -> __m128;
    /// Eight of them, in f32.
    ///
    /// # Safety
    /// `from` has eight, and the processor AVX2.
    #[cfg(target_arch = "x86_64")]
    unsafe fn eight(from: *const Self) -> __m256;
    /// Transposes a cache line of each of 16 rows, `from.1` apart, into rows of f32, `to.1` apart.
    ///
    /// # Safety
    /// Both lie inside their buffers, and the processor has AVX-512.
    #[cfg(target_arch = "x86_64")]
    unsafe fn sixteen(to: (*mut f32, usize), from: (*const Self, usize));
}

impl Element for f32 {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn four(from: *const Self) -> __m128 {
        // SAFETY: the caller's promise; SSE is part of x86-64.
        unsafe { _mm_loadu_ps(from) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn eight(from: *const Self) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn sixteen(to: (*mut f32, usize), from: (*const Self, usize)) {
        // SAFETY: the caller's promise: 16 rows of 16 elements and 16 of their transpose.
        unsafe {
            for (i, row) in avx512::transpose(words(from)).into_iter().enumerate() {
                _mm512_storeu_si512(to.0.add(i * to.1).cast(), row);
            }
        }
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
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn eight(from: *const Self) -> __m256 {
        // SAFETY: the caller's promise: 16 bytes.
        unsafe {
            let eight = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(eight))
        }
    }
    /// As words of two, which are taken apart afterwards.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn sixteen(to: (*mut f32, usize), from: (*const Self, usize)) {
        // SAFETY: the caller's promise: 16 rows of 32 elements and 32 of their transpose.
        unsafe {
            for (i, two) in avx512::transpose(words(from)).into_iter().enumerate() {
                let first = _mm512_slli_epi32::<16>(two);
                let second = _mm512_and_si512(two, _mm512_set1_epi32(0xffff_0000_u32 as i32));
                _mm512_storeu_si512(to.0.add(2 * i * to.1).cast(), first);
                _mm512_storeu_si512(to.0.add((2 * i + 1) * to.1).cast(), second);
            }
        }
    }
}

/// A cache line of each of 16 rows.
///
/// # Safety
/// They have one, and the processor has AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn words<T>((from, stride): (*const T, usize)) -> [__m512i; 16] {
    let mut lines = [_mm512_setzero_si512(); 16];
    for (i, line) in lines.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *line = unsafe { _mm512_loadu_si512(from.add(i * stride).cast()) };
    }
    lines
}

/// Transposes one 8 x 8 block of rows `src_stride` apart into rows `dst_stride` apart.
///
/// # Safety
/// Both blocks lie inside their buffers, and the processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn transpose_eight<T: Element>(
    dst: *mut f32,
    dst_stride: usize,
    src: *const T,
    src_stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut r = [_mm256_setzero_ps(); 8];
        for (i, r) in r.iter_mut().enumerate() {
            *r = T::eight(src.add(i * src_stride));
        }
        // Pairs of rows, then fours, within each half; then the halves.
        let mut p = r;
        for i in 0..4 {
            p[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            p[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut q = p;
        for i in 0..2 {
            let [a, b, c, d] = [p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]];
            q[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
            q[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
            q[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
            q[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
        }
        for i in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(q[i], q[i + 4]);
            let high = _mm256_permute2f128_ps::<0x31>(q[i], q[i + 4]);
            _mm256_storeu_ps(dst.add(i * dst_stride), low);
            _mm256_storeu_ps(dst.add((i + 4) * dst_stride), high);
        }
    }
}

/// Transposes one 4 x 4 block of rows `src_stride` apart into rows `dst_stride` apart.
///
/// # Safety
/// Both blocks lie inside their buffers.
#[inline(always)]
pub(super) unsafe fn transpose<T: Element>(
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
