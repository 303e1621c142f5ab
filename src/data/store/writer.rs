//! A store being written: sample by sample, to memory or to files.

use super::array::Array;
use super::cache::not_written;
use super::{Entry, FILES, Fate, Store};
use crate::data::encode::Sample;
use crate::error::Result;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Where samples go.
enum Sink {
    Memory { ids: Vec<u32>, labels: Vec<i32> },
    Files { dir: PathBuf, ids: BufWriter<File>, labels: BufWriter<File>, index: BufWriter<File> },
}

/// Where a row lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its number among all rows of the set, from 0.
    pub number: u32,
    /// Number of its file.
    pub file: u32,
    /// Its line.
    pub line: usize,
}

/// Appends samples.
pub struct Writer {
    sink: Sink,
    entries: Vec<Entry>,
    at: u64,
    /// The row at hand and the number of its next sample.
    part: (u32, u32),
}

impl Writer {
    /// Into memory.
    pub fn in_memory() -> Self {
        Self {
            sink: Sink::Memory { ids: Vec::new(), labels: Vec::new() },
            entries: Vec::new(),
            at: 0,
            part: (0, 0),
        }
    }

    /// Into new files in `dir`.
    ///
    /// # Errors
    /// When a file cannot be made.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        let make = |name: &str| {
            let path = dir.join(name);
            let file = File::create(&path).map_err(|e| not_written(&path, &e))?;
            Ok::<_, crate::error::Problem>(BufWriter::with_capacity(1 << 20, file))
        };
        let [ids, labels, index] = FILES;
        let sink = Sink::Files {
            dir: dir.into(),
            ids: make(ids)?,
            labels: make(labels)?,
            index: make(index)?,
        };
        Ok(Self { sink, entries: Vec::new(), at: 0, part: (0, 0) })
    }

    /// Appends a sample of a row, or why it is left out.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn push(&mut self, row: Row, sample: Result<&Sample, Fate>) -> Result<()> {
        let (ids, labels): (&[u32], &[i32]) = sample.map_or((&[], &[]), |s| (&s.ids, &s.labels));
        let part = if self.part.0 == row.number { self.part.1 } else { 0 };
        self.part = (row.number, part + 1);
        let entry = Entry {
            start: self.at,
            row: row.number,
            prompt: sample.map_or(0, |s| s.prompt) as u32,
            len: ids.len() as u32,
            targets: sample.map_or(0, Sample::targets) as u32,
            line: u32::try_from(row.line).unwrap_or(u32::MAX),
            file: row.file,
            part,
            fate: sample.map_or_else(|fate| fate, |s| s.cut.into()) as u32,
        };
        self.at += ids.len() as u64;
        match &mut self.sink {
            Sink::Memory { ids: all, labels: targets } => {
                all.extend(ids);
                targets.extend(labels);
                self.entries.push(entry);
            }
            Sink::Files { dir, ids: all, labels: targets, index } => {
                let write = all
                    .write_all(bytemuck::cast_slice(ids))
                    .and_then(|()| targets.write_all(bytemuck::cast_slice(labels)))
                    .and_then(|()| index.write_all(bytemuck::bytes_of(&entry)));
                write.map_err(|e| not_written(dir, &e))?;
            }
        }
        Ok(())
    }

    /// The finished store; of files it is to be opened where they will stay.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn finish(self) -> Result<Option<Store>> {
        match self.sink {
            Sink::Memory { ids, labels } => Ok(Some(Store {
                ids: Array::Owned(ids),
                labels: Array::Owned(labels),
                index: Array::Owned(self.entries),
            })),
            Sink::Files { dir, ids, labels, index } => {
                for file in [ids, labels, index] {
                    let file = file.into_inner().map_err(|e| not_written(&dir, e.error()))?;
                    file.sync_all().map_err(|e| not_written(&dir, &e))?;
                }
                Ok(None)
            }
        }
    }
}
