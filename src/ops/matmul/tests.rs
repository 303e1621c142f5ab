//! The product against f64 sums with every instruction set, its bounds, and its bits for any number of threads.

use super::product::{self, run_one};
use super::{Into, Operand, Product, Term, View, ViewMut, matmul};
use crate::ops::isa::Isa;
use crate::ops::prefetch::Ahead;
use half::bf16;

/// The sets of this machine that differ in f32.
fn isas() -> impl Iterator<Item = Isa> {
    Isa::available().filter(|isa| *isa != Isa::Avx512Bf16)
}

/// Deterministic values in [-1, 1).
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// A rows x cols view over `data`, row-major or transposed, its rows `pad` further apart.
fn view(data: &[f32], rows: usize, cols: usize, pad: usize, transposed: bool) -> View<'_> {
    if transposed {
        View::strided(data, cols, rows, rows + pad).t()
    } else {
        View::strided(data, rows, cols, cols + pad)
    }
}

fn at(v: View<'_>, r: usize, c: usize) -> f64 {
    v.data[r * v.row_stride + c * v.col_stride] as f64
}

/// One product of every transposition state, mode and entry point against f64 sums.
fn check(isa: Isa, m: usize, n: usize, k: usize, pad: usize) {
    let room = |rows: usize, cols: usize| {
        (rows.max(cols) + 1) * (rows.min(cols) + pad + 1) + (rows + cols) * pad
    };
    let (a, b, old) = (values(room(m, k), 1), values(room(k, n), 2), values(m * n, 3));
    for state in 0..16 {
        let (a, b) = (view(&a, m, k, pad, state & 1 != 0), view(&b, k, n, pad, state & 2 != 0));
        let into = if state & 4 != 0 { Into::Add } else { Into::Overwrite };
        // Overwrite must not read C: it starts as NaN, as does everything around it.
        let (front, stride) = (5, n + pad);
        let mut c = vec![f32::NAN; front + m * stride + 7];
        if into == Into::Add {
            (0..m * n).for_each(|i| c[front + i / n * stride + i % n] = old[i]);
        }
        let out = ViewMut::strided(&mut c[front..], m, n, stride);
        run_one(isa.arch(), out, into, Term { a, b: b.into(), scale: 0.75 }, state & 8 != 0);
        let inside = |i: usize| {
            i >= front && (i - front) / stride.max(1) < m && (i - front) % stride.max(1) < n
        };
        for (i, &c) in c.iter().enumerate() {
            if !inside(i) {
                assert!(c.is_nan(), "{isa:?} {m}x{n}x{k} state {state}: wrote outside C at {i}");
                continue;
            }
            let (row, col) = ((i - front) / stride, (i - front) % stride);
            let sum: f64 = (0..k).map(|k| at(a, row, k) * at(b, k, col)).sum();
            let start = if into == Into::Add { old[row * n + col] as f64 } else { 0.0 };
            let error = (c as f64 - (start + 0.75 * sum)).abs();
            let bound = 1e-6 * (1.0 + (k as f64).sqrt());
            assert!(error <= bound, "{isa:?} {m}x{n}x{k} state {state} at ({row}, {col}): {error}");
        }
    }
}

#[test]
fn agrees_with_f64_sums() {
    let sizes = [0, 1, 2, 4, 7, 8, 17, 49];
    for isa in isas() {
        for m in sizes {
            for n in sizes {
                for k in sizes {
                    check(isa, m, n, k, (m + n + k) % 3);
                }
            }
        }
    }
}

