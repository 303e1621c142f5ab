//! Every op against its plain reference: odd shapes, fresh inputs, outputs that held NaN before.

mod attention;
mod few;
mod products;

use super::case::{Inputs, Line, error, limit};
use super::reference;
use crate::ops::dropout::{self, Mask};
use crate::ops::rope::{self, Turn};
use crate::ops::{
    Buf, Cx, Mirror, Vector, Weight, cross_entropy, embedding, rms_norm, rows, swiglu,
};
use crate::optim::adamw::{AdamW, AdamWConfig};
use crate::optim::sgd::SgdConfig;
use crate::optim::{Arena, Optimizer, OptimizerConfig};
use candle_core::{DType, Result};
use half::bf16;

/// Rows and columns that no tile divides.
const N: usize = 37;
const C: usize = 123;
const OUT: usize = 67;

/// Checks in one context.
pub struct Checks<'a> {
    cx: &'a Cx,
    inputs: Inputs,
    lines: Vec<Line>,
}

impl<'a> Checks<'a> {
    /// All ops.
    ///
    /// # Errors
    /// When an op fails rather than errs.
    pub fn run(cx: &'a Cx, seed: u64) -> Result<Vec<Line>> {
        let mut checks = Self { cx, inputs: Inputs::new(seed, cx.products()), lines: Vec::new() };
        checks.rows()?;
        checks.embedding()?;
        checks.linear()?;
        checks.aligned()?;
        checks.few_rows()?;
        checks.nf4_codes();
        for nested in [false, true] {
            checks.nf4(nested)?;
            checks.few_rows_of_nf4(nested)?;
        }
        for p in [0.0, 0.3] {
            checks.lora(p)?;
        }
        // The least and the most that p is rounded to: nothing is dropped, all but what a half of 65,535 keeps.
        for p in [0.4, 1e-6, 0.999_999] {
            checks.dropout(p)?;
        }
        checks.rms_norm()?;
        checks.rope()?;
        checks.swiglu()?;
        checks.attention(&[1, 70, 5], 0, None, 10)?;
        checks.attention(&[131], 0, Some(9), 64)?;
        // Llama's and Mistral's heads, and the largest.
        checks.attention(&[1, 70, 5], 0, None, 128)?;
        checks.attention(&[9, 30], 5, Some(16), 256)?;
        // More keys than a block has, and more queries than a segment.
        checks.attention(&[700], 0, None, 10)?;
        checks.attention(&[1, 3, 70], 77, None, 10)?;
        checks.attention(&[1, 3, 70], 77, None, 64)?;
        checks.attention(&[1, 3, 70], 77, Some(9), 64)?;
        checks.cross_entropy()?;
        checks.head()?;
        checks.adamw()?;
        Ok(checks.lines)
    }

    fn buf(&self, values: &[f32], cols: usize) -> Result<Buf> {
        self.cx.from_slice(values, &[values.len() / cols, cols])
    }

    /// A dense weight in the products' dtype.
    fn weight(&self, w: &[f32], rows: usize, cols: usize) -> Result<Weight> {
        let weight = match self.cx.products() {
            DType::BF16 => {
                Weight::from_bf16(w.iter().map(|w| bf16::from_f32(*w)).collect(), rows, cols)?
            }
            _ => Weight::from_f32(w.to_vec(), rows, cols)?,
        };
        weight.to_device(self.cx)
    }

    fn check(&mut self, what: &str, shape: String, ours: &[f32], theirs: &[f64]) {
        self.check_in(self.cx.compute(), what, shape, ours, theirs);
    }

    /// As [`Self::check`], of a result whose values were rounded to `dtype`.
    fn check_in(&mut self, dtype: DType, what: &str, shape: String, ours: &[f32], theirs: &[f64]) {
        let limit = limit(dtype);
        let line = Line { what: what.into(), shape, error: error(ours, theirs), limit };
        self.lines.push(line);
    }

    fn rows(&mut self) -> Result<()> {
        let (x, y) = (self.inputs.values(N * C), self.inputs.values(N * C));
        let mut sum = self.buf(&y, C)?;
        rows::add(self.cx, &mut sum, &self.buf(&x, C)?)?;
        let theirs: Vec<f64> =
            x.iter().zip(&y).map(|(x, y)| f64::from(*x) + f64::from(*y)).collect();
        self.check("add", format!("{N} x {C}"), &sum.to_f32()?, &theirs);

        let chosen: Vec<u32> = (0..N as u32).step_by(3).rev().collect();
        let places = Mirror::new(self.cx, &chosen)?;
        let some = rows::gather(self.cx, &self.buf(&x, C)?, &places)?;
        let theirs: Vec<f64> =
            chosen.iter().flat_map(|r| &x[*r as usize * C..][..C]).map(|x| f64::from(*x)).collect();
        self.check(
            "gather rows",
            format!("{} of {N} x {C}", chosen.len()),
            &some.to_f32()?,
            &theirs,
        );

        let mut back = self.buf(&y, C)?;
        rows::scatter(self.cx, &some, &places, &mut back)?;
        let from = |i: usize| if chosen.contains(&((i / C) as u32)) { x[i] } else { y[i] };
        let theirs: Vec<f64> = (0..N * C).map(|i| f64::from(from(i))).collect();
        self.check(
            "scatter rows",
            format!("{} of {N} x {C}", chosen.len()),
            &back.to_f32()?,
            &theirs,
        );
        Ok(())
    }

