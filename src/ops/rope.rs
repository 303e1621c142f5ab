//! Rotary embedding, half-split ("rotate_half") layout as in Hugging Face's Llama.
//!
//! x: (N, heads·D), rotated in place: (x₁, x₂) ← (x₁·cos − x₂·sin, x₂·cos + x₁·sin) with x₁, x₂ the halves of a head and
//! cos, sin from the table row of the token's position. Backward is the inverse rotation (sin → −sin).
//! Su et al. 2021, arXiv:2104.09864 · transformers v5.23 `modeling_llama.py::apply_rotary_pos_emb`

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::spread::share;
use super::value::{Value, by_type};
use super::{Buf, Cx, Mirror, Vector, simd};
use crate::gpu::Arg;
use candle_core::{Result, bail};
use rayon::prelude::*;

/// cos and sin for positions `0..positions`, each (positions, D/2) f32.
pub struct Table {
    cos: Vector,
    sin: Vector,
    half: usize,
}

impl Table {
    /// From inverse frequencies (D/2); `attention_factor` multiplies cos and sin (1 but for yarn).
    ///
    /// # Errors
    /// When the copy to a device fails.
    pub fn new(cx: &Cx, inv_freq: &[f32], attention_factor: f32, positions: usize) -> Result<Self> {
        let angles = || (0..positions).flat_map(|p| inv_freq.iter().map(move |f| p as f32 * f));
        let cos: Vec<f32> = angles().map(|a| a.cos() * attention_factor).collect();
        let sin: Vec<f32> = angles().map(|a| a.sin() * attention_factor).collect();
        Ok(Self { cos: Vector::new(cx, cos)?, sin: Vector::new(cx, sin)?, half: inv_freq.len() })
    }

    /// The number of positions in the table.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    fn row(&self, position: u32) -> (&[f32], &[f32]) {
        let at = position as usize * self.half;
        (&self.cos[at..at + self.half], &self.sin[at..at + self.half])
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

/// Rotates every head of each x (N, heads·D) by its token's position.
///
/// # Errors
/// When a position lies outside the table or the shapes disagree.
pub fn rotate<const X: usize>(
    cx: &Cx,
    xs: [&mut Buf; X],
    table: &Table,
    positions: &Mirror<'_, u32>,
    turn: Turn,
) -> Result<()> {
    let size = 2 * table.half;
    if let Some(x) = xs.iter().find(|x| positions.len() != x.rows() || x.cols() % size != 0) {
        bail!("rope: x {:?}, {} positions, head size {size}", x.shape(), positions.len());
    }
    if let Some(p) = positions.iter().find(|p| **p as usize >= table.positions()) {
        bail!("rope: position {p} lies outside the table of {}", table.positions());
    }
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    #[cfg(target_arch = "x86_64")]
    if cx.has_bf16_rows() {
        return rotate_bf16(xs, table, positions, sign);
    }
    xs.into_iter().try_for_each(|x| rotate_one(cx, x, table, positions, sign))
}

#[cfg(target_arch = "x86_64")]
fn rotate_bf16<const X: usize>(
    xs: [&mut Buf; X],
    table: &Table,
    positions: &[u32],
    sign: f32,
) -> Result<()> {
    let mut tasks = Vec::new();
    for x in xs {
        let cols = x.cols();
        let own = share(positions.len(), cols);
        let rows = x.bf16_mut()?.chunks_mut(own * cols);
        tasks.extend(rows.zip(positions.chunks(own)).map(|(rows, at)| (rows, cols, at)));
    }
    tasks.into_par_iter().with_max_len(1).for_each(|(rows, cols, positions)| {
        for (row, p) in rows.chunks_mut(cols).zip(positions) {
            let (cos, sin) = table.row(*p);
            // SAFETY: a context has rows of bf16 only where the processor has the instructions.
            unsafe { avx512::rope::rotate(row, cos, sin, sign) };
        }
    });
    Ok(())
}

fn rotate_one(
    cx: &Cx,
    x: &mut Buf,
    table: &Table,
    positions: &Mirror<'_, u32>,
    sign: f32,
) -> Result<()> {
    let (n, cols, half) = (x.rows(), x.cols(), table.half);
    if let Some(gpu) = cx.gpu() {
        let heads = cols / (2 * half);
        let args = [
            x.arg()?,
            table.cos.arg()?,
            table.sin.arg()?,
            positions.arg()?,
            Arg::U64(n as u64),
            Arg::I32(heads as i32),
            Arg::I32(half as i32),
            Arg::F32(sign),
        ];
        // SAFETY: rope(T *x, const float *cosines, const float *sines, const u32 *positions, u64 n, int heads, int half,
        // float sign); every position lies inside the table (checked).
        return unsafe { gpu.each("rope", n * heads * half, &args) };
    }
    by_type!(x.dtype(), rotate_cpu(x, table, positions, sign))
}

fn rotate_cpu<T: Value>(x: &mut Buf, table: &Table, positions: &[u32], sign: f32) -> Result<()> {
    let (cols, half) = (x.cols(), table.half);
    let rows = T::of_mut(x)?.par_chunks_mut(cols).zip(positions);
    rows.with_max_len(share(positions.len(), cols)).for_each(|(row, &p)| {
        let (cos, sin) = table.row(p);
        simd::vectorized(
            #[inline(always)]
            || {
                for head in row.chunks_mut(2 * half) {
                    let (lo, hi) = head.split_at_mut(half);
                    for ((lo, hi), (cos, sin)) in lo.iter_mut().zip(hi).zip(cos.iter().zip(sin)) {
                        let (a, b, s) = (lo.wide(), hi.wide(), sign * sin);
                        *lo = T::near(a * cos - b * s);
                        *hi = T::near(b * cos + a * s);
                    }
                }
            },
        );
    });
    Ok(())
}