#[test]
fn agrees_across_panels_tiles_and_depth_blocks() {
    let shapes = [
        (65, 97, 33),
        (64, 64, 256),
        (70, 145, 800),
        (7, 300, 1601),
        (300, 7, 1601),
        (16, 64, 100),
        (1, 1000, 65),
        (1000, 1, 65),
        (130, 260, 8),
        (4, 4, 2000),
        (2, 500, 130),
        (500, 3, 130),
        (8, 130, 900),
    ];
    for isa in isas() {
        for (m, n, k) in shapes {
            check(isa, m, n, k, 0);
            check(isa, m, n, k, 3);
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let shapes = [
        (512, 576, 300),
        (512, 8, 576),
        (8, 1536, 512),
        (200, 200, 1700),
        (33, 1000, 64),
        (1, 900, 700),
        (900, 3, 700),
    ];
    for isa in isas() {
        for (m, n, k) in shapes {
            let (a, b) = (values(m * k, 4), values(k * n, 5));
            for state in 0..4 {
                let (a, b) = (view(&a, m, k, 0, state & 1 != 0), view(&b, k, n, 0, state & 2 != 0));
                let mut here = vec![0.0; m * n];
                let out = ViewMut::new(&mut here, m, n);
                run_one(
                    isa.arch(),
                    out,
                    Into::Overwrite,
                    Term { a, b: b.into(), scale: 0.5 },
                    false,
                );
                for threads in [1, 2, 3, 7] {
                    let pool =
                        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let mut c = vec![0.0; m * n];
                    pool.install(|| {
                        let out = ViewMut::new(&mut c, m, n);
                        run_one(
                            isa.arch(),
                            out,
                            Into::Overwrite,
                            Term { a, b: b.into(), scale: 0.5 },
                            true,
                        );
                    });
                    let same = c.iter().zip(&here).all(|(c, here)| c.to_bits() == here.to_bits());
                    assert!(same, "{isa:?} {m}x{n}x{k} state {state} on {threads} threads");
                }
            }
        }
    }
}

/// Few and many rows, panels of every width, several depth blocks, both layouts of B.
#[test]
fn bf16_is_widened_on_its_way_into_panels() {
    for isa in isas() {
        for (m, n, k) in [(17, 5, 9), (40, 131, 70), (150, 96, 1601), (20, 300, 33), (8, 64, 64)] {
            let narrow: Vec<_> = values(k * n, 8).iter().map(|x| bf16::from_f32(*x)).collect();
            let wide: Vec<_> = narrow.iter().map(|x| x.to_f32()).collect();
            let a = values(m * k, 9);
            let a = View::new(&a, m, k);
            let views = [
                (View::new(&wide, k, n), View::new(&narrow, k, n)),
                (View::new(&wide, n, k).t(), View::new(&narrow, n, k).t()),
            ];
            for (wide, narrow) in views {
                let product = |b: Operand<'_>, into: Into, threads: usize| {
                    let mut c = values(m * n, 10);
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                    pool.build().unwrap().install(|| {
                        let out = ViewMut::new(&mut c, m, n);
                        run_one(isa.arch(), out, into, Term { a, b, scale: 0.5 }, true);
                    });
                    c
                };
                for into in [Into::Overwrite, Into::Add] {
                    let want = product(wide.into(), into, 1);
                    for threads in [1, 3] {
                        let got = product(narrow.into(), into, threads);
                        assert_eq!(got, want, "{isa:?} {m}x{n}x{k} {into:?}, {threads} threads");
                    }
                }
            }
        }
    }
}

#[test]
fn the_chosen_set_adds_a_scaled_product_of_a_transposed_view() {
    let (a, b) = (values(6, 6), values(6, 7)); // (3, 2), (3, 2)
    let mut c = vec![1.0; 9];
    let out = ViewMut::new(&mut c, 3, 3);
    matmul(out, Into::Add, 2.0, View::new(&a, 3, 2), View::new(&b, 3, 2).t());
    for (i, c) in c.iter().enumerate() {
        let (i, j) = (i / 3, i % 3);
        let want = 1.0 + 2.0 * (a[i * 2] * b[j * 2] + a[i * 2 + 1] * b[j * 2 + 1]);
        assert!((c - want).abs() < 1e-6);
    }
}

/// A product of several terms with all that can be added, of these sizes: C, and what f64 sums make of it.
fn summed(
    isa: Isa,
    [m, n]: [usize; 2],
    ks: &[usize],
    into: Into,
    threads: usize,
) -> (Vec<f32>, Vec<f64>) {
    let stride = n + 3;
    let (old, bias, residual) = (values(m * stride, 20), values(n, 21), values(m * (n + 1), 22));
    let inner: Vec<_> = ks
        .iter()
        .enumerate()
        .map(|(i, &k)| {
            let b = values(k * n, 40 + i as u64);
            let narrow: Vec<_> = b.iter().map(|x| bf16::from_f32(*x)).collect();
            let b = if i % 2 == 0 { narrow.iter().map(|x| x.to_f32()).collect() } else { b };
            (values(m * k, 30 + i as u64), b, narrow, 1.0 - 0.25 * i as f32)
        })
        .collect();
    let terms: Vec<_> = inner
        .iter()
        .zip(ks)
        .enumerate()
        .map(|(i, ((a, b, narrow, scale), &k))| {
            // In turns bf16 by its columns and f32 by its rows.
            let b = match i % 2 {
                0 => Operand::from(View::new(narrow, n, k).t()),
                _ => View::new(b, k, n).into(),
            };
            Term { a: View::new(a, m, k), b, scale: *scale }
        })
        .collect();
    let mut c = old.clone();
    let product = Product {
        c: ViewMut::strided(&mut c, m, n, stride),
        into,
        terms: &terms,
        bias: Some(&bias),
        residual: Some(View::strided(&residual, m, n, n + 1)),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| product::run(isa.arch(), vec![product], [Ahead::NOTHING; _]));
    let mut want: Vec<_> = old.iter().map(|x| f64::from(*x)).collect();
    for (row, column) in (0..m).flat_map(|r| (0..n).map(move |c| (r, c))) {
        let mut sum = f64::from(bias[column]) + f64::from(residual[row * (n + 1) + column]);
        for (i, ((a, b, _, scale), &k)) in inner.iter().zip(ks).enumerate() {
            let b = |at: usize| {
                f64::from(b[if i % 2 == 0 { column * k + at } else { at * n + column }])
            };
            let one: f64 = (0..k).map(|at| f64::from(a[row * k + at]) * b(at)).sum();
            sum += f64::from(*scale) * one;
        }
        let before = if into == Into::Add { want[row * stride + column] } else { 0.0 };
        want[row * stride + column] = before + sum;
    }
    (c, want)
}

/// In one pass and, where there are too few rows or columns or too many terms, in several; over depth blocks that end within terms.
#[test]
fn terms_bias_and_residual_are_added() {
    let cases: [([usize; 2], &[usize]); 10] = [
        ([40, 131], &[70, 8]),
        ([130, 97], &[576, 192, 192, 8, 8, 8]),
        ([33, 50], &[1601, 3]),
        ([200, 64], &[17]),
        ([100, 24], &[900, 900, 900, 900]),
        ([8, 64], &[64, 8]),
        ([64, 8], &[64, 8]),
        ([30, 40], &[9; 9]),
        // Panels of one depth block at a time, in several takes.
        ([512, 48], &[3000, 1500]),
        ([200, 24], &[17_000]),
    ];
    for isa in isas() {
        for (size, ks) in cases {
            for into in [Into::Overwrite, Into::Add] {
                let (got, want) = summed(isa, size, ks, into, 2);
                let k: usize = ks.iter().sum();
                let bound = 1e-6 * (2.0 + (k as f64).sqrt());
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= bound, "{isa:?} {size:?} {ks:?} {into:?} at {i}: {error}");
                }
            }
        }
    }
}

