//! Stores on disk, found by what they were made of.
//!
//! The name of a store is the BLAKE3 hash of the rows' files and of everything that decides what becomes of them, so a changed byte of
//! a row, of the tokenizer or of a setting makes another store, and a store is never stale. A store is written aside and renamed.
//! `$VFT_CACHE`, else `$XDG_CACHE_HOME/vft`, else `~/.cache/vft`; it may be deleted at any time.

use crate::error::{Problem, Result};
use crate::scratch::Scratch;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Sets whose files are smaller are encoded in memory at each start: that takes no longer than to look for them.
pub const SMALL: u64 = 4 << 20;

/// Counted up when what is stored changes.
const FORMAT: u32 = 6;

/// The directory of all that may be made again.
pub fn root() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("VFT_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("vft")))
        .or_else(|| set("HOME").map(|d| d.join(".cache/vft")))
}

/// The directory of all stores.
pub fn home() -> Option<PathBuf> {
    Some(root()?.join("data"))
}

/// The name of the store of `files` under `settings`.
///
/// # Errors
/// When a file cannot be read.
pub fn key(files: &[PathBuf], settings: &[&[u8]]) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    hash.update(&FORMAT.to_le_bytes());
    for part in settings {
        hash.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    for path in files {
        let failed = |e: std::io::Error| Problem::in_file(path, format!("cannot be read: {e}"));
        let mut content = blake3::Hasher::new();
        content.update_mmap_rayon(path).map_err(failed)?;
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        hash.update(&(name.len() as u64).to_le_bytes()).update(name);
        hash.update(content.finalize().as_bytes());
    }
    Ok(hash.finalize().to_hex().to_string())
}

/// A directory beside `place` to write into, which becomes `place` when it is whole.
///
/// # Errors
/// When it cannot be made.
pub fn aside(place: &Path) -> Result<Scratch> {
    let parent = place.parent().unwrap_or(place);
    fs::create_dir_all(parent).map_err(|e| not_written(parent, &e))?;
    Ok(Scratch::new(parent, ".making-").map_err(|e| not_written(parent, &e))?)
}

/// The problem of a store that cannot be written, and the way out.
pub fn not_written(path: &Path, error: &io::Error) -> Problem {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "encoded rows are kept here: free some space, or set VFT_CACHE to a directory on another disk"
        }
        _ => "encoded rows are kept here: set VFT_CACHE to a directory that can be written",
    };
    Problem::in_file(path, format!("cannot be written: {error}")).hint(hint)
}

/// Gives the directory its name; another process may have been faster with the same content.
///
/// # Errors
/// When it cannot be renamed.
pub fn settle(made: Scratch, place: &Path) -> Result<()> {
    match made.rename(place) {
        Ok(()) => Ok(()),
        Err(_) if place.is_dir() => Ok(()),
        Err(e) => Err(not_written(place, &e).into()),
    }
}
