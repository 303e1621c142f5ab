//! A file that is on its way: what has come so far, and its hash.

use super::error::{Result, disk};
use super::progress::Call;
use crate::error::Problem;
use crate::hex::hex;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes between two looks at the user's signal.
pub(super) const CHUNK: usize = 256 << 10;

/// A partial file, open at its end.
pub(super) struct Partial {
    file: File,
    hash: Sha256,
    /// Where it lies.
    pub(super) path: PathBuf,
    /// Bytes that have come.
    pub(super) len: u64,
}

impl Partial {
    /// Opens what an earlier download left, or begins.
    pub(super) fn open(path: &Path, call: Call<'_>) -> Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|m| !m.is_file()) {
            return Err(Problem::in_file(path, "is no regular file")
                .hint("remove it and run again")
                .into());
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| disk(path, &e))?;
        let mut partial = Self { file, hash: Sha256::new(), path: path.to_path_buf(), len: 0 };
        let mut chunk = vec![0; CHUNK];
        loop {
            call.go_on()?;
            let n = partial.file.read(&mut chunk).map_err(|e| disk(path, &e))?;
            let Some(read) = chunk.get(..n).filter(|c| !c.is_empty()) else { return Ok(partial) };
            partial.hash.update(read);
            partial.len += n as u64;
        }
    }

    /// Appends.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| disk(&self.path, &e))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Begins anew.
    pub(super) fn restart(&mut self) -> Result<()> {
        let failed = |e| disk(&self.path, &e);
        self.file.set_len(0).map_err(failed)?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        self.hash = Sha256::new();
        self.len = 0;
        Ok(())
    }

    /// The SHA-256 of what has come, in hexadecimal digits.
    pub(super) fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// Gives the whole file its name; it is on the disk before it has it.
    pub(super) fn finish(self, to: &Path) -> Result<()> {
        self.file.sync_all().map_err(|e| disk(&self.path, &e))?;
        fs::rename(&self.path, to).map_err(|e| disk(to, &e))
    }

    /// Removes what nobody should use.
    pub(super) fn remove(self) {
        // The error at hand is the one to report; a partial that stays has no final name.
        let _ = fs::remove_file(&self.path);
    }
}
