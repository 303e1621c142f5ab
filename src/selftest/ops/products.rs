//! Products and what is made of them: linear layers in every storage, the head, adapters.

use super::{C, Checks, N, OUT};
use crate::ops::cx::rounded;
use crate::ops::dropout::Mask;
use crate::ops::linear::{self, Back, Plus};
use crate::ops::lora::{self, Factors, Seen};
use crate::ops::nf4::quantize;
use crate::ops::{Mirror, Vector, Weight, head};
use crate::optim::Arena;
use crate::selftest::case::{Line, error};
use crate::selftest::reference;
use candle_core::{DType, Result};

impl Checks<'_> {
    /// y = x·Wᵀ + b and dx = dy·W of `n` rows for the values `w` of `weight`.
    pub(super) fn product(
        &mut self,
        what: &str,
        n: usize,
        weight: &Weight,
        w: &[f32],
        bias: bool,
    ) -> Result<()> {
        let (out, c) = (weight.rows(), weight.cols());
        let (x, dy) = (self.inputs.values(n * c), self.inputs.values(n * out));
        let (b, y0) = (self.inputs.wide(out), self.inputs.values(n * out));
        let shape = format!("{n} x {c} x {out}");
        let vector = Vector::new(self.cx, b.clone())?;
        let residual = self.buf(&y0, out)?;
        let plus = Plus {
            bias: bias.then_some(&vector),
            residual: bias.then_some(&residual),
            ..Plus::default()
        };
        let y = linear::forward(self.cx, &self.buf(&x, c)?, weight, plus)?;
        let mut theirs = reference::product((n, c, out), |i, k| x[i * c + k], |k, j| w[j * c + k]);
        if bias {
            theirs.iter_mut().enumerate().for_each(|(i, y)| {
                *y += f64::from(b[i % out]) + f64::from(y0[i]);
            });
        }
        self.check(what, shape.clone(), &y.to_f32()?, &theirs);
        let dy_buf = self.buf(&dy, out)?;
        let dx = linear::backward(self.cx, &[Back { dy: &dy_buf, weight, low_rank: None }])?;
        let theirs = reference::product((n, out, c), |i, k| dy[i * out + k], |k, j| w[k * c + j]);
        self.check(&format!("{what} dx"), shape, &dx.to_f32()?, &theirs);
        Ok(())
    }

    pub(super) fn linear(&mut self) -> Result<()> {
        let w = self.inputs.values(OUT * C);
        let weight = self.weight(&w, OUT, C)?;
        self.product("linear", N, &weight, &w, true)?;
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

    /// Sizes that whole tiles divide, as models have: other paths of a library than odd ones take.
    pub(super) fn aligned(&mut self) -> Result<()> {
        let (n, c, out) = (256, 1024, 512);
        let w = self.inputs.values(out * c);
        let weight = self.weight(&w, out, c)?;
        self.product("linear", n, &weight, &w, true)?;
        let (weight, w) = self.packed(true, out, c)?;
        self.product("nf4-dq linear", n, &weight, &w, false)
    }

    /// The loss and its gradient over parts of a vocabulary, the last one short, where there is such a pass.
    pub(super) fn head(&mut self) -> Result<()> {
        let v = 2 * head::width(usize::MAX) + 53;
        let (x, w, coefficients) =
            (self.inputs.values(N * C), self.inputs.values(v * C), self.inputs.wide(N));
        let weight = self.weight(&w, v, C)?;
        if !head::applies(self.cx, &weight) {
            return Ok(());
        }
        let targets: Vec<u32> = (0..N).map(|_| self.inputs.below(v) as u32).collect();
        let (h, mut nll) = (self.buf(&x, C)?, vec![f32::NAN; N]);
        let given = Some(&coefficients[..]);
        let dh = head::forward_backward(self.cx, &h, &weight, &targets, given, &mut nll)?;
        let z = reference::product((N, C, v), |i, k| x[i * C + k], |k, j| w[j * C + k]);
        let z: Vec<f32> = z.iter().map(|z| *z as f32).collect();
        let [want_nll, dz] = reference::cross_entropy(&z, &targets, &coefficients);
        let dz: Vec<f32> = dz.iter().map(|dz| *dz as f32).collect();
        let want = reference::product((N, v, C), |i, k| dz[i * v + k], |k, j| w[k * C + j]);
        let shape = format!("{N} x {C} x {v}");
        self.check_in(DType::F32, "head", shape.clone(), &nll, &want_nll);
        let dh = dh.map(|dh| dh.to_f32()).transpose()?.unwrap_or_default();
        // The probabilities are rounded to an operand.
        self.check_in(self.cx.products(), "head dh", shape, &dh, &want);
        Ok(())
    }

    pub(super) fn nf4(&mut self, nested: bool) -> Result<()> {
        let (weight, values) = self.packed(nested, OUT, 128)?;
        let what = if nested { "nf4-dq" } else { "nf4" };
        self.product(&format!("{what} linear"), N, &weight, &values, false)
    }

    /// Codes by their definition, not one of them another; the last block is short.
    pub(super) fn nf4_codes(&mut self) {
        let values = self.inputs.wide(OUT * C);
        let packed = quantize(&values, false);
        let code = |i: usize| f32::from(packed.packed[i / 2] >> (4 * (1 - i % 2)) & 15);
        let ours: Vec<f32> = (0..values.len()).map(code).collect();
        let line = Line {
            what: "nf4 codes".into(),
            shape: format!("{OUT} x {C}"),
            error: error(&ours, &reference::nf4_codes(&values)),
            limit: 0.0,
        };
        self.lines.push(line);
    }

    /// A random NF4 weight and the values that products multiply.
    pub(super) fn packed(
        &mut self,
        nested: bool,
        rows: usize,
        cols: usize,
    ) -> Result<(Weight, Vec<f32>)> {
        let packed = quantize(&self.inputs.values(rows * cols), nested);
        let exact = reference::dequantize(&packed);
        let weight = Weight::nf4(packed, self.cx.products(), rows, cols)?.to_device(self.cx)?;
        let values = exact.iter().map(|v| rounded(*v as f32, self.cx.products())).collect();
        Ok((weight, values))
    }

    pub(super) fn lora(&mut self, p: f32) -> Result<()> {
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
        // u and du are operands of further products.
        let dtype = self.cx.products();
        self.check_in(dtype, what, shape.clone(), &y.to_f32()?, &want_y);
        self.check_in(dtype, &format!("{what} dx"), shape.clone(), &dx.to_f32()?, &want_dx);
        self.check_in(dtype, &format!("{what} dA"), shape.clone(), arena.grad(&sa), &want_da);
        self.check_in(dtype, &format!("{what} dB"), shape, arena.grad(&sb), &want_db);
        Ok(())
    }
}
