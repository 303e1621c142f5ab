//! The learning rate of each step: linear warm-up, then a shape.
//!
//! Step i (from 0) of T, w of them warm-up: lr·i/w for i < w (LitGPT's: the first rate is 0). After that, with x = (i−w)/(T−w):
//! - cosine: min + (lr − min)·(1 + cos πx)/2. transformers `get_cosine_schedule_with_warmup`, `…_with_min_lr_…`
//! - linear: lr − (lr − min)·x. transformers `get_linear_schedule_with_warmup`, `get_polynomial_decay_schedule_with_warmup` of power 1
//! - constant: lr. transformers `get_constant_schedule_with_warmup`
//! - warmup-stable-decay: lr until the last d steps, then linear to min. Hu et al. 2024 (MiniCPM), arXiv:2404.06395; transformers
//!   `get_wsd_schedule(decay_type="linear")`, which starts its warm-up at min
//!
//! From T on the rate stays at min (constant: lr); transformers' cosine rises again.

use std::f64::consts::PI;

/// What the rate does after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Half a cosine.
    Cosine,
    /// A line.
    Linear,
    /// The highest rate.
    Constant,
    /// The highest rate, then a line.
    Wsd {
        /// The line's share of all steps, between 0 and 1.
        decay_fraction: f64,
    },
}

/// The learning rates of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// What the rate does after the warm-up.
    pub shape: Shape,
    /// The highest rate.
    pub lr: f64,
    /// The rate at the end.
    pub min_lr: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// All steps of the run.
    pub total_steps: usize,
}

