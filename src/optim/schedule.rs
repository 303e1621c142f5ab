//! The learning rate of each step: linear warm-up, then half a cosine.
//!
//! Step i (from 0) of T with w warm-up steps: lr·i/w for i < w, then min + (lr − min)·(1 + cos(π·(i−w)/(T−w)))/2; never below
//! `min` past the end. transformers v5.23 `get_cosine_schedule_with_warmup`, `get_cosine_with_min_lr_schedule_with_warmup`

/// Cosine decay with warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cosine {
    /// The highest rate.
    pub lr: f64,
    /// The rate at the end.
    pub min_lr: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// All steps of the run.
    pub total_steps: usize,
}

impl Cosine {
    /// The rate that step `i` (from 0) uses.
    pub fn rate(&self, i: usize) -> f64 {
        if i < self.warmup_steps {
            return self.lr * i as f64 / self.warmup_steps as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((i - self.warmup_steps) as f64 / span).min(1.0);
        self.min_lr
            + (self.lr - self.min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Cosine = Cosine { lr: 2e-4, min_lr: 0.0, warmup_steps: 10, total_steps: 30 };

    #[test]
    fn the_first_rate_is_zero() {
        assert_eq!(RUN.rate(0), 0.0);
    }

    #[test]
    fn warm_up_ends_at_the_full_rate() {
        assert_eq!(RUN.rate(10), 2e-4);
    }

    #[test]
    fn the_last_step_is_near_the_floor() {
        assert!((RUN.rate(29) - 1.231_166e-6).abs() < 1e-11);
    }

    #[test]
    fn the_floor_is_the_minimum_when_one_is_given() {
        assert_eq!(Cosine { min_lr: 1e-5, ..RUN }.rate(30), 1e-5);
    }

    #[test]
    fn no_warm_up_starts_at_the_full_rate() {
        assert_eq!(Cosine { warmup_steps: 0, ..RUN }.rate(0), 2e-4);
    }
}
