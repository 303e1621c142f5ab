//! Small frozen values that host code reads and a device needs too: token ids, positions, norm weights, biases, rotary tables.

use super::Cx;
use crate::gpu::{Arg, Memory};
use candle_core::{Result, bail};
use std::borrow::Cow;

/// Host values and, in a context on a device, a copy there.
#[derive(Debug)]
pub struct Mirror<'a, T: Clone> {
    host: Cow<'a, [T]>,
    memory: Option<Memory>,
}

/// An owned mirror of f32 values.
pub type Vector = Mirror<'static, f32>;

impl<'a, T: bytemuck::NoUninit> Mirror<'a, T> {
    /// Takes or borrows `host`.
    ///
    /// # Errors
    /// When the copy to the device fails.
    pub fn new(cx: &Cx, host: impl Into<Cow<'a, [T]>>) -> Result<Self> {
        let host = host.into();
        let memory = cx.gpu().map(|gpu| Memory::upload(gpu, &host)).transpose()?;
        Ok(Self { host, memory })
    }

    /// As the argument of a kernel.
    ///
    /// # Errors
    /// When there is no copy on a device.
    pub fn arg(&self) -> Result<Arg> {
        match &self.memory {
            Some(memory) => Ok(memory.into()),
            None => bail!("values are not on the device"),
        }
    }
}

impl<T: Clone> std::ops::Deref for Mirror<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.host
    }
}
