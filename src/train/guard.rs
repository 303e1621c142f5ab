//! What stops a run that is going wrong: a gradient that is no number, an adapter tensor that never gets one.
//!
//! With B = 0 at the start, A's gradient is exactly zero until B has moved, and B moves only in a step whose rate is not
//! zero. A tensor whose gradient is still exactly zero 8 steps after the first such step is not connected to the loss.

use crate::error::{Problem, UserError};
use crate::optim::Arena;
use anyhow::{Result, bail};
use rayon::prelude::*;

/// Steps of grace after the first step with lr > 0.
const GRACE: usize = 8;

/// Watches each adapter tensor until it has had a gradient.
pub struct Watch {
    alive: Vec<bool>,
    first_rate: Option<usize>,
}

impl Watch {
    /// A watch over all slices of `arena`.
    pub fn new(arena: &Arena) -> Self {
        Self { alive: vec![false; arena.slices().len()], first_rate: None }
    }

    /// Whether [`Self::check`] looks at single gradients: until each tensor has had one.
    pub fn is_waiting(&self) -> bool {
        !self.alive.iter().all(|a| *a)
    }

    /// Looks at the gradients of `step` (from 1), whose rate was `lr`.
    ///
    /// # Errors
    /// When a gradient is not finite, or a tensor stayed without gradient for too long.
    pub fn check(&mut self, arena: &Arena, step: usize, lr: f64, norm: f64) -> Result<()> {
        if !norm.is_finite() {
            let broken =
                arena.slices().iter().find(|s| arena.grad(s).iter().any(|g| !g.is_finite()));
            let name = broken.map_or("an unknown module", |s| s.name.as_str());
            let message = format!("the gradient of `{name}` is not finite at step {step}");
            return Err(UserError::from(
                Problem::new(message)
                    .hint("lower optimizer.init_args.lr, or set train.max_norm: 1.0"),
            )
            .into());
        }
        if lr > 0.0 {
            self.first_rate.get_or_insert(step);
        }
        if self.alive.iter().all(|a| *a) {
            return Ok(());
        }
        let slices = arena.slices();
        self.alive.par_iter_mut().zip(slices).filter(|(alive, _)| !**alive).for_each(
            |(alive, s)| {
                *alive = arena.grad(s).iter().any(|g| *g != 0.0);
            },
        );
        let late = self.first_rate.is_some_and(|first| step >= first + GRACE);
        if let (true, Some(dead)) = (late, self.alive.iter().position(|a| !a)) {
            let name = &slices[dead].name;
            if norm == 0.0 {
                let message =
                    format!("all gradients are exactly zero at step {step}: the run has diverged");
                let hint = "lower optimizer.init_args.lr, or set train.max_norm: 1.0";
                return Err(UserError::from(Problem::new(message).hint(hint)).into());
            }
            bail!("`{name}` has had no gradient up to step {step}: nothing of the loss reaches it");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> Arena {
        let mut arena = Arena::default();
        arena.push("moves", [1, 1], &[0.0]);
        arena.push("dead", [1, 1], &[0.0]);
        arena.grads[0] = 1.0;
        arena
    }

    fn run(steps: usize, lr: f64) -> Result<()> {
        let (arena, mut watch) = (arena(), Watch::new(&arena()));
        (1..=steps).try_for_each(|step| watch.check(&arena, step, lr, 1.0))
    }

    #[test]
    fn a_dead_tensor_is_named_after_the_grace() {
        let error = run(9, 1e-4).unwrap_err().to_string();
        assert!(error.contains("`dead`") && error.contains("step 9"), "{error}");
    }

    #[test]
    fn a_dead_tensor_is_left_in_peace_before() {
        run(8, 1e-4).unwrap();
    }

    #[test]
    fn steps_without_a_rate_do_not_count() {
        run(50, 0.0).unwrap();
    }

    #[test]
    fn a_gradient_that_is_no_number_names_its_module() {
        let mut arena = arena();
        let dead = arena.slices()[1].start;
        arena.grads[dead] = f32::NAN;
        let error = Watch::new(&arena).check(&arena, 7, 0.0, f64::NAN).unwrap_err().to_string();
        assert!(error.contains("`dead`") && error.contains("step 7"), "{error}");
    }
}
