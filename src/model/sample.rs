//! The next token from logits: repetition penalty, temperature, top-p, a counted random number.
//!
//! In transformers' order and meaning: `RepetitionPenaltyLogitsProcessor` (a seen token's logit is divided by the penalty if
//! positive, multiplied if negative), then temperature, then `TopPLogitsWarper`.

use crate::ops::philox::{philox4x32, seed_key, unit};
use std::collections::HashSet;

/// How to sample.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Probability mass to sample from, in (0, 1].
    pub top_p: f32,
    /// 1 for none.
    pub repetition_penalty: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

/// Samples one sequence.
pub struct Sampler {
    sampling: Sampling,
    seen: HashSet<u32>,
    drawn: u32,
}

impl Sampler {
    /// For a sequence that begins with `prompt`.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Self {
        Self { sampling, seen: prompt.iter().copied().collect(), drawn: 0 }
    }

    /// The next token for these logits (V).
    pub fn next(&mut self, mut logits: Vec<f32>) -> u32 {
        let s = self.sampling;
        for &id in &self.seen {
            let z = &mut logits[id as usize];
            *z = if *z > 0.0 { *z / s.repetition_penalty } else { *z * s.repetition_penalty };
        }
        let id = if s.temperature == 0.0 { argmax(&logits) } else { self.draw(&logits) };
        self.seen.insert(id);
        id
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let s = self.sampling;
        let top = logits[argmax(logits) as usize];
        let weight = |z: &f32| ((z - top) / s.temperature).exp();
        let mut order: Vec<(u32, f32)> = (0..).zip(logits.iter().map(weight)).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let total: f32 = order.iter().map(|o| o.1).sum();
        let mut mass = 0.0;
        let keep = order.iter().position(|o| {
            mass += o.1 / total;
            mass >= s.top_p
        });
        order.truncate(keep.map_or(order.len(), |k| k + 1));
        let kept: f32 = order.iter().map(|o| o.1).sum();
        let mut rest =
            unit(philox4x32([self.drawn, 0, 0, 0], [seed_key(s.seed), 0x5A4D])[0]) * kept;
        self.drawn += 1;
        for &(id, w) in &order {
            rest -= w;
            if rest < 0.0 {
                return id;
            }
        }
        order[order.len() - 1].0
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, &z)| if z > best.1 { (i, z) } else { best });
    best.0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_p: 1.0, repetition_penalty: 1.0, seed: 1 };

    #[test]
    fn zero_temperature_takes_the_likeliest() {
        assert_eq!(Sampler::new(GREEDY, &[]).next(vec![0.0, 3.0, 1.0]), 1);
    }

    #[test]
    fn a_penalty_turns_away_from_what_was_seen() {
        let sampling = Sampling { repetition_penalty: 4.0, ..GREEDY };
        assert_eq!(Sampler::new(sampling, &[1]).next(vec![0.0, 3.0, 1.0]), 2);
    }

    #[test]
    fn a_small_top_p_leaves_one_choice() {
        let sampling = Sampling { temperature: 1.0, top_p: 0.1, ..GREEDY };
        let mut sampler = Sampler::new(sampling, &[]);
        assert!((0..50).all(|_| sampler.next(vec![0.0, 1.0, 0.5]) == 1));
    }

    #[test]
    fn sampling_follows_the_probabilities() {
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, ..GREEDY }, &[]);
        let ones = (0..4000).filter(|_| sampler.next(vec![0.0, 3.0f32.ln()]) == 1).count();
        assert!((2850..3150).contains(&ones), "{ones}");
    }
}
