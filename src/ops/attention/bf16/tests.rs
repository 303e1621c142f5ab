//! Forward and backward against a plain reference in f64 on the same bf16 inputs.

use super::super::{Heads, Span};
use super::{backward, forward, supported};
use crate::ops::Cx;
use candle_core::DType;
use half::bf16;

struct Case {
    heads: Heads,
    spans: Vec<Span>,
    q: Vec<bf16>,
    k: Vec<bf16>,
    v: Vec<bf16>,
    dout: Vec<bf16>,
}

#[derive(Clone, Default)]
struct Outputs {
    o: Vec<bf16>,
    lse: Vec<f32>,
    dq: Vec<bf16>,
    dk: Vec<bf16>,
    dv: Vec<bf16>,
}

fn noise(len: usize, seed: u64) -> Vec<bf16> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..len).map(|_| bf16::from_f32((0..12).map(|_| next()).sum::<f32>() - 6.0)).collect()
}

/// `lengths` are (queries, keys) of each span.
fn case(heads: Heads, lengths: &[(usize, usize)]) -> Case {
    let (mut nq, mut nk) = (0, 0);
    let mut spans = Vec::new();
    for &(q, k) in lengths {
        spans.push(Span { q: nq..nq + q, k: nk..nk + k });
        (nq, nk) = (nq + q, nk + k);
    }
    let (q, kv) = (nq * heads.heads * heads.size, nk * heads.kv_heads * heads.size);
    Case { heads, spans, q: noise(q, 1), k: noise(kv, 2), v: noise(kv, 3), dout: noise(q, 4) }
}

fn run(case: &Case) -> Outputs {
    run_with(&Cx::cpu(DType::BF16, 1).unwrap(), case)
}

fn run_with(cx: &Cx, case: &Case) -> Outputs {
    let Case { heads, spans, q, k, v, dout } = case;
    let nan = |like: &[bf16]| vec![bf16::NAN; like.len()];
    let mut out = Outputs {
        o: nan(q),
        lse: vec![f32::NAN; q.len() / heads.size],
        dq: nan(q),
        dk: nan(k),
        dv: nan(v),
    };
    forward(q, k, v, spans, *heads, &mut out.o, &mut out.lse);
    let Outputs { o, lse, dq, dk, dv } = &mut out;
    backward(cx, [q, k, v, o, dout], lse, spans, *heads, [dq, dk, dv]).unwrap();
    out
}

/// `o`, `lse`, `dq`, `dk`, `dv` in f64.
fn reference(case: &Case) -> [Vec<f64>; 5] {
    let Case { heads, spans, .. } = case;
    let Heads { size, .. } = *heads;
    let wide = |x: &[bf16]| x.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
    let (q, k, v, dout) = (wide(&case.q), wide(&case.k), wide(&case.v), wide(&case.dout));
    let mut o = vec![0.0; q.len()];
    let mut lse = vec![0.0; q.len() / size];
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let scale = 1.0 / (size as f64).sqrt();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for span in spans {
        for i in 0..span.q.len() {
            let p = span.k.len() - span.q.len() + i;
            let lo = heads.window.map_or(0, |w| (p + 1).saturating_sub(w));
            for h in 0..heads.heads {
                let row = (span.q.start + i) * heads.heads + h;
                let qs = row * size..(row + 1) * size;
                let at = |j: usize| {
                    let row =
                        (span.k.start + j) * heads.kv_heads + h / (heads.heads / heads.kv_heads);
                    row * size..(row + 1) * size
                };
                let s: Vec<f64> =
                    (lo..=p).map(|j| scale * dot(&q[qs.clone()], &k[at(j)])).collect();
                let max = s.iter().copied().fold(f64::MIN, f64::max);
                lse[row] = max + s.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
                for (j, s) in (lo..=p).zip(&s) {
                    let w = (s - lse[row]).exp();
                    for d in 0..size {
                        o[qs.start + d] += w * v[at(j).start + d];
                    }
                }
                let delta = dot(&o[qs.clone()], &dout[qs.clone()]);
                for (j, s) in (lo..=p).zip(&s) {
                    let w = (s - lse[row]).exp();
                    let ds = scale * w * (dot(&dout[qs.clone()], &v[at(j)]) - delta);
                    for d in 0..size {
                        dv[at(j).start + d] += w * dout[qs.start + d];
                        dk[at(j).start + d] += ds * q[qs.start + d];
                        dq[qs.start + d] += ds * k[at(j).start + d];
                    }
                }
            }
        }
    }
    [o, lse, dq, dk, dv]
}

/// Compares every output; `floor` is the size below which an expected gradient counts as zero.
fn compare(case: &Case) {
    let got = run(case);
    let expected = reference(case);
    let wide = |x: &[bf16]| x.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
    let lse = got.lse.iter().map(|&x| f64::from(x)).collect();
    let got = [wide(&got.o), lse, wide(&got.dq), wide(&got.dk), wide(&got.dv)];
    let label = format!("{:?} {:?}", case.heads, case.spans);
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    // With one visible key dS is exactly zero, but δ comes from a rounded `o`: what is left is
    // rounding noise, to be judged against the size of the other gradients.
    let unit = norm(&mut case.dout.iter().map(|x| x.to_f64()));
    for (name, (got, expected)) in
        ["o", "lse", "dq", "dk", "dv"].iter().zip(got.iter().zip(&expected))
    {
        assert!(got.iter().all(|x| x.is_finite()), "{name} has gaps: {label}");
        let error = norm(&mut got.iter().zip(expected).map(|(a, b)| a - b));
        let size = norm(&mut expected.iter().copied());
        let floor = if name.starts_with('d') { 0.01 * unit } else { 1e-3 };
        assert!(error < 1e-2 * size.max(floor), "{name}: {error} of {size}: {label}");
        if *name == "o" {
            let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 2e-2, "{name}: {worst}: {label}");
        }
    }
}

