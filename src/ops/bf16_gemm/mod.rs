//! Products with a frozen bf16 weight on processors with AVX512-BF16: y = x·Wᵀ and dx += dy·W, summed in f32.
//!
//! One copy of the weight, row-major as it lies in the file, serves both. A panel of 48 output columns is laid out for the kernel
//! in a cache-sized buffer of the thread (`panel.rs`) and used for all rows of the batch; activations are bf16, row-major, never
//! packed. A tile is 8 rows × 48 columns: 24 accumulators in registers over a block of the inner dimension (`kernel.rs`).
//!
//! `vdpbf16ps` multiplies pairs: both operands hold two neighbours of the inner dimension in one 32-bit word. An element is summed
//! by one thread in one order: results do not depend on the number of threads.

mod kernel;
mod panel;

use super::shared::Shared;
use super::{Buf, Cx, simd};
use candle_core::{Result, bail};
use half::bf16;
use rayon::prelude::*;
use std::cell::RefCell;

/// Columns of a panel: three vectors of 16 f32.
const WIDTH: usize = 48;
/// Pairs of the inner dimension that a panel holds: 48 × 1024 words are 192 KiB, a part of the L2 cache.
const DEPTH: usize = 1024;

/// Rows up to which a product is made of dot products.
const FEW: usize = 4;

/// Whether products run in bf16 here: the processor has the instructions, unless `VFT_CPU` says otherwise (`avx512bf16` or `f32`).
///
/// # Errors
/// When `VFT_CPU` asks for what the processor has not, or is none of the two.
pub fn available() -> Result<bool> {
    match std::env::var("VFT_CPU").as_deref() {
        Err(_) => Ok(kernel::supported()),
        Ok("f32") => Ok(false),
        Ok("avx512bf16") if kernel::supported() => Ok(true),
        Ok("avx512bf16") => bail!("VFT_CPU=avx512bf16: this processor has no AVX512-BF16"),
        Ok(other) => bail!("VFT_CPU={other}: write `avx512bf16`, `f32`, or nothing for the best"),
    }
}

/// A bf16 matrix (rows, cols), row-major.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [bf16],
    rows: usize,
    cols: usize,
}

impl<'a> Matrix<'a> {
    /// All of `values` as `cols` columns.
    ///
    /// # Errors
    /// When they do not fill rows.
    pub fn new(values: &'a [bf16], cols: usize) -> Result<Self> {
        if cols == 0 || !values.len().is_multiple_of(cols) {
            bail!("{} values are no rows of {cols}", values.len());
        }
        Ok(Self { values, rows: values.len() / cols, cols })
    }
}

/// Activations as the kernel reads them: bf16 rows of an even number of columns.
pub struct Operand {
    values: Buf,
    rows: usize,
    cols: usize,
}

impl Operand {
    /// `x` (N, K) rounded to bf16; an odd K gets a column of zeros.
    ///
    /// # Errors
    /// When `x` is no f32 buffer, or the processor lacks the instructions.
    pub fn new(cx: &Cx, x: &Buf) -> Result<Self> {
        if !kernel::supported() {
            bail!("this processor has no AVX512-BF16");
        }
        let (rows, cols) = (x.rows(), x.cols());
        let even = cols.next_multiple_of(2);
        let mut values = cx.alloc_bf16(&[rows, even])?;
        let pairs = values.bf16_mut()?.par_chunks_mut(even).zip(x.f32()?.par_chunks(cols));
        pairs.for_each(|(to, from)| {
            to[cols..].fill(bf16::ZERO);
            simd::narrow(from, &mut to[..cols]);
        });
        Ok(Self { values, rows, cols })
    }
}

/// Where a product goes: columns `first..` of a row-major f32 matrix.
pub struct Target<'a> {
    values: &'a mut [f32],
    cols: usize,
    first: usize,
    add: bool,
}

impl<'a> Target<'a> {
    /// Columns from `first` on of rows of `cols`; added to, or overwritten.
    pub fn new(values: &'a mut [f32], cols: usize, first: usize, add: bool) -> Self {
        Self { values, cols, first, add }
    }
}

/// y ← x·Wᵀ for W (out, K): `out` columns of the target.
///
/// # Errors
/// When the shapes disagree.
pub fn forward(x: &Operand, w: Matrix<'_>, y: Target<'_>) -> Result<()> {
    if x.rows <= FEW && w.cols == x.cols && !y.add {
        return few(x, w, y);
    }
    run(x, w.cols, w.rows, y, |panel, columns, pairs| {
        panel::of_rows(panel, w.values, w.cols, columns, pairs);
    })
}

/// dx ← dy·W or dx + dy·W for W (out, K), with columns `skip..skip + out` of dy.
///
/// # Errors
/// When the shapes disagree.
pub fn backward(dy: &Operand, skip: usize, w: Matrix<'_>, dx: Target<'_>) -> Result<()> {
    if skip + w.rows > dy.cols || !skip.is_multiple_of(2) {
        bail!("bf16 product: {} rows of a weight from column {skip} of {}", w.rows, dy.cols);
    }
    run_from(dy, skip, w.rows, w.cols, dx, |panel, columns, pairs| {
        panel::of_columns(panel, w.values, w.cols, w.rows, columns, pairs);
    })
}

