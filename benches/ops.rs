//! Every op alone, at the sizes of SmolLM2-135M with 512 tokens: `cargo bench --bench ops`, or `cargo bench --bench ops attention`.
//!
//! C 576, F 1536, 9 heads and 3 key/value heads of 64, rank 8, in f32 and in bf16. Products count FLOPs as items: items per second are
//! FLOP/s. The rest counts bytes: what one pass over the operands reads plus what it writes, without numbers that a whole row or column
//! shares. `cargo bench --bench limits` gives the machine's own of both.
#![expect(clippy::unwrap_used, reason = "a bench ends where something fails")]

use candle_core::DType;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use half::bf16;
use vft::ops::attention::{self, Heads, Saved, Sight, Span};
use vft::ops::dropout::{self, Mask};
use vft::ops::linear::{Back, Plus};
use vft::ops::lora::{self, Factors, Gradients, Part, Seen};
use vft::ops::rope::{self, Turn};
use vft::ops::{
    Buf, Cx, Mirror, Vector, Weight, cross_entropy, head, linear, nf4, rms_norm, swiglu,
};
use vft::optim::Arena;
use vft::optim::adamw::{AdamW, AdamWConfig};
use vft::optim::arena::clip_factor;
use vft::quant::nf4::BLOCK;

const N: usize = 512;
const C: usize = 576;
const F: usize = 1536;
const HEADS: Heads = Heads { heads: 9, kv_heads: 3, size: 64, window: None };

fn main() {
    divan::main();
}

/// The dtypes of values between ops.
const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

fn cx(dtype: DType) -> Cx {
    Cx::cpu(dtype, 0).unwrap()
}

fn noise(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0).collect()
}

fn buf(cx: &Cx, rows: usize, cols: usize) -> Buf {
    cx.from_slice(&noise(rows * cols), &[rows, cols]).unwrap()
}

fn weight(dtype: DType, kind: &str, rows: usize, cols: usize) -> Weight {
    let values = noise(rows * cols);
    match kind {
        "f32" => Weight::from_f32(values, rows, cols),
        "bf16" => Weight::from_bf16(values.into_iter().map(bf16::from_f32).collect(), rows, cols),
        nested => Weight::nf4(nf4::quantize(&values, nested == "nf4-dq"), dtype, rows, cols),
    }
    .unwrap()
}

/// A product of so many FLOPs.
fn timed<T>(bencher: Bencher<'_, '_>, flops: usize, f: impl FnMut() -> T) {
    bencher.counter(ItemsCount::new(flops)).bench_local(f);
}

/// What memory bounds: `bytes` read plus written.
fn moving<T>(bencher: Bencher<'_, '_>, bytes: usize, f: impl FnMut() -> T) {
    bencher.counter(BytesCount::new(bytes)).bench_local(f);
}

/// Bytes of one (N, `cols`) of values.
fn rows(dtype: DType, cols: usize) -> usize {
    N * cols * dtype.size_in_bytes()
}

/// The dtype of values, and what a weight is stored in.
const WEIGHTS: [(DType, &str); 6] = [
    (DType::F32, "f32"),
    (DType::F32, "bf16"),
    (DType::F32, "nf4"),
    (DType::BF16, "bf16"),
    (DType::BF16, "nf4"),
    (DType::BF16, "nf4-dq"),
];

#[divan::bench(args = WEIGHTS)]
fn linear_forward(bencher: Bencher<'_, '_>, (dtype, kind): (DType, &str)) {
    let (cx, w) = (cx(dtype), weight(dtype, kind, F, C));
    let x = buf(&cx, N, C);
    timed(bencher, 2 * N * C * F, || linear::forward(&cx, &x, &w, Plus::default()).unwrap());
}

#[divan::bench(args = WEIGHTS)]
fn linear_backward(bencher: Bencher<'_, '_>, (dtype, kind): (DType, &str)) {
    let (cx, w) = (cx(dtype), weight(dtype, kind, F, C));
    let dy = buf(&cx, N, F);
    let back = Back { dy: &dy, weight: &w, low_rank: None };
    timed(bencher, 2 * N * C * F, || linear::backward(&cx, &[back]).unwrap());
}

