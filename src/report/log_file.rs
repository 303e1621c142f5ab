//! A file that records are appended to: each goes to the system in one write, whole or not at all.
//!
//! A handle outlives its name: who only writes does not see that the file was removed, or another put in its place. So before each write the
//! name is looked up.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The file.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole records; `None` where the file has no length, as a pipe.
    len: Option<u64>,
}

impl LogFile {
    /// A new file; one that is there is an error.
    pub(super) fn create_new(path: &Path) -> io::Result<Self> {
        // Appending, what is written after a cut goes behind the cut.
        Self::of(path, File::options().append(true).create_new(true).open(path)?)
    }

    /// The file that is there, its first `keep` bytes, or a new one.
    pub(super) fn after(path: &Path, keep: u64) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(path)?;
        let data = file.metadata()?;
        // A line that was cut off by a crash goes with what came after the checkpoint.
        if data.is_file() {
            file.set_len(if data.len() < keep { whole_lines(path)? } else { keep })?;
        }
        Self::of(path, file)
    }

    fn of(path: &Path, file: File) -> io::Result<Self> {
        let data = file.metadata()?;
        let len = data.is_file().then_some(data.len());
        Ok(Self { path: path.into(), file, len })
    }

    /// Appends whole records. After an error the file ends where it did before.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.is_in_place()?;
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.len = self.len.map(|n| n + bytes.len() as u64);
                Ok(())
            }
            Err(e) => {
                if let Some(len) = self.len {
                    // A part of a record that stays would be told apart by its missing line break.
                    let _ = self.file.set_len(len);
                }
                Err(e)
            }
        }
    }

    /// Bytes of whole records, all of them on disk.
    pub(super) fn settled(&self) -> io::Result<u64> {
        self.is_in_place()?;
        self.file.sync_all()?;
        Ok(self.len.unwrap_or(0))
    }

    /// Bytes of whole records.
    pub(super) fn len(&self) -> u64 {
        self.len.unwrap_or(0)
    }

    fn is_in_place(&self) -> io::Result<()> {
        let there = std::fs::metadata(&self.path)?;
        if is_same(&there, &self.file.metadata()?) {
            return Ok(());
        }
        Err(io::Error::other("something else was put in its place"))
    }
}

/// Bytes of a file up to the end of its last whole line.
fn whole_lines(path: &Path) -> io::Result<u64> {
    let text = std::fs::read(path)?;
    Ok(text.iter().rposition(|b| *b == b'\n').map_or(0, |last| last as u64 + 1))
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    a.is_file() == b.is_file()
}
