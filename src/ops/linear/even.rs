//! Activations as the bf16 kernel reads them: in pairs of neighbouring columns.

use crate::ops::bf16_gemm::{Source, Term};
use crate::ops::{Buf, Cx};
use candle_core::{Result, bail};
use half::bf16;

/// bf16 rows of an even number of columns, as the kernel reads them: a buffer as it is, or a copy with a column of zeros.
pub(in crate::ops) struct Even<'a> {
    x: &'a Buf,
    padded: Option<Buf>,
}

impl<'a> Even<'a> {
    pub(in crate::ops) fn new(cx: &Cx, x: &'a Buf) -> Result<Self> {
        let (n, k) = (x.rows(), x.cols());
        if k.is_multiple_of(2) {
            return Ok(Self { x, padded: None });
        }
        let mut padded = cx.alloc(&[n, k + 1])?;
        for (to, from) in padded.bf16_mut()?.chunks_mut(k + 1).zip(x.bf16()?.chunks(k)) {
            to[..k].copy_from_slice(from);
            to[k] = bf16::ZERO;
        }
        Ok(Self { x, padded: Some(padded) })
    }

    pub(in crate::ops) fn term<'b>(&'b self, source: Source<'b>) -> Result<Term<'b>> {
        let x = self.padded.as_ref().unwrap_or(self.x);
        if source.inner() != self.x.cols() {
            bail!("linear: {} columns against {}", self.x.cols(), source.inner());
        }
        Ok(Term { x: x.bf16()?, stride: x.cols(), source })
    }
}
