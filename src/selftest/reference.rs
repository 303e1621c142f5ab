//! Every op once more as plain loops in f64, straight from its formula: what all fast paths are measured against.
//!
//! Arguments are row-major; the formulas and sources stand in the ops' own files.

use crate::ops::attention::{Heads, Span};
use crate::ops::philox::philox4x32;
use crate::quant::Nf4;
use crate::quant::nf4::CODEBOOK;

fn f(x: f32) -> f64 {
    f64::from(x)
}

/// `out[i][j]` = Σₖ a(i, k)·b(k, j) for n rows and m columns.
pub fn product(
    (n, k, m): (usize, usize, usize),
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f64> {
    let mut out = vec![0.0; n * m];
    for i in 0..n {
        for p in 0..k {
            let left = f(a(i, p));
            for j in 0..m {
                out[i * m + j] += left * f(b(p, j));
            }
        }
    }
    out
}

/// y and r of RMSNorm.
pub fn rms_norm(x: &[f32], g: &[f32], eps: f32) -> (Vec<f64>, Vec<f64>) {
    let rows = x.chunks(g.len()).map(|x| {
        let mean = x.iter().map(|x| f(*x).powi(2)).sum::<f64>() / x.len() as f64;
        let r = 1.0 / (mean + f(eps)).sqrt();
        (x.iter().zip(g).map(|(x, g)| f(*x) * r * f(*g)).collect::<Vec<_>>(), r)
    });
    let (y, r): (Vec<_>, Vec<_>) = rows.unzip();
    (y.concat(), r)
}

/// dx of RMSNorm.
pub fn rms_norm_backward(dy: &[f32], x: &[f32], g: &[f32], eps: f32) -> Vec<f64> {
    let (c, r) = (g.len(), rms_norm(x, g, eps).1);
    let rows = dy.chunks(c).zip(x.chunks(c)).zip(r);
    rows.flat_map(|((dy, x), r)| {
        let along: f64 = dy.iter().zip(x).zip(g).map(|((d, x), g)| f(*d) * f(*x) * f(*g)).sum();
        let back = along * r.powi(3) / c as f64;
        let one = move |((d, x), g): ((&f32, &f32), &f32)| r * f(*d) * f(*g) - f(*x) * back;
        dy.iter().zip(x).zip(g).map(one).collect::<Vec<_>>()
    })
    .collect()
}

/// Rotated heads; `sign` −1 turns back.
pub fn rope(x: &[f32], freqs: &[f32], positions: &[u32], heads: usize, sign: f64) -> Vec<f64> {
    let half = freqs.len();
    let mut out: Vec<f64> = x.iter().map(|x| f(*x)).collect();
    for (unit, head) in out.chunks_mut(2 * half).enumerate() {
        for i in 0..half {
            // The table's angle is an f32.
            let angle = f(positions[unit / heads] as f32 * freqs[i]);
            let (sin, cos) = (sign * angle.sin(), angle.cos());
            let (a, b) = (head[i], head[half + i]);
            (head[i], head[half + i]) = (a * cos - b * sin, b * cos + a * sin);
        }
    }
    out
}

/// h of SwiGLU, and with dh its da and db.
pub fn swiglu(a: &[f32], b: &[f32], dh: &[f32]) -> [Vec<f64>; 3] {
    let each = |k: fn(f64, f64, f64) -> f64| {
        a.iter().zip(b).zip(dh).map(|((a, b), d)| k(f(*a), f(*b), f(*d))).collect()
    };
    [
        each(|a, b, _| a / (1.0 + (-a).exp()) * b),
        each(|a, b, d| {
            let s = 1.0 / (1.0 + (-a).exp());
            d * b * s * (1.0 + a * (1.0 - s))
        }),
        each(|a, _, d| d * a / (1.0 + (-a).exp())),
    ]
}

/// What attention is computed from.
pub struct Attention<'a> {
    /// Queries (Nq, H·D), keys and values (Nk, K·D), the output's gradient (Nq, H·D).
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// The output's gradient.
    pub dout: &'a [f32],
    /// Sequences; queries are the last of their keys' positions.
    pub spans: &'a [Span],
    /// Heads and window.
    pub heads: Heads,
}