#[divan::bench(args = [(DType::F32, 0.0), (DType::F32, 0.1), (DType::BF16, 0.0), (DType::BF16, 0.1)])]
fn lora_forward_backward(bencher: Bencher<'_, '_>, (dtype, p): (DType, f32)) {
    let cx = cx(dtype);
    let tokens = Mirror::new(&cx, (0..N as u32).map(|i| [0, i]).collect::<Vec<_>>()).unwrap();
    let mask = (p > 0.0).then_some(Mask { p, key: [1, 2], step: 3, tokens: &tokens });
    let (a, b) = (noise(8 * C), noise(F * 8));
    let f = Factors { a: Part::Host(&a), b: Part::Host(&b), r: 8, scale: 2.0 };
    let (x, y) = (buf(&cx, N, C), buf(&cx, N, F));
    let (mut da, mut db) = (vec![0.0; 8 * C], vec![0.0; F * 8]);
    timed(bencher, 2 * N * 8 * (2 * C + 2 * F), || {
        let u = lora::forward(&cx, &x, &[(f, mask.as_ref())]).unwrap().remove(0);
        let du = lora::backward(&cx, &[(&y, f)]).unwrap().remove(0);
        let seen = Seen { x: &x, mask: mask.as_ref(), u: &u, du: &du, dy: &y, scale: f.scale };
        let gradients = Gradients::Host(&mut da, &mut db);
        lora::gradients(&cx, vec![(seen, gradients)]).unwrap();
    });
}

#[divan::bench(args = DTYPES)]
fn rms_norm_forward(bencher: Bencher<'_, '_>, dtype: DType) {
    let cx = cx(dtype);
    let (x, g) = (buf(&cx, N, C), Vector::new(&cx, noise(C)).unwrap());
    moving(bencher, 2 * rows(dtype, C), || rms_norm::forward(&cx, &x, &g, 1e-5).unwrap());
}

#[divan::bench(args = DTYPES)]
fn rms_norm_backward(bencher: Bencher<'_, '_>, dtype: DType) {
    let cx = cx(dtype);
    let (x, mut dy, mut dx) = (buf(&cx, N, C), buf(&cx, N, C), buf(&cx, N, C));
    let g = Vector::new(&cx, noise(C)).unwrap();
    let (_, r) = rms_norm::forward(&cx, &x, &g, 1e-5).unwrap();
    // dy, x and dx; y over dy, dx.
    moving(bencher, 5 * rows(dtype, C), || {
        rms_norm::backward(&cx, &mut dy, &x, &g, &r, &mut dx).unwrap()
    });
}

#[divan::bench(args = DTYPES)]
fn rope_rotate(bencher: Bencher<'_, '_>, dtype: DType) {
    let cx = cx(dtype);
    let table = rope::Table::new(&cx, &noise(32), 1.0, N).unwrap();
    let positions = Mirror::new(&cx, (0..N as u32).collect::<Vec<_>>()).unwrap();
    let mut x = buf(&cx, N, C);
    // A row of x takes one of cos and one of sin, in f32.
    moving(bencher, 2 * rows(dtype, C) + 2 * rows(DType::F32, 32), || {
        rope::rotate(&cx, [&mut x], &table, &positions, Turn::Forward).unwrap();
    });
}

/// Two sequences of 256 tokens and one of 2,048.
const LENGTHS: [(DType, &[usize]); 4] = [
    (DType::F32, &[256, 256]),
    (DType::F32, &[2048]),
    (DType::BF16, &[256, 256]),
    (DType::BF16, &[2048]),
];

fn spans(lengths: &[usize]) -> Vec<Span> {
    let mut start = 0;
    let span = |t: &usize| {
        start += t;
        Span { q: start - t..start, k: start - t..start }
    };
    lengths.iter().map(span).collect()
}

/// FLOPs of QKᵀ and PV over the visible half.
fn flops(lengths: &[usize]) -> usize {
    lengths.iter().map(|t| 2 * t * t * HEADS.size * HEADS.heads).sum()
}

#[divan::bench(args = LENGTHS)]
fn attention_forward(bencher: Bencher<'_, '_>, (dtype, lengths): (DType, &[usize])) {
    let cx = cx(dtype);
    let n = lengths.iter().sum();
    let (q, k, v) = (buf(&cx, n, C), buf(&cx, n, 192), buf(&cx, n, 192));
    let spans = spans(lengths);
    let sight = Sight::new(&cx, &spans, HEADS, n, n).unwrap();
    timed(bencher, flops(lengths), || attention::forward(&cx, &q, &k, &v, &sight, HEADS).unwrap());
}

