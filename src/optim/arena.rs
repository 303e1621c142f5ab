//! All that trains lies in one arena: a table of slices over flat f32 arrays of parameters and gradients.
//!
//! Clipping, the optimizer and checkpointing are passes over the arrays. A slice starts at a multiple of 256 elements (the block of
//! 8-bit optimizer states); what lies between slices is zero and stays zero. Sums run over fixed pieces in a fixed order, so they
//! do not depend on threads. On a CUDA device the arrays live there and host arrays are copies that are refreshed on demand.

use crate::gpu::Arg;
use crate::ops::lora::{Gradients, Part};
use crate::ops::{Buf, Cx, simd};
use candle_core::{DType, Result};
use rayon::prelude::*;
use std::ops::Range;

/// Elements to which slices are aligned.
pub const ALIGN: usize = 256;
/// Elements of a piece that one task handles.
pub(super) const PIECE: usize = 1 << 14;

/// A named part of the arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The tensor's name, as the checkpoint format knows it.
    pub name: String,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// First element in the arena's arrays.
    pub start: usize,
}

impl Slice {
    /// Where the slice lies in the arrays.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.shape[0] * self.shape[1]
    }
}

/// The arrays on a device.
pub(super) struct OnDevice {
    pub(super) params: Buf,
    /// The parameters as operands of products, where these are not f32.
    pub(super) copy: Option<Buf>,
    pub(super) grads: Buf,
}

/// Parameters and gradients of everything that trains, f32.
#[derive(Default)]
pub struct Arena {
    pub(crate) slices: Vec<Slice>,
    /// Parameter values.
    pub params: Vec<f32>,
    /// Gradients, accumulated over a step.
    pub grads: Vec<f32>,
    pub(super) device: Option<OnDevice>,
}

impl Arena {
    /// Appends a slice with its initial values and returns it.
    ///
    /// # Panics
    /// When `values` does not fill the shape.
    pub fn push(&mut self, name: impl Into<String>, shape: [usize; 2], values: &[f32]) -> Slice {
        assert_eq!(values.len(), shape[0] * shape[1], "a slice's values fill its shape");
        let start = self.params.len();
        self.params.extend_from_slice(values);
        self.params.resize((start + values.len()).next_multiple_of(ALIGN), 0.0);
        self.grads.resize(self.params.len(), 0.0);
        let slice = Slice { name: name.into(), shape, start };
        self.slices.push(slice.clone());
        slice
    }

    /// Moves the arrays to where `cx` computes; nothing to do on the CPU. No slice can be pushed afterwards.
    ///
    /// # Errors
    /// When there is no memory left.
    pub fn to_device(&mut self, cx: &Cx) -> Result<()> {
        if cx.gpu().is_none() {
            return Ok(());
        }
        let shape = [self.params.len().max(1)];
        let params = cx.alloc_f32(&shape)?;
        params.memory()?.write(0, bytemuck::cast_slice(&self.params))?;
        let copy = match cx.products() {
            DType::F32 => None,
            _ if self.params.is_empty() => None,
            _ => Some(cx.device_operand(&self.params, &shape)?),
        };
        let grads = cx.alloc_f32(&shape)?;
        grads.memory()?.fill(0)?;
        self.device = Some(OnDevice { params, copy, grads });
        Ok(())
    }

    /// Brings the parameters from the device, for [`Self::param`].
    ///
    /// # Errors
    /// When the device fails.
    pub fn fetch_params(&mut self) -> Result<()> {
        if let Some(on) = &self.device {
            on.params.memory()?.read(0, bytemuck::cast_slice_mut(&mut self.params))?;
        }
        Ok(())
    }

    /// Brings the gradients from the device, for [`Self::grad`].
    ///
    /// # Errors
    /// When the device fails.
    pub fn fetch_grads(&mut self) -> Result<()> {
        if let Some(on) = &self.device {
            on.grads.memory()?.read(0, bytemuck::cast_slice_mut(&mut self.grads))?;
        }
        Ok(())
    }

    /// Sends the host's gradients to the device, if there is one.
    ///
    /// # Errors
    /// When the device fails.
    pub fn send_grads(&mut self) -> Result<()> {
        if let Some(on) = &self.device {
            on.grads.memory()?.write(0, bytemuck::cast_slice(&self.grads))?;
        }
        Ok(())
    }

