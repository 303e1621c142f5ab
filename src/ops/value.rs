//! The two types that activations have on the CPU: f32, and bf16 in `bf16-true`. Ops compute in f32 whichever it is.

use super::Buf;
use super::simd;
use candle_core::Result;
use half::bf16;

/// An element of an activation.
pub trait Value: bytemuck::Pod + Default + Send + Sync {
    /// Its value in f32.
    fn wide(self) -> f32;
    /// The nearest value of this type, ties to even.
    fn near(x: f32) -> Self;
    /// The elements of a buffer of this type.
    ///
    /// # Errors
    /// When the buffer holds another type.
    fn of(x: &Buf) -> Result<&[Self]>;
    /// The elements of a buffer of this type, to be written.
    ///
    /// # Errors
    /// When the buffer holds another type.
    fn of_mut(x: &mut Buf) -> Result<&mut [Self]>;
}

impl Value for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
    #[inline(always)]
    fn near(x: f32) -> Self {
        x
    }
    fn of(x: &Buf) -> Result<&[Self]> {
        x.f32()
    }
    fn of_mut(x: &mut Buf) -> Result<&mut [Self]> {
        x.f32_mut()
    }
}

impl Value for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn near(x: f32) -> Self {
        Self::from_bits(simd::narrow_bits(x))
    }
    fn of(x: &Buf) -> Result<&[Self]> {
        x.bf16()
    }
    fn of_mut(x: &mut Buf) -> Result<&mut [Self]> {
        x.bf16_mut()
    }
}

/// Calls a function that is generic over [`Value`] for the type that CPU buffers of a dtype hold.
macro_rules! by_type {
    ($dtype:expr, $f:ident($($arg:expr),* $(,)?)) => {
        match $dtype {
            candle_core::DType::BF16 => $f::<half::bf16>($($arg),*),
            _ => $f::<f32>($($arg),*),
        }
    };
}
pub(super) use by_type;
