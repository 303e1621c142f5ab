//! Counted randomness: every random number is a function of integers, none is carried from step to step.
//!
//! Philox 4x32-10 of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3", SC'11), checked against the known
//! answers of the authors' Random123 library.

/// Rounds of [`philox4x32`].
const ROUNDS: usize = 10;
/// What counters are multiplied by.
pub const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What a key grows by from round to round.
const STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Four random words for a counter and a key.
#[inline(always)]
pub fn philox4x32(mut counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    for [k0, k1] in keys(key) {
        let p0 = u64::from(counter[0]) * MULTIPLIERS[0];
        let p1 = u64::from(counter[2]) * MULTIPLIERS[1];
        counter = [
            (p1 >> 32 ^ k0) as u32 ^ counter[1],
            p1 as u32,
            (p0 >> 32 ^ k1) as u32 ^ counter[3],
            p0 as u32,
        ];
    }
    counter
}

/// The keys of all rounds, which are the same for every counter, as words of 64 bits.
pub type Keys = [[u64; 2]; ROUNDS];

/// See [`Keys`].
#[inline(always)]
pub fn keys(key: [u32; 2]) -> Keys {
    std::array::from_fn(|round| {
        let grown = |i: usize| key[i].wrapping_add(STEPS[i].wrapping_mul(round as u32));
        [grown(0).into(), grown(1).into()]
    })
}

/// Counters of a [`block`].
pub const COUNTERS: usize = 8;

/// The words of the counters `[first + i, rest…]` for the keys of all rounds, one counter after the other.
///
/// Written for compilers that make vectors of loops over counters ([`super::simd::vectorized`]): words have 64 bits here, of which
/// products see the lower 32 alone, so that the halves of a product need not be taken apart.
#[inline(always)]
pub fn block(first: u32, rest: [u32; 3], keys: &Keys) -> [u32; 4 * COUNTERS] {
    let same = |word: u32| [u64::from(word); COUNTERS];
    let mut c0: [u64; COUNTERS] = std::array::from_fn(|i| u64::from(first.wrapping_add(i as u32)));
    let [mut c1, mut c2, mut c3] = rest.map(same);
    let lower = |word: u64| u64::from(word as u32);
    for &[k0, k1] in keys {
        for i in 0..COUNTERS {
            let (p0, p1) = (lower(c0[i]) * MULTIPLIERS[0], lower(c2[i]) * MULTIPLIERS[1]);
            (c0[i], c2[i]) = (p1 >> 32 ^ c1[i] ^ k0, p0 >> 32 ^ c3[i] ^ k1);
            (c1[i], c3[i]) = (p1, p0);
        }
    }
    let mut words = [0; 4 * COUNTERS];
    for (i, words) in words.as_chunks_mut().0.iter_mut().enumerate() {
        *words = [c0[i], c1[i], c2[i], c3[i]].map(|word| word as u32);
    }
    words
}

/// A word as a number in [0, 1), in steps of 2⁻²⁴ so that f32 holds it exactly.
#[inline(always)]
pub fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// FNV-1a of a name: the part of a key that tells modules and tensors apart.
pub fn name_key(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// A seed folded to one word; the seeds that people write stay distinct.
pub fn seed_key(seed: u64) -> u32 {
    (seed ^ (seed >> 32).wrapping_mul(0x9E37_79B9)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    // Random123, tests/kat_vectors, "philox4x32 10".
    #[test]
    fn known_answer_for_zero() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
    }

    #[test]
    fn known_answer_for_ones() {
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn a_block_has_the_words_of_its_counters() {
        let (rest, key) = ([u32::MAX, 0x1234_5678, 7], [0xa409_3822, 0x299f_31d0]);
        for first in [0, 144, u32::MAX - 3] {
            let one = |i| philox4x32([first.wrapping_add(i), rest[0], rest[1], rest[2]], key);
            let wanted: Vec<_> = (0..8).flat_map(one).collect();
            assert_eq!(block(first, rest, &keys(key)).as_slice(), wanted, "{first}");
        }
    }

    #[test]
    fn known_answer_for_pi() {
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