impl Attention<'_> {
    /// o, dq, dk, dv.
    pub fn all(&self) -> [Vec<f64>; 4] {
        let Heads { heads: h, kv_heads: kv, size: d, window } = self.heads;
        let mut o = vec![0.0; self.q.len()];
        let mut dq = o.clone();
        let (mut dk, mut dv) = (vec![0.0; self.k.len()], vec![0.0; self.k.len()]);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f(*a) * f(*b)).sum::<f64>();
        let scale = 1.0 / (d as f64).sqrt();
        for (span, head) in self.spans.iter().flat_map(|s| (0..h).map(move |head| (s, head))) {
            let at = |row: usize| (row * kv + head / (h / kv)) * d;
            for i in span.q.clone() {
                let row = (i * h + head) * d;
                let (q, dout) = (&self.q[row..row + d], &self.dout[row..row + d]);
                let end = span.k.end - (span.q.end - 1 - i);
                let first = window.map_or(0, |w| end.saturating_sub(w)).max(span.k.start);
                let keys: Vec<usize> = (first..end).collect();
                let s: Vec<f64> =
                    keys.iter().map(|&j| dot(q, &self.k[at(j)..at(j) + d]) * scale).collect();
                let top = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = s.iter().map(|s| (s - top).exp()).sum();
                let p: Vec<f64> = s.iter().map(|s| (s - top).exp() / total).collect();
                let dp: Vec<f64> =
                    keys.iter().map(|&j| dot(dout, &self.v[at(j)..at(j) + d])).collect();
                let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for ((&j, p), dp) in keys.iter().zip(&p).zip(&dp) {
                    let ds = p * (dp - delta) * scale;
                    for c in 0..d {
                        o[row + c] += p * f(self.v[at(j) + c]);
                        dq[row + c] += ds * f(self.k[at(j) + c]);
                        dk[at(j) + c] += ds * f(q[c]);
                        dv[at(j) + c] += p * f(dout[c]);
                    }
                }
            }
        }
        [o, dq, dk, dv]
    }
}

/// nll and dz of cross-entropy.
pub fn cross_entropy(z: &[f32], targets: &[u32], coefficients: &[f32]) -> [Vec<f64>; 2] {
    let v = z.len() / targets.len();
    let (mut nll, mut dz) = (Vec::new(), Vec::new());
    for ((z, t), c) in z.chunks(v).zip(targets).zip(coefficients) {
        let top = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = z.iter().map(|z| f(z - top).exp()).sum();
        nll.push(total.ln() - f(z[*t as usize] - top));
        dz.extend(z.iter().enumerate().map(|(j, z)| {
            f(*c) * (f(z - top).exp() / total - if j == *t as usize { 1.0 } else { 0.0 })
        }));
    }
    [nll, dz]
}

/// drop(x) for `cols` channels a token.
pub fn dropout(
    x: &[f32],
    cols: usize,
    p: f32,
    key: [u32; 2],
    step: u32,
    tokens: &[[u32; 2]],
) -> Vec<f64> {
    let p = (f(p) * 65_536.0).round().min(65_535.0) / 65_536.0;
    let value = |(i, x): (usize, &f32)| {
        let ([sample, position], channel) = (tokens[i / cols], i % cols);
        let words = philox4x32([(channel / 8) as u32, position, sample, step], key);
        let half = words[channel / 2 % 4] >> (16 * (channel % 2)) & 0xffff;
        if f64::from(half) / 65_536.0 < p { 0.0 } else { f(*x) / (1.0 - p) }
    };
    x.iter().enumerate().map(value).collect()
}

/// The values that packed codes stand for, scales as `q` decodes them.
pub fn dequantize(q: &Nf4) -> Vec<f64> {
    let scales = q.scales();
    let code = |i: usize| usize::from(q.packed[i / 2] >> (4 * (1 - i % 2)) & 15);
    (0..q.len).map(|i| f(CODEBOOK[code(i)]) * f(scales[i / 64])).collect()
}

/// NF4 codes: of each value over the largest magnitude of its block, both in f32, the midpoints of the codebook below it.
pub fn nf4_codes(w: &[f32]) -> Vec<f64> {
    let blocks = w.chunks(64).flat_map(|w| {
        let inverse = 1.0 / w.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        w.iter().map(move |x| x * inverse)
    });
    let below = |v: f32| CODEBOOK.windows(2).filter(|c| (c[0] + c[1]) / 2.0 < v).count() as f64;
    blocks.map(below).collect()
}

/// Parameters after one step of AdamW from zero moments.
pub fn adamw(p: &[f32], g: &[f32], lr: f64, betas: [f64; 2], eps: f64, decay: f64) -> Vec<f64> {
    let one = |(p, g): (&f32, &f32)| {
        let (m, v) = ((1.0 - betas[0]) * f(*g), (1.0 - betas[1]) * f(*g) * f(*g));
        let (m, v) = (m / (1.0 - betas[0]), v / (1.0 - betas[1]));
        f(*p) * (1.0 - lr * decay) - lr * m / (v.sqrt() + eps)
    };
    p.iter().zip(g).map(one).collect()
}
