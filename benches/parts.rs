//! What a training step in bf16 or f32 computes beside its layers' frozen products, part by part:
//! `cargo bench --bench parts -- DTYPE SEQUENCES LENGTH V C F H K R LAYERS` prints one line of JSON, the seconds that each takes in a step
//! of all layers, the least of half a second's turns.
//!
//! Each part runs alone, on all cores, on operands that lie in a cache where they fit; the head's weight does not. With the layers'
//! products (`products`) the sum estimates a step that waits for no memory. The wide sides of the adapters' products belong to the frozen
//! ones (`ops/bf16_gemm`, `ops/matmul`) and are not here, nor are NF4's codes.
#![expect(clippy::unwrap_used, reason = "a bench ends where something fails")]
#![expect(clippy::print_stdout, reason = "what it is for")]

mod shared;

use half::bf16;
use shared::{buf, dtype, least, noise};
use vft::ops::attention::{self, Heads, Saved, Sight, Span};
use vft::ops::lora::{self, Factors, Gradients, Part, Seen};
use vft::ops::rope::{self, Turn};
use vft::ops::{Buf, Cx, Mirror, Vector, Weight, head, rms_norm, swiglu};
use vft::optim::Arena;
use vft::optim::adamw::{AdamW, AdamWConfig};
use vft::optim::arena::clip_factor;

/// The shape, and what has been measured.
struct Step {
    cx: Cx,
    sequences: usize,
    length: usize,
    layers: usize,
    found: Vec<String>,
}

impl Step {
    fn buf(&self, cols: usize) -> Buf {
        buf(&self.cx, self.sequences * self.length, cols)
    }

    /// Notes the seconds of `run` so many times.
    fn part(&mut self, name: &str, times: usize, mut run: impl FnMut(&Cx) + Send) {
        self.part_of(name, times, |_| (), |cx, ()| run(cx));
    }

    /// The same of `run` on what `prepare` gives.
    fn part_of<T>(
        &mut self,
        name: &str,
        times: usize,
        prepare: impl Fn(&Cx) -> T + Sync,
        run: impl FnMut(&Cx, T) + Send,
    ) {
        let seconds = least(&self.cx, 0.5, prepare, run) * times as f64;
        self.found.push(format!("\"{name}\": {seconds:e}"));
    }

    fn attention(&mut self, heads: Heads) {
        let (q, kv) = (heads.heads * heads.size, heads.kv_heads * heads.size);
        let (mut q, mut k, v, dout) = (self.buf(q), self.buf(kv), self.buf(kv), self.buf(q));
        let (rows, length) = (self.sequences * self.length, self.length);
        let span = |i: usize| i * length..(i + 1) * length;
        let spans: Vec<Span> =
            (0..self.sequences).map(|i| Span { q: span(i), k: span(i) }).collect();
        let sight = Sight::new(&self.cx, &spans, heads, rows, rows).unwrap();
        let (o, lse) = attention::forward(&self.cx, &q, &k, &v, &sight, heads).unwrap();
        self.part("attention, forward", self.layers, |cx| {
            drop(attention::forward(cx, &q, &k, &v, &sight, heads).unwrap());
        });
        let saved = Saved { q: &q, k: &k, v: &v, o: &o, lse: &lse };
        self.part("attention, backward", self.layers, |cx| {
            drop(attention::backward(cx, &saved, &dout, &sight, heads).unwrap());
        });
        let frequencies: Vec<f32> = noise(heads.size / 2).collect();
        let table = rope::Table::new(&self.cx, &frequencies, 1.0, length).unwrap();
        let positions = (0..rows).map(|i| (i % length) as u32).collect::<Vec<_>>();
        let positions = Mirror::new(&self.cx, positions).unwrap();
        self.part("rotary embedding", 2 * self.layers, |cx| {
            rope::rotate(cx, [&mut q, &mut k], &table, &positions, Turn::Forward).unwrap();
        });
    }

    fn norms(&mut self, c: usize) {
        let (x, mut dy, mut dx) = (self.buf(c), self.buf(c), self.buf(c));
        let g = Vector::new(&self.cx, noise(c).collect::<Vec<_>>()).unwrap();
        let (_, r) = rms_norm::forward(&self.cx, &x, &g, 1e-5).unwrap();
        self.part("norms", 2 * self.layers + 1, |cx| {
            drop(rms_norm::forward(cx, &x, &g, 1e-5).unwrap());
            rms_norm::backward(cx, &mut dy, &x, &g, &r, &mut dx).unwrap();
        });
    }

