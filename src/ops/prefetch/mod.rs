//! Prefetching what the ops behind a product read, while the product is computed.
//!
//! What the forward pass left for the backward pass has gone out of the caches when that comes to it, and ops that compute little wait for it; products wait for
//! nothing, and the memory is idle beside them. Only a hint: no result depends on it.

mod lines;

use super::Buf;
use candle_core::DType;
use std::sync::{Mutex, PoisonError};

pub(in crate::ops) use lines::{Ahead, Lines, PLACES, Places};

/// What is to be prefetched.
pub(super) struct Prefetch(Mutex<Places>);

impl Prefetch {
    /// Nothing.
    pub(super) const fn new() -> Self {
        Self(Mutex::new([Ahead::NOTHING; PLACES]))
    }

    /// These buffers, in place of what was said before.
    pub(super) fn say(&self, bufs: &[&Buf]) {
        debug_assert!(bufs.len() <= PLACES, "{} buffers", bufs.len());
        let mut places = [Ahead::NOTHING; PLACES];
        for (place, buf) in places.iter_mut().zip(bufs) {
            let values = match buf.dtype() {
                DType::BF16 => buf.bf16().map(Ahead::all),
                _ => buf.f32().map(Ahead::all),
            };
            *place = values.unwrap_or(Ahead::NOTHING);
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = places;
    }

    /// What was said, once.
    pub(super) fn take(&self) -> Places {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *said, [Ahead::NOTHING; PLACES])
    }
}
