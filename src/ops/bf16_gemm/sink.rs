//! What becomes of a product's sums, fused into the pass that makes them.

use crate::ops::shared::Shared;
use half::bf16;

/// Where a product goes: rows × columns of a row-major matrix. It stands for the only borrow of its target, so it is not copied.
pub enum Sink<'a> {
    /// c ← [c +] scale·sum + bias (columns) + residual (rows, columns), in f32.
    F32 {
        /// The target.
        c: Shared<f32>,
        /// Whether it is added to.
        add: bool,
        /// The factor on the sum.
        scale: f32,
        /// A value for each column.
        bias: Option<&'a [f32]>,
        /// A value for each element.
        residual: Option<&'a [f32]>,
    },
    /// y ← sum + bias (columns) + residual (rows, columns), rounded once to bf16.
    Bf16 {
        /// The target.
        y: Shared<bf16>,
        /// A value for each column.
        bias: Option<&'a [f32]>,
        /// A value for each element.
        residual: Option<&'a [bf16]>,
    },
    /// c (columns, rows) ← c + scale·sumᵀ, in f32.
    Transposed {
        /// The target.
        c: Shared<f32>,
        /// The factor on the sum.
        scale: f32,
    },
}

impl<'a> Sink<'a> {
    /// c ← scale·sum, or c + scale·sum.
    pub fn f32(c: &'a mut [f32], add: bool, scale: f32) -> Self {
        Self::F32 { c: Shared::new(c), add, scale, bias: None, residual: None }
    }

    /// y ← sum + bias + residual, in f32.
    pub fn wide(y: &'a mut [f32], bias: Option<&'a [f32]>, residual: Option<&'a [f32]>) -> Self {
        Self::F32 { c: Shared::new(y), add: false, scale: 1.0, bias, residual }
    }

    /// y ← sum + bias + residual.
    pub fn bf16(y: &'a mut [bf16], bias: Option<&'a [f32]>, residual: Option<&'a [bf16]>) -> Self {
        Self::Bf16 { y: Shared::new(y), bias, residual }
    }

    /// c ← c + scale·sumᵀ.
    pub fn transposed(c: &'a mut [f32], scale: f32) -> Self {
        Self::Transposed { c: Shared::new(c), scale }
    }

    /// Whether there is room for exactly rows × columns.
    pub(super) fn fits(&self, rows: usize, columns: usize) -> bool {
        let len = rows * columns;
        match self {
            Self::Transposed { c, .. } => c.len() == len,
            Self::F32 { c, bias, residual, .. } => {
                c.len() == len
                    && bias.is_none_or(|b| b.len() == columns)
                    && residual.is_none_or(|r| r.len() == len)
            }
            Self::Bf16 { y, bias, residual } => {
                y.len() == len
                    && bias.is_none_or(|b| b.len() == columns)
                    && residual.is_none_or(|r| r.len() == len)
            }
        }
    }

    /// One sum at its place.
    ///
    /// # Safety
    /// The sink [`fits`](Self::fits), (row, column) lies inside, and no other task has this element.
    pub(super) unsafe fn put(&self, rows: usize, columns: usize, at: (usize, usize), sum: f32) {
        let (row, column) = at;
        let i = row * columns + column;
        // SAFETY: inside the target; this task alone has the element.
        unsafe {
            match self {
                Self::F32 { c, add, scale, bias, residual } => {
                    let c = c.at(i);
                    let sum = if *add { *c } else { 0.0 } + scale * sum;
                    *c = sum + bias.map_or(0.0, |b| b[column]) + residual.map_or(0.0, |r| r[i]);
                }
                Self::Bf16 { y, bias, residual } => {
                    let sum = sum + bias.map_or(0.0, |b| b[column]);
                    *y.at(i) = bf16::from_f32(sum + residual.map_or(0.0, |r| r[i].to_f32()));
                }
                Self::Transposed { c, scale } => *c.at(column * rows + row) += scale * sum,
            }
        }
    }
}