    fn swiglu(&mut self, f: usize) {
        let rows = self.sequences * self.length;
        let (gate, up) = (self.buf(f), self.buf(f));
        self.part("SwiGLU, forward", self.layers, |cx| {
            drop(swiglu::forward(cx, &gate, &up).unwrap());
        });
        // It writes over its operands.
        let operands = |cx: &Cx| [(); 3].map(|()| buf(cx, rows, f));
        let backward = |cx: &Cx, [mut dh, mut gate, mut up]: [Buf; 3]| {
            swiglu::backward(cx, &mut dh, &mut gate, &mut up).unwrap();
        };
        self.part_of("SwiGLU, backward", self.layers, operands, backward);
    }

    /// The narrow products of adapters that share an input, and their gradients.
    fn adapters(&mut self, name: &str, r: usize, input: usize, outs: &[usize]) {
        let x = self.buf(input);
        let dys: Vec<Buf> = outs.iter().map(|out| self.buf(*out)).collect();
        let a: Vec<f32> = noise(r * input).collect();
        let bs: Vec<Vec<f32>> = outs.iter().map(|out| noise(out * r).collect()).collect();
        let factors = |b| Factors { a: Part::Host(&a), b: Part::Host(b), r, scale: 2.0 };
        let all: Vec<_> = bs.iter().map(|b| factors(b)).collect();
        let mut grads: Vec<_> =
            outs.iter().map(|out| (vec![0.0; r * input], vec![0.0; out * r])).collect();
        self.part(name, self.layers, |cx| {
            let seen: Vec<_> = all.iter().map(|f| (*f, None)).collect();
            let us = lora::forward(cx, &x, &seen).unwrap();
            let dys_of: Vec<_> = dys.iter().zip(&all).map(|(dy, f)| (dy, *f)).collect();
            let dus = lora::backward(cx, &dys_of).unwrap();
            let parts = us.iter().zip(&dus).zip(&dys).zip(&mut grads);
            let parts = parts.map(|(((u, du), dy), (da, db))| {
                (Seen { x: &x, mask: None, u, du, dy, scale: 2.0 }, Gradients::Host(da, db))
            });
            lora::gradients(cx, parts.collect()).unwrap();
        });
    }

    fn head(&mut self, c: usize, v: usize) {
        let values = noise(v * c).map(bf16::from_f32).collect();
        // The last token of a sequence has no label.
        let rows = self.sequences * (self.length - 1);
        let (h, w) = (buf(&self.cx, rows, c), Weight::from_bf16(values, v, c).unwrap());
        let (targets, coefficients) = (vec![7; rows], vec![0.1; rows]);
        let mut nll = vec![0.0; rows];
        self.part("head and loss", 1, |cx| {
            let found = head::forward_backward(cx, &h, &w, &targets, Some(&coefficients), &mut nll);
            drop(found.unwrap());
        });
    }

    fn optimizer(&mut self, r: usize, sides: usize) {
        let mut arena = Arena::default();
        let values: Vec<f32> = noise(r * sides).collect();
        let [a, b] = [("A", sides / 2), ("B", sides - sides / 2)]
            .map(|(name, n)| arena.push(name, [r, n], &values[..r * n]));
        for gradients in arena.gradients(&[[&a, &b]]).unwrap() {
            if let Gradients::Host(da, db) = gradients {
                da.fill(1e-3);
                db.fill(1e-3);
            }
        }
        let config = AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
        let mut optimizer = AdamW::new(config, &self.cx, &arena).unwrap();
        self.part("clipping and AdamW", 1, |cx| {
            let factor = clip_factor(arena.grad_norm(cx).unwrap(), Some(1.0));
            optimizer.step(cx, &mut arena, 1e-4, factor).unwrap();
        });
    }
}

fn main() {
    // Cargo adds an option of its own.
    let words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let words: Vec<String> = words.collect();
    let Some((name, numbers)) = words.split_first().filter(|(_, numbers)| numbers.len() == 9)
    else {
        println!(
            "usage: cargo bench --bench parts -- bf16|f32 SEQUENCES LENGTH V C F H K R LAYERS"
        );
        return;
    };
    let numbers: Vec<usize> = numbers.iter().map(|word| word.parse().unwrap()).collect();
    let [sequences, length, v, c, f, h, k, r, layers] = numbers[..] else { return };
    assert!(c.is_multiple_of(h), "heads of C / H");
    let cx = Cx::cpu(dtype(name), 0).unwrap();
    let mut step = Step { cx, sequences, length, layers, found: Vec::new() };
    let (size, kv) = (c / h, c / h * k);
    step.attention(Heads { heads: h, kv_heads: k, size, window: None });
    step.norms(c);
    step.swiglu(f);
    step.adapters("adapters of q, k, v", r, c, &[c, kv, kv]);
    step.adapters("adapters of o", r, c, &[c]);
    step.adapters("adapters of gate, up", r, c, &[f, f]);
    step.adapters("adapters of down", r, f, &[c]);
    step.head(c, v);
    step.optimizer(r, layers * (2 * (c + c) + 2 * (c + kv) + 3 * (c + f)));
    println!("{{{}}}", step.found.join(", "));
}
