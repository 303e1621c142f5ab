//! AdamW and Adam with torch's semantics, as one pass over the arena.
//!
//! AdamW: p ← p·(1 − lr·wd); m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; p ← p − (lr/(1−β₁ᵗ))·m / (√v/√(1−β₂ᵗ) + ε), t from 1.
//! Adam: the same with g ← g + wd·p first, and p not decayed.
//! Loshchilov & Hutter 2019, arXiv:1711.05101 · torch 2.x `optim/adamw.py`, `optim/adam.py::_single_tensor_adam`

use super::arena::{Arena, PIECE};
use super::state::Place;
use crate::gpu::{Arg, NULL};
use crate::ops::{Buf, Cx, simd};
use candle_core::Result;
use rayon::prelude::*;

/// Hyper-parameters of AdamW; the learning rate comes from the schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay rates β₁ and β₂ of the two moments.
    pub betas: [f64; 2],
    /// ε, added to the root of the second moment.
    pub eps: f64,
    /// Weight decay: decoupled in AdamW, a part of the gradient in Adam.
    pub weight_decay: f64,
}

/// Both moments, f32, for an element: bytes.
pub(super) const STATE_BYTES: usize = 8;

/// The optimizer's state: both moments, f32, laid out as the arena.
pub struct AdamW {
    config: AdamWConfig,
    /// Whether the decay is a part of the gradient: Adam.
    l2: bool,
    moments: Moments,
    /// Updates done.
    pub t: i32,
}

/// Both moments, where the arena is.
enum Moments {
    Host { m: Vec<f32>, v: Vec<f32> },
    Device { m: Buf, v: Buf },
}

impl AdamW {
    /// Fresh state for an arena.
    ///
    /// # Errors
    /// When a device has no memory left.
    pub fn new(config: AdamWConfig, cx: &Cx, arena: &Arena) -> Result<Self> {
        let n = arena.params.len();
        let moments = if arena.device.is_some() {
            let (m, v) = (cx.alloc_f32(&[n.max(1)])?, cx.alloc_f32(&[n.max(1)])?);
            m.memory()?.fill(0)?;
            v.memory()?.fill(0)?;
            Moments::Device { m, v }
        } else {
            Moments::Host { m: vec![0.0; n], v: vec![0.0; n] }
        };
        Ok(Self { config, l2: false, moments, t: 0 })
    }

    /// Fresh state of Adam for an arena.
    ///
    /// # Errors
    /// When a device has no memory left.
    pub fn adam(config: AdamWConfig, cx: &Cx, arena: &Arena) -> Result<Self> {
        Ok(Self { l2: true, ..Self::new(config, cx, arena)? })
    }

    /// The count of updates and the arrays of the state.
    pub(super) fn places(&mut self) -> Result<(&mut i32, Vec<(&'static str, Place<'_>)>)> {
        let [m, v] = match &mut self.moments {
            Moments::Host { m, v } => [Place::F32(m), Place::F32(v)],
            Moments::Device { m, v } => {
                [Place::DeviceF32(m.memory()?, m.len()), Place::DeviceF32(v.memory()?, v.len())]
            }
        };
        Ok((&mut self.t, vec![("m", m), ("v", v)]))
    }

    /// One update with the arena's gradients times `factor` (clipping) at learning rate `lr`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step(&mut self, cx: &Cx, arena: &mut Arena, lr: f64, factor: f32) -> Result<()> {
        self.t += 1;
        let [b1, b2] = self.config.betas;
        let step_size = (lr / (1.0 - b1.powi(self.t))) as f32;
        let root2 = (1.0 - b2.powi(self.t)).sqrt() as f32;
        let wd = self.config.weight_decay;
        let (decay, l2) = if self.l2 { (1.0, wd as f32) } else { ((1.0 - lr * wd) as f32, 0.0) };
        let (c1, c2, b2, eps) =
            ((1.0 - b1) as f32, (1.0 - b2) as f32, b2 as f32, self.config.eps as f32);
        let (m, v) = match &mut self.moments {
            Moments::Host { m, v } => (m, v),
            Moments::Device { m, v } => {
                let (Some(on), Some(gpu)) = (&arena.device, cx.gpu()) else { return Ok(()) };
                let n = on.params.len();
                let args = [
                    on.params.arg()?,
                    on.copy.as_ref().map_or(Ok(NULL), Buf::arg)?,
                    on.grads.arg()?,
                    m.arg()?,
                    v.arg()?,
                    Arg::U64(n as u64),
                    Arg::F32(factor),
                    Arg::F32(step_size),
                    Arg::F32(root2),
                    Arg::F32(decay),
                    Arg::F32(c1),
                    Arg::F32(c2),
                    Arg::F32(b2),
                    Arg::F32(eps),
                    Arg::F32(l2),
                ];
                // SAFETY: adamw(float *p, T *copy, const float *g, float *m, float *v, u64 n, float scale, float step_size,
                // float root2, float decay, float c1, float c2, float b2, float eps, float l2), all arrays of n elements.
                return unsafe { gpu.each_of(cx.products(), "adamw", n, &args) };
            }
        };
        // Memory that the system zeroes is mapped twice where it is read first: as a shared page of zeros, and at the first write, for which all
        // threads wait each time. So the first update writes zeros before it reads them.
        let is_first = self.t == 1;
        let moments = m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE));
        let values = arena.params.par_chunks_mut(PIECE).zip(arena.grads.par_chunks(PIECE));
        values.zip(moments).for_each(|((p, g), (m, v))| {
            if is_first {
                m.fill(0.0);
                v.fill(0.0);
            }
            simd::vectorized(
                #[inline(always)]
                || {
                    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                        let g = g * factor + l2 * *p;
                        *p *= decay;
                        *m += (g - *m) * c1;
                        *v = *v * b2 + c2 * g * g;
                        *p -= step_size * *m / (v.sqrt() / root2 + eps);
                    }
                },
            );
        });
        Ok(())
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
        let cx = Cx::cpu(candle_core::DType::F32, 1).unwrap();
        AdamW::new(config, &cx, &arena).unwrap().step(&cx, &mut arena, 0.1, 1.0).unwrap();
        let p = arena.param(&s);
        assert!((p[0] - 0.89).abs() < 1e-6 && (p[1] + 1.88).abs() < 1e-6, "{p:?}");
    }
}
