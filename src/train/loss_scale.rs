//! The dynamic loss scale of f16: gradients are computed times a power of two, so that small ones do not vanish.
//!
//! A step whose gradients overflow is skipped and halves the scale; after 2,000 good steps in a row it doubles. As torch's
//! `GradScaler` starts: 65,536.

/// Good steps in a row that double the scale.
const GROW_AFTER: usize = 2000;
/// Below this, gradients overflow for another reason than the scale.
const LEAST: f32 = 1.0;

/// The scale; 1 and fixed where the precision needs none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    scale: f32,
    good: usize,
    dynamic: bool,
}

impl LossScale {
    /// Dynamic for f16, else none.
    pub fn new(dynamic: bool) -> Self {
        Self { scale: if dynamic { 65_536.0 } else { 1.0 }, good: 0, dynamic }
    }

    /// The scale and its good steps in a row.
    pub fn memory(&self) -> (f32, usize) {
        (self.scale, self.good)
    }

    /// With the memory of the run that is taken up.
    #[must_use]
    pub fn with_memory(self, (scale, good): (f32, usize)) -> Self {
        Self { scale, good, ..self }
    }

    /// What the loss is multiplied by.
    pub fn get(&self) -> f32 {
        self.scale
    }

    /// The scale for the record, where there is one.
    pub fn shown(&self) -> Option<f32> {
        self.dynamic.then_some(self.scale)
    }

    /// Takes note of a step; says whether it is to be skipped because its gradients overflowed.
    pub fn update(&mut self, finite: bool) -> bool {
        if !self.dynamic {
            return false;
        }
        if !finite {
            (self.scale, self.good) = (self.scale / 2.0, 0);
            return self.scale >= LEAST;
        }
        self.good += 1;
        if self.good == GROW_AFTER {
            (self.scale, self.good) = (self.scale * 2.0, 0);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_halves_and_skips() {
        let mut scale = LossScale::new(true);
        assert_eq!((scale.update(false), scale.get()), (true, 32_768.0));
    }

    #[test]
    fn good_steps_double() {
        let mut scale = LossScale::new(true);
        (0..2000).for_each(|_| assert!(!scale.update(true)));
        assert_eq!(scale.get(), 131_072.0);
    }

    #[test]
    fn an_overflow_at_the_least_scale_is_not_skipped() {
        let mut scale = LossScale::new(true);
        let skipped = (0..20).filter(|_| scale.update(false)).count();
        assert_eq!(skipped, 16);
    }

    #[test]
    fn without_a_scale_nothing_is_skipped() {
        let mut scale = LossScale::new(false);
        assert_eq!((scale.update(false), scale.get()), (false, 1.0));
    }
}
