//! Files of rows, streamed: a row is in memory, a file never is.
//!
//! | name | what is read |
//! |---|---|
//! | `.json` | one list; `{"data": […]}`; the data-sets server's `{"rows": [{"row": …}]}`; JSON lines; objects one after another |
//! | `.jsonl`, `.ndjson` | one object a line |
//! | `.csv`, `.tsv` | a header, then records; every value stays the text that it is |
//! | `.parquet` | row group by row group, nested lists and structs included |
//! | `.txt` | one row `{"text": …}` for the whole file |
//!
//! All but Parquet may be compressed: `.gz`, `.zst`. What a file is decide its first bytes where they tell (gzip, zstd, Parquet), else its
//! name. A BOM, CRLF, blank lines and a missing last newline are fine.
//!
//! A text file is one document because the end of a row is trained as the end of a text: with a row a line, as `datasets` reads
//! by default, a model of prose would learn to stop at every line break. It is `datasets`' `sample_by="document"`.
//!
//! Errors name file, line and column. [`Line::line`] is the line that a row starts in; in Parquet, which has no lines, the row's number
//! from 1. The readers are compared with `datasets` in `tests/readers.rs`.

mod csv;
mod json;
mod nesting;
mod open;
mod parquet;
mod readme;
mod scan;
pub mod slice;
pub mod splits;
mod unique;

use crate::error::{Problem, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A row and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Line from 1; in Parquet the row from 1.
    pub line: usize,
    /// The row.
    pub value: Value,
}

/// How to read.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes that one row may have: what a hostile or broken file can make the reader hold.
    pub max_row_bytes: usize,
    /// Bytes that a text file may have, which is one row.
    pub max_text_bytes: usize,
    /// The columns to read, where a container keeps columns apart (Parquet); `None` for all. Names that a file lacks are no error.
    pub columns: Option<Vec<String>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_row_bytes: 16 << 20, max_text_bytes: 256 << 20, columns: None }
    }
}

/// What is wrong with a file at a place.
#[derive(Debug)]
struct Fault {
    line: usize,
    column: usize,
    message: String,
    hint: Option<String>,
    /// Whether the reader no longer knows where the next row starts.
    lost: bool,
}

impl Fault {
    /// A row that is wrong, after which the next one can be read.
    fn row(line: usize, column: usize, message: impl Into<String>) -> Self {
        Self { line, column, message: message.into(), hint: None, lost: false }
    }

    /// A file that is wrong from here on.
    fn file(line: usize, column: usize, message: impl Into<String>) -> Self {
        Self { lost: true, ..Self::row(line, column, message) }
    }

    fn too_long(line: usize, max: usize) -> Self {
        let message = format!("the row that starts here is longer than {max} bytes");
        Self::row(line, 0, message)
            .hint("is a bracket or quote left open, or the whole file one line?")
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn problem(self, path: &Path) -> Problem {
        let problem = Problem::at(path, self.line, self.column, self.message);
        match self.hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

/// What each container's reader does.
trait Reader: Send {
    /// The next row; not called again after a fault that is `lost`.
    fn next(&mut self) -> Option<Result<Line, Fault>>;
}

/// The rows of a file, one by one.
pub struct Rows {
    path: PathBuf,
    reader: Box<dyn Reader>,
    lost: bool,
}

impl Rows {
    /// Whether the last error ended the reading: the file is cut off or broken beyond its row, so that a policy of passing over bad
    /// rows must not pass over it.
    pub fn lost(&self) -> bool {
        self.lost
    }
}

impl Iterator for Rows {
    type Item = Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.lost {
            return None;
        }
        self.reader.next().map(|line| {
            line.map_err(|fault| {
                self.lost = fault.lost;
                fault.problem(&self.path).into()
            })
        })
    }
}

/// The rows of the file `path`. An empty file has none.
///
/// # Errors
/// When the file cannot be opened or is of no known kind; the items are errors where rows are broken.
pub fn rows(path: &Path) -> Result<Rows> {
    rows_with(path, &Options::default())
}

/// The rows of the file `path`, read as `options` say.
///
/// # Errors
/// As [`rows`].
pub fn rows_with(path: &Path, options: &Options) -> Result<Rows> {
    let reader = open::reader(path, options).map_err(|fault| fault.problem(path))?;
    Ok(Rows { path: path.into(), reader, lost: false })
}

/// The number of rows, where a file knows it without being read: Parquet.
///
/// # Errors
/// When the file cannot be opened or is no whole Parquet file.
pub fn known_rows(path: &Path) -> Result<Option<usize>> {
    open::known_rows(path).map_err(|fault| fault.problem(path).into())
}
