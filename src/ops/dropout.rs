//! Dropout whose mask is a function of (seed, module, step, sample, position, channel).
//!
//! A kept value is multiplied by 1/(1−p), a dropped one by 0. The mask is never stored: forward and backward compute it again,
//! and it depends neither on threads nor on how a batch was cut.

use super::philox::{philox4x32, unit};
use super::value::{Value, by_type};
use super::{Buf, Cx, Mirror, simd};
use crate::gpu::Arg;
use candle_core::{Result, bail};
use rayon::prelude::*;

/// Which mask: everything that its bits depend on besides the channel.
#[derive(Clone, Copy)]
pub struct Mask<'a> {
    /// The probability p that a value is dropped, in [0, 1).
    pub p: f32,
    /// (folded seed, module's name key).
    pub key: [u32; 2],
    /// The optimizer step.
    pub step: u32,
    /// For each token of the batch: (sample id, position in its sequence).
    pub tokens: &'a Mirror<'a, [u32; 2]>,
}

impl Mask<'_> {
    /// out[c] = combine(out[c], x[c]·m[c]) along one row.
    #[inline(always)]
    fn row<T: Value>(&self, token: usize, x: &[T], out: &mut [T], add: bool) {
        let [sample, position] = self.tokens[token];
        let keep = 1.0 / (1.0 - self.p);
        for (i, (out, x)) in out.chunks_mut(4).zip(x.chunks(4)).enumerate() {
            let words = philox4x32([i as u32, position, sample, self.step], self.key);
            for ((out, x), word) in out.iter_mut().zip(x).zip(words) {
                let m = if unit(word) < self.p { 0.0 } else { keep };
                let kept = x.wide() * m;
                *out = T::near(if add { out.wide() + kept } else { kept });
            }
        }
    }

    fn rows(&self, cx: &Cx, x: &Buf, out: &mut Buf, add: bool) -> Result<()> {
        if self.tokens.len() != x.rows() || x.shape() != out.shape() || x.dtype() != out.dtype() {
            bail!("dropout: x {x:?}, out {out:?}, {} tokens", self.tokens.len());
        }
        let (n, cols) = (x.rows(), x.cols().max(1));
        if let Some(gpu) = cx.gpu() {
            let args = [
                out.arg()?,
                x.arg()?,
                self.tokens.arg()?,
                Arg::U64(n as u64),
                Arg::I32(cols as i32),
                Arg::F32(self.p),
                Arg::U32(self.key[0]),
                Arg::U32(self.key[1]),
                Arg::U32(self.step),
                Arg::I32(i32::from(add)),
            ];
            // SAFETY: dropout(T *out, const T *x, const u32 *origins, u64 n, int c, float p, u32 key0, u32 key1, u32 step,
            // int add), a thread for each four channels of a row.
            return unsafe { gpu.each_of(x.dtype(), "dropout", n * cols.div_ceil(4), &args) };
        }
        by_type!(x.dtype(), on_cpu(self, x, out, add))
    }
}

fn on_cpu<T: Value>(mask: &Mask<'_>, x: &Buf, out: &mut Buf, add: bool) -> Result<()> {
    let cols = x.cols().max(1);
    let rows = T::of_mut(out)?.par_chunks_mut(cols).zip(T::of(x)?.par_chunks(cols)).enumerate();
    rows.for_each(|(t, (out, x))| {
        simd::vectorized(
            #[inline(always)]
            || mask.row(t, x, out, add),
        )
    });
    Ok(())
}

/// drop(x) as a new buffer.
///
/// # Errors
/// When the mask is for another number of tokens.
pub fn apply(cx: &Cx, x: &Buf, mask: &Mask<'_>) -> Result<Buf> {
    let mut out = cx.alloc_as(x.dtype(), x.shape(), None)?;
    mask.rows(cx, x, &mut out, false)?;
    Ok(out)
}

/// dx += drop(dy): the backward pass, with the same mask.
///
/// # Errors
/// When the mask is for another number of tokens.
pub fn add_masked(cx: &Cx, dy: &Buf, mask: &Mask<'_>, dx: &mut Buf) -> Result<()> {
    mask.rows(cx, dy, dx, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    fn dropped(p: f32, tokens: &[[u32; 2]], step: u32) -> Vec<f32> {
        let cx = Cx::cpu(DType::F32, 1).unwrap();
        let x = cx.from_slice(&vec![1.0; tokens.len() * 123], &[tokens.len(), 123]).unwrap();
        let tokens = Mirror::new(&cx, tokens).unwrap();
        let mask = Mask { p, key: [7, 8], step, tokens: &tokens };
        apply(&cx, &x, &mask).unwrap().f32().unwrap().to_vec()
    }

    #[test]
    fn drops_the_stated_share() {
        let tokens: Vec<_> = (0..2000).map(|i| [i / 50, i % 50]).collect();
        let y = dropped(0.1, &tokens, 3);
        let share = y.iter().filter(|v| **v == 0.0).count() as f64 / y.len() as f64;
        assert!((share - 0.1).abs() < 0.003, "{share}");
    }

    #[test]
    fn a_token_keeps_its_mask_in_another_batch() {
        let whole = dropped(0.5, &[[4, 0], [4, 1], [9, 0]], 1);
        assert_eq!(dropped(0.5, &[[9, 0]], 1), whole[2 * 123..]);
    }

    #[test]
    fn another_step_has_another_mask() {
        assert_ne!(dropped(0.5, &[[1, 1]], 1), dropped(0.5, &[[1, 1]], 2));
    }
}
