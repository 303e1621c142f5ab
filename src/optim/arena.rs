//! All that trains lies in one arena: a table of slices over flat f32 arrays of parameters and gradients.
//!
//! Clipping, the optimizer and checkpointing are passes over the arrays. A slice starts at a multiple of 256 elements (the block of
//! 8-bit optimizer states); what lies between slices is zero and stays zero. Sums run over fixed pieces in a fixed order, so they
//! do not depend on threads.

use crate::ops::simd;
use rayon::prelude::*;
use std::ops::Range;

/// Elements to which slices are aligned.
const ALIGN: usize = 256;
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

/// Parameters and gradients of everything that trains, f32.
#[derive(Default)]
pub struct Arena {
    pub(crate) slices: Vec<Slice>,
    /// Parameter values.
    pub params: Vec<f32>,
    /// Gradients, accumulated over a step.
    pub grads: Vec<f32>,
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

    /// The slices in the order of the arrays.
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    /// The number of trainable parameters.
    pub fn trainable(&self) -> usize {
        self.slices.iter().map(|s| s.shape[0] * s.shape[1]).sum()
    }

    /// The parameters of a slice.
    pub fn param(&self, slice: &Slice) -> &[f32] {
        &self.params[slice.range()]
    }

    /// The gradient of a slice.
    pub fn grad(&self, slice: &Slice) -> &[f32] {
        &self.grads[slice.range()]
    }

    /// Sets all gradients to zero.
    pub fn zero_grads(&mut self) {
        self.grads.par_chunks_mut(PIECE).for_each(|g| g.fill(0.0));
    }

    /// The global L2 norm of all gradients; NaN or infinite if one of them is.
    pub fn grad_norm(&self) -> f64 {
        let squares: Vec<f64> = self
            .grads
            .par_chunks(PIECE)
            .map(|g| {
                simd::vectorized(|| {
                    let mut lanes = [0.0f64; 8];
                    for g in g.chunks(8) {
                        g.iter()
                            .zip(&mut lanes)
                            .for_each(|(g, l)| *l += f64::from(*g) * f64::from(*g));
                    }
                    lanes.iter().sum::<f64>()
                })
            })
            .collect();
        squares.iter().sum::<f64>().sqrt()
    }

    /// Multiplies all gradients by min(1, `max_norm` / (`norm` + 1e-6)), as torch's `clip_grad_norm_`.
    pub fn clip(&mut self, norm: f64, max_norm: f64) {
        let scale = (max_norm / (norm + 1e-6)) as f32;
        if scale < 1.0 {
            self.grads.par_chunks_mut(PIECE).for_each(|g| g.iter_mut().for_each(|g| *g *= scale));
        }
    }
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
        let mut arena = Arena::default();
        let s = arena.push("a", [1, 2], &[0.0; 2]);
        arena.grads[..2].copy_from_slice(&[0.3, 0.4]);
        arena.clip(arena.grad_norm(), 1.0);
        assert_eq!(arena.grad(&s), [0.3, 0.4]);
    }

    #[test]
    fn clipping_scales_to_the_limit() {
        let mut arena = Arena::default();
        arena.push("a", [1, 2], &[0.0; 2]);
        arena.grads[..2].copy_from_slice(&[3.0, 4.0]);
        arena.clip(arena.grad_norm(), 1.0);
        assert!((arena.grad_norm() - 1.0).abs() < 1e-6);
    }
}
