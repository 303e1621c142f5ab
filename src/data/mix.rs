//! The order of samples in each epoch, of one set or of several with weights.
//!
//! A set of n samples and weight w gives each epoch ⌊w·n + ½⌋ samples: all of them ⌊w⌋ times, and a share of them that moves on from
//! epoch to epoch through an order of their own, so that over the epochs every sample counts the same. All are shuffled together as torch
//! shuffles (`super::sampler`); with one set of weight 1 the order is torch's.

use super::sampler::{Epochs, permutation};

/// The samples of one set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// Their number.
    pub samples: usize,
    /// How often each counts in an epoch.
    pub weight: f64,
}

impl Part {
    fn per_epoch(self) -> usize {
        (self.weight * self.samples as f64).round() as usize
    }
}

/// The epochs of a mix: numbers of samples, those of the first set first.
pub struct Mix {
    parts: Vec<Part>,
    /// For each part with a fraction, the order in which the fraction takes its samples.
    orders: Vec<Vec<usize>>,
    epochs: Epochs,
    epoch: usize,
    plain: bool,
}

/// The samples of an epoch.
pub fn per_epoch(parts: &[Part]) -> usize {
    parts.iter().map(|p| p.per_epoch()).sum()
}

impl Mix {
    /// For sets in order, the data's seed, shuffled or not.
    pub fn new(parts: &[Part], seed: u64, shuffle: bool) -> Self {
        let plain = parts.iter().all(|p| p.per_epoch() == p.samples);
        let order = |(i, p): (usize, &Part)| {
            if p.per_epoch().is_multiple_of(p.samples.max(1)) {
                return Vec::new();
            }
            if shuffle {
                permutation(p.samples, seed.wrapping_add(1 + i as u64))
            } else {
                (0..p.samples).collect()
            }
        };
        Self {
            orders: parts.iter().enumerate().map(order).collect(),
            epochs: Epochs::new(per_epoch(parts), seed, shuffle),
            parts: parts.to_vec(),
            epoch: 0,
            plain,
        }
    }

    /// The samples of the epoch at hand, before they are shuffled.
    fn pool(&self) -> Vec<usize> {
        let (mut pool, mut first) = (Vec::new(), 0);
        for (part, order) in self.parts.iter().zip(&self.orders) {
            let (n, count) = (part.samples, part.per_epoch());
            let whole = count.checked_div(n).unwrap_or(0);
            for _ in 0..whole {
                pool.extend(first..first + n);
            }
            let rest = count - whole * n;
            let mut taken: Vec<usize> =
                (0..rest).map(|j| first + order[(self.epoch * rest + j) % n]).collect();
            taken.sort_unstable();
            pool.extend(taken);
            first += n;
        }
        pool
    }
}

impl Iterator for Mix {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let mut order = self.epochs.next()?;
        if !self.plain {
            let pool = self.pool();
            for i in &mut order {
                *i = pool[*i];
            }
        }
        self.epoch += 1;
        Some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(parts: &[Part], epochs: usize) -> Vec<usize> {
        let mut counts = vec![0; parts.iter().map(|p| p.samples).sum()];
        for order in Mix::new(parts, 3, true).take(epochs) {
            for i in order {
                counts[i] += 1;
            }
        }
        counts
    }

    #[test]
    fn a_weight_of_two_shows_every_sample_twice() {
        let parts = [Part { samples: 3, weight: 2.0 }, Part { samples: 2, weight: 1.0 }];
        assert_eq!(counts(&parts, 1), [2, 2, 2, 1, 1]);
    }

    #[test]
    fn a_half_shows_every_sample_once_in_two_epochs() {
        let parts = [Part { samples: 6, weight: 0.5 }, Part { samples: 1, weight: 1.0 }];
        assert_eq!(counts(&parts, 2), [1, 1, 1, 1, 1, 1, 2]);
    }

    #[test]
    fn one_set_keeps_torchs_order() {
        let mix: Vec<_> = Mix::new(&[Part { samples: 8, weight: 1.0 }], 7, true).take(2).collect();
        assert_eq!(mix, Epochs::new(8, 7, true).take(2).collect::<Vec<_>>());
    }
}
