//! Counted randomness: every random number is a function of integers, none is carried from step to step.
//!
//! Philox 4x32-10 of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3", SC'11), checked against the known
//! answers of the authors' Random123 library.

/// Four random words for a counter and a key.
#[inline(always)]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(counter[0]) * 0xD251_1F53;
        let p1 = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
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