/// As [`forward`] for so few rows that laying out panels would be the work: each row of W is read once, against all of them.
fn few(x: &Operand, w: Matrix<'_>, y: Target<'_>) -> Result<()> {
    let (rows, out, stride) = (x.rows, w.rows, x.values.cols());
    if y.values.len() != rows * y.cols || y.first + out > y.cols {
        bail!("bf16 product: {rows} x {out} do not fit the target");
    }
    let values = x.values.bf16()?;
    let shared = Shared::new(y.values);
    w.values.par_chunks(w.cols * 16).enumerate().for_each(|(i, block)| {
        for (j, w) in block.chunks(w.cols).enumerate() {
            for r in 0..rows {
                // SAFETY: an `Operand` exists only where the processor has the instructions.
                let sum = unsafe { kernel::dot(&values[r * stride..][..w.len()], w) };
                let at = shared.at(r * y.cols + y.first + i * 16 + j);
                // SAFETY: inside the target (checked); this task alone writes column i·16 + j.
                unsafe { *at = sum };
            }
        }
    });
    Ok(())
}

thread_local! {
    static PANEL: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Lays out columns (a range of at most `WIDTH`) over pairs of the inner dimension.
trait Pack: Fn(&mut [u32], std::ops::Range<usize>, std::ops::Range<usize>) + Sync {}
impl<F: Fn(&mut [u32], std::ops::Range<usize>, std::ops::Range<usize>) + Sync> Pack for F {}

fn run(x: &Operand, inner: usize, out: usize, c: Target<'_>, pack: impl Pack) -> Result<()> {
    if inner != x.cols {
        bail!("bf16 product: {} columns against {inner}", x.cols);
    }
    run_from(x, 0, inner, out, c, pack)
}

fn run_from(
    x: &Operand,
    skip: usize,
    inner: usize,
    out: usize,
    c: Target<'_>,
    pack: impl Pack,
) -> Result<()> {
    let rows = x.rows;
    if c.values.len() != rows * c.cols || c.first + out > c.cols {
        bail!("bf16 product: {rows} x {out} do not fit the target");
    }
    let (values, stride) = (x.values.bf16()?, x.values.cols());
    let shared = Shared::new(c.values);
    (0..out.div_ceil(WIDTH)).into_par_iter().for_each(|p| {
        let columns = p * WIDTH..((p + 1) * WIDTH).min(out);
        PANEL.with_borrow_mut(|panel| {
            panel.resize(WIDTH * DEPTH, 0);
            let pairs = inner.div_ceil(2);
            for start in (0..pairs).step_by(DEPTH) {
                let end = (start + DEPTH).min(pairs);
                pack(panel, columns.clone(), start..end);
                let at = shared.at(c.first + columns.start);
                let tile = kernel::Tiles {
                    x: &values[skip + 2 * start..],
                    x_stride: stride,
                    rows,
                    panel: &panel[..WIDTH * (end - start)],
                    columns: columns.len(),
                    add: c.add || start > 0,
                };
                // SAFETY: an `Operand` exists only where the processor has the instructions; the tiles write `rows` rows of these columns, which no other task
                // writes, and which lie inside the target (checked above).
                unsafe { kernel::run(&tile, at, c.cols) };
            }
        });
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    fn noise(n: usize) -> Vec<f32> {
        (0..n).map(|i| bf16::from_f32(((i * 7919) % 1009) as f32 / 504.0 - 1.0).to_f32()).collect()
    }

    fn narrow(v: &[f32]) -> Vec<bf16> {
        v.iter().map(|v| bf16::from_f32(*v)).collect()
    }

    fn check(n: usize, k: usize, out: usize) {
        let cx = Cx::cpu(DType::BF16, 2).unwrap();
        let (x, w) = (noise(n * k), noise(out * k));
        let (xb, wb) = (cx.from_slice(&x, &[n, k]).unwrap(), narrow(&w));
        let operand = Operand::new(&cx, &xb).unwrap();
        let mut y = vec![f32::NAN; n * (out + 3)];
        let target = Target::new(&mut y, out + 3, 2, false);
        forward(&operand, Matrix::new(&wb, k).unwrap(), target).unwrap();
        let mut worst = 0.0f64;
        for i in 0..n {
            for j in 0..out {
                let exact: f64 =
                    (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(w[j * k + p])).sum();
                worst = worst.max((f64::from(y[i * (out + 3) + 2 + j]) - exact).abs());
            }
            assert!(y[i * (out + 3)].is_nan() && y[i * (out + 3) + out + 2].is_nan(), "edges");
        }
        assert!(worst < 1e-5 * k as f64, "forward {n} x {k} x {out}: {worst:e}");

        let dy = noise(n * out);
        let operand = Operand::new(&cx, &cx.from_slice(&dy, &[n, out]).unwrap()).unwrap();
        let mut dx = vec![0.5f32; n * k];
        backward(&operand, 0, Matrix::new(&wb, k).unwrap(), Target::new(&mut dx, k, 0, true))
            .unwrap();
        let mut worst = 0.0f64;
        for i in 0..n {
            for p in 0..k {
                let exact: f64 = (0..out)
                    .map(|j| f64::from(dy[i * out + j]) * f64::from(w[j * k + p]))
                    .sum::<f64>();
                worst = worst.max((f64::from(dx[i * k + p]) - 0.5 - exact).abs());
            }
        }
        assert!(worst < 1e-5 * out as f64, "backward {n} x {k} x {out}: {worst:e}");
    }

    #[test]
    fn odd_shapes_are_the_plain_sums() {
        if !kernel::supported() {
            return;
        }
        for (n, k, out) in
            [(1, 1, 1), (5, 123, 123), (8, 48, 48), (37, 64, 131), (13, 4099, 50), (9, 50, 4099)]
        {
            check(n, k, out);
        }
    }
}
