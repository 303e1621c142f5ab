//! Directories that are written aside before they get their name, so that a process that is ended meanwhile can take them away.
//!
//! [`remove_all`] and the moments in which a directory appears, gets its name or goes exclude each other: nothing half removed can get
//! a name.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

/// All that there are in this process.
static OPEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removals that are tried: another thread may make files in between.
const TRIES: usize = 20;

fn open() -> MutexGuard<'static, Vec<PathBuf>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory without a name of its own yet; it goes away when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new directory in `parent`, whose name begins with `prefix`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(parent: &Path, prefix: &str) -> io::Result<Self> {
        let mut open = open();
        let path = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?.keep();
        open.push(path.clone());
        Ok(Self { path })
    }

    /// A directory that is there: it is nobody's until it is kept.
    pub fn adopt(path: &Path) -> Self {
        open().push(path.into());
        Self { path: path.into() }
    }

    /// It stays, under the name that it has.
    pub fn keep(self) {
        open().retain(|path| *path != self.path);
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// When it cannot be renamed; then it goes away.
    pub fn rename(self, to: &Path) -> io::Result<()> {
        let mut open = open();
        let done = fs::rename(&self.path, to);
        if done.is_ok() {
            open.retain(|path| *path != self.path);
        }
        drop(open);
        done
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut open = open();
        if let Some(place) = open.iter().position(|path| *path == self.path) {
            open.swap_remove(place);
            // What cannot be removed carries a name that says what it is.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes all of them. No other can be made or get its name afterwards: who calls this ends the process.
pub fn remove_all() {
    let open = open();
    for path in open.iter() {
        let gone = || fs::remove_dir_all(path).is_ok() || !path.exists();
        // What cannot be removed carries a name that says what it is.
        let _ = (0..TRIES).any(|_| gone());
    }
    std::mem::forget(open);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gets_no_name_goes_away() {
        let home = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(home.path(), ".making-").unwrap();
        fs::write(scratch.path().join("half"), b"x").unwrap();
        drop(scratch);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_gets_its_name_stays() {
        let home = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(home.path(), ".making-").unwrap();
        fs::write(scratch.path().join("file"), b"x").unwrap();
        scratch.rename(&home.path().join("whole")).unwrap();
        assert_eq!(fs::read(home.path().join("whole/file")).unwrap(), b"x");
    }
}
