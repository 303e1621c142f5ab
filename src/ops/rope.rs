//! Rotary embedding, half-split ("rotate_half") layout as in Hugging Face's Llama.
//!
//! x: (N, heads·D) f32, rotated in place: (x₁, x₂) ← (x₁·cos − x₂·sin, x₂·cos + x₁·sin) with x₁, x₂ the halves of a head and
//! cos, sin from the table row of the token's position. Backward is the inverse rotation (sin → −sin).
//! Su et al. 2021, arXiv:2104.09864 · transformers v5.23 `modeling_llama.py::apply_rotary_pos_emb`

use super::Buf;
use candle_core::{Result, bail};
use rayon::prelude::*;

/// cos and sin for positions `0..positions`, each (positions, D/2) f32.
pub struct Table {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Table {
    /// From inverse frequencies (D/2); `attention_factor` multiplies cos and sin (1 but for yarn).
    pub fn new(inv_freq: &[f32], attention_factor: f32, positions: usize) -> Self {
        let angles = || (0..positions).flat_map(|p| inv_freq.iter().map(move |f| p as f32 * f));
        Self {
            cos: angles().map(|a| a.cos() * attention_factor).collect(),
            sin: angles().map(|a| a.sin() * attention_factor).collect(),
            half: inv_freq.len(),
        }
    }

    /// The number of positions in the table.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }
}

/// Which way to turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Forward pass.
    Forward,
    /// Backward pass: the inverse rotation.
    Backward,
}

/// Rotates every head of `x` (N, heads·D) by its token's position.
///
/// # Errors
/// When a position lies outside the table or the shapes disagree.
pub fn rotate(x: &mut Buf, table: &Table, positions: &[u32], turn: Turn) -> Result<()> {
    let (n, cols, half) = (x.rows(), x.cols(), table.half);
    if positions.len() != n || cols % (2 * half) != 0 {
        bail!("rope: x {:?}, {} positions, head size {}", x.shape(), positions.len(), 2 * half);
    }
    if let Some(p) = positions.iter().find(|p| **p as usize >= table.positions()) {
        bail!("rope: position {p} lies outside the table of {}", table.positions());
    }
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    x.f32_mut()?.par_chunks_mut(cols).zip(positions).for_each(|(row, &p)| {
        let at = p as usize * half;
        let (cos, sin) = (&table.cos[at..at + half], &table.sin[at..at + half]);
        for head in row.chunks_mut(2 * half) {
            let (lo, hi) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b, s) = (lo[i], hi[i], sign * sin[i]);
                lo[i] = a * cos[i] - b * s;
                hi[i] = b * cos[i] + a * s;
            }
        }
    });
    Ok(())
}
