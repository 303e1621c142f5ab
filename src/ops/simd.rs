//! Loops that the compiler vectorises for the processor at hand, and the functions they need.
//!
//! [`vectorized`] compiles a closure for AVX-512, AVX2 and the baseline and picks the one of the chosen instruction set at run time
//! ([`super::isa`]). The exponential is a polynomial without branches, so that it vectorises; libm's does not.

use super::isa;
use super::value::Value;
use half::bf16;

/// Runs `f` compiled for the vector unit of the chosen instruction set.
///
/// Only what is inlined into the function of that instruction set is compiled for it: `f` must be `#[inline(always)]`.
#[inline(always)]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    isa::chosen_arch().dispatch(f)
}

/// The bits of the nearest bf16, ties to even: as `bf16::from_f32` without its branch, so that it vectorises.
#[inline(always)]
pub fn narrow_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

/// Rounds to bf16.
pub fn narrow(from: &[f32], to: &mut [bf16]) {
    vectorized(
        #[inline(always)]
        || {
            to.iter_mut()
                .zip(from)
                .for_each(|(to, from)| *to = bf16::from_bits(narrow_bits(*from)));
        },
    );
}

/// Multiplies by `scale` and rounds to values of bf16.
pub fn round(from: &[f32], scale: f32, to: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            to.iter_mut().zip(from).for_each(|(to, from)| {
                *to = f32::from_bits(u32::from(narrow_bits(scale * *from)) << 16);
            });
        },
    );
}

/// Widens from bf16.
pub fn widen(from: &[bf16], to: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            to.iter_mut()
                .zip(from)
                .for_each(|(to, from)| *to = f32::from_bits(u32::from(from.to_bits()) << 16));
        },
    );
}

/// eˣ for f32, relative error below 3e-7; 0 below −87.3, finite up to 88.
///
/// Cody–Waite reduction x = n·ln 2 + r and the degree-6 polynomial of Cephes' `expf` (Moshier 1992).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.3, 88.0);
    // Adding 1.5·2²³ rounds to the nearest integer, which is then in the lowest bits: a conversion, which saturates, would be done one
    // by one.
    const ROUND: f32 = 12_582_912.0;
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * 0.693_359_4;
    let r = r + n * 2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    // n lies in −126..=127, so n + 127 is a valid biased exponent.
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.3 { 0.0 } else { e * scale }
}

/// The logistic function 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Σ aᵢbᵢ over 16 lanes, in an order that depends on the length alone.
#[inline(always)]
pub fn dot<T: Value>(a: &[T], b: &[T]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (ac, bc) = (a.chunks_exact(16), b.chunks_exact(16));
    let tails = ac.remainder().iter().zip(bc.remainder());
    let tail: f32 = tails.map(|(x, y)| x.wide() * y.wide()).sum();
    for (x, y) in ac.zip(bc) {
        for i in 0..16 {
            lanes[i] += x[i].wide() * y[i].wide();
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// The largest element; −∞ for none.
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = a.chunks_exact(16);
    let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    for c in chunks {
        for i in 0..16 {
            lanes[i] = if c[i] > lanes[i] { c[i] } else { lanes[i] };
        }
    }
    lanes.iter().fold(tail, |m, &x| if x > m { x } else { m })
}

/// Replaces each xᵢ by e^(xᵢ − shift) and returns their sum, 16 lanes wide.
#[inline(always)]
pub fn exp_sum(a: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let mut chunks = a.chunks_exact_mut(16);
    for c in &mut chunks {
        for i in 0..16 {
            c[i] = exp(c[i] - shift);
            lanes[i] += c[i];
        }
    }
    let mut tail = 0.0;
    for x in chunks.into_remainder() {
        *x = exp(*x - shift);
        tail += *x;
    }
    lanes.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_half() {
        let odd = [0.0, -0.0, 1.0, 1.0 / 3.0, 3.4e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let steps = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B1)));
        for x in steps.chain(odd) {
            assert_eq!(narrow_bits(x), bf16::from_f32(x).to_bits(), "{x:e}");
        }
    }

    #[test]
    fn exp_is_close_to_libm_everywhere() {
        let worst = (-870_000..880_000)
            .map(|i| {
                let x = i as f32 * 1e-4;
                let y = f64::from(x).exp();
                ((f64::from(vectorized(
                    #[inline(always)]
                    || exp(x),
                )) - y)
                    / y)
                    .abs()
            })
            .fold(0.0, f64::max);
        assert!(worst < 3e-7, "relative error {worst:e}");
    }

    #[test]
    fn exp_of_very_negative_numbers_is_zero() {
        assert_eq!(exp(-1e30), 0.0);
    }

    #[test]
    fn dot_includes_the_tail() {
        let a: Vec<f32> = (0..37).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &[1.0; 37]), 666.0);
    }
}