#[test]
fn bits_of_several_terms_do_not_depend_on_threads() {
    for isa in isas() {
        for (size, ks) in [([300, 200], &[900, 8][..]), ([512, 48], &[3000, 1500])] {
            let (one, _) = summed(isa, size, ks, Into::Add, 1);
            for threads in [2, 3, 7] {
                let (many, _) = summed(isa, size, ks, Into::Add, threads);
                assert_eq!(one, many, "{isa:?} {size:?} {ks:?} on {threads} threads");
            }
        }
    }
}

#[test]
fn products_that_run_together_are_each_what_they_are_alone() {
    let (a, b) = (values(200 * 64, 50), values(64 * 300, 51));
    let (a, b) = (View::new(&a, 200, 64), View::new(&b, 64, 300));
    let sizes = [300, 50, 8, 2];
    let terms =
        sizes.map(|n| [Term { a, b: View::strided(b.data, 64, n, 300).into(), scale: 0.5 }]);
    for isa in isas() {
        let (mut alone, mut together) = (vec![], vec![]);
        for (n, terms) in sizes.iter().zip(&terms) {
            let mut c = vec![0.0; 200 * n];
            run_one(isa.arch(), ViewMut::new(&mut c, 200, *n), Into::Overwrite, terms[0], true);
            alone.push(c);
            together.push(vec![f32::NAN; 200 * n]);
        }
        let products = together.iter_mut().zip(&terms).zip(sizes).map(|((c, terms), n)| {
            let (c, into) = (ViewMut::new(c, 200, n), Into::Overwrite);
            Product { c, into, terms, bias: None, residual: None }
        });
        product::run(isa.arch(), products.collect(), [Ahead::NOTHING; _]);
        assert_eq!(alone, together, "{isa:?}");
    }
}
