//! Every op against its plain reference: odd shapes, fresh inputs, outputs that held NaN before.

use super::case::{Inputs, Line, error, limit};
use super::reference;
use crate::ops::attention::{self, Heads, Saved, Sight, Span};
use crate::ops::cx::rounded;
use crate::ops::dropout::{self, Mask};
use crate::ops::linear::{Back, Plus};
use crate::ops::lora::{self, Factors, Seen};
use crate::ops::rope::{self, Turn};
use crate::ops::{
    Buf, Cx, Mirror, Vector, Weight, cross_entropy, embedding, linear, rms_norm, rows, swiglu,
};
use crate::optim::Arena;
use crate::optim::adamw::{AdamW, AdamWConfig};
use crate::quant;
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
        let mut checks = Self { cx, inputs: Inputs::new(seed, cx.compute()), lines: Vec::new() };
        checks.rows()?;
        checks.embedding()?;
        checks.linear()?;
        for nested in [false, true] {
            checks.nf4(nested)?;
        }
        for p in [0.0, 0.3] {
            checks.lora(p)?;
        }
        checks.dropout()?;
        checks.rms_norm()?;
        checks.rope()?;
        checks.swiglu()?;
        checks.attention(&[1, 70, 5], None, 10)?;
        checks.attention(&[131], Some(9), 64)?;
        checks.cross_entropy()?;
        checks.adamw()?;
        Ok(checks.lines)
    }

    fn buf(&self, values: &[f32], cols: usize) -> Result<Buf> {
        self.cx.from_slice(values, &[values.len() / cols, cols])
    }

    /// A dense weight in the compute dtype.
    fn weight(&self, w: &[f32], rows: usize, cols: usize) -> Result<Weight> {
        let weight = match self.cx.compute() {
            DType::BF16 => {
                Weight::from_bf16(w.iter().map(|w| bf16::from_f32(*w)).collect(), rows, cols)?
            }
            _ => Weight::from_f32(w.to_vec(), rows, cols)?,
        };
        weight.to_device(self.cx)
    }

    fn check(&mut self, what: &str, shape: String, ours: &[f32], theirs: &[f64]) {
        let limit = limit(self.cx);
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

    /// y = x·Wᵀ + b and dx += dy·W for the values `w` of `weight`.
    fn product(&mut self, what: &str, weight: &Weight, w: &[f32], bias: bool) -> Result<()> {
        let (out, c) = (weight.rows(), weight.cols());
        let (x, dy) = (self.inputs.values(N * c), self.inputs.values(N * out));
        let (b, y0) = (self.inputs.wide(out), self.inputs.values(N * out));
        let shape = format!("{N} x {c} x {out}");
        let vector = Vector::new(self.cx, b.clone())?;
        let residual = self.buf(&y0, out)?;
        let plus = Plus {
            bias: bias.then_some(&vector),
            residual: bias.then_some(&residual),
            ..Plus::default()
        };
        let y = linear::forward(self.cx, &self.buf(&x, c)?, weight, plus)?;
        let mut theirs = reference::product((N, c, out), |i, k| x[i * c + k], |k, j| w[j * c + k]);
        if bias {
            theirs.iter_mut().enumerate().for_each(|(i, y)| {
                *y += f64::from(b[i % out]) + f64::from(y0[i]);
            });
        }
        self.check(what, shape.clone(), &y.to_f32()?, &theirs);
        let dy_buf = self.buf(&dy, out)?;
        let dx = linear::backward(self.cx, &[Back { dy: &dy_buf, weight, low_rank: None }])?;
        let theirs = reference::product((N, out, c), |i, k| dy[i * out + k], |k, j| w[k * c + j]);
        self.check(&format!("{what} dx"), shape, &dx.to_f32()?, &theirs);
        Ok(())
    }

    fn linear(&mut self) -> Result<()> {
        let w = self.inputs.values(OUT * C);
        let weight = self.weight(&w, OUT, C)?;
        self.product("linear", &weight, &w, true)?;
        let x = self.inputs.values(N * C);
        let y = linear::forward_f32(self.cx, &self.buf(&x, C)?, &weight, Plus::default(), N)?;
        let theirs = reference::product((N, C, OUT), |i, k| x[i * C + k], |k, j| w[j * C + k]);
        let line = Line {
            what: "linear to f32".into(),
            shape: format!("{N} x {C} x {OUT}"),
            error: error(&y.to_f32()?, &theirs),
            limit: 1e-5,
        };
        self.lines.push(line);
        Ok(())
    }

    fn nf4(&mut self, nested: bool) -> Result<()> {
        let (rows, cols) = (67, 128);
        let packed = quant::quantize(&self.inputs.values(rows * cols), nested);
        let exact = reference::dequantize(&packed);
        let weight = Weight::nf4(packed, self.cx.compute(), rows, cols)?.to_device(self.cx)?;
        let what = if nested { "nf4-dq" } else { "nf4" };
        let values: Vec<f32> =
            exact.iter().map(|v| rounded(*v as f32, self.cx.compute())).collect();
        self.product(&format!("{what} linear"), &weight, &values, false)
    }

    fn lora(&mut self, p: f32) -> Result<()> {
        let (r, scale, step, key) = (5, 1.7f32, 4, [11, 12]);
        let (x, dy) = (self.inputs.values(N * C), self.inputs.values(N * OUT));
        let (y0, w) = (self.inputs.values(N * OUT), self.inputs.values(OUT * C));
        let weight = self.weight(&w, OUT, C)?;
        let mut arena = Arena::default();
        let a = self.inputs.values(r * C);
        let b = self.inputs.values(OUT * r);
        let (sa, sb) = (arena.push("a", [r, C], &a), arena.push("b", [OUT, r], &b));
        arena.to_device(self.cx)?;
        let tokens: Vec<[u32; 2]> = (0..N as u32).map(|i| [i / 9, i % 9]).collect();
        let origins = Mirror::new(self.cx, &tokens)?;
        let mask = (p > 0.0).then_some(Mask { p, key, step, tokens: &origins });

        let (xb, dyb) = (self.buf(&x, C)?, self.buf(&dy, OUT)?);
        let residual = self.buf(&y0, OUT)?;
        let factors = Factors { a: arena.part(&sa), b: arena.part(&sb), r, scale };
        let u = lora::forward(self.cx, &xb, &[(factors, mask.as_ref())])?.remove(0);
        let plus =
            Plus { low_rank: Some((&u, factors)), residual: Some(&residual), ..Plus::default() };
        let y = linear::forward(self.cx, &xb, &weight, plus)?;
        let du = lora::backward(self.cx, &[(&dyb, factors)])?.remove(0);
        let low_rank = Some((&du, factors, mask.as_ref()));
        let dx = linear::backward(self.cx, &[Back { dy: &dyb, weight: &weight, low_rank }])?;
        let seen = Seen { x: &xb, mask: mask.as_ref(), u: &u, du: &du, dy: &dyb, scale };
        let into = arena.gradients(&[[&sa, &sb]])?;
        lora::gradients(self.cx, into.into_iter().map(|g| (seen, g)).collect())?;
        arena.fetch_grads()?;

        let dropped = reference::dropout(&x, C, p, key, step, &tokens);
        let xd = |i: usize, k: usize| dropped[i * C + k] as f32;
        let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        let s = f64::from(scale);
        let u = narrow(reference::product((N, C, r), xd, |k, j| a[j * C + k]));
        let du =
            narrow(reference::product((N, OUT, r), |i, k| dy[i * OUT + k], |k, j| b[k * r + j]));
        let plus = |v: Vec<f64>, base: &[f64]| -> Vec<f64> {
            v.iter().zip(base).map(|(v, b)| s * v + b).collect()
        };
        let zeros = vec![0.0; OUT * C];
        let mut y0: Vec<f64> = y0.into_iter().map(f64::from).collect();
        let frozen = reference::product((N, C, OUT), |i, k| x[i * C + k], |k, j| w[j * C + k]);
        y0.iter_mut().zip(frozen).for_each(|(y, f)| *y += f);
        let dx0 = reference::product((N, OUT, C), |i, k| dy[i * OUT + k], |k, j| w[k * C + j]);
        let want_y =
            plus(reference::product((N, r, OUT), |i, k| u[i * r + k], |k, j| b[j * r + k]), &y0);
        let want_db = plus(
            reference::product((OUT, N, r), |i, k| dy[k * OUT + i], |k, j| u[k * r + j]),
            &zeros,
        );
        let want_da = plus(reference::product((r, N, C), |i, k| du[k * r + i], xd), &zeros);
        let through =
            narrow(reference::product((N, r, C), |i, k| du[i * r + k], |k, j| a[k * C + j]));
        let through = narrow(reference::dropout(&through, C, p, key, step, &tokens));
        let want_dx = plus(through.iter().map(|v| f64::from(*v)).collect(), &dx0);

        let what = if p > 0.0 { "lora with dropout" } else { "lora" };
        let shape = format!("{N} x {C} x {OUT}, r {r}");
        self.check(what, shape.clone(), &y.to_f32()?, &want_y);
        self.check(&format!("{what} dx"), shape.clone(), &dx.to_f32()?, &want_dx);
        self.check(&format!("{what} dA"), shape.clone(), arena.grad(&sa), &want_da);
        self.check(&format!("{what} dB"), shape, arena.grad(&sb), &want_db);
        Ok(())
    }

    fn dropout(&mut self) -> Result<()> {
        let x = self.inputs.values(N * C);
        let tokens: Vec<[u32; 2]> = (0..N as u32).map(|i| [i, i * i]).collect();
        let origins = Mirror::new(self.cx, &tokens)?;
        let mask = Mask { p: 0.4, key: [5, 6], step: 9, tokens: &origins };
        let y = dropout::apply(self.cx, &self.buf(&x, C)?, &mask)?;
        let theirs = reference::dropout(&x, C, 0.4, [5, 6], 9, &tokens);
        self.check("dropout", format!("{N} x {C}"), &y.to_f32()?, &theirs);
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
        rms_norm::backward(self.cx, &self.buf(&dy, C)?, &xb, &gv, &r, &mut dx)?;
        let mut want = reference::rms_norm_backward(&dy, &x, &g, eps);
        want.iter_mut().zip(&dx0).for_each(|(w, d)| *w += f64::from(*d));
        self.check("rms_norm dx", shape, &dx.to_f32()?, &want);
        Ok(())
    }

    fn rope(&mut self) -> Result<()> {
        let (heads, half) = (3, 7);
        let x = self.inputs.values(N * heads * 2 * half);
        let freqs: Vec<f32> = (0..half).map(|i| 100f32.powf(-(i as f32) / half as f32)).collect();
        let table = rope::Table::new(self.cx, &freqs, 1.0, 50)?;
        let positions: Vec<u32> = (0..N).map(|_| self.inputs.below(50) as u32).collect();
        let places = Mirror::new(self.cx, &positions)?;
        for (what, turn, sign) in
            [("rope", Turn::Forward, 1.0), ("rope back", Turn::Backward, -1.0)]
        {
            let mut y = self.buf(&x, heads * 2 * half)?;
            rope::rotate(self.cx, &mut y, &table, &places, turn)?;
            let want = reference::rope(&x, &freqs, &positions, heads, sign);
            self.check(what, format!("{N} x {heads} x {}", 2 * half), &y.to_f32()?, &want);
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

    fn attention(&mut self, lengths: &[usize], window: Option<usize>, size: usize) -> Result<()> {
        let heads = Heads { heads: 6, kv_heads: 2, size, window };
        let n: usize = lengths.iter().sum();
        let (qw, kw) = (heads.heads * size, heads.kv_heads * size);
        let inputs = &mut self.inputs;
        let (q, k) = (inputs.values(n * qw), inputs.values(n * kw));
        let (v, dout) = (inputs.values(n * kw), inputs.values(n * qw));
        let mut start = 0;
        let span = |t: &usize| {
            start += t;
            Span { q: start - t..start, k: start - t..start }
        };
        let spans: Vec<Span> = lengths.iter().map(span).collect();
        let theirs =
            reference::Attention { q: &q, k: &k, v: &v, dout: &dout, spans: &spans, heads }.all();
        let sight = Sight::new(self.cx, &spans, heads, n, n)?;
        let (qb, kb) = (self.buf(&q, qw)?, self.buf(&k, kw)?);
        let (vb, db) = (self.buf(&v, kw)?, self.buf(&dout, qw)?);
        let (o, lse) = attention::forward(self.cx, &qb, &kb, &vb, &sight, heads)?;
        let saved = Saved { q: &qb, k: &kb, v: &vb, o: &o, lse: &lse };
        let (dq, dk, dv) = attention::backward(self.cx, &saved, &db, &sight, heads)?;
        let what = if window.is_some() { "attention with a window" } else { "attention" };
        let shape = format!("{lengths:?}, 6 of 2 heads of {size}");
        for ((name, ours), theirs) in
            ["", " dq", " dk", " dv"].iter().zip([o, dq, dk, dv]).zip(theirs)
        {
            self.check(&format!("{what}{name}"), shape.clone(), &ours.to_f32()?, &theirs);
        }
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
        self.check("cross_entropy dz", shape, &dz, &want_dz);
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
        Ok(())
    }
}
