//! NF4 to bf16, 32 elements an instruction where the processor has AVX-512.

use super::nf4::{BLOCK, CODEBOOK};
use half::bf16;

/// Elements of whole blocks: `packed` holds two codes a byte, `scales` one value a block of 64; `out` may end inside a block.
pub(super) fn to_bf16(packed: &[u8], scales: &[f32], out: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512f") {
        // SAFETY: the features were asked for.
        return unsafe { by_permutation(packed, scales, out) };
    }
    plain(packed, scales, out);
}

fn table(scale: f32) -> [bf16; 16] {
    CODEBOOK.map(|c| bf16::from_f32(c * scale))
}

fn plain(packed: &[u8], scales: &[f32], out: &mut [bf16]) {
    for ((out, bytes), scale) in out.chunks_mut(BLOCK).zip(packed.chunks(BLOCK / 2)).zip(scales) {
        let table = table(*scale);
        for (pair, byte) in out.chunks_mut(2).zip(bytes) {
            pair[0] = table[usize::from(byte >> 4)];
            if let Some(odd) = pair.get_mut(1) {
                *odd = table[usize::from(byte & 15)];
            }
        }
    }
}

/// # Safety
/// The processor must have AVX-512 F and BW.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn by_permutation(packed: &[u8], scales: &[f32], out: &mut [bf16]) {
    use std::arch::x86_64::*;
    let whole = (out.len() / BLOCK).min(packed.len() / (BLOCK / 2)).min(scales.len());
    for (b, scale) in scales.iter().enumerate().take(whole) {
        let table = table(*scale);
        // SAFETY: block b has 32 bytes and 64 outputs (`whole`); the table has 16 words and is read as such.
        unsafe {
            let table = _mm512_castsi256_si512(_mm256_loadu_si256(table.as_ptr().cast()));
            for half in 0..2 {
                let bytes = _mm_loadu_si128(packed.as_ptr().add(b * 32 + half * 16).cast());
                let bytes = _mm512_cvtepu8_epi32(bytes);
                let low = _mm512_slli_epi32(_mm512_and_si512(bytes, _mm512_set1_epi32(15)), 16);
                let codes = _mm512_or_si512(_mm512_srli_epi32(bytes, 4), low);
                let values = _mm512_permutexvar_epi16(codes, table);
                _mm512_storeu_si512(out.as_mut_ptr().add(b * BLOCK + half * 32).cast(), values);
            }
        }
    }
    plain(&packed[whole * BLOCK / 2..], &scales[whole..], &mut out[whole * BLOCK..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permuted_is_plain() {
        let packed: Vec<u8> = (0..70).map(|i| (i * 37 % 251) as u8).collect();
        let scales = [0.3, -1.7, 2.5];
        for len in [140, 139, 128, 63, 1] {
            let (mut ours, mut theirs) = (vec![bf16::NAN; len], vec![bf16::ZERO; len]);
            to_bf16(&packed, &scales, &mut ours);
            plain(&packed, &scales, &mut theirs);
            assert_eq!(ours, theirs, "{len} elements");
        }
    }
}
