//! Stochastic gradient descent with torch's semantics, as one pass over the arena.
//!
//! g ← g + wd·p; with momentum μ: b ← μb + (1−dampening)·g, at the first step b ← g, and g ← g + μb (Nesterov) or g ← b; p ← p − lr·g.
//! torch 2.x `optim/sgd.py::_single_tensor_sgd`

use super::arena::{Arena, PIECE};
use super::state::Place;
use crate::gpu::{Arg, NULL};
use crate::ops::{Buf, Cx, simd};
use candle_core::Result;
use rayon::prelude::*;

/// Hyper-parameters of SGD; the learning rate comes from the schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    /// μ; 0 for none.
    pub momentum: f64,
    /// What is taken off a gradient before it enters the momentum, as a share.
    pub dampening: f64,
    /// Weight decay, a part of the gradient.
    pub weight_decay: f64,
    /// Nesterov's momentum; torch asks for momentum and no dampening then.
    pub nesterov: bool,
}

/// The optimizer's state: the momentum, f32, laid out as the arena, if there is any.
pub struct Sgd {
    config: SgdConfig,
    buffer: Buffer,
    /// Updates done.
    pub t: i32,
}

enum Buffer {
    None,
    Host(Vec<f32>),
    Device(Buf),
}

impl Sgd {
    /// Fresh state for an arena.
    ///
    /// # Errors
    /// When a device has no memory left.
    pub fn new(config: SgdConfig, cx: &Cx, arena: &Arena) -> Result<Self> {
        let n = arena.params.len();
        let buffer = if config.momentum == 0.0 {
            Buffer::None
        } else if arena.device.is_some() {
            let buffer = cx.alloc_f32(&[n.max(1)])?;
            buffer.memory()?.fill(0)?;
            Buffer::Device(buffer)
        } else {
            Buffer::Host(vec![0.0; n])
        };
        Ok(Self { config, buffer, t: 0 })
    }

    /// The count of updates and the arrays of the state.
    pub(super) fn places(&mut self) -> Result<(&mut i32, Vec<(&'static str, Place<'_>)>)> {
        let momentum = match &mut self.buffer {
            Buffer::None => return Ok((&mut self.t, Vec::new())),
            Buffer::Host(b) => Place::F32(b),
            Buffer::Device(b) => Place::DeviceF32(b.memory()?, b.len()),
        };
        Ok((&mut self.t, vec![("momentum", momentum)]))
    }

    /// One update with the arena's gradients times `factor` (clipping) at learning rate `lr`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step(&mut self, cx: &Cx, arena: &mut Arena, lr: f64, factor: f32) -> Result<()> {
        self.t += 1;
        let SgdConfig { momentum, dampening, weight_decay, nesterov } = self.config;
        // The buffer is zero before the first step, which takes the whole gradient.
        let fresh = if self.t == 1 { 1.0 } else { (1.0 - dampening) as f32 };
        let (lr, l2, momentum) = (lr as f32, weight_decay as f32, momentum as f32);
        if let (Some(on), Some(gpu)) = (&arena.device, cx.gpu()) {
            let n = on.params.len();
            let buffer = if let Buffer::Device(b) = &self.buffer { b.arg()? } else { NULL };
            let args = [
                on.params.arg()?,
                on.copy.as_ref().map_or(Ok(NULL), Buf::arg)?,
                on.grads.arg()?,
                buffer,
                Arg::U64(n as u64),
                Arg::F32(factor),
                Arg::F32(lr),
                Arg::F32(l2),
                Arg::F32(momentum),
                Arg::F32(fresh),
                Arg::I32(nesterov.into()),
            ];
            // SAFETY: sgd(float *p, T *copy, const float *g, float *buffer, u64 n, float scale, float lr, float l2, float momentum,
            // float fresh, int nesterov), all arrays of n elements, copy and buffer or null.
            return unsafe { gpu.each_of(cx.products(), "sgd", n, &args) };
        }
        let values = arena.params.par_chunks_mut(PIECE).zip(arena.grads.par_chunks(PIECE));
        let Buffer::Host(buffer) = &mut self.buffer else {
            values.for_each(|(p, g)| {
                simd::vectorized(
                    #[inline(always)]
                    || {
                        for (p, &g) in p.iter_mut().zip(g) {
                            *p -= lr * (g * factor + l2 * *p);
                        }
                    },
                );
            });
            return Ok(());
        };
        values.zip(buffer.par_chunks_mut(PIECE)).for_each(|((p, g), b)| {
            simd::vectorized(
                #[inline(always)]
                || {
                    for ((p, &g), b) in p.iter_mut().zip(g).zip(b) {
                        let g = g * factor + l2 * *p;
                        *b = *b * momentum + fresh * g;
                        *p -= lr * if nesterov { g + momentum * *b } else { *b };
                    }
                },
            );
        });
        Ok(())
    }
}
