//! Every op against its composition of candle tensor ops under candle's autograd, and against finite differences.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use candle_core::{D, DType, Device, Result, Tensor, Var};
use vft::ops::attention::{self, Heads, Saved, Sight, Span};
use vft::ops::dropout::{self, Mask};
use vft::ops::linear::{Back, Plus};
use vft::ops::lora::{self, Factors, Gradients, Part, Seen};
use vft::ops::rope::{self, Turn};
use vft::ops::{
    Buf, Cx, Mirror, Vector, Weight, cross_entropy, embedding, linear, rms_norm, rows, swiglu,
};

/// Relative L2 error against candle, f32.
const EXACT: f64 = 1e-5;
/// Relative error of a central difference in f32 with a step of 1e-2.
const DIFFERENCE: f64 = 1e-2;

fn cx() -> Cx {
    Cx::cpu(DType::F32, 2).unwrap()
}

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = u64::from(seed) * 2_654_435_761 + 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn buf(cx: &Cx, shape: &[usize], seed: u32) -> Buf {
    cx.from_slice(&noise(shape.iter().product(), seed), shape).unwrap()
}

fn vector(cx: &Cx, n: usize, seed: u32) -> Vector {
    Vector::new(cx, noise(n, seed)).unwrap()
}

fn part(b: &Buf) -> Part<'_> {
    Part::Host(b.f32().unwrap())
}

