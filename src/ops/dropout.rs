//! Dropout whose mask is a function of (seed, module, step, sample, position, channel).
//!
//! A kept value is multiplied by 1/(1−p), a dropped one by 0. Each half of a word of Philox4x32-10 decides over a channel: channel c over the
//! half c mod 2 of the word ⌊c/2⌋ mod 4 of the counter (⌊c/8⌋, position, sample, step), and drops it where it is below 2¹⁶p. The mask is never stored: forward and backward compute it again,
//! and it depends neither on threads nor on how a batch was cut.

#[cfg(target_arch = "x86_64")]
use super::avx512;
#[cfg(target_arch = "x86_64")]
use super::isa;
use super::philox::{self, Keys};
use super::value::{Value, by_type};
use super::{Buf, Cx, Mirror, simd};
use crate::gpu::Arg;
use candle_core::{Result, bail};
#[cfg(target_arch = "x86_64")]
use half::bf16;
#[cfg(target_arch = "x86_64")]
use pulp::Arch;
use rayon::prelude::*;

/// Channels of a token whose mask is drawn at once.
pub(super) const BLOCK: usize = 8 * philox::COUNTERS;
const HALF: usize = BLOCK / 2;

/// Which mask: everything that its bits depend on besides the channel.
#[derive(Clone, Copy)]
pub struct Mask<'a> {
    /// The probability p that a value is dropped, in [0, 1); it is rounded to a multiple of 2⁻¹⁶.
    pub p: f32,
    /// (folded seed, module's name key).
    pub key: [u32; 2],
    /// The optimizer step.
    pub step: u32,
    /// For each token of the batch: (sample id, position in its sequence).
    pub tokens: &'a Mirror<'a, [u32; 2]>,
}

/// The mask of a token.
pub(super) struct Row {
    /// The least half of a word that keeps its value.
    pub(super) least: u16,
    /// What is kept is multiplied by it: 1/(1−p).
    pub(super) scale: f32,
    /// The words of the counters behind the first.
    pub(super) rest: [u32; 3],
    pub(super) keys: Keys,
}

impl Row {
    /// out[c] = combine(out[c], x[c]·m[c]).
    #[inline(always)]
    fn apply<T: Value>(&self, x: &[T], out: &mut [T], add: bool) {
        for (i, (out, x)) in out.chunks_mut(BLOCK).zip(x.chunks(BLOCK)).enumerate() {
            let first = (i * philox::COUNTERS) as u32;
            let halves = out.chunks_mut(HALF).zip(x.chunks(HALF));
            #[cfg(target_arch = "x86_64")]
            if let Arch::V4(_) = isa::chosen_arch() {
                let (least, rest, keys) = (self.least, self.rest, &self.keys);
                // SAFETY: the processor has the instructions of this set, AVX-512 F and BW among them.
                let kept = unsafe { avx512::philox::at_least(least, first, rest, keys) };
                for ((out, x), kept) in halves.zip(kept) {
                    combine(x, out, self.scale, add, |i| kept & 1 << i != 0);
                }
                continue;
            }
            let words = philox::block(first, self.rest, &self.keys);
            let drawn = words.map(|word| [word as u16, (word >> 16) as u16]);
            for ((out, x), drawn) in halves.zip(drawn.as_flattened().as_chunks::<HALF>().0) {
                combine(x, out, self.scale, add, |i| drawn[i] >= self.least);
            }
        }
    }
}

impl Mask<'_> {
    /// The least half of a word that keeps its value, and what is kept is multiplied by.
    fn least_and_scale(&self) -> (u16, f32) {
        let least = (self.p * 65_536.0).round() as u16; // at most 1 − 2⁻¹⁶: it saturates
        (least, 65_536.0 / (65_536.0 - f32::from(least)))
    }

    fn row(&self, token: usize, keys: Keys) -> Row {
        let ([sample, position], (least, scale)) = (self.tokens[token], self.least_and_scale());
        Row { least, scale, rest: [position, sample, self.step], keys }
    }

    fn rows(&self, cx: &Cx, x: &Buf, out: &mut Buf, add: bool) -> Result<()> {
        if self.tokens.len() != x.rows() || x.shape() != out.shape() || x.dtype() != out.dtype() {
            bail!("dropout: x {x:?}, out {out:?}, {} tokens", self.tokens.len());
        }
        let (n, cols) = (x.rows(), x.cols().max(1));
        let (least, scale) = self.least_and_scale();
        if let Some(gpu) = cx.gpu() {
            let args = [
                out.arg()?,
                x.arg()?,
                self.tokens.arg()?,
                Arg::U64(n as u64),
                Arg::I32(cols as i32),
                Arg::U32(least.into()),
                Arg::F32(scale),
                Arg::U32(self.key[0]),
                Arg::U32(self.key[1]),
                Arg::U32(self.step),
                Arg::I32(i32::from(add)),
            ];
            // SAFETY: dropout(T *out, const T *x, const u32 *origins, u64 n, int c, u32 least, float scale, u32 key0, u32 key1,
            // u32 step, int add), a thread for each eight channels of a row.
            return unsafe { gpu.each_of(x.dtype(), "dropout", n * cols.div_ceil(8), &args) };
        }
        #[cfg(target_arch = "x86_64")]
        if cx.has_bf16_rows() {
            return each_row::<bf16>(self, x, out, |row, x, out| {
                // SAFETY: a context has rows of bf16 only where the processor has the instructions.
                unsafe { avx512::dropout::row(row, x, out, add) };
            });
        }
        by_type!(x.dtype(), on_cpu(self, x, out, add))
    }
}

/// out[c] = combine(out[c], x[c]·m[c]) along half a block.
#[inline(always)]
fn combine<T: Value>(
    x: &[T],
    out: &mut [T],
    scale: f32,
    add: bool,
    is_kept: impl Fn(usize) -> bool,
) {
    // A loop of a length that the compiler knows needs no remainder, and `is_kept` no bounds.
    if let (Ok(out), Ok(x)) = (<&mut [T; HALF]>::try_from(&mut *out), <&[T; HALF]>::try_from(x)) {
        for i in 0..HALF {
            out[i] = combined(x[i], out[i], if is_kept(i) { scale } else { 0.0 }, add);
        }
    } else {
        for (i, (out, x)) in out.iter_mut().zip(x).enumerate() {
            *out = combined(*x, *out, if is_kept(i) { scale } else { 0.0 }, add);
        }
    }
}

#[inline(always)]
fn combined<T: Value>(x: T, out: T, m: f32, add: bool) -> T {
    T::near(if add { out.wide() + x.wide() * m } else { x.wide() * m })
}

fn on_cpu<T: Value>(mask: &Mask<'_>, x: &Buf, out: &mut Buf, add: bool) -> Result<()> {
    each_row::<T>(mask, x, out, |row, x, out| {
        simd::vectorized(
            #[inline(always)]
            || row.apply(x, out, add),
        );
    })
}

/// Calls `apply` for the mask of each token, its row of `x` and its row of `out`.
fn each_row<T: Value>(
    mask: &Mask<'_>,
    x: &Buf,
    out: &mut Buf,
    apply: impl Fn(&Row, &[T], &mut [T]) + Sync,
) -> Result<()> {
    let (cols, keys) = (x.cols().max(1), philox::keys(mask.key));
    let rows = T::of_mut(out)?.par_chunks_mut(cols).zip(T::of(x)?.par_chunks(cols)).enumerate();
    rows.for_each(|(token, (out, x))| apply(&mask.row(token, keys), x, out));
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