    fn embedding(&mut self) -> Result<()> {
        let table = self.inputs.values(OUT * C);
        let ids: Vec<u32> = (0..N).map(|_| self.inputs.below(OUT) as u32).collect();
        let weight = Weight::from_f32(table.clone(), OUT, C)?.to_device(self.cx)?;
        let y = embedding::forward(self.cx, &weight, &Mirror::new(self.cx, &ids)?)?;
        let theirs: Vec<f64> = ids
            .iter()
            .flat_map(|id| &table[*id as usize * C..][..C])
            .map(|x| f64::from(*x))
            .collect();
        self.check("embedding", format!("{N} of {OUT} x {C}"), &y.to_f32()?, &theirs);
        Ok(())
    }

    fn dropout(&mut self, p: f32) -> Result<()> {
        let x = self.inputs.values(N * C);
        let tokens: Vec<[u32; 2]> = (0..N as u32).map(|i| [i, i * i]).collect();
        let origins = Mirror::new(self.cx, &tokens)?;
        let mask = Mask { p, key: [5, 6], step: 9, tokens: &origins };
        let y = dropout::apply(self.cx, &self.buf(&x, C)?, &mask)?;
        let theirs = reference::dropout(&x, C, p, [5, 6], 9, &tokens);
        self.check("dropout", format!("{N} x {C}, p {p}"), &y.to_f32()?, &theirs);
        let dx0 = self.inputs.values(N * C);
        let mut dx = self.buf(&dx0, C)?;
        dropout::add_masked(self.cx, &self.buf(&x, C)?, &mask, &mut dx)?;
        let theirs: Vec<_> = theirs.iter().zip(&dx0).map(|(y, d)| y + f64::from(*d)).collect();
        self.check("dropout, added", format!("{N} x {C}, p {p}"), &dx.to_f32()?, &theirs);
        Ok(())
    }

    fn rms_norm(&mut self) -> Result<()> {
        let (x, dy, dx0) =
            (self.inputs.values(N * C), self.inputs.values(N * C), self.inputs.values(N * C));
        let (g, eps) = (self.inputs.wide(C), 1e-5);
        let (xb, gv) = (self.buf(&x, C)?, Vector::new(self.cx, g.clone())?);
        let (y, r) = rms_norm::forward(self.cx, &xb, &gv, eps)?;
        let (want, want_r) = reference::rms_norm(&x, &g, eps);
        let shape = format!("{N} x {C}");
        self.check("rms_norm", shape.clone(), &y.to_f32()?, &want);
        self.check("rms_norm scale", shape.clone(), &r.to_f32()?, &want_r);
        let again = rms_norm::recompute(self.cx, &xb, &gv, &r)?;
        self.check("rms_norm again", shape.clone(), &again.to_f32()?, &want);
        let mut dx = self.buf(&dx0, C)?;
        let mut again = self.buf(&dy, C)?;
        rms_norm::backward(self.cx, &mut again, &xb, &gv, &r, &mut dx)?;
        self.check("rms_norm behind dx", shape.clone(), &again.to_f32()?, &want);
        let mut want = reference::rms_norm_backward(&dy, &x, &g, eps);
        want.iter_mut().zip(&dx0).for_each(|(w, d)| *w += f64::from(*d));
        self.check("rms_norm dx", shape, &dx.to_f32()?, &want);
        Ok(())
    }

    /// Halves of a head below a vector, of whole vectors, and of one and a part.
    fn rope(&mut self) -> Result<()> {
        [7, 32, 23].into_iter().try_for_each(|half| self.rope_of(3, half))
    }

    fn rope_of(&mut self, heads: usize, half: usize) -> Result<()> {
        let x = self.inputs.values(N * heads * 2 * half);
        let freqs: Vec<f32> = (0..half).map(|i| 100f32.powf(-(i as f32) / half as f32)).collect();
        let table = rope::Table::new(self.cx, &freqs, 1.0, 50)?;
        let positions: Vec<u32> = (0..N).map(|_| self.inputs.below(50) as u32).collect();
        let places = Mirror::new(self.cx, &positions)?;
        for (what, turn, sign) in
            [("rope", Turn::Forward, 1.0), ("rope back", Turn::Backward, -1.0)]
        {
            let of = |heads: usize| self.buf(&x[..N * heads * 2 * half], heads * 2 * half);
            let (mut q, mut k) = (of(heads)?, of(1)?);
            rope::rotate(self.cx, [&mut q, &mut k], &table, &places, turn)?;
            for (y, heads) in [(q, heads), (k, 1)] {
                let x = &x[..N * heads * 2 * half];
                let want = reference::rope(x, &freqs, &positions, heads, sign);
                self.check(what, format!("{N} x {heads} x {}", 2 * half), &y.to_f32()?, &want);
            }
        }
        Ok(())
    }