fn var(b: &Buf) -> Var {
    Var::from_tensor(&b.to_tensor().unwrap()).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn error(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square = |x: f32| f64::from(x).powi(2);
    let far: f64 = ours.iter().zip(theirs).map(|(a, b)| square(a - b)).sum();
    (far / theirs.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    let e = error(ours, theirs);
    assert!(e < EXACT, "{what}: {e:e}");
}

/// The gradients of Σ y·dy for each variable.
fn gradients(y: &Tensor, dy: &Buf, vars: &[&Var]) -> Vec<Vec<f32>> {
    let grads = (y * dy.to_tensor().unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    vars.iter().map(|v| values(grads.get(v).unwrap())).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Compares ⟨dx, direction⟩ with the central difference of Σ y(x)·dy.
fn assert_difference(x: &[f32], dx: &[f32], dy: &[f32], y: impl Fn(&[f32]) -> Vec<f32>) {
    let (h, direction) = (1e-2f32, noise(x.len(), 77));
    let at = |sign: f32| {
        let moved: Vec<f32> = x.iter().zip(&direction).map(|(x, d)| x + sign * h * d).collect();
        dot(&y(&moved), dy)
    };
    let difference = (at(1.0) - at(-1.0)) / (2.0 * f64::from(h));
    let gradient = dot(dx, &direction);
    let e = ((gradient - difference) / difference).abs();
    assert!(e < DIFFERENCE, "gradient {gradient}, difference {difference}");
}

const N: usize = 5;
const C: usize = 123;

fn rms_reference(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    let r = ((x.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?).recip()?;
    x.broadcast_mul(&r)?.broadcast_mul(g)
}

#[test]
fn rms_norm_is_candles() {
    let cx = cx();
    let (x, dy) = (buf(&cx, &[N, C], 1), buf(&cx, &[N, C], 3));
    let g = vector(&cx, C, 2);
    let (y, r) = rms_norm::forward(&cx, &x, &g, 1e-5).unwrap();
    let xv = var(&x);
    let theirs = rms_reference(&xv, &Tensor::new(&g[..], &Device::Cpu).unwrap()).unwrap();
    assert_close("y", y.f32().unwrap(), &values(&theirs));
    let mut dx = cx.zeros(&[N, C]).unwrap();
    let mut again = buf(&cx, &[N, C], 3);
    rms_norm::backward(&cx, &mut again, &x, &g, &r, &mut dx).unwrap();
    assert_close("dx", dx.f32().unwrap(), &gradients(&theirs, &dy, &[&xv])[0]);
    assert_close("y again", again.f32().unwrap(), &values(&theirs));
}

#[test]
fn rms_norm_gradient_is_the_difference() {
    let cx = cx();
    let (x, g, dy) = (buf(&cx, &[N, C], 1), vector(&cx, C, 2), buf(&cx, &[N, C], 3));
    let (_, r) = rms_norm::forward(&cx, &x, &g, 1e-5).unwrap();
    let mut dx = cx.zeros(&[N, C]).unwrap();
    rms_norm::backward(&cx, &mut buf(&cx, &[N, C], 3), &x, &g, &r, &mut dx).unwrap();
    assert_difference(x.f32().unwrap(), dx.f32().unwrap(), dy.f32().unwrap(), |x| {
        let x = cx.from_slice(x, &[N, C]).unwrap();
        rms_norm::forward(&cx, &x, &g, 1e-5).unwrap().0.f32().unwrap().to_vec()
    });
}

#[test]
fn rms_norm_backward_adds() {
    let cx = cx();
    let (x, g) = (buf(&cx, &[N, C], 1), vector(&cx, C, 2));
    let (_, r) = rms_norm::forward(&cx, &x, &g, 1e-5).unwrap();
    let run = |start: f32| {
        let mut dx = cx.from_slice(&vec![start; N * C], &[N, C]).unwrap();
        rms_norm::backward(&cx, &mut buf(&cx, &[N, C], 3), &x, &g, &r, &mut dx).unwrap();
        dx.f32().unwrap().iter().map(|d| d - start).collect::<Vec<_>>()
    };
    assert_close("dx", &run(1.0), &run(0.0));
}

#[test]
fn swiglu_is_candles() {
    let cx = cx();
    let (mut a, mut b, dh) = (buf(&cx, &[N, C], 1), buf(&cx, &[N, C], 2), buf(&cx, &[N, C], 3));
    let mut again = buf(&cx, &[N, C], 3);
    let (av, bv) = (var(&a), var(&b));
    let theirs = (candle_nn::ops::silu(&av).unwrap() * bv.as_tensor()).unwrap();
    let h = swiglu::forward(&cx, &a, &b).unwrap();
    assert_close("h", h.f32().unwrap(), &values(&theirs));
    swiglu::backward(&cx, &mut again, &mut a, &mut b).unwrap();
    assert_close("h again", again.f32().unwrap(), &values(&theirs));
    let grads = gradients(&theirs, &dh, &[&av, &bv]);
    assert_close("da", a.f32().unwrap(), &grads[0]);
    assert_close("db", b.f32().unwrap(), &grads[1]);
}

fn biased(bias: &Vector) -> Plus<'_> {
    Plus { bias: Some(bias), ..Plus::default() }
}

fn frozen<'a>(dy: &'a Buf, weight: &'a Weight) -> Back<'a> {
    Back { dy, weight, low_rank: None }
}

fn zeros(rows: usize, cols: usize) -> Weight {
    Weight::from_f32(vec![0.0; rows * cols], rows, cols).unwrap()
}

#[test]
fn linear_is_candles() {
    let cx = cx();
    let (x, dy, bias) = (buf(&cx, &[N, C], 1), buf(&cx, &[N, 37], 2), vector(&cx, 37, 3));
    let w = noise(37 * C, 4);
    let weight = Weight::from_f32(w.clone(), 37, C).unwrap();
    let y = linear::forward(&cx, &x, &weight, biased(&bias)).unwrap();
    let wt = Tensor::from_vec(w, (37, C), &Device::Cpu).unwrap();
    let bt = Tensor::from_vec(bias.to_vec(), 37, &Device::Cpu).unwrap();
    let xv = var(&x);
    let theirs = xv.matmul(&wt.t().unwrap()).unwrap().broadcast_add(&bt).unwrap();
    assert_close("y", y.f32().unwrap(), &values(&theirs));
    let dx = linear::backward(&cx, &[frozen(&dy, &weight)]).unwrap();
    assert_close("dx", dx.f32().unwrap(), &gradients(&theirs, &dy, &[&xv])[0]);
}

#[test]
fn a_bf16_weight_acts_as_its_values_in_f32() {
    let cx = cx();
    let x = buf(&cx, &[N, C], 1);
    let narrow: Vec<half::bf16> = noise(37 * C, 4).into_iter().map(half::bf16::from_f32).collect();
    let wide = narrow.iter().map(|v| v.to_f32()).collect();
    let y =
        |w: Weight| linear::forward(&cx, &x, &w, Plus::default()).unwrap().f32().unwrap().to_vec();
    assert_eq!(
        y(Weight::from_bf16(narrow, 37, C).unwrap()),
        y(Weight::from_f32(wide, 37, C).unwrap())
    );
}

/// A weight that is widened a block of rows at a time, with all that a layer adds, forwards and backwards; beside one that is not.
#[test]
fn an_f16_weight_of_several_blocks_acts_as_its_values_in_f32() {
    let (cx, n, wide, out, r) = (cx(), 20, 8192, 150, 3);
    let (x, dy) = (buf(&cx, &[n, wide], 1), buf(&cx, &[n, out], 2));
    let (residual, bias) = (buf(&cx, &[n, out], 3), vector(&cx, out, 4));
    let (u, du, a, b) =
        (buf(&cx, &[n, r], 5), buf(&cx, &[n, r], 6), noise(r * wide, 7), noise(out * r, 8));
    let (a, b) = (Part::Host(&a), Part::Host(&b));
    let factors = Factors { a, b, r, scale: 0.5 };
    let narrow: Vec<_> = noise(out * wide, 9).into_iter().map(half::f16::from_f32).collect();
    let values = narrow.iter().map(|v| v.to_f32()).collect();
    let bytes: Vec<_> = narrow.iter().flat_map(|v| v.to_le_bytes()).collect();
    let narrow = Weight::dense(std::sync::Arc::new(bytes), DType::F16, out, wide).unwrap();
    let values = Weight::from_f32(values, out, wide).unwrap();
    let plus = Plus { bias: Some(&bias), low_rank: Some((&u, factors)), residual: Some(&residual) };
    let ys = linear::forward_all(&cx, &x, &[(&narrow, plus), (&values, plus)]).unwrap();
    assert_close("y", ys[0].f32().unwrap(), ys[1].f32().unwrap());
    let back = |weight| Back { dy: &dy, weight, low_rank: Some((&du, factors, None)) };
    let dx = |weights: [_; 2]| linear::backward(&cx, &weights.map(back)).unwrap();
    let (one, other) = (dx([&narrow, &values]), dx([&values, &values]));
    assert_close("dx", one.f32().unwrap(), other.f32().unwrap());
}

#[test]
fn lora_is_candles() {
    let cx = cx();
    let (x, dy) = (buf(&cx, &[N, C], 1), buf(&cx, &[N, 37], 2));
    let (a, b) = (buf(&cx, &[3, C], 3), buf(&cx, &[37, 3], 4));
    let f = Factors { a: part(&a), b: part(&b), r: 3, scale: 1.7 };
    let (weight, residual) = (zeros(37, C), buf(&cx, &[N, 37], 5));
    let u = lora::forward(&cx, &x, &[(f, None)]).unwrap().remove(0);
    let plus = Plus { low_rank: Some((&u, f)), residual: Some(&residual), ..Plus::default() };
    let y = linear::forward(&cx, &x, &weight, plus).unwrap();
    let (xv, av, bv) = (var(&x), var(&a), var(&b));
    let theirs = xv
        .matmul(&av.t().unwrap())
        .unwrap()
        .matmul(&bv.t().unwrap())
        .unwrap()
        .affine(1.7, 0.0)
        .unwrap();
    let theirs = (theirs + residual.to_tensor().unwrap()).unwrap();
    assert_close("y", y.f32().unwrap(), &values(&theirs));
    // What there is is added to.
    let (mut da, mut db) = (vec![0.5; 3 * C], vec![0.5; 37 * 3]);
    let into = Gradients::Host(&mut da, &mut db);
    let du = lora::backward(&cx, &[(&dy, f)]).unwrap().remove(0);
    let seen = Seen { x: &x, mask: None, u: &u, du: &du, dy: &dy, scale: f.scale };
    lora::gradients(&cx, vec![(seen, into)]).unwrap();
    let low_rank = Some((&du, f, None));
    let dx = linear::backward(&cx, &[Back { low_rank, ..frozen(&dy, &weight) }]).unwrap();
    let mut grads = gradients(&theirs, &dy, &[&xv, &av, &bv]);
    grads[1..].iter_mut().flatten().for_each(|g| *g += 0.5);
    for (what, ours, theirs) in
        [("dx", dx.f32().unwrap(), &grads[0]), ("da", &da, &grads[1]), ("db", &db, &grads[2])]
    {
        assert_close(what, ours, theirs);
    }
}

#[test]
fn lora_gradient_under_dropout_is_the_difference() {
    let cx = cx();
    let tokens: Vec<_> = (0..N as u32).map(|i| [3, i]).collect();
    let tokens = Mirror::new(&cx, tokens).unwrap();
    let mask = Mask { p: 0.3, key: [1, 2], step: 4, tokens: &tokens };
    let (x, dy, a, b) =
        (buf(&cx, &[N, C], 1), buf(&cx, &[N, 37], 2), noise(3 * C, 3), noise(37 * 3, 4));
    let f = Factors { a: Part::Host(&a), b: Part::Host(&b), r: 3, scale: 0.5 };
    let weight = zeros(37, C);
    let forward = |x: &[f32]| {
        let x = cx.from_slice(x, &[N, C]).unwrap();
        let u = lora::forward(&cx, &x, &[(f, Some(&mask))]).unwrap().remove(0);
        let plus = Plus { low_rank: Some((&u, f)), ..Plus::default() };
        linear::forward(&cx, &x, &weight, plus).unwrap().f32().unwrap().to_vec()
    };
    let du = lora::backward(&cx, &[(&dy, f)]).unwrap().remove(0);
    let low_rank = Some((&du, f, Some(&mask)));
    let dx = linear::backward(&cx, &[Back { low_rank, ..frozen(&dy, &weight) }]).unwrap();
    assert_difference(x.f32().unwrap(), dx.f32().unwrap(), dy.f32().unwrap(), forward);
}

#[test]
fn rope_is_candles_slow_rope() {
    let cx = cx();
    let (heads, d) = (3, 10);
    let mut x = buf(&cx, &[N, heads * d], 1);
    let dy = buf(&cx, &[N, heads * d], 2);
    let freqs: Vec<f32> = (0..d / 2).map(|i| 1.0 / 100f32.powf(i as f32 / 5.0)).collect();
    let table = rope::Table::new(&cx, &freqs, 1.0, N).unwrap();
    let angles: Vec<f32> = (0..N).flat_map(|p| freqs.iter().map(move |f| p as f32 * f)).collect();
    let angles = Tensor::from_vec(angles, (N, d / 2), &Device::Cpu).unwrap();
    let xv = var(&x);
    let by_head =
        xv.reshape((1, N, heads, d)).unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
    let theirs =
        candle_nn::rotary_emb::rope_slow(&by_head, &angles.cos().unwrap(), &angles.sin().unwrap())
            .unwrap();
    let theirs = theirs.transpose(1, 2).unwrap().reshape((N, heads * d)).unwrap();
    let positions = Mirror::new(&cx, (0..N as u32).collect::<Vec<_>>()).unwrap();
    rope::rotate(&cx, [&mut x], &table, &positions, Turn::Forward).unwrap();
    assert_close("y", x.f32().unwrap(), &values(&theirs));
    let theirs = gradients(&theirs, &dy, &[&xv]);
    let mut dx = dy;
    rope::rotate(&cx, [&mut dx], &table, &positions, Turn::Backward).unwrap();
    assert_close("dx", dx.f32().unwrap(), &theirs[0]);
}

const HEADS: Heads = Heads { heads: 6, kv_heads: 2, size: 10, window: None };

/// Softmax attention of one sequence by candle, head by head.
fn attention_reference(q: &Tensor, k: &Tensor, v: &Tensor, h: Heads) -> Result<Tensor> {
    let (t, mut out) = (q.dim(0)?, Vec::new());
    let seen = |i: usize, j: usize| j <= i && h.window.is_none_or(|w| j + w > i);
    let mask = (0..t * t).map(|x| if seen(x / t, x % t) { 0f32 } else { f32::NEG_INFINITY });
    let mask = Tensor::from_vec(mask.collect(), (t, t), &Device::Cpu)?;
    for head in 0..h.heads {
        let kv = head / (h.heads / h.kv_heads);
        let part = |x: &Tensor, i: usize| x.narrow(1, i * h.size, h.size)?.contiguous();
        let scores = (part(q, head)?.matmul(&part(k, kv)?.t()?)? / (h.size as f64).sqrt())?;
        let p = candle_nn::ops::softmax(&(scores + &mask)?, D::Minus1)?;
        out.push(p.matmul(&part(v, kv)?)?);
    }
    Tensor::cat(&out, 1)
}

fn check_attention(lengths: &[usize], h: Heads) {
    let cx = cx();
    let n = lengths.iter().sum();
    let (qw, kw) = (h.heads * h.size, h.kv_heads * h.size);
    let (q, k, v, dout) = (
        buf(&cx, &[n, qw], 1),
        buf(&cx, &[n, kw], 2),
        buf(&cx, &[n, kw], 3),
        buf(&cx, &[n, qw], 4),
    );
    let mut start = 0;
    let span = |t: &usize| {
        start += t;
        Span { q: start - t..start, k: start - t..start }
    };
    let spans: Vec<Span> = lengths.iter().map(span).collect();
    let sight = Sight::new(&cx, &spans, h, n, n).unwrap();
    let (o, lse) = attention::forward(&cx, &q, &k, &v, &sight, h).unwrap();
    let (qv, kv, vv) = (var(&q), var(&k), var(&v));
    let parts = spans.iter().map(|s| {
        let rows = |x: &Var| x.narrow(0, s.q.start, s.q.len()).unwrap();
        attention_reference(&rows(&qv), &rows(&kv), &rows(&vv), h).unwrap()
    });
    let theirs = Tensor::cat(&parts.collect::<Vec<_>>(), 0).unwrap();
    assert_close("o", o.f32().unwrap(), &values(&theirs));
    let saved = Saved { q: &q, k: &k, v: &v, o: &o, lse: &lse };
    let (dq, dk, dv) = attention::backward(&cx, &saved, &dout, &sight, h).unwrap();
    let grads = gradients(&theirs, &dout, &[&qv, &kv, &vv]);
    for ((what, ours), theirs) in [("dq", dq), ("dk", dk), ("dv", dv)].iter().zip(&grads) {
        assert_close(what, ours.f32().unwrap(), theirs);
    }
}

#[test]
fn attention_of_unequal_sequences_is_candles() {
    check_attention(&[5, 1, 123], HEADS);
}

#[test]
fn attention_with_a_sliding_window_is_candles() {
    check_attention(&[123, 70], Heads { window: Some(9), ..HEADS });
}

#[test]
fn attention_with_as_many_kv_heads_is_candles() {
    check_attention(&[67], Heads { kv_heads: 6, ..HEADS });
}

#[test]
fn cached_keys_give_the_last_rows_of_the_whole() {
    let cx = cx();
    let (q, k, v) = (buf(&cx, &[9, 60], 1), buf(&cx, &[9, 20], 2), buf(&cx, &[9, 20], 3));
    let forward = |q: &Buf| {
        let spans = [Span { q: 0..q.rows(), k: 0..9 }];
        let sight = Sight::new(&cx, &spans, HEADS, q.rows(), 9).unwrap();
        attention::forward(&cx, q, &k, &v, &sight, HEADS).unwrap().0
    };
    let whole = forward(&q);
    let last = cx.from_slice(&q.f32().unwrap()[7 * 60..], &[2, 60]).unwrap();
    let part = forward(&last);
    assert_close("o", part.f32().unwrap(), &whole.f32().unwrap()[7 * 60..]);
}

#[test]
fn cross_entropy_is_candles() {
    let cx = cx();
    let z = buf(&cx, &[N, C], 1);
    let zv = var(&z);
    let (targets, coefficients) = ([3u32, 0, 122, 50, 7], [0.5f32, 0.0, 2.0, 1.0, 0.1]);
    let t = Tensor::from_vec(targets.to_vec(), (N, 1), &Device::Cpu).unwrap();
    let logp = candle_nn::ops::log_softmax(zv.as_tensor(), D::Minus1).unwrap();
    let nll = logp.gather(&t, 1).unwrap().neg().unwrap();
    let mut ours = [0.0; N];
    let targets = Mirror::new(&cx, &targets[..]).unwrap();
    let c = Mirror::new(&cx, &coefficients[..]).unwrap();
    let dz = cross_entropy::forward_backward(&cx, z, &targets, Some(&c), &mut ours).unwrap();
    assert_close("nll", &ours, &values(&nll));
    let dy = cx.from_slice(&coefficients, &[N, 1]).unwrap();
    assert_close("dz", dz.unwrap().f32().unwrap(), &gradients(&nll, &dy, &[&zv])[0]);
}

#[test]
fn swiglu_gradient_is_the_difference() {
    let cx = cx();
    let (a, b, dh) = (noise(N * C, 1), noise(N * C, 2), buf(&cx, &[N, C], 3));
    let of = |v: &[f32]| cx.from_slice(v, &[N, C]).unwrap();
    let forward = |a: &[f32], b: &[f32]| {
        swiglu::forward(&cx, &of(a), &of(b)).unwrap().f32().unwrap().to_vec()
    };
    let (mut da, mut db) = (of(&a), of(&b));
    swiglu::backward(&cx, &mut of(dh.f32().unwrap()), &mut da, &mut db).unwrap();
    let dh = dh.f32().unwrap();
    assert_difference(&a, da.f32().unwrap(), dh, |a| forward(a, &b));
    assert_difference(&b, db.f32().unwrap(), dh, |b| forward(&a, b));
}

#[test]
fn linear_gradient_is_the_difference() {
    let cx = cx();
    let (x, dy, bias) = (noise(N * C, 1), buf(&cx, &[N, 37], 2), vector(&cx, 37, 3));
    let w = Weight::from_f32(noise(37 * C, 4), 37, C).unwrap();
    let dx = linear::backward(&cx, &[frozen(&dy, &w)]).unwrap();
    assert_difference(&x, dx.f32().unwrap(), dy.f32().unwrap(), |x| {
        let x = cx.from_slice(x, &[N, C]).unwrap();
        linear::forward(&cx, &x, &w, biased(&bias)).unwrap().f32().unwrap().to_vec()
    });
}

#[test]
fn rope_gradient_is_the_difference() {
    let cx = cx();
    let shape = [N, 3 * 10];
    let (x, dy) = (noise(N * 30, 1), noise(N * 30, 2));
    let table = rope::Table::new(&cx, &[1.0, 0.5, 0.2, 0.1, 0.03], 1.3, 40).unwrap();
    let positions = Mirror::new(&cx, vec![7, 8, 39, 0, 1]).unwrap();
    let turn = |v: &[f32], turn| {
        let mut b = cx.from_slice(v, &shape).unwrap();
        rope::rotate(&cx, [&mut b], &table, &positions, turn).unwrap();
        b.f32().unwrap().to_vec()
    };
    assert_difference(&x, &turn(&dy, Turn::Backward), &dy, |x| turn(x, Turn::Forward));
}

#[test]
fn attention_gradients_are_the_differences() {
    let cx = cx();
    let h = Heads { window: Some(50), ..HEADS };
    let n = 5 + 123;
    let spans = [Span { q: 0..5, k: 0..5 }, Span { q: 5..n, k: 5..n }];
    let sight = Sight::new(&cx, &spans, h, n, n).unwrap();
    let inputs = [noise(n * 60, 1), noise(n * 20, 2), noise(n * 20, 3)];
    let of = |v: &[f32]| cx.from_slice(v, &[n, v.len() / n]).unwrap();
    let forward = |q: &[f32], k: &[f32], v: &[f32]| {
        attention::forward(&cx, &of(q), &of(k), &of(v), &sight, h).unwrap()
    };
    let [q, k, v] = inputs.each_ref().map(|v| of(v));
    let (o, lse) = forward(&inputs[0], &inputs[1], &inputs[2]);
    let dout = buf(&cx, &[n, 60], 4);
    let saved = Saved { q: &q, k: &k, v: &v, o: &o, lse: &lse };
    let (dq, dk, dv) = attention::backward(&cx, &saved, &dout, &sight, h).unwrap();
    for (i, d) in [dq, dk, dv].iter().enumerate() {
        assert_difference(&inputs[i], d.f32().unwrap(), dout.f32().unwrap(), |moved| {
            let mut at = inputs.each_ref().map(|v| v.as_slice());
            at[i] = moved;
            forward(at[0], at[1], at[2]).0.f32().unwrap().to_vec()
        });
    }
}

#[test]
fn cross_entropy_gradient_is_the_difference() {
    let cx = cx();
    let (targets, coefficients) = ([3u32, 0, 122, 50, 7], [0.5f32, 0.3, 2.0, 1.0, 0.1]);
    let z = noise(N * C, 1);
    let targets = Mirror::new(&cx, &targets[..]).unwrap();
    let weights = Mirror::new(&cx, &coefficients[..]).unwrap();
    let run = |z: &[f32], coefficients| {
        let z = cx.from_slice(z, &[N, C]).unwrap();
        let mut nll = vec![0.0; N];
        let dz = cross_entropy::forward_backward(&cx, z, &targets, coefficients, &mut nll);
        (nll, dz.unwrap())
    };
    let dz = run(&z, Some(&weights)).1.unwrap();
    assert_difference(&z, dz.f32().unwrap(), &coefficients, |z| run(z, None).0);
}

#[test]
fn embedding_is_candles_index_select() {
    let cx = cx();
    let table = noise(37 * C, 1);
    let ids = vec![36u32, 0, 5, 5, 12];
    let weight = Weight::from_f32(table.clone(), 37, C).unwrap();
    let y = embedding::forward(&cx, &weight, &Mirror::new(&cx, &ids).unwrap()).unwrap();
    let table = Tensor::from_vec(table, (37, C), &Device::Cpu).unwrap();
    let theirs = table.index_select(&Tensor::new(ids, &Device::Cpu).unwrap(), 0).unwrap();
    assert_eq!(y.f32().unwrap(), values(&theirs));
}

#[test]
fn gathered_rows_are_candles() {
    let cx = cx();
    let (x, chosen) = (buf(&cx, &[N, C], 1), vec![4u32, 0, 2]);
    let y = rows::gather(&cx, &x, &Mirror::new(&cx, &chosen).unwrap()).unwrap();
    let theirs =
        x.to_tensor().unwrap().index_select(&Tensor::new(chosen, &Device::Cpu).unwrap(), 0);
    assert_eq!(y.f32().unwrap(), values(&theirs.unwrap()));
}

#[test]
fn scattered_rows_are_the_gradient_of_gathering() {
    let cx = cx();
    let (x, dy, chosen) = (buf(&cx, &[N, C], 1), buf(&cx, &[3, C], 2), vec![4u32, 0, 2]);
    let xv = var(&x);
    let theirs = xv.index_select(&Tensor::new(&chosen[..], &Device::Cpu).unwrap(), 0).unwrap();
    let mut dx = cx.zeros(&[N, C]).unwrap();
    rows::scatter(&cx, &dy, &Mirror::new(&cx, &chosen).unwrap(), &mut dx).unwrap();
    assert_close("dx", dx.f32().unwrap(), &gradients(&theirs, &dy, &[&xv])[0]);
}

#[test]
fn added_rows_are_candles() {
    let cx = cx();
    let (mut y, x) = (buf(&cx, &[N, C], 1), buf(&cx, &[N, C], 2));
    let theirs = (y.to_tensor().unwrap() + x.to_tensor().unwrap()).unwrap();
    rows::add(&cx, &mut y, &x).unwrap();
    assert_eq!(y.f32().unwrap(), values(&theirs));
}

#[test]
fn the_gradient_of_dropout_is_the_difference() {
    let cx = cx();
    let tokens: Vec<_> = (0..N as u32).map(|i| [3, i]).collect();
    let tokens = Mirror::new(&cx, tokens).unwrap();
    let mask = Mask { p: 0.3, key: [1, 2], step: 4, tokens: &tokens };
    let (x, dy) = (noise(N * C, 1), buf(&cx, &[N, C], 2));
    let mut dx = cx.zeros(&[N, C]).unwrap();
    dropout::add_masked(&cx, &dy, &mask, &mut dx).unwrap();
    assert_difference(&x, dx.f32().unwrap(), dy.f32().unwrap(), |x| {
        let x = cx.from_slice(x, &[N, C]).unwrap();
        dropout::apply(&cx, &x, &mask).unwrap().f32().unwrap().to_vec()
    });
}
