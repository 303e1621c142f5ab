//! The calls to a file system that a save makes. Tests stand between them and the disk: they write them down, or let one fail.
//!
//! What a call has done is certain to outlast a loss of power only after [`Disk::sync`]: of a file for its bytes, of a directory for the names
//! in it. Names and bytes are independent of each other, and so are names in two directories.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// What a save asks of a file system.
pub trait Disk {
    /// Makes one directory.
    ///
    /// # Errors
    /// When the system refuses.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;

    /// Writes a whole file, a new one or in the place of an old one's bytes: the parts one after the other.
    ///
    /// # Errors
    /// When the system refuses; then some of it may be written.
    fn write_parts(&self, file: &Path, parts: &[&[u8]]) -> io::Result<()>;

    /// Writes a whole file of one part.
    ///
    /// # Errors
    /// As [`Self::write_parts`].
    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write_parts(file, &[bytes])
    }

    /// Waits until a file's bytes, or a directory's names, are on the disk.
    ///
    /// # Errors
    /// When the system cannot say so.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or directory another name, in one step.
    ///
    /// # Errors
    /// When the system refuses.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// When the system refuses.
    fn remove_file(&self, file: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// When the system refuses.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The machine's own file systems.
#[derive(Debug, Clone, Copy)]
pub struct Real;

impl Disk for Real {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    fn write_parts(&self, file: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut file = File::create(file)?;
        parts.iter().try_for_each(|part| file.write_all(part))
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, file: &Path) -> io::Result<()> {
        fs::remove_file(file)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }
}

/// Makes a directory and those above it that are missing, each certain to stay.
///
/// # Errors
/// When one cannot be made.
pub fn make_dirs(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    if dir.is_dir() || dir.as_os_str().is_empty() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(dir);
    make_dirs(disk, parent)?;
    match disk.make_dir(dir) {
        // Another process may have been faster.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) => Err(e),
        Ok(()) => disk.sync(above(dir)),
    }
}

/// Syncs all files and directories of a tree.
///
/// # Errors
/// When one cannot be read or synced.
pub fn sync_tree(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(disk, &entry.path())?;
        } else {
            disk.sync(&entry.path())?;
        }
    }
    disk.sync(dir)
}

/// Removes a file or a whole tree; links are not followed.
///
/// # Errors
/// When a part cannot be removed.
pub fn remove_tree(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return disk.remove_file(path);
    }
    for entry in fs::read_dir(path)? {
        remove_tree(disk, &entry?.path())?;
    }
    disk.remove_dir(path)
}

/// The directory that holds `path`'s name.
pub fn above(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}
