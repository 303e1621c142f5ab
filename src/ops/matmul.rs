//! One f32 matrix product: C ← [C +] s·A·B on strided views, through the `gemm` crate.
//!
//! Each element of C is summed over k in an order that depends on the shapes alone, so the result is the same for any number of
//! threads.

use gemm::Parallelism;

/// A read-only matrix view: `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major (rows, cols) matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows lie `row_stride` elements apart.
    ///
    /// # Panics
    /// When `data` is too short for the shape.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "matrix view exceeds its data");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    #[must_use]
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A writable row-major matrix view.
pub struct ViewMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> ViewMut<'a> {
    /// A row-major (rows, cols) matrix.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows lie `row_stride` elements apart.
    ///
    /// # Panics
    /// When `data` is too short for the shape.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "matrix view exceeds its data");
        Self { data, rows, cols, row_stride }
    }
}

fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0 || cols == 0 || (row_stride >= cols && (rows - 1) * row_stride + cols <= len)
}

/// Whether C is overwritten or added to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// C ← s·A·B.
    Overwrite,
    /// C ← C + s·A·B.
    Add,
}

/// C (m, n) ← [C +] `scale`·A (m, k)·B (k, n) on all of rayon's current threads.
///
/// # Panics
/// When the shapes disagree.
pub fn matmul(c: ViewMut<'_>, into: Into, scale: f32, a: View<'_>, b: View<'_>) {
    run(c, into, scale, a, b, Parallelism::Rayon(0));
}

/// As [`matmul`], on the calling thread: for many small products in parallel.
///
/// # Panics
/// When the shapes disagree.
pub fn matmul_here(c: ViewMut<'_>, into: Into, scale: f32, a: View<'_>, b: View<'_>) {
    run(c, into, scale, a, b, Parallelism::None);
}

fn run(c: ViewMut<'_>, into: Into, scale: f32, a: View<'_>, b: View<'_>, threads: Parallelism) {
    assert!(c.rows == a.rows && c.cols == b.cols && a.cols == b.rows, "matmul shapes disagree");
    if c.rows == 0 || c.cols == 0 {
        return;
    }
    // SAFETY: the views' constructors checked that every (row, column) lies inside its slice, `c` is borrowed mutably and so
    // overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.data.as_mut_ptr(),
            1,
            c.row_stride as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn adds_a_scaled_product_of_a_transposed_view() {
        let (a, b) = (filled(6), filled(6)); // (3, 2), (3, 2)
        let mut c = vec![1.0; 9];
        let out = ViewMut::new(&mut c, 3, 3);
        matmul(out, Into::Add, 2.0, View::new(&a, 3, 2), View::new(&b, 3, 2).t());
        for i in 0..3 {
            for j in 0..3 {
                let want = 1.0 + 2.0 * (a[i * 2] * b[j * 2] + a[i * 2 + 1] * b[j * 2 + 1]);
                assert!((c[i * 3 + j] - want).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let (m, k, n) = (123, 321, 65);
        let (a, b) = (filled(m * k), filled(k * n));
        let product = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut c = vec![0.0; m * n];
                let out = ViewMut::new(&mut c, m, n);
                matmul(out, Into::Overwrite, 1.0, View::new(&a, m, k), View::new(&b, k, n));
                c
            })
        };
        let one = product(1);
        for threads in [2, 3, 7] {
            assert_eq!(product(threads), one, "{threads} threads");
        }
    }
}
