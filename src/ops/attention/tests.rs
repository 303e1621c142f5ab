//! Forward and backward, in f32 and where there are instructions in bf16, against a plain reference in f64 on the same inputs, which are
//! bf16 values.

use super::{Heads, Saved, Sight, Span, backward, forward};
use crate::ops::{Buf, Cx};
use candle_core::DType;
use half::bf16;

struct Case {
    heads: Heads,
    spans: Vec<Span>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

/// `o`, `lse`, `dq`, `dk`, `dv`.
type Outputs = [Vec<f32>; 5];

fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut normal = || bf16::from_f32((0..12).map(|_| next()).sum::<f32>() - 6.0).to_f32();
    (0..len).map(|_| normal()).collect()
}

/// `lengths` are (queries, keys) of each span.
fn case(heads: Heads, lengths: &[(usize, usize)]) -> Case {
    let (mut nq, mut nk) = (0, 0);
    let mut spans = Vec::new();
    for &(q, k) in lengths {
        spans.push(Span { q: nq..nq + q, k: nk..nk + k });
        (nq, nk) = (nq + q, nk + k);
    }
    let (q, kv) = (nq * heads.q_width(), nk * heads.kv_width());
    Case { heads, spans, q: noise(q, 1), k: noise(kv, 2), v: noise(kv, 3), dout: noise(q, 4) }
}

/// Values between ops: bf16 has ops of its own where there are instructions for it and heads are of an even size.
const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Whatever an op does not write is NaN.
fn run(dtype: DType, threads: usize, case: &Case) -> Outputs {
    let Case { heads, spans, q, k, v, dout } = case;
    let cx = Cx::cpu(dtype, threads).unwrap();
    cx.poison();
    let (nq, nk) = (q.len() / heads.q_width(), k.len() / heads.kv_width());
    let of = |values: &[f32], n: usize| cx.from_slice(values, &[n, values.len() / n]).unwrap();
    let (q, k, v, dout) = (&of(q, nq), &of(k, nk), &of(v, nk), &of(dout, nq));
    cx.install(|| {
        let sight = Sight::new(&cx, spans, *heads, nq, nk).unwrap();
        let (o, lse) = &forward(&cx, q, k, v, &sight, *heads).unwrap();
        let saved = Saved { q, k, v, o, lse };
        let (dq, dk, dv) = &backward(&cx, &saved, dout, &sight, *heads).unwrap();
        [o, lse, dq, dk, dv].map(values)
    })
}

fn values(buf: &Buf) -> Vec<f32> {
    match buf.dtype() {
        DType::BF16 => buf.bf16().unwrap().iter().map(|x| x.to_f32()).collect(),
        _ => buf.f32().unwrap().to_vec(),
    }
}

/// `o`, `lse`, `dq`, `dk`, `dv` in f64.
fn reference(case: &Case) -> [Vec<f64>; 5] {
    let Case { heads, spans, .. } = case;
    let Heads { size, .. } = *heads;
    let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
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

/// Compares every output of each dtype.
fn compare(case: &Case) {
    let expected = reference(case);
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    // With one visible key dS is exactly zero, but δ comes from a rounded `o`: what is left is
    // rounding noise, to be judged against the size of the other gradients.
    let unit = norm(&mut case.dout.iter().map(|x| f64::from(*x)));
    for dtype in DTYPES {
        let (bound, worst_bound) = if dtype == DType::F32 { (1e-5, 2e-5) } else { (1e-2, 2e-2) };
        let label = format!("{dtype:?} {:?} {:?}", case.heads, case.spans);
        for (name, (got, expected)) in
            ["o", "lse", "dq", "dk", "dv"].iter().zip(run(dtype, 1, case).iter().zip(&expected))
        {
            assert!(got.iter().all(|x| x.is_finite()), "{name} has gaps: {label}");
            let errors = || got.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs());
            let (error, size) = (norm(&mut errors()), norm(&mut expected.iter().copied()));
            let floor = if name.starts_with('d') { 0.01 * unit } else { 1e-3 };
            assert!(error < bound * size.max(floor), "{name}: {error} of {size}: {label}");
            if *name == "o" {
                let worst = errors().fold(0.0, f64::max);
                assert!(worst < worst_bound, "{name}: {worst}: {label}");
            }
        }
    }
}

fn heads((heads, kv_heads): (usize, usize), size: usize, window: Option<usize>) -> Heads {
    Heads { heads, kv_heads, size, window }
}

const GROUPS: [(usize, usize); 4] = [(9, 3), (4, 4), (8, 1), (3, 3)];
const SIZES: [usize; 7] = [2, 5, 6, 16, 64, 80, 128];
const WINDOWS: [Option<usize>; 6] = [None, Some(1), Some(3), Some(64), Some(100), Some(300)];

#[test]
fn short_spans_of_different_lengths() {
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
    for length in [1, 5, 63, 64, 65, 200, 257] {
        for groups in GROUPS {
            compare(&case(heads(groups, 64, None), &[(length, length)]));
        }
    }
}

#[test]
fn long_spans() {
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
    for groups in [(5, 1), (14, 2), (400, 1)] {
        compare(&case(heads(groups, 16, Some(40)), &[(150, 150), (2, 70)]));
    }
}

/// Of 300 keys all that are summed first have scores of −∞.
#[test]
fn keys_whose_scores_overflow_weigh_nothing() {
    let (heads, length) = (heads((1, 1), 2, None), 300);
    let mut case = case(heads, &[(length, length)]);
    case.q.fill(1e30);
    case.k[..2 * 256].fill(-1e30);
    case.k[2 * 256..].fill(0.0);
    case.v[2 * 256..].fill(2.0);
    let [o, ..] = run(DType::F32, 1, &case);
    let last = &o[2 * (length - 1)..];
    assert!(last.iter().all(|o| (o - 2.0).abs() < 1e-6), "{last:?}");
}

#[test]
fn same_bits_on_any_number_of_threads() {
    let case = case(heads((9, 3), 64, None), &[(257, 257), (1100, 1100), (1, 700)]);
    for dtype in DTYPES {
        let on =
            |threads| run(dtype, threads, &case).map(|x| x.iter().map(|x| x.to_bits()).collect());
        let one: [Vec<_>; 5] = on(1);
        assert!(one == on(2) && one == on(3), "{dtype:?}");
    }
}

#[test]
fn rows_outside_the_spans_are_left_alone() {
    let heads = heads((3, 3), 16, None);
    let mut gapped = case(heads, &[(10, 10), (20, 20), (5, 5)]);
    gapped.spans.remove(1);
    for dtype in DTYPES {
        let [o, _, dq, dk, dv] = run(dtype, 1, &gapped);
        for x in [&o, &dq, &dk, &dv] {
            let row = 3 * 16;
            assert!(x[..10 * row].iter().chain(&x[30 * row..]).all(|x| x.is_finite()));
            assert!(x[10 * row..30 * row].iter().all(|x| x.is_nan()));
        }
    }
}
