//! AdamW with torch's semantics, as one pass over the arena.
//!
//! p ← p·(1 − lr·wd); m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; p ← p − (lr/(1−β₁ᵗ))·m / (√v/√(1−β₂ᵗ) + ε), t from 1.
//! Loshchilov & Hutter 2019, arXiv:1711.05101 · torch 2.x `optim/adamw.py::_single_tensor_adamw`

use super::arena::{Arena, PIECE};
use crate::ops::simd;
use rayon::prelude::*;

/// Hyper-parameters of AdamW; the learning rate comes from the schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay rates β₁ and β₂ of the two moments.
    pub betas: [f64; 2],
    /// ε, added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// The optimizer's state: both moments, f32, laid out as the arena.
pub struct AdamW {
    config: AdamWConfig,
    /// First moments.
    pub m: Vec<f32>,
    /// Second moments.
    pub v: Vec<f32>,
    /// Updates done.
    pub t: i32,
}

impl AdamW {
    /// Fresh state for an arena.
    pub fn new(config: AdamWConfig, arena: &Arena) -> Self {
        let n = arena.params.len();
        Self { config, m: vec![0.0; n], v: vec![0.0; n], t: 0 }
    }

    /// One update with the arena's gradients at learning rate `lr`.
    pub fn step(&mut self, arena: &mut Arena, lr: f64) {
        self.t += 1;
        let [b1, b2] = self.config.betas;
        let step_size = (lr / (1.0 - b1.powi(self.t))) as f32;
        let root2 = (1.0 - b2.powi(self.t)).sqrt() as f32;
        let decay = (1.0 - lr * self.config.weight_decay) as f32;
        let (c1, c2, b2, eps) =
            ((1.0 - b1) as f32, (1.0 - b2) as f32, b2 as f32, self.config.eps as f32);
        let moments = self.m.par_chunks_mut(PIECE).zip(self.v.par_chunks_mut(PIECE));
        let values = arena.params.par_chunks_mut(PIECE).zip(arena.grads.par_chunks(PIECE));
        values.zip(moments).for_each(|((p, g), (m, v))| {
            simd::vectorized(|| {
                for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    *p *= decay;
                    *m += (g - *m) * c1;
                    *v = *v * b2 + c2 * g * g;
                    *p -= step_size * *m / (v.sqrt() / root2 + eps);
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // torch 2.x: p = tensor([1.0, -2.0]); AdamW(lr=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1);
    // grads [0.5, -1.0] then [0.25, 2.0]. First update of Adam is lr·sign(g): 1·0.99 − 0.1 = 0.89.
    #[test]
    fn first_update_is_decay_and_signed_rate() {
        let mut arena = Arena::default();
        let s = arena.push("p", [1, 2], &[1.0, -2.0]);
        arena.grads[..2].copy_from_slice(&[0.5, -1.0]);
        let config = AdamWConfig { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 };
        AdamW::new(config, &arena).step(&mut arena, 0.1);
        let p = arena.param(&s);
        assert!((p[0] - 0.89).abs() < 1e-6 && (p[1] + 1.88).abs() < 1e-6, "{p:?}");
    }
}
