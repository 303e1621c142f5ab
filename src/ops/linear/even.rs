//! Activations as the bf16 kernel reads them: in pairs of neighbouring columns.

use crate::ops::bf16_gemm::{Source, Term};
use crate::ops::operand::Lent;
use crate::ops::{Buf, Cx};
use candle_core::{Result, bail};
use half::bf16;

/// bf16 rows of an even number of columns, as the kernel reads them: an operand as it is, or a copy with a column of zeros.
pub(in crate::ops) struct Even<'a> {
    x: Lent<'a>,
    cols: usize,
}

impl<'a> Even<'a> {
    pub(in crate::ops) fn new(cx: &Cx, x: &'a Buf) -> Result<Self> {
        let (n, k, x) = (x.rows(), x.cols(), cx.operand(x)?);
        if k.is_multiple_of(2) {
            return Ok(Self { x, cols: k });
        }
        let mut padded = cx.alloc_operand(&[n, k + 1])?;
        for (to, from) in padded.bf16_mut()?.chunks_mut(k + 1).zip(x.bf16()?.chunks(k)) {
            to[..k].copy_from_slice(from);
            to[k] = bf16::ZERO;
        }
        Ok(Self { x: Lent::Own(padded), cols: k })
    }

    pub(in crate::ops) fn term<'b>(&'b self, source: Source<'b>) -> Result<Term<'b>> {
        if source.inner() != self.cols {
            bail!("linear: {} columns against {}", self.cols, source.inner());
        }
        Ok(Term { x: self.x.bf16()?, stride: self.x.cols(), source })
    }
}
