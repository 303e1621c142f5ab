//! Products of few rows, which have kernels of their own: decoding, and the last rows of a prompt.

use super::{C, Checks, OUT};
use crate::ops::Weight;
use candle_core::Result;
use half::bf16;

/// One row, rows that fill no kernel, the most that are made of dot products in bf16, and in f32.
const ROWS: [usize; 5] = [1, 2, 3, 4, 16];
/// Columns beyond the longest run that a kernel unrolls, with a rest that fills no vector.
const DEEP: usize = 613;

impl Checks<'_> {
    pub(super) fn few_rows(&mut self) -> Result<()> {
        for cols in [C, DEEP] {
            // Values that both storages hold, so that both are read whatever the products' dtype is.
            let exact: Vec<bf16> =
                self.inputs.values(OUT * cols).into_iter().map(bf16::from_f32).collect();
            let w: Vec<f32> = exact.iter().map(|w| w.to_f32()).collect();
            let in_f32 = Weight::from_f32(w.clone(), OUT, cols)?.to_device(self.cx)?;
            let in_bf16 = Weight::from_bf16(exact, OUT, cols)?.to_device(self.cx)?;
            for n in ROWS {
                self.product("linear, f32 weight", n, &in_f32, &w, true)?;
                self.product("linear, bf16 weight", n, &in_bf16, &w, true)?;
            }
        }
        Ok(())
    }

    /// Inner dimensions of whole blocks, more than one, forward and backward: what is multiplied as it is unpacked.
    pub(super) fn few_rows_of_nf4(&mut self, nested: bool) -> Result<()> {
        let what = if nested { "nf4-dq linear" } else { "nf4 linear" };
        for (out, cols) in [(OUT, 192), (192, 128)] {
            let (weight, values) = self.packed(nested, out, cols)?;
            for n in ROWS {
                self.product(what, n, &weight, &values, false)?;
            }
        }
        Ok(())
    }
}