impl Schedule {
    /// The rate that step `i` (from 0) uses.
    pub fn rate(&self, i: usize) -> f64 {
        if i < self.warmup_steps {
            return self.lr * i as f64 / self.warmup_steps as f64;
        }
        let after = self.total_steps.saturating_sub(self.warmup_steps);
        // How far the rate has come on its way from lr to min, which takes the last `steps` of the run.
        let fallen = |steps: usize| {
            let begin = self.total_steps.saturating_sub(steps);
            let done = i.saturating_sub(begin) as f64 / steps.max(1) as f64;
            if i < self.total_steps { done } else { 1.0 }
        };
        let weight = match self.shape {
            Shape::Cosine => 0.5 * (1.0 + (PI * fallen(after)).cos()),
            Shape::Linear => 1.0 - fallen(after),
            Shape::Constant => 1.0,
            Shape::Wsd { decay_fraction } => {
                let decay = (decay_fraction * self.total_steps as f64).round() as usize;
                1.0 - fallen(decay.min(after))
            }
        };
        self.min_lr + (self.lr - self.min_lr) * weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Schedule =
        Schedule { shape: Shape::Cosine, lr: 2e-4, min_lr: 0.0, warmup_steps: 10, total_steps: 30 };
    const WSD: Shape = Shape::Wsd { decay_fraction: 0.2 };
    const STEPS: [usize; 9] = [0, 5, 10, 11, 20, 24, 27, 29, 30];

    // transformers 5.23.0, torch 2.15.0, o = torch.optim.SGD([p], lr=2e-4), s one of the schedules named below: the rates are
    // o.param_groups[0]["lr"] before o.step(); s.step().
    #[track_caller]
    fn is(shape: Shape, min_lr: f64, steps: &[usize], want: &[f64]) {
        for (i, want) in steps.iter().zip(want) {
            let rate = Schedule { shape, min_lr, ..RUN }.rate(*i);
            assert!((rate - want).abs() < 1e-13, "step {i}: {rate:e} instead of {want:e}");
        }
    }

    #[test]
    fn cosine_is_that_of_transformers() {
        // get_cosine_schedule_with_warmup(o, 10, 30)
        let want = [
            0.0,
            1e-4,
            2e-4,
            1.987_688_341e-4,
            1e-4,
            4.122_147_477e-5,
            1.089_934_758e-5,
            1.231_165_94e-6,
            0.0,
        ];
        is(Shape::Cosine, 0.0, &STEPS, &want);
    }

    #[test]
    fn cosine_with_a_minimum_is_that_of_transformers() {
        // get_cosine_with_min_lr_schedule_with_warmup(o, 10, 30, min_lr=1e-5)
        let want = [
            0.0,
            1e-4,
            2e-4,
            1.988_303_924e-4,
            1.05e-4,
            4.916_040_103e-5,
            2.035_438_02e-5,
            1.116_960_764e-5,
            1e-5,
        ];
        is(Shape::Cosine, 1e-5, &STEPS, &want);
    }

    #[test]
    fn linear_is_that_of_transformers() {
        // get_linear_schedule_with_warmup(o, 10, 30)
        let want = [0.0, 1e-4, 2e-4, 1.9e-4, 1e-4, 6e-5, 3e-5, 1e-5, 0.0];
        is(Shape::Linear, 0.0, &STEPS, &want);
    }

    #[test]
    fn linear_with_a_minimum_is_that_of_transformers() {
        // get_polynomial_decay_schedule_with_warmup(o, 10, 30, lr_end=1e-5, power=1.0)
        let want = [0.0, 1e-4, 2e-4, 1.905e-4, 1.05e-4, 6.7e-5, 3.85e-5, 1.95e-5, 1e-5];
        is(Shape::Linear, 1e-5, &STEPS, &want);
    }

    #[test]
    fn constant_is_that_of_transformers() {
        // get_constant_schedule_with_warmup(o, 10)
        let want = [0.0, 1e-4, 2e-4, 2e-4, 2e-4, 2e-4, 2e-4, 2e-4, 2e-4];
        is(Shape::Constant, 0.0, &STEPS, &want);
    }

    #[test]
    fn wsd_is_that_of_transformers() {
        // get_wsd_schedule(o, 10, 6, 30, decay_type="linear")
        let want = [0.0, 1e-4, 2e-4, 2e-4, 2e-4, 2e-4, 1e-4, 3.333_333_333e-5, 0.0];
        is(WSD, 0.0, &STEPS, &want);
    }

    #[test]
    fn wsd_with_a_minimum_is_that_of_transformers_after_the_warm_up() {
        // get_wsd_schedule(o, 10, 6, 30, decay_type="linear", min_lr_ratio=0.05)
        let want = [2e-4, 2e-4, 2e-4, 2e-4, 1.05e-4, 4.166_666_667e-5, 1e-5];
        is(WSD, 1e-5, &STEPS[2..], &want);
    }

    #[test]
    fn after_the_end_the_rate_stays_at_the_floor() {
        for shape in [Shape::Cosine, Shape::Linear, WSD] {
            is(shape, 1e-5, &[31, 45, 50, 1000], &[1e-5; 4]);
        }
    }

    #[test]
    fn no_warm_up_starts_at_the_full_rate() {
        assert_eq!(Schedule { warmup_steps: 0, ..RUN }.rate(0), 2e-4);
    }

    #[test]
    fn wsd_without_a_decay_ends_at_the_full_rate() {
        let run = Schedule { shape: Shape::Wsd { decay_fraction: 0.0 }, ..RUN };
        assert_eq!(run.rate(29), 2e-4);
    }

    #[test]
    fn a_decay_longer_than_what_follows_the_warm_up_begins_there() {
        let all = Schedule { shape: Shape::Wsd { decay_fraction: 1.0 }, ..RUN };
        let linear = Schedule { shape: Shape::Linear, ..RUN };
        assert_eq!(
            (0..32).map(|i| all.rate(i)).collect::<Vec<_>>(),
            (0..32).map(|i| linear.rate(i)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_run_of_warm_up_alone_has_finite_rates() {
        let run = Schedule { warmup_steps: 30, ..RUN };
        assert!((0..40).all(|i| run.rate(i).is_finite()));
    }
}
