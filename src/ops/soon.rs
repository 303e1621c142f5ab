//! What the ops behind a product read, to be asked for while the product is computed.
//!
//! What the forward pass left for the backward pass has gone out of the caches when that comes to it, and ops that compute little wait for it; products wait for
//! nothing, and the memory is idle beside them. Only a hint: no result depends on it.

use super::Buf;
use super::bf16_gemm::Ahead;
use std::sync::{Mutex, PoisonError};

/// Buffers at most: q, k, v and o of attention.
const MOST: usize = 4;

/// Where they lie; nothing is read through these addresses.
pub(super) type Places = [Ahead; MOST];

/// What was said and not yet asked for.
pub(super) struct Soon(Mutex<Places>);

impl Soon {
    /// Nothing.
    pub(super) const fn new() -> Self {
        Self(Mutex::new([Ahead::NOTHING; MOST]))
    }

    /// In place of what was said before: a product that asks for nothing leaves it behind.
    pub(super) fn say(&self, bufs: &[&Buf]) {
        debug_assert!(bufs.len() <= MOST, "{} buffers", bufs.len());
        let mut places = [Ahead::NOTHING; MOST];
        for (place, buf) in places.iter_mut().zip(bufs) {
            *place = match (buf.bf16(), buf.f32()) {
                (Ok(values), _) => Ahead::all(values),
                (_, Ok(values)) => Ahead::all(values),
                _ => Ahead::NOTHING,
            };
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = places;
    }

    /// What was said, once.
    pub(super) fn take(&self) -> Places {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *said, [Ahead::NOTHING; MOST])
    }
}
