use super::{Product, Sink, Source, Stored, Term, available, run};
use crate::ops::Cx;
use crate::ops::nf4::quantize;
use crate::quant::Nf4;
use candle_core::DType;
use half::bf16;

fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 31) % 1009) as f32 / 504.0 - 1.0).collect()
}

fn narrow(v: &[f32]) -> Vec<bf16> {
    v.iter().map(|v| bf16::from_f32(*v)).collect()
}

/// A matrix in each of the ways that it can be stored.
struct Factor {
    rows: usize,
    cols: usize,
    bf16: Vec<bf16>,
    nf4: Nf4,
    nested: Nf4,
    f32: Vec<f32>,
}

impl Factor {
    fn new(rows: usize, cols: usize) -> Self {
        let f32 = noise(rows * cols, 5);
        Self {
            rows,
            cols,
            bf16: narrow(&f32),
            nf4: quantize(&f32, false),
            nested: quantize(&f32, true),
            f32,
        }
    }

    fn stored(&self, kind: &str) -> Stored<'_> {
        match kind {
            "bf16" => Stored::Bf16(&self.bf16),
            "nf4" => Stored::Nf4(&self.nf4),
            "nf4-dq" => Stored::Nf4(&self.nested),
            _ => Stored::F32(&self.f32, 0.7),
        }
    }

    fn value(&self, kind: &str, i: usize) -> f64 {
        let mut out = [bf16::ZERO];
        self.stored(kind).read(i, &mut out);
        out[0].to_f64()
    }
}

/// Two terms of a weight (out, k) and a factor (out, r), or of their transposes, against plain sums; one term where r is 0.
fn check(kind: &str, transposed: bool, [n, k, r, out]: [usize; 4]) {
    let cx = Cx::cpu(DType::BF16, 2).unwrap();
    let shape = |inner: usize| if transposed { (out, inner) } else { (inner, out) };
    let factors = [k, r].map(|inner| Factor::new(shape(inner).0, shape(inner).1));
    let kinds = [kind, "f32"];
    let strides = [k.next_multiple_of(2) + 2, r.next_multiple_of(2)];
    let xs = [0, 1].map(|t| narrow(&noise(n * strides[t], t)));
    let count = if r == 0 { 1 } else { 2 };
    let terms: Vec<_> = (0..count)
        .map(|t| {
            let f = &factors[t];
            let side = if transposed { Source::rows } else { Source::columns };
            let source = side(f.stored(kinds[t]), f.rows, f.cols);
            Term { x: &xs[t], stride: strides[t], source }
        })
        .collect();
    let mut want = vec![0f64; n * out];
    for t in 0..count {
        let (f, inner) = (&factors[t], [k, r][t]);
        let values: Vec<f64> = (0..f.rows * f.cols).map(|i| f.value(kinds[t], i)).collect();
        for (i, want) in want.iter_mut().enumerate() {
            let (row, column) = (i / out, i % out);
            let of = |p: usize| if transposed { column * inner + p } else { p * out + column };
            let sum = |p: usize| xs[t][row * strides[t] + p].to_f64() * values[of(p)];
            *want += (0..inner).map(sum).sum::<f64>();
        }
    }
    let terms = &terms[..];
    let what = format!("{kind}, transposed {transposed}, {n} x ({k} + {r}) x {out}");
    let limit = 1e-5 * (k + r) as f64;
    let product = |sink: Sink<'_>| run(&cx, &[Product { rows: n, columns: out, terms, sink }]);

    let mut c = vec![0.5f32; n * out];
    product(Sink::f32(&mut c, true, 2.0)).unwrap();
    for (c, want) in c.iter().zip(&want) {
        assert!((f64::from(*c) - 0.5 - 2.0 * want).abs() < 2.0 * limit, "{what}: {c} {want}");
    }
    let mut c = vec![f32::NAN; n * out];
    product(Sink::f32(&mut c, false, 2.0)).unwrap();
    for (c, want) in c.iter().zip(&want) {
        assert!((f64::from(*c) - 2.0 * want).abs() < 2.0 * limit, "{what}, overwritten");
    }
    let mut c = vec![0.5f32; n * out];
    product(Sink::transposed(&mut c, 2.0)).unwrap();
    for (i, want) in want.iter().enumerate() {
        let c = f64::from(c[i % out * n + i / out]);
        assert!((c - 0.5 - 2.0 * want).abs() < 2.0 * limit, "{what}, transposed sink");
    }
    let (bias, residual) = (noise(out, 3), noise(n * out, 4));
    let mut y = vec![f32::NAN; n * out];
    product(Sink::wide(&mut y, Some(&bias), Some(&residual))).unwrap();
    for (i, want) in want.iter().enumerate() {
        let want = want + f64::from(bias[i % out]) + f64::from(residual[i]);
        assert!((f64::from(y[i]) - want).abs() < limit, "{what}, f32 sink with a residual");
    }
    let residual = narrow(&residual);
    // Plain, some products have kernels of their own.
    let (bias, residual) = (Some(&bias[..]), Some(&residual[..]));
    for (bias, residual) in [(bias, residual), (None, residual), (None, None)] {
        let mut y = vec![bf16::NAN; n * out];
        product(Sink::bf16(&mut y, bias, residual)).unwrap();
        for (i, want) in want.iter().enumerate() {
            let added = residual.map_or(0.0, |r| r[i].to_f64());
            let want = want + bias.map_or(0.0, |b| f64::from(b[i % out])) + added;
            let near = (y[i].to_f64() - want).abs() < want.abs() / 250.0 + limit;
            let added = [bias.is_some(), residual.is_some()];
            assert!(near, "{what}, bf16 sink, bias and residual {added:?}");
        }
    }
}

