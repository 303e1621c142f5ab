//! Rotary frequencies from a spec, in f32 as transformers computes them.
//!
//! `inv_freq[i] = 1 / θ^(2i/D)`, then stretched: `linear` divides by the factor; `llama3` divides only long wavelengths, with a
//! smooth middle; `yarn` blends by the number of rotations within the original context and scales cos and sin.
//! transformers v5.23 `modeling_rope_utils.py` · YaRN: Peng et al. 2023, arXiv:2309.00071

use super::spec::DecoderSpec;
use crate::hub::rope::RopeScaling;
use std::f64::consts::PI;

/// Inverse frequencies (D/2) and the factor on cos and sin.
pub fn frequencies(spec: &DecoderSpec) -> (Vec<f32>, f32) {
    let (d, theta) = (spec.head_size, spec.rope_theta as f32);
    let base = |i: usize| 1.0f32 / theta.powf((2 * i) as f32 / d as f32);
    let plain: Vec<f32> = (0..d / 2).map(base).collect();
    match &spec.rope_scaling {
        RopeScaling::Default => (plain, 1.0),
        RopeScaling::Linear { factor } => (plain.iter().map(|f| f / *factor as f32).collect(), 1.0),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = *original_max_position_embeddings as f64;
            let (low, high) = (original / low_freq_factor, original / high_freq_factor);
            let stretch = |f: f32| {
                let wavelength = 2.0 * PI / f64::from(f);
                if wavelength > low {
                    f / *factor as f32
                } else if wavelength < high {
                    f
                } else {
                    let smooth = (original / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    ((1.0 - smooth) * f64::from(f) / factor + smooth * f64::from(f)) as f32
                }
            };
            (plain.into_iter().map(stretch).collect(), 1.0)
        }
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            attention_factor,
            mscale,
            mscale_all_dim,
            truncate,
        } => {
            let original = *original_max_position_embeddings as f64;
            let (low, high) = yarn_range(spec, original, *beta_fast, *beta_slow, *truncate);
            let blend = |(i, f): (usize, f32)| {
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
                f / *factor as f32 * ramp + f * (1.0 - ramp)
            };
            let freqs = plain.into_iter().enumerate().map(blend).collect();
            let default = match (mscale, mscale_all_dim) {
                (Some(m), Some(all)) if *m != 0.0 && *all != 0.0 => {
                    yarn_mscale(*factor, *m) / yarn_mscale(*factor, *all)
                }
                _ => yarn_mscale(*factor, 1.0),
            };
            (freqs, attention_factor.unwrap_or(default) as f32)
        }
    }
}

fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// The dimensions between which yarn blends.
fn yarn_range(
    spec: &DecoderSpec,
    original: f64,
    fast: f64,
    slow: f64,
    truncate: bool,
) -> (f64, f64) {
    let d = spec.head_size as f64;
    let dimension = |rotations: f64| {
        d * (original / (rotations * 2.0 * PI)).ln() / (2.0 * spec.rope_theta.ln())
    };
    let (mut low, mut high) = (dimension(fast), dimension(slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, high) = (low.max(0.0), high.min(d - 1.0));
    (low, if low == high { high + 0.001 } else { high })
}
