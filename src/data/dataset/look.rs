//! What is told of data: its numbers, where samples come from, which rows stand near a line.

use super::super::census::Census;
use super::super::store::{Entry, Example, Fate};
use super::{DataSet, Key};
use rayon::prelude::*;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Where a sample comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Its file.
    pub path: &'a Path,
    /// The line of its row.
    pub line: usize,
    /// Its number among the samples of its row, from 0.
    pub part: usize,
    /// What became of the row.
    pub fate: Fate,
}

impl<'a> Origin<'a> {
    fn new(files: &'a [PathBuf], entry: &Entry) -> Self {
        Self {
            path: files.get(entry.file as usize).map_or(Path::new(""), PathBuf::as_path),
            line: entry.line as usize,
            part: entry.part as usize,
            fate: entry.fate(),
        }
    }
}

impl DataSet {
    /// Where a training sample comes from.
    pub fn origin(&self, i: usize) -> Origin<'_> {
        let key = self.train[i];
        let (store, files) = &self.stores[key.store as usize];
        Origin::new(files, &store.entries()[key.sample as usize])
    }

    /// All samples of the rows that start in line `line` of any file.
    pub fn at_line(&self, line: usize) -> Vec<(Example<'_>, Origin<'_>)> {
        let mut found = Vec::new();
        for (store, files) in &self.stores {
            let entries = store.entries().iter().enumerate();
            let here = entries.filter(|(_, e)| e.line as usize == line);
            found.extend(here.map(|(i, e)| (store.example(i), Origin::new(files, e))));
        }
        found
    }

    /// The last line before and the first after `line` in which rows start.
    pub fn lines_around(&self, line: usize) -> (Option<usize>, Option<usize>) {
        let lines = || self.stores.iter().flat_map(|(s, _)| s.entries()).map(|e| e.line as usize);
        (lines().filter(|l| *l < line).max(), lines().filter(|l| *l > line).min())
    }

    /// The numbers in a line, and where there are several sets a line for each.
    pub fn describe(&self) -> Vec<String> {
        let numbers = |c: &Census| {
            format!(
                "{} tokens, {:.0} % trained, longest {}",
                c.tokens,
                c.trained_share(),
                c.longest
            )
        };
        let weighted = if self.per_epoch() == self.train_len() {
            String::new()
        } else {
            format!(" ({} an epoch)", self.per_epoch())
        };
        let mut lines = vec![format!(
            "data: {} training{weighted} and {} validation rows, {}",
            self.train_len(),
            self.val_len(),
            numbers(&self.census())
        )];
        if self.parts.len() > 1 {
            for ((part, census), path) in self.parts.iter().zip(&self.censuses).zip(&self.names) {
                lines.push(format!(
                    "  {}: {} training rows, weight {}, {}",
                    path.display(),
                    part.samples,
                    part.weight,
                    numbers(census)
                ));
            }
        }
        lines
    }

    /// The number of validation samples whose tokens are those of a training sample.
    pub fn trained_too(&self) -> usize {
        let ids = |key: &Key| self.example(*key).ids;
        let val: HashSet<&[u32]> = self.val.iter().map(ids).collect();
        if val.is_empty() {
            return 0;
        }
        let trained = self.train.par_iter().map(ids).filter(|ids| val.contains(ids));
        let trained: HashSet<&[u32]> = trained.collect();
        self.val.iter().filter(|key| trained.contains(ids(key))).count()
    }
}