#[test]
fn odd_shapes_are_the_plain_sums() {
    if !available().unwrap() {
        return;
    }
    let shapes = [
        [1, 1, 1, 1],
        [3, 130, 5, 77],
        [5, 123, 3, 16],
        [8, 48, 8, 48],
        [37, 64, 8, 131],
        [50, 576, 16, 64],
        [19, 33, 2, 9],
        [13, 5001, 7, 50],
        [600, 4100, 8, 20],
        // Whole blocks of NF4 and whole panels, which meet parts of blocks; an odd number of rows; several parts.
        [21, 192, 8, 192],
        [7, 129, 8, 320],
        [9, 4160, 8, 192],
    ];
    for shape in shapes {
        for transposed in [true, false] {
            for kind in ["bf16", "nf4", "nf4-dq", "f32"] {
                check(kind, transposed, shape);
            }
        }
    }
}

/// What [`super::narrow`] and [`super::outer`] take, and what is just beyond.
#[test]
fn single_terms_of_few_columns_or_rows_are_the_plain_sums() {
    if !available().unwrap() {
        return;
    }
    // The last: its panels are laid out by all threads.
    let narrow = [
        [8, 4, 0, 8],
        [65, 576, 0, 8],
        [70, 33, 0, 16],
        [9, 7, 0, 3],
        [130, 96, 0, 11],
        [5, 40, 0, 17],
        [20, 9000, 0, 9],
    ];
    let outer = [
        [8, 512, 0, 96],
        [1, 3, 0, 32],
        [16, 77, 0, 577],
        [7, 100, 0, 45],
        [13, 9, 0, 200],
        [17, 20, 0, 64],
        [9, 1500, 0, 70],
    ];
    for shape in narrow.into_iter().chain(outer) {
        for transposed in [true, false] {
            for kind in ["bf16", "nf4", "f32"] {
                check(kind, transposed, shape);
            }
        }
    }
}

/// y (rows, 8) in bf16 of products that share x, of a product with another x, and of a wide one, all at once.
#[test]
fn products_of_all_kinds_run_together() {
    if !available().unwrap() {
        return;
    }
    let (n, k) = (75, 70);
    let cx = Cx::cpu(DType::BF16, 2).unwrap();
    let (x, other) = (narrow(&noise(n * k, 1)), narrow(&noise(n * k, 2)));
    let widths = [8, 3, 8, 16, 8, 100];
    let factors = widths.map(|out| Factor::new(out, k));
    let xs = [&x, &x, &x, &x, &other, &x];
    let terms: Vec<_> = factors
        .iter()
        .zip(xs)
        .map(|(f, x)| [Term { x, stride: k, source: Source::rows(f.stored("f32"), f.rows, k) }])
        .collect();
    let alone: Vec<_> = terms
        .iter()
        .zip(widths)
        .map(|(terms, out)| {
            let mut y = vec![bf16::NAN; n * out];
            let sink = Sink::bf16(&mut y, None, None);
            run(&cx, &[Product { rows: n, columns: out, terms, sink }]).unwrap();
            y
        })
        .collect();
    let mut together = widths.map(|out| vec![bf16::NAN; n * out]);
    let products: Vec<_> = together
        .iter_mut()
        .zip(terms.iter().zip(widths))
        .map(|(y, (terms, out))| {
            let sink = Sink::bf16(y, None, None);
            Product { rows: n, columns: out, terms, sink }
        })
        .collect();
    run(&cx, &products).unwrap();
    drop(products);
    assert_eq!(together.to_vec(), alone);
}

