//! Operands of products, and the two dtypes that a context keeps apart.
//!
//! | precision | values between ops | operands | products' sums |
//! |---|---|---|---|
//! | `32-true` | f32 | f32 | f32 |
//! | `bf16-true`, `16-true` | bf16, f16 | the same | f32, rounded once when they are stored |
//! | `bf16-mixed`, `16-mixed` | f32 | bf16, f16 | f32, stored as they are |
//!
//! Mixed precision is torch's autocast: what a linear layer multiplies, forwards and backwards, is rounded right before; residual
//! stream, norms, rotary embedding, attention, SwiGLU, logits and loss stay in f32. Autocast also rounds a layer's output; here it
//! stays as it was summed. Frozen weights are rounded when they are loaded, factors of adapters at each use. A processor without bf16
//! products multiplies the rounded values in f32: the same up to the order of sums.
//!
//! An op rounds what it is given, unless it is rounded already: who hands one value to several ops rounds it once with
//! [`Cx::operand`].
//! torch 2.x `aten/src/ATen/autocast_mode.h` (`linear` among the ops in lower precision)

use super::cx::bytes;
use super::lora::Part;
use super::{Buf, Cx, simd};
use crate::gpu::Arg;
use candle_core::{DType, Result, bail};
use rayon::prelude::*;

/// A buffer as it is, or a copy of it made for one use.
pub enum Lent<'a> {
    /// As it is.
    Kept(&'a Buf),
    /// The copy.
    Own(Buf),
}

impl std::ops::Deref for Lent<'_> {
    type Target = Buf;
    fn deref(&self) -> &Buf {
        match self {
            Self::Kept(x) => x,
            Self::Own(x) => x,
        }
    }
}

/// Factors of a product in f32: as they lie in the arena, or scaled and rounded.
pub(super) enum Factor<'a> {
    Kept(&'a [f32]),
    Own(Buf),
}

impl Factor<'_> {
    pub(super) fn f32(&self) -> Result<&[f32]> {
        match self {
            Self::Kept(x) => Ok(x),
            Self::Own(x) => x.f32(),
        }
    }
}

impl Cx {
    /// A buffer of any content for an operand of products; the first dimension of `shape` counts tokens.
    ///
    /// # Errors
    /// When the size overflows or there is no memory left.
    pub fn alloc_operand(&self, shape: &[usize]) -> Result<Buf> {
        self.alloc_as(self.products(), shape, None)
    }

    /// As [`Self::alloc_operand`], with room for exactly `rows` rows.
    ///
    /// # Errors
    /// When the size overflows or `shape` has more rows.
    pub(super) fn alloc_operand_rows(&self, shape: &[usize], rows: usize) -> Result<Buf> {
        self.alloc_as(self.products(), shape, Some(rows))
    }

    /// A copy of `values` on the device as an operand of products.
    ///
    /// # Errors
    /// When there is no device, or `values` and `shape` disagree.
    pub(crate) fn device_operand(&self, values: &[f32], shape: &[usize]) -> Result<Buf> {
        let buf = self.alloc_operand(shape)?;
        if buf.len() != values.len() {
            bail!("{} values do not fill shape {shape:?}", values.len());
        }
        buf.memory()?.write(0, &bytes(values, self.products()))?;
        Ok(buf)
    }

    /// `x` as products take it: as it is, or rounded into a buffer of its own.
    ///
    /// # Errors
    /// When there is no memory left.
    pub fn operand<'a>(&self, x: &'a Buf) -> Result<Lent<'a>> {
        if self.is_operand(x) { Ok(Lent::Kept(x)) } else { self.rounded(x).map(Lent::Own) }
    }

    /// As [`Self::operand`], of what is not needed besides.
    ///
    /// # Errors
    /// When there is no memory left.
    pub fn into_operand(&self, x: Buf) -> Result<Buf> {
        if self.is_operand(&x) { Ok(x) } else { self.rounded(&x) }
    }

    fn is_operand(&self, x: &Buf) -> bool {
        x.dtype() != DType::F32 || self.products() == DType::F32
    }

    fn rounded(&self, x: &Buf) -> Result<Buf> {
        let mut out = self.alloc_operand_rows(x.shape(), x.room())?;
        if let Some(gpu) = self.gpu() {
            let args = [out.arg()?, x.arg()?, Arg::U64(x.len() as u64)];
            // SAFETY: operand(T *to, const float *from, u64 n), both of n elements.
            unsafe { gpu.each_of(self.products(), "operand", x.len(), &args) }?;
            return Ok(out);
        }
        let pairs = out.bf16_mut()?.par_chunks_mut(1 << 14).zip(x.f32()?.par_chunks(1 << 14));
        pairs.for_each(|(o, i)| simd::narrow(i, o));
        Ok(out)
    }

    /// The values of a CPU buffer in f32: as they lie there, or widened into a buffer of their own.
    ///
    /// # Errors
    /// When `x` is on a device or there is no memory left.
    pub(super) fn wide<'a>(&self, x: &'a Buf) -> Result<Lent<'a>> {
        if x.dtype() == DType::F32 {
            return Ok(Lent::Kept(x));
        }
        let mut out = self.alloc_f32(x.shape())?;
        let pairs = out.f32_mut()?.par_chunks_mut(1 << 14).zip(x.bf16()?.par_chunks(1 << 14));
        pairs.for_each(|(o, i)| simd::widen(i, o));
        Ok(Lent::Own(out))
    }

    /// [`Self::operand`] in f32: what products that run in f32 multiply on the CPU.
    ///
    /// # Errors
    /// As [`Self::wide`].
    pub(super) fn wide_operand<'a>(&self, x: &'a Buf) -> Result<Lent<'a>> {
        if self.is_operand(x) {
            return self.wide(x);
        }
        let mut out = self.alloc_f32_rows(x.shape(), x.room())?;
        let pairs = out.f32_mut()?.par_chunks_mut(1 << 14).zip(x.f32()?.par_chunks(1 << 14));
        pairs.for_each(|(o, i)| simd::round(i, 1.0, o));
        Ok(Lent::Own(out))
    }

    /// `scale` times a factor of (rows, cols), in f32 with the values that products multiply, and what is left of `scale`.
    ///
    /// # Errors
    /// When the factor is on a device or there is no memory left.
    pub(super) fn factor<'a>(
        &self,
        part: Part<'a>,
        shape: [usize; 2],
        scale: f32,
    ) -> Result<(Factor<'a>, f32)> {
        let values = part.host()?;
        if self.products() == DType::F32 {
            return Ok((Factor::Kept(values), scale));
        }
        let mut own = self.alloc_f32_rows(&shape, shape[0])?;
        let to = own.f32_mut()?;
        if to.len() != values.len() {
            bail!("a factor of {} values where {shape:?} are wanted", values.len());
        }
        to.par_chunks_mut(1 << 14)
            .zip(values.par_chunks(1 << 14))
            .for_each(|(to, v)| simd::round(v, scale, to));
        Ok((Factor::Own(own), 1.0))
    }

    /// An f32 buffer on the CPU in the compute dtype: itself, or rounded into a buffer of its own.
    ///
    /// # Errors
    /// When `x` is no f32 buffer or there is no memory left.
    pub(super) fn stored(&self, x: Buf) -> Result<Buf> {
        if self.compute() == DType::F32 { Ok(x) } else { self.into_operand(x) }
    }
}
