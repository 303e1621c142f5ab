//! Matrix products of views into device memory, row-major: C ← αA·B + βC.
//!
//! cuBLAS thinks in columns: a row-major matrix is its own transpose there, so Cᵀ = Bᵀ·Aᵀ is what it is asked for. Products of
//! f32 are true f32 (no TF32); of bf16 and f16 they are summed in f32.

use super::{Gpu, Memory};
use candle_core::{DType, Result, bail};

/// A (rows, cols) view of device memory.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "read where there is a device"))]
pub struct Matrix<'a> {
    pub(super) memory: &'a Memory,
    /// First byte.
    pub(super) offset: usize,
    /// f32, bf16 or f16.
    pub(super) dtype: DType,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Elements from one stored row to the next.
    pub(super) stride: usize,
    pub(super) transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Rows that lie one after the other from byte `offset` on.
    ///
    /// # Errors
    /// When the memory is too short.
    pub fn new(
        memory: &'a Memory,
        offset: usize,
        dtype: DType,
        rows: usize,
        cols: usize,
    ) -> Result<Self> {
        let end = offset + rows * cols * dtype.size_in_bytes();
        if end > memory.bytes() {
            bail!("a {rows} x {cols} matrix of {dtype:?} exceeds {memory:?}");
        }
        Ok(Self { memory, offset, dtype, rows, cols, stride: cols, transposed: false })
    }

    /// Its transpose, without a copy.
    #[must_use]
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }
}

/// β: whether C is overwritten or added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Add {
    /// β = 0.
    Overwrite,
    /// β = 1.
    Accumulate,
}

impl Gpu {
    /// C ← `alpha`·A·B, or C ← C + `alpha`·A·B.
    ///
    /// # Errors
    /// When shapes or dtypes disagree, C is transposed, or cuBLAS fails.
    pub fn product(
        &self,
        c: Matrix<'_>,
        add: Add,
        alpha: f32,
        a: Matrix<'_>,
        b: Matrix<'_>,
    ) -> Result<()> {
        let shapes = c.rows == a.rows && c.cols == b.cols && a.cols == b.rows;
        let dtypes = a.dtype == b.dtype && (c.dtype == a.dtype || c.dtype == DType::F32);
        if !shapes || !dtypes || c.transposed {
            let show = |m: &Matrix<'_>| format!("({}, {}) {:?}", m.rows, m.cols, m.dtype);
            bail!("product: C {}, A {}, B {}", show(&c), show(&a), show(&b));
        }
        if c.rows == 0 || c.cols == 0 {
            return Ok(());
        }
        self.gemm(c, if add == Add::Accumulate { 1.0 } else { 0.0 }, alpha, a, b)
    }
}
