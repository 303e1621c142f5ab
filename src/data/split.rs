//! The split of `datasets`: `Dataset.train_test_split(test_size, seed)`.
//!
//! The test part is the first `ceil(test_size · n)` rows of `np.random.default_rng(seed).permutation(n)`, training takes the rest in its
//! order. numpy spreads the seed with `SeedSequence`, draws from PCG64 (XSL-RR 128/64), two 32-bit numbers from each word, low half
//! first, and shuffles from the end with the first number that fits under a mask.
//! datasets 3.6 `arrow_dataset.py`; numpy 2.4 `bit_generator.pyx`, `_generator.pyx`, `distributions.c`

use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;

/// Row numbers of the training and the test part.
pub fn train_test_split(n: usize, test_size: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let tests = (test_size * n as f64).ceil().clamp(0.0, n as f64) as usize;
    let mut test = permutation(n, seed);
    let train = test.split_off(tests);
    (train, test)
}

/// `np.random.default_rng(seed).permutation(n)`.
fn permutation(n: usize, seed: u64) -> Vec<usize> {
    let [a, b, c, d] = spread(seed);
    let wide = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
    let mut words = Words { pcg: Pcg64::new(wide(a, b), wide(c, d)), high: None };
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        order.swap(last, words.up_to(last));
    }
    order
}

/// PCG64 as a source of 32-bit numbers.
struct Words {
    pcg: Pcg64,
    high: Option<u32>,
}

impl Words {
    fn next(&mut self) -> u32 {
        self.high.take().unwrap_or_else(|| {
            let word = self.pcg.next_u64();
            self.high = Some((word >> 32) as u32);
            word as u32
        })
    }

    /// A number from 0 to `last`, which is not 0: `random_interval`.
    fn up_to(&mut self, last: usize) -> usize {
        let last = last as u64;
        let mask = u64::MAX >> last.leading_zeros();
        loop {
            let fits = u32::try_from(last).is_ok();
            let word = if fits { u64::from(self.next()) } else { self.pcg.next_u64() };
            if word & mask <= last {
                return (word & mask) as usize;
            }
        }
    }
}

/// `SeedSequence(seed).generate_state(4, np.uint64)`, after M. O'Neill's `seed_seq_fe`.
fn spread(seed: u64) -> [u64; 4] {
    let scramble = |value: u32, key: &mut u32, factor: u32| {
        let value = value ^ *key;
        *key = key.wrapping_mul(factor);
        let value = value.wrapping_mul(*key);
        value ^ value >> 16
    };
    let mix = |x: u32, y: u32| {
        let value = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
        value ^ value >> 16
    };
    let mut key = 0x43b0_d7e5;
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0];
    for word in &mut pool {
        *word = scramble(*word, &mut key, 0x931e_8875);
    }
    for from in 0..4 {
        for to in (0..4).filter(|to| *to != from) {
            pool[to] = mix(pool[to], scramble(pool[from], &mut key, 0x931e_8875));
        }
    }
    let mut key = 0x8b51_f9dd;
    let mut half = |i: usize| u64::from(scramble(pool[i % 4], &mut key, 0x58f3_8ded));
    std::array::from_fn(|i| half(2 * i) | half(2 * i + 1) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    // numpy 2.4: np.random.SeedSequence(42).generate_state(4, np.uint64)
    #[test]
    fn seeds_are_spread_as_numpy_does() {
        let words = [
            0x9f1e_2e6d_cd54_0ab7,
            0xd578_73dc_79fb_94b6,
            0x7d28_2a1b_64d4_20b7,
            0x3365_7971_4692_d5ff,
        ];
        assert_eq!(spread(42), words);
    }

    // numpy 2.4: np.random.default_rng(42).permutation(5)
    #[test]
    fn a_permutation_is_numpys() {
        assert_eq!(permutation(5, 42), [4, 2, 3, 1, 0]);
    }

    #[test]
    fn no_test_size_means_no_test_part() {
        assert_eq!(train_test_split(5, 0.0, 1).1.len(), 0);
    }
}
