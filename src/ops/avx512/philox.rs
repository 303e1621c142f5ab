//! [`crate::ops::philox`] for eight counters at once.

use crate::ops::philox::{Keys, MULTIPLIERS};
use std::arch::x86_64::*;

/// A bit for each half of the words of a block ([`crate::ops::philox::block`]), lower halves first: whether it is at least `least`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::ops) fn at_least(least: u16, first: u32, rest: [u32; 3], keys: &Keys) -> [u32; 2] {
    let least = _mm512_set1_epi16(least as i16);
    words(first, rest, keys).map(|w| _mm512_cmpge_epu16_mask(w, least))
}

/// The words of eight counters, one after the other.
///
/// On the way a word is the lower half of 64 bits whose upper half is of no account: products read lower halves alone.
#[inline]
#[target_feature(enable = "avx512f")]
fn words(first: u32, rest: [u32; 3], keys: &Keys) -> [__m512i; 2] {
    let [m0, m1] = MULTIPLIERS.map(|m| _mm512_set1_epi64(m as i64));
    let same = |word: u32| _mm512_set1_epi64(i64::from(word));
    // In the order in which the words of pairs of counters are put together below.
    let order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    let mut c0 = _mm512_add_epi32(same(first), order);
    let [mut c1, mut c2, mut c3] = rest.map(same);
    for &[k0, k1] in keys {
        let (p0, p1) = (_mm512_mul_epu32(c0, m0), _mm512_mul_epu32(c2, m1));
        const XOR: i32 = 0x96;
        c0 = _mm512_ternarylogic_epi64::<XOR>(
            _mm512_srli_epi64::<32>(p1),
            c1,
            _mm512_set1_epi64(k0 as i64),
        );
        c2 = _mm512_ternarylogic_epi64::<XOR>(
            _mm512_srli_epi64::<32>(p0),
            c3,
            _mm512_set1_epi64(k1 as i64),
        );
        (c1, c3) = (p1, p0);
    }
    // Each 64 bits: words 0 and 1, words 2 and 3 of a counter.
    const ODD: __mmask16 = 0xaaaa;
    let w01 = _mm512_mask_mov_epi32(c0, ODD, _mm512_slli_epi64::<32>(c1));
    let w23 = _mm512_mask_mov_epi32(c2, ODD, _mm512_slli_epi64::<32>(c3));
    [_mm512_unpacklo_epi64(w01, w23), _mm512_unpackhi_epi64(w01, w23)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::philox::{block, keys};

    #[test]
    fn halves_are_compared_in_their_order() {
        if !is_x86_feature_detected!("avx512bw") {
            return;
        }
        let (rest, keys) = ([u32::MAX, 0x1234_5678, 7], keys([0xa409_3822, 0x299f_31d0]));
        for (first, place) in [(0, 5), (144, 40), (u32::MAX - 3, 63)] {
            let halves = block(first, rest, &keys).map(|w| [w as u16, (w >> 16) as u16]);
            let least = halves.as_flattened()[place]; // so that one is equal
            let wanted = [0, 1].map(|i| {
                let bits = halves.as_flattened()[32 * i..][..32].iter().rev();
                bits.fold(0, |bits, half| bits << 1 | u32::from(*half >= least))
            });
            // SAFETY: the processor has the instructions.
            assert_eq!(unsafe { at_least(least, first, rest, &keys) }, wanted, "{first}");
        }
    }
}
