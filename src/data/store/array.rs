//! Numbers in memory or in a mapped file.

use crate::error::{Problem, Result};
use bytemuck::Pod;
use memmap2::Mmap;
use std::fs::File;
use std::ops::Deref;
use std::path::Path;

/// A list of `T`.
#[derive(Debug)]
pub(super) enum Array<T> {
    /// In memory.
    Owned(Vec<T>),
    /// In a file: a whole number of `T`.
    Mapped(Mmap),
}

impl<T> Default for Array<T> {
    fn default() -> Self {
        Self::Owned(Vec::new())
    }
}

impl<T: Pod> Array<T> {
    /// Maps a file that holds a whole number of `T`.
    pub(super) fn map(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Problem::in_file(path, format!("cannot be read: {e}"));
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len() as usize;
        if bytes == 0 {
            return Ok(Self::default());
        }
        if !bytes.is_multiple_of(size_of::<T>()) {
            return Err(Problem::in_file(path, "is cut off").into());
        }
        // SAFETY: the file lies in a cache of ours, is never written again once it has its name, and holds plain numbers.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Self::Mapped(map))
    }
}

impl<T: Pod> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(list) => list,
            // A mapping starts at a page and holds a whole number.
            Self::Mapped(map) => bytemuck::cast_slice(map),
        }
    }
}