fn heads((heads, kv_heads): (usize, usize), size: usize, window: Option<usize>) -> Heads {
    Heads { heads, kv_heads, size, window }
}

const GROUPS: [(usize, usize); 4] = [(9, 3), (4, 4), (8, 1), (3, 3)];
const SIZES: [usize; 6] = [2, 6, 16, 64, 80, 128];
const WINDOWS: [Option<usize>; 5] = [None, Some(1), Some(3), Some(64), Some(100)];

#[test]
fn short_spans_of_different_lengths() {
    if !supported() {
        return;
    }
    let lengths = [1, 5, 63, 64, 65, 200].map(|n| (n, n));
    for groups in GROUPS {
        for size in SIZES {
            for window in WINDOWS {
                compare(&case(heads(groups, size, window), &lengths));
            }
        }
    }
}

#[test]
fn each_length_alone() {
    if !supported() {
        return;
    }
    for length in [1, 5, 63, 64, 65, 200, 257] {
        for groups in GROUPS {
            compare(&case(heads(groups, 64, None), &[(length, length)]));
        }
    }
}

#[test]
fn long_spans() {
    if !supported() {
        return;
    }
    for window in WINDOWS {
        compare(&case(heads((9, 3), 64, window), &[(257, 257), (700, 700)]));
        compare(&case(heads((8, 1), 16, window), &[(700, 700)]));
        compare(&case(heads((3, 3), 128, window), &[(700, 700)]));
        compare(&case(heads((4, 4), 2, window), &[(1200, 1200)]));
    }
    compare(&case(heads((2, 1), 256, None), &[(300, 300)]));
    compare(&case(heads((2, 1), 96, None), &[(300, 300)]));
}

#[test]
fn queries_at_the_end_of_longer_keys() {
    if !supported() {
        return;
    }
    for groups in GROUPS {
        for size in SIZES {
            for window in WINDOWS {
                let lengths = [(1, 1), (1, 700), (3, 257), (1, 64), (65, 200), (0, 9), (3, 1100)];
                compare(&case(heads(groups, size, window), &lengths));
            }
        }
    }
}

#[test]
fn groups_that_do_not_divide_a_chunk() {
    if !supported() {
        return;
    }
    for groups in [(5, 1), (14, 2), (400, 1)] {
        compare(&case(heads(groups, 16, Some(40)), &[(150, 150), (2, 70)]));
    }
}

#[test]
fn same_bits_on_any_number_of_threads() {
    if !supported() {
        return;
    }
    let case = case(heads((9, 3), 64, None), &[(257, 257), (1100, 1100), (1, 700)]);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let out = pool.install(|| run(&case));
        let bits = |x: &[bf16]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let lse = out.lse.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        (bits(&out.o), lse, bits(&out.dq), bits(&out.dk), bits(&out.dv))
    };
    let one = on(1);
    assert!(one == on(2) && one == on(3));
}

#[test]
fn batches_of_other_lengths_find_their_sums_in_the_pool() {
    if !supported() {
        return;
    }
    let cx = Cx::cpu(DType::BF16, 1).unwrap();
    cx.set_token_capacity(2000);
    cx.set_longest_sequence(1999);
    let heads = heads((3, 1), 16, None);
    run_with(&cx, &case(heads, &[(700, 700)]));
    let (before, bytes) = (cx.fresh_allocations(), cx.pooled_bytes());
    assert!(bytes > 2000 * 64 * 4, "{bytes} bytes are no room for segments");
    for lengths in [&[(1999, 1999)][..], &[(683, 683), (1300, 1300)], &[(5, 5)], &[(1400, 1400)]] {
        run_with(&cx, &case(heads, lengths));
    }
    assert_eq!(cx.fresh_allocations(), before);
}

#[test]
fn batches_of_short_sequences_take_no_room_for_segments() {
    if !supported() {
        return;
    }
    let cx = Cx::cpu(DType::BF16, 1).unwrap();
    cx.set_token_capacity(4000);
    cx.set_longest_sequence(380);
    run_with(&cx, &case(heads((3, 1), 16, None), &[(380, 380), (380, 380)]));
    assert!(cx.pooled_bytes() <= 64, "{} bytes", cx.pooled_bytes());
}

#[test]
fn rows_outside_the_spans_are_left_alone() {
    if !supported() {
        return;
    }
    let heads = heads((3, 3), 16, None);
    let mut gapped = case(heads, &[(10, 10), (20, 20), (5, 5)]);
    gapped.spans.remove(1);
    let out = run(&gapped);
    for x in [&out.o, &out.dq, &out.dk, &out.dv] {
        let row = 3 * 16;
        assert!(x[..10 * row].iter().chain(&x[30 * row..]).all(|x| x.is_finite()));
        assert!(x[10 * row..30 * row].iter().all(|x| x.is_nan()));
    }
}