#[divan::bench(args = LENGTHS)]
fn attention_backward(bencher: Bencher<'_, '_>, (dtype, lengths): (DType, &[usize])) {
    let cx = cx(dtype);
    let n = lengths.iter().sum();
    let (q, k, v, dout) = (buf(&cx, n, C), buf(&cx, n, 192), buf(&cx, n, 192), buf(&cx, n, C));
    let spans = spans(lengths);
    let sight = Sight::new(&cx, &spans, HEADS, n, n).unwrap();
    let (o, lse) = attention::forward(&cx, &q, &k, &v, &sight, HEADS).unwrap();
    let saved = Saved { q: &q, k: &k, v: &v, o: &o, lse: &lse };
    timed(bencher, flops(lengths) * 5 / 2, || {
        attention::backward(&cx, &saved, &dout, &sight, HEADS).unwrap()
    });
}

#[divan::bench(args = DTYPES)]
fn swiglu_forward(bencher: Bencher<'_, '_>, dtype: DType) {
    let cx = cx(dtype);
    let (a, b) = (buf(&cx, N, F), buf(&cx, N, F));
    moving(bencher, 3 * rows(dtype, F), || swiglu::forward(&cx, &a, &b).unwrap());
}

#[divan::bench(args = DTYPES)]
fn swiglu_backward(bencher: Bencher<'_, '_>, dtype: DType) {
    let cx = cx(dtype);
    let bencher = bencher.counter(BytesCount::new(6 * rows(dtype, F)));
    // The gradients are written over the inputs: each run needs new ones.
    bencher
        .with_inputs(|| (buf(&cx, N, F), buf(&cx, N, F), buf(&cx, N, F)))
        .bench_local_refs(|(dh, a, b)| swiglu::backward(&cx, dh, a, b).unwrap());
}

#[divan::bench]
fn cross_entropy_forward_backward(bencher: Bencher<'_, '_>) {
    let cx = cx(DType::F32);
    let (n, v) = (128, 49_152);
    let targets = Mirror::new(&cx, vec![7; n]).unwrap();
    let weights = Mirror::new(&cx, vec![0.1; n]).unwrap();
    let (mut z, mut nll) = (Some(buf(&cx, n, v)), vec![0.0; n]);
    moving(bencher, 2 * n * v * 4, || {
        let logits = z.take().unwrap();
        let dz = cross_entropy::forward_backward(&cx, logits, &targets, Some(&weights), &mut nll);
        z = dz.unwrap();
    });
}

/// The head with its loss in one pass, 4·n·C·V FLOPs; in bf16 where products run in it.
#[divan::bench(args = DTYPES)]
fn head_forward_backward(bencher: Bencher<'_, '_>, dtype: DType) {
    let (cx, v) = (cx(dtype), 49_152);
    let (h, w) = (buf(&cx, N, C), weight(dtype, "bf16", v, C));
    let (targets, coefficients, mut nll) = (vec![7; N], vec![0.1; N], vec![0.0; N]);
    if head::applies(&cx, &w) {
        timed(bencher, 4 * N * C * v, || {
            head::forward_backward(&cx, &h, &w, &targets, Some(&coefficients), &mut nll).unwrap()
        });
    }
}

#[divan::bench(args = DTYPES)]
fn dropout_apply(bencher: Bencher<'_, '_>, dtype: DType) {
    let cx = cx(dtype);
    let tokens = Mirror::new(&cx, (0..N as u32).map(|i| [0, i]).collect::<Vec<_>>()).unwrap();
    let mask = Mask { p: 0.1, key: [1, 2], step: 3, tokens: &tokens };
    let x = buf(&cx, N, C);
    moving(bencher, 2 * rows(dtype, C), || dropout::apply(&cx, &x, &mask).unwrap());
}

#[divan::bench(args = [false, true])]
fn nf4_quantize(bencher: Bencher<'_, '_>, nested: bool) {
    let values = noise(F * C);
    let scales = F * C / BLOCK * if nested { 1 } else { 4 };
    moving(bencher, F * C * 4 + F * C / 2 + scales, || nf4::quantize(&values, nested));
}

#[divan::bench]
fn clip_and_adamw(bencher: Bencher<'_, '_>) {
    let (cx, mut arena) = (cx(DType::F32), Arena::default());
    arena.push("adapter", [2_442_240 / C, C], &noise(2_442_240));
    let config = AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
    let mut optimizer = AdamW::new(config, &cx, &arena).unwrap();
    // The norm reads g; the step reads p, g and both moments, and writes all but g.
    moving(bencher, (1 + 7) * 4 * 2_442_240, || {
        let factor = clip_factor(arena.grad_norm(&cx).unwrap(), Some(1.0));
        optimizer.step(&cx, &mut arena, 1e-4, factor).unwrap();
    });
}
