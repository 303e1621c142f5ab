//! An optimizer's state as named arrays, to be written and read back without a changed bit.

use super::optimizer::Optimizer;
use crate::gpu::Memory;
use candle_core::{Result, bail};
use std::borrow::Cow;

/// An array of a state: where the optimizer keeps it, or a copy.
#[derive(Debug, Clone, PartialEq)]
pub enum Values<'a> {
    /// Numbers.
    F32(Cow<'a, [f32]>),
    /// Codes of 8 bits.
    U8(Cow<'a, [u8]>),
}

/// All that an optimizer keeps between steps.
#[derive(Debug, Clone, PartialEq)]
pub struct State<'a> {
    /// Updates done.
    pub t: i32,
    /// The arrays by their names.
    pub arrays: Vec<(String, Values<'a>)>,
}

impl<'a> State<'a> {
    /// The array `name`, of `len` elements.
    fn take(&mut self, name: &str, len: usize) -> Result<Values<'a>> {
        let Some(at) = self.arrays.iter().position(|(n, _)| n == name) else {
            bail!("the optimizer's state has no `{name}`");
        };
        let values = self.arrays.swap_remove(at).1;
        let have = match &values {
            Values::F32(v) => v.len(),
            Values::U8(v) => v.len(),
        };
        if have != len {
            bail!("the optimizer's `{name}` has {have} elements, not {len}");
        }
        Ok(values)
    }
}

/// An array where the optimizer keeps it.
pub(super) enum Place<'a> {
    /// Numbers on the host.
    F32(&'a mut Vec<f32>),
    /// Codes on the host.
    U8(&'a mut Vec<u8>),
    /// So many numbers on a device.
    DeviceF32(&'a Memory, usize),
    /// So many codes on a device.
    DeviceU8(&'a Memory, usize),
}

impl<'a> Place<'a> {
    fn read(self) -> Result<Values<'a>> {
        Ok(match self {
            Self::F32(v) => Values::F32(Cow::Borrowed(v)),
            Self::U8(v) => Values::U8(Cow::Borrowed(v)),
            Self::DeviceF32(memory, n) => Values::F32(Cow::Owned(memory.download(0, n)?)),
            Self::DeviceU8(memory, n) => Values::U8(Cow::Owned(memory.download(0, n)?)),
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::U8(v) => v.len(),
            Self::DeviceF32(_, n) | Self::DeviceU8(_, n) => *n,
        }
    }

    fn write(self, values: Values<'_>) -> Result<()> {
        match (self, values) {
            (Self::F32(place), Values::F32(v)) => *place = v.into_owned(),
            (Self::U8(place), Values::U8(v)) => *place = v.into_owned(),
            (Self::DeviceF32(memory, _), Values::F32(v)) => {
                memory.write(0, bytemuck::cast_slice(&v))?
            }
            (Self::DeviceU8(memory, _), Values::U8(v)) => memory.write(0, &v)?,
            _ => bail!("the optimizer's state is of another type"),
        }
        Ok(())
    }
}

impl Optimizer {
    /// The state: what lies on the host as it lies there, a copy of what a device keeps.
    ///
    /// # Errors
    /// When the device fails.
    pub fn state(&mut self) -> Result<State<'_>> {
        let (t, places) = self.places()?;
        let t = *t;
        let arrays = places.into_iter().map(|(name, place)| Ok((name.to_owned(), place.read()?)));
        Ok(State { t, arrays: arrays.collect::<Result<_>>()? })
    }

    /// Puts a state in the place of the one at hand.
    ///
    /// # Errors
    /// When it is the state of another optimizer or of other slices; then the state at hand is partly replaced.
    pub fn restore(&mut self, mut state: State<'_>) -> Result<()> {
        let (t, places) = self.places()?;
        *t = state.t;
        for (name, place) in places {
            let values = state.take(name, place.len())?;
            place.write(values)?;
        }
        match state.arrays.first() {
            Some((name, _)) => bail!("the optimizer has no place for `{name}` of the state"),
            None => Ok(()),
        }
    }
}