/// Gradients of factors whose layers share an input are made of one matrix: each of its products is what it is alone.
#[test]
fn products_that_share_a_matrix_of_few_rows_run_together() {
    if !available().unwrap() {
        return;
    }
    let (n, out) = (70, 200);
    let cx = Cx::cpu(DType::BF16, 2).unwrap();
    let (shared, other) = (Factor::new(n, out), Factor::new(n, 96));
    let factors = [&shared, &other, &shared, &shared];
    let rows = [8, 8, 3, 16];
    let xs: Vec<_> = rows.iter().enumerate().map(|(i, r)| narrow(&noise(r * n, i))).collect();
    let terms: Vec<_> = factors
        .iter()
        .zip(&xs)
        .map(|(f, x)| {
            let source = Source::columns(f.stored("bf16"), f.rows, f.cols);
            [Term { x, stride: n, source }]
        })
        .collect();
    let run_some = |which: &[usize]| -> Vec<Vec<f32>> {
        let mut sums: Vec<_> =
            which.iter().map(|&i| vec![0.5; rows[i] * factors[i].cols]).collect();
        let products: Vec<_> = which
            .iter()
            .zip(&mut sums)
            .map(|(&i, c)| {
                let (rows, columns) = (rows[i], factors[i].cols);
                Product { rows, columns, terms: &terms[i], sink: Sink::f32(c, true, 2.0) }
            })
            .collect();
        cx.install(|| run(&cx, &products)).unwrap();
        drop(products);
        sums
    };
    let alone: Vec<_> = (0..4).flat_map(|i| run_some(&[i])).collect();
    assert_eq!(run_some(&[0, 1, 2, 3]), alone);
}

#[test]
fn bits_do_not_depend_on_threads() {
    if !available().unwrap() {
        return;
    }
    // A panel's, two whose panels are shared, the second's in parts, a narrow and an outer one.
    for [n, k, out] in
        [[70, 200, 100], [500, 200, 100], [700, 4200, 100], [700, 200, 8], [8, 2100, 200]]
    {
        let (x, w) = (narrow(&noise(n * k, 1)), Factor::new(k, out));
        let product = |threads: usize| {
            let cx = Cx::cpu(DType::BF16, threads).unwrap();
            let source = Source::columns(w.stored("bf16"), k, out);
            let terms = [Term { x: &x, stride: k, source }];
            let mut y = vec![bf16::NAN; n * out];
            let sink = Sink::bf16(&mut y, None, None);
            cx.install(|| run(&cx, &[Product { rows: n, columns: out, terms: &terms, sink }]))
                .unwrap();
            y
        };
        let one = product(1);
        for threads in [2, 3, 7] {
            assert_eq!(product(threads), one, "{n} x {k} x {out}, {threads} threads");
        }
    }
}

#[test]
fn a_term_of_another_width_is_refused() {
    if !available().unwrap() {
        return;
    }
    let cx = Cx::cpu(DType::BF16, 1).unwrap();
    let (x, w, mut c) = (narrow(&noise(40, 1)), Factor::new(9, 11), vec![0.0; 36]);
    let terms = [Term { x: &x, stride: 10, source: Source::rows(w.stored("bf16"), 9, 11) }];
    let sink = Sink::f32(&mut c, false, 1.0);
    assert!(run(&cx, &[Product { rows: 4, columns: 9, terms: &terms, sink }]).is_err());
}

#[test]
fn what_is_to_be_prefetched_belongs_to_the_next_product() {
    if !available().unwrap() {
        return;
    }
    let cx = Cx::cpu(DType::BF16, 2).unwrap();
    let (buf, w, x) = (cx.alloc(&[5, 40]).unwrap(), Factor::new(64, 48), narrow(&noise(48, 1)));
    let mut y = vec![bf16::ZERO; 64];
    let terms = [Term { x: &x, stride: 48, source: Source::rows(w.stored("bf16"), 64, 48) }];
    let sink = Sink::bf16(&mut y, None, None);
    cx.prefetch(&[&buf]);
    run(&cx, &[Product { rows: 1, columns: 64, terms: &terms, sink }]).unwrap();
    assert_eq!(cx.take_prefetch().map(|place| place.bytes), [0; 4], "left by a product");
    cx.prefetch(&[&buf]);
    assert_eq!(cx.take_prefetch().map(|place| place.bytes), [400, 0, 0, 0], "said");
}