    /// A slice's parameters for an op.
    pub fn part(&self, slice: &Slice) -> Part<'_> {
        let Some(on) = &self.device else { return Part::Host(&self.params[slice.range()]) };
        let values = on.copy.as_ref().unwrap_or(&on.params);
        match values.memory() {
            Ok(memory) => {
                Part::Device(memory, slice.start * values.dtype().size_in_bytes(), values.dtype())
            }
            Err(_) => Part::Host(&[]),
        }
    }

    /// Where the gradients of pairs of slices are added.
    ///
    /// # Errors
    /// When slices are named out of the order in which they were pushed.
    pub fn gradients(&mut self, pairs: &[[&Slice; 2]]) -> Result<Vec<Gradients<'_>>> {
        if let Some(on) = &self.device {
            let memory = on.grads.memory()?;
            let at = |s: &Slice| s.start * size_of::<f32>();
            let pair = |[a, b]: &[&Slice; 2]| Gradients::Device(memory, [at(a), at(b)]);
            return Ok(pairs.iter().map(pair).collect());
        }
        let (mut rest, mut done) = (&mut self.grads[..], 0);
        let mut next = |s: &Slice| match s.start.checked_sub(done) {
            Some(skip) => {
                let all = std::mem::take(&mut rest);
                let (part, after) = all[skip..].split_at_mut(s.range().len());
                (rest, done) = (after, s.range().end);
                Ok(part)
            }
            None => candle_core::bail!("the slice {} is named out of order", s.name),
        };
        pairs.iter().map(|[a, b]| Ok(Gradients::Host(next(a)?, next(b)?))).collect()
    }

    /// The slices in the order of the arrays.
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    /// The number of trainable parameters.
    pub fn trainable(&self) -> usize {
        self.slices.iter().map(|s| s.shape[0] * s.shape[1]).sum()
    }

    /// The parameters of a slice, as last fetched.
    pub fn param(&self, slice: &Slice) -> &[f32] {
        &self.params[slice.range()]
    }

    /// The gradient of a slice, as last fetched.
    pub fn grad(&self, slice: &Slice) -> &[f32] {
        &self.grads[slice.range()]
    }

    /// Sets all gradients to zero.
    ///
    /// # Errors
    /// When the device fails.
    pub fn zero_grads(&mut self) -> Result<()> {
        if let Some(on) = &self.device {
            return on.grads.memory()?.fill(0);
        }
        self.grads.par_chunks_mut(PIECE).for_each(|g| g.fill(0.0));
        Ok(())
    }

    /// The global L2 norm of all gradients; NaN or infinite if one of them is.
    ///
    /// # Errors
    /// When the device fails.
    pub fn grad_norm(&self, cx: &Cx) -> Result<f64> {
        if let (Some(on), Some(gpu)) = (&self.device, cx.gpu()) {
            let n = on.grads.len();
            let pieces = n.div_ceil(PIECE);
            let sums = cx.alloc_f32(&[pieces, 2])?; // f64 each
            let args = [sums.arg()?, on.grads.arg()?, Arg::U64(n as u64), Arg::U64(PIECE as u64)];
            // SAFETY: sum_of_squares(double *out, const float *g, u64 n, u64 piece), a block of 256 threads a piece.
            unsafe { gpu.launch("sum_of_squares", pieces, 256, &args) }?;
            let sums: Vec<f64> = sums.memory()?.download(0, pieces)?;
            return Ok(sums.iter().sum::<f64>().sqrt());
        }
        let squares: Vec<f64> = self
            .grads
            .par_chunks(PIECE)
            .map(|g| {
                simd::vectorized(
                    #[inline(always)]
                    || {
                        let mut lanes = [0.0f64; 8];
                        for g in g.chunks(8) {
                            g.iter()
                                .zip(&mut lanes)
                                .for_each(|(g, l)| *l += f64::from(*g) * f64::from(*g));
                        }
                        lanes.iter().sum::<f64>()
                    },
                )
            })
            .collect();
        Ok(squares.iter().sum::<f64>().sqrt())
    }
}

/// The factor that clips gradients of this norm: min(1, `max_norm` / (`norm` + 1e-6)), as torch's `clip_grad_norm_`.
pub fn clip_factor(norm: f64, max_norm: Option<f64>) -> f32 {
    max_norm.map_or(1.0, |m| ((m / (norm + 1e-6)) as f32).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_start_at_aligned_elements() {
        let mut arena = Arena::default();
        arena.push("a", [1, 3], &[1.0, 2.0, 3.0]);
        assert_eq!(arena.push("b", [1, 1], &[4.0]).start, 256);
    }

    #[test]
    fn clipping_leaves_a_small_norm_alone() {
        assert_eq!(clip_factor(0.5, Some(1.0)), 1.0);
    }

    #[test]
    fn clipping_scales_to_the_limit() {
        assert!((f64::from(clip_factor(5.0, Some(1.0))) * 5.0 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_norm_is_that_of_all_slices() {
        let (mut arena, cx) = (Arena::default(), Cx::cpu(DType::F32, 1).unwrap());
        arena.push("a", [1, 1], &[0.0]);
        let b = arena.push("b", [1, 1], &[0.0]);
        (arena.grads[0], arena.grads[b.start]) = (3.0, 4.0);
        assert_eq!(arena.grad_norm(&cx).unwrap(), 5.0);
    }
}
