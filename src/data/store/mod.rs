//! Encoded rows, in memory or mapped from files, so that a data set may be larger than memory.
//!
//! ```text
//! tokens.bin  u32 ids of all samples end to end
//! labels.bin  i32 labels, as many
//! index.bin   one [`Entry`] a sample, in the order of the rows
//! ```
//!
//! All little-endian. A row that trains nothing, or that is passed over, has an entry of length 0: splits count rows, not what is left of them.

mod array;
pub mod cache;
mod writer;

pub use writer::{Row, Writer};

use crate::data::encode::Cut;
use crate::error::{Problem, Result};
use array::Array;
use bytemuck::{Pod, Zeroable};
use std::path::Path;

/// Where a sample lies and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Entry {
    /// First token.
    pub start: u64,
    /// Number of the row among all rows of the set, from 0.
    pub row: u32,
    /// Tokens before the first answer; 0 where nobody is asked.
    pub prompt: u32,
    /// Tokens; 0 for a row that is left out.
    pub len: u32,
    /// Tokens that are trained.
    pub targets: u32,
    /// Line of the row in its file.
    pub line: u32,
    /// Number of the file.
    pub file: u32,
    /// Number of the sample among those of its row, from 0.
    pub part: u32,
    /// A [`Fate`].
    fate: u32,
}

/// What became of a row on its way to be this sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Fate {
    /// It is whole.
    Whole,
    /// It lost its last exchanges.
    Shortened,
    /// It lost its last tokens.
    Cut,
    /// It is left out, as nothing in it is trained.
    Untrained,
    /// It is passed over, as it cannot be used.
    Bad,
}

impl From<Cut> for Fate {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Whole => Self::Whole,
            Cut::Exchanges => Self::Shortened,
            Cut::Tokens => Self::Cut,
        }
    }
}

impl Entry {
    /// What became of the row.
    pub fn fate(&self) -> Fate {
        let fates = [Fate::Shortened, Fate::Cut, Fate::Untrained, Fate::Bad];
        fates.into_iter().find(|f| *f as u32 == self.fate).unwrap_or(Fate::Whole)
    }
}

/// A sample's tokens with their labels, unshifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Example<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Labels; -100 is ignored.
    pub labels: &'a [i32],
}

/// The samples of one set.
#[derive(Debug, Default)]
pub struct Store {
    ids: Array<u32>,
    labels: Array<i32>,
    index: Array<Entry>,
}

/// The names of a store's files.
pub(super) const FILES: [&str; 3] = ["tokens.bin", "labels.bin", "index.bin"];

impl Store {
    /// Maps the files of `dir`.
    ///
    /// # Errors
    /// When a file is missing or the files do not fit together.
    pub fn open(dir: &Path) -> Result<Self> {
        let [tokens, labels, index] = FILES.map(|name| dir.join(name));
        let store = Self {
            ids: Array::map(&tokens)?,
            labels: Array::map(&labels)?,
            index: Array::map(&index)?,
        };
        let mut at = 0;
        let follows = |e: &Entry| {
            let fits = e.start == at;
            at += u64::from(e.len);
            fits
        };
        if store.ids.len() != store.labels.len()
            || !store.index.iter().all(follows)
            || at != store.ids.len() as u64
        {
            return Err(Problem::in_file(dir, "its files do not fit together").into());
        }
        Ok(store)
    }

    /// The number of samples, those that are left out among them.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.index
    }

    /// A sample.
    pub fn example(&self, i: usize) -> Example<'_> {
        let entry = &self.index[i];
        let at = entry.start as usize..entry.start as usize + entry.len as usize;
        Example { ids: &self.ids[at.clone()], labels: &self.labels[at] }
    }
}
