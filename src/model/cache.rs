//! Keys and values of the tokens that a decoding sequence has seen.

use crate::ops::{Buf, Cx};
use candle_core::{Result, bail};

/// One layer's keys and values: (capacity, K·D) each, the first `len` rows in use.
pub struct LayerCache {
    k: Buf,
    v: Buf,
    len: usize,
}

impl LayerCache {
    /// Room for `capacity` tokens of `width` = K·D values.
    ///
    /// # Errors
    /// When the size overflows.
    pub fn new(cx: &Cx, capacity: usize, width: usize) -> Result<Self> {
        let room = || cx.alloc_rows(&[capacity, width], capacity);
        Ok(Self { k: room()?, v: room()?, len: 0 })
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.k.rows()
    }

    /// Whether no token is in the cache.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keys, of which the first [`Self::len`] rows are in use.
    pub fn k(&self) -> &Buf {
        &self.k
    }

    /// Values, of which the first [`Self::len`] rows are in use.
    pub fn v(&self) -> &Buf {
        &self.v
    }

    /// Appends the keys and values (n, K·D) of new tokens.
    ///
    /// # Errors
    /// When there is no room left.
    pub fn append(&mut self, k: &Buf, v: &Buf) -> Result<()> {
        let (at, width) = (self.len * self.k.cols(), self.k.cols());
        let end = self.len + k.rows();
        if end > self.k.rows() || k.cols() != width {
            bail!("the cache holds {} tokens; {end} do not fit", self.k.rows());
        }
        for (to, from) in [(&mut self.k, k), (&mut self.v, v)] {
            if let Ok(memory) = from.memory() {
                let size = from.dtype().size_in_bytes();
                to.memory()?.copy(at * size, memory, 0, from.len() * size)?;
            } else {
                to.write(at, from)?;
            }
        }
        self.len = end;
        Ok(())
    }
}
