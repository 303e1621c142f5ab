//! What the heavy ops reach, beside what the machine can: large products against a plain GEMM, the rest against a copy.

use super::case::{Inputs, seconds};
use crate::ops::attention::{self, Heads, Saved, Sight, Span};
use crate::ops::linear::Plus;
use crate::ops::nf4::quantize;
use crate::ops::{Buf, Cx, Mirror, Vector, Weight, cross_entropy, linear, rms_norm, rows, swiglu};
use crate::optim::Arena;
use crate::optim::adamw::{AdamW, AdamWConfig};
use candle_core::{DType, Result};

/// A rate and what limits it.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Operations or bytes per second.
    pub per_second: f64,
    /// Whether these are floating-point operations (else bytes).
    pub flops: bool,
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Speed {
    /// What was timed.
    pub what: String,
    /// The sizes.
    pub shape: String,
    /// What it reached.
    pub rate: Rate,
}

/// The machine's measured limits, in bytes and operations per second.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes read plus written by a large copy.
    pub copy: f64,
    /// Operations of a large product in the compute dtype.
    pub gemm: f64,
}

/// Sizes: a card's, or smaller ones for a processor.
struct Sizes {
    n: usize,
    c: usize,
    f: usize,
    v: usize,
}

/// The machine's limits and what each heavy op reaches.
///
/// # Errors
/// When an op fails.
pub fn measure(cx: &Cx, seed: u64) -> Result<(Limits, Vec<Speed>)> {
    let s = match cx.gpu() {
        Some(_) => Sizes { n: 4096, c: 4096, f: 14_336, v: 32_000 },
        None => Sizes { n: 512, c: 576, f: 1536, v: 8192 },
    };
    let size = match cx.gpu() {
        Some(_) => cx.compute().size_in_bytes(),
        None => 4,
    };
    let mut inputs = Inputs::new(seed, cx.products());
    let mut pattern = |n: usize| -> Vec<f32> {
        let some = inputs.values(n.min(1 << 16));
        some.iter().copied().cycle().take(n).collect()
    };
    let mut buf = |rows: usize, cols: usize| -> Result<Buf> {
        cx.from_slice(&pattern(rows * cols), &[rows, cols])
    };
    let limits = limits(cx, &s, size, &mut buf)?;
    let mut speeds = Vec::new();
    let mut add = |what: &str, shape: String, work: usize, flops: bool, seconds: f64| {
        let rate = Rate { per_second: work as f64 / seconds, flops };
        speeds.push(Speed { what: what.into(), shape, rate });
    };

    let elements = s.n * s.f;
    let (mut a, mut b, mut dh) = (buf(s.n, s.f)?, buf(s.n, s.f)?, buf(s.n, s.f)?);
    let shape = format!("{} x {}", s.n, s.f);
    let t = seconds(cx, || swiglu::forward(cx, &a, &b).map(drop))?;
    add("swiglu", shape.clone(), 3 * elements * size, false, t);
    let t = seconds(cx, || swiglu::backward(cx, &mut dh, &mut a, &mut b))?;
    add("swiglu backward", shape, 6 * elements * size, false, t);
    drop((a, b, dh));

    let (x, mut dy, mut dx) = (buf(s.n, s.c)?, buf(s.n, s.c)?, buf(s.n, s.c)?);
    let g = Vector::new(cx, vec![1.0; s.c])?;
    let shape = format!("{} x {}", s.n, s.c);
    let t = seconds(cx, || rms_norm::forward(cx, &x, &g, 1e-5).map(drop))?;
    add("rms_norm", shape.clone(), 2 * s.n * s.c * size, false, t);
    let (_, r) = rms_norm::forward(cx, &x, &g, 1e-5)?;
    let t = seconds(cx, || rms_norm::backward(cx, &mut dy, &x, &g, &r, &mut dx))?;
    // On a device the norm's output is written by a kernel of its own, which reads x once more.
    let moved = if cx.gpu().is_some() { 6 } else { 5 };
    add("rms_norm backward", shape, moved * s.n * s.c * size, false, t);

    let packed = quantize(&pattern_of(s.c * s.c), true);
    let bytes = s.c * s.c / 2 + s.c * s.c / 64;
    let w = Weight::nf4(packed, cx.products(), s.c, s.c)?.to_device(cx)?;
    let one = buf(1, s.c)?;
    let t = seconds(cx, || linear::forward(cx, &one, &w, Plus::default()).map(drop))?;
    add(
        "nf4-dq to one row's product",
        format!("{0} x {0}", s.c),
        bytes + 2 * s.c * s.c * size,
        false,
        t,
    );
    let t = seconds(cx, || linear::forward(cx, &x, &w, Plus::default()).map(drop))?;
    add("nf4-dq linear", format!("{} x {1} x {1}", s.n, s.c), 2 * s.n * s.c * s.c, true, t);

    let heads = Heads { heads: s.c / 64, kv_heads: s.c / 64, size: 64, window: None };
    let spans: Vec<Span> = (0..s.n / 512)
        .map(|i| Span { q: i * 512..(i + 1) * 512, k: i * 512..(i + 1) * 512 })
        .collect();
    let sight = Sight::new(cx, &spans, heads, s.n, s.n)?;
    let flops = spans.len() * 2 * 512 * 512 * s.c;
    let shape = format!("{} x 512, {} heads of 64", spans.len(), heads.heads);
    let t = seconds(cx, || attention::forward(cx, &x, &dy, &dx, &sight, heads).map(drop))?;
    add("attention", shape.clone(), flops, true, t);
    let (o, lse) = attention::forward(cx, &x, &dy, &dx, &sight, heads)?;
    let saved = Saved { q: &x, k: &dy, v: &dx, o: &o, lse: &lse };
    let t = seconds(cx, || attention::backward(cx, &saved, &o, &sight, heads).map(drop))?;
    add("attention backward", shape, flops * 5 / 2, true, t);

    let n = 256;
    let values = pattern_of(n * s.v);
    let (targets, c) = (Mirror::new(cx, vec![7; n])?, Mirror::new(cx, vec![0.1; n])?);
    let mut nll = vec![0.0; n];
    let mut logits = Some(cx.alloc_f32(&[n, s.v])?.filled(&values)?);
    let t = seconds(cx, || {
        let z = match logits.take() {
            Some(z) if z.dtype() == DType::F32 => z,
            _ => cx.alloc_f32(&[n, s.v])?,
        };
        logits = cross_entropy::forward_backward(cx, z, &targets, Some(&c), &mut nll)?;
        Ok(())
    })?;
    add("cross_entropy", format!("{n} x {}", s.v), n * s.v * (3 * 4 + size), false, t);

    let count = 8 << 20;
    let mut arena = Arena::default();
    arena.push("adapter", [1, count], &pattern_of(count));
    arena.to_device(cx)?;
    let config = AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
    let mut optimizer = AdamW::new(config, cx, &arena)?;
    let t = seconds(cx, || optimizer.step(cx, &mut arena, 1e-4, 1.0))?;
    add("adamw", format!("{count}"), count * 7 * 4, false, t);
    let t = seconds(cx, || arena.grad_norm(cx).map(drop))?;
    add("gradient norm", format!("{count}"), count * 4, false, t);
    Ok((limits, speeds))
}

fn pattern_of(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0).collect()
}

fn limits(
    cx: &Cx,
    s: &Sizes,
    size: usize,
    buf: &mut impl FnMut(usize, usize) -> Result<Buf>,
) -> Result<Limits> {
    let (x, mut y) = (buf(s.n, s.f)?, buf(s.n, s.f)?);
    let t = match (x.memory(), y.memory()) {
        (Ok(from), Ok(to)) => seconds(cx, || to.copy(0, from, 0, s.n * s.f * size))?,
        _ => seconds(cx, || rows::add(cx, &mut y, &x))? * 2.0 / 3.0,
    };
    let copy = (2 * s.n * s.f * size) as f64 / t;
    let w = Weight::from_f32(pattern_of(s.c * s.f), s.f, s.c)?.to_device(cx)?;
    let x = buf(s.n, s.c)?;
    let t = seconds(cx, || linear::forward(cx, &x, &w, Plus::default()).map(drop))?;
    Ok(Limits { copy, gemm: (2 * s.n * s.c * s.f) as f64 / t })
}