    fn swiglu(&mut self) -> Result<()> {
        let inputs = &mut self.inputs;
        let (a, b, dh) = (inputs.values(N * C), inputs.values(N * C), inputs.values(N * C));
        let [want_h, want_a, want_b] = reference::swiglu(&a, &b, &dh);
        let (mut ab, mut bb) = (self.buf(&a, C)?, self.buf(&b, C)?);
        let h = swiglu::forward(self.cx, &ab, &bb)?;
        let mut db = self.buf(&dh, C)?;
        swiglu::backward(self.cx, &mut db, &mut ab, &mut bb)?;
        let shape = format!("{N} x {C}");
        self.check("swiglu", shape.clone(), &h.to_f32()?, &want_h);
        self.check("swiglu again", shape.clone(), &db.to_f32()?, &want_h);
        self.check("swiglu da", shape.clone(), &ab.to_f32()?, &want_a);
        self.check("swiglu db", shape, &bb.to_f32()?, &want_b);
        Ok(())
    }

    fn cross_entropy(&mut self) -> Result<()> {
        let v = 1003;
        let z: Vec<f32> = self.inputs.wide(N * v).into_iter().map(|z| z * 8.0).collect();
        let targets: Vec<u32> = (0..N).map(|_| self.inputs.below(v) as u32).collect();
        let coefficients = self.inputs.wide(N);
        let logits = self.cx.alloc_f32(&[N, v])?;
        let logits = logits.filled(&z)?;
        let (t, c) = (Mirror::new(self.cx, &targets)?, Mirror::new(self.cx, &coefficients)?);
        let mut nll = vec![f32::NAN; N];
        let dz = cross_entropy::forward_backward(self.cx, logits, &t, Some(&c), &mut nll)?;
        let [want_nll, want_dz] = reference::cross_entropy(&z, &targets, &coefficients);
        let shape = format!("{N} x {v}");
        self.check("cross_entropy", shape.clone(), &nll, &want_nll);
        let dz = dz.map(|dz| dz.to_f32()).transpose()?.unwrap_or_default();
        self.check_in(self.cx.products(), "cross_entropy dz", shape, &dz, &want_dz);
        Ok(())
    }

    fn adamw(&mut self) -> Result<()> {
        let n = 70_001;
        let (p, g) = (self.inputs.wide(n), self.inputs.wide(n));
        let mut arena = Arena::default();
        let slice = arena.push("p", [1, n], &p);
        arena.grads[..n].copy_from_slice(&g);
        arena.to_device(self.cx)?;
        arena.send_grads()?;
        let norm = arena.grad_norm(self.cx)?;
        let want = g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let shape = format!("{n}");
        let mut line = |what: &str, error: f64, limit: f64| {
            let line = Line { what: what.into(), shape: shape.clone(), error, limit };
            self.lines.push(line);
        };
        line("gradient norm", (norm / want - 1.0).abs(), 1e-9);
        let config = AdamWConfig { betas: [0.9, 0.95], eps: 1e-6, weight_decay: 0.1 };
        AdamW::new(config, self.cx, &arena)?.step(self.cx, &mut arena, 1e-2, 0.5)?;
        arena.fetch_params()?;
        let halves: Vec<f32> = g.iter().map(|g| g * 0.5).collect();
        let want = reference::adamw(&p, &halves, 1e-2, [0.9, 0.95], 1e-6, 0.1);
        line("adamw", error(arena.param(&slice), &want), 1e-6);
        let momentum =
            SgdConfig { momentum: 0.9, dampening: 0.0, weight_decay: 0.1, nesterov: true };
        let l2 = |(p, g): (&f32, &f32)| f64::from(*g) + 0.1 * f64::from(*p);
        let descent: Vec<f64> =
            p.iter().zip(&halves).map(|e| f64::from(*e.0) - 1e-2 * 1.9 * l2(e)).collect();
        for (what, kind, want) in [
            ("adamw, 8 bit", OptimizerConfig::AdamW8bit(config), &want),
            ("sgd", OptimizerConfig::Sgd(momentum), &descent),
        ] {
            let mut arena = Arena::default();
            let slice = arena.push("p", [1, n], &p);
            arena.grads[..n].copy_from_slice(&g);
            arena.to_device(self.cx)?;
            arena.send_grads()?;
            Optimizer::new(kind, self.cx, &arena)?.step(self.cx, &mut arena, 1e-2, 0.5)?;
            arena.fetch_params()?;
            line(what, error(arena.param(&slice), want), 1e-6);
        }
        Ok(())
    }
}
