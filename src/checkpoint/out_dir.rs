//! The directory of a run: made if needed, writable, and not another run's.

use super::atomic::{self, io_problem};
use super::disk::{Real, make_dirs};
use crate::error::{Problem, Result};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that a run holds locked; the system unlocks it when the process ends, however it ends.
const LOCK: &str = ".vft.lock";

/// A claimed directory.
#[derive(Debug, Clone)]
pub struct Claim {
    dir: PathBuf,
    made: bool,
    lock: Arc<File>,
    is_locked: bool,
}

impl Claim {
    /// Whether there was no such directory before.
    pub fn is_new(&self) -> bool {
        self.made
    }

    /// What the user should know of it.
    pub fn note(&self) -> Option<String> {
        let dir = self.dir.display();
        let note = || {
            format!("{dir}: its file system has no locks: let no other run write there meanwhile")
        };
        (!self.is_locked).then(note)
    }

    /// Takes the directory away again if the claim made it and nothing was written.
    pub fn give_up(&self) {
        // What cannot be removed stays, unlocked.
        let _ = fs::remove_file(self.dir.join(LOCK));
        if self.made {
            // A directory that is not empty stays.
            let _ = fs::remove_dir(&self.dir);
        }
    }

    /// Gives the lock back at the end of a run.
    pub fn release(&self) {
        let _ = fs::remove_file(self.dir.join(LOCK));
        // The lock goes with the process at the latest.
        let _ = self.lock.unlock();
    }
}

/// Creates `dir` and makes sure that a run may write into it, and no other process does; it must be none of `inputs`, and hold no run
/// unless one is to be taken up.
///
/// # Errors
/// When it cannot be written, another run is at work in it, it holds a run that is not to be taken up, or it is read by the run.
pub fn claim(dir: &Path, inputs: &[&Path], resume: bool) -> Result<Claim> {
    let made = !dir.exists();
    // A run that outlasts a loss of power is no use in a directory that does not.
    make_dirs(&Real, dir).map_err(|e| io_problem(dir, &e))?;
    if let Err(e) = check(dir, inputs, resume) {
        if made {
            let _ = fs::remove_dir(dir);
        }
        return Err(e);
    }
    let (lock, is_locked) = lock(dir)?;
    if resume {
        atomic::recover(&Real, dir);
        atomic::recover(&Real, &dir.join("final"));
    }
    Ok(Claim { dir: dir.to_path_buf(), made, lock: Arc::new(lock), is_locked })
}

/// The lock of a directory, and whether it is held.
fn lock(dir: &Path) -> Result<(File, bool)> {
    let path = dir.join(LOCK);
    loop {
        let file = open(&path).map_err(|e| io_problem(&path, &e))?;
        match file.try_lock() {
            // A run that ends takes its file away: what is locked then is in nobody's way, and no claim.
            Ok(()) if is_at(&file, &path) => return Ok((file, true)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let hint = "wait for it, or choose another `out_dir`";
                return Err(Problem::in_file(dir, "another run is at work in it")
                    .hint(hint)
                    .into());
            }
            // Some network file systems cannot lock: a run there is no worse off than without this guard.
            Err(TryLockError::Error(e)) if cannot_lock(&e) => return Ok((file, false)),
            Err(TryLockError::Error(e)) => return Err(io_problem(&path, &e)),
        }
    }
}

/// The file to be locked. A link there may lead to a file of somebody's.
fn open(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    }
    options.open(path)
}

/// Whether a file system has no locks: ENOTSUP, ENOSYS, or ENOLCK of one without a lock server.
fn cannot_lock(error: &std::io::Error) -> bool {
    const ENOLCK: i32 = 37;
    error.kind() == std::io::ErrorKind::Unsupported || error.raw_os_error() == Some(ENOLCK)
}

/// Whether `path` is the name of the open `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |m: fs::Metadata| (m.dev(), m.ino());
    file.metadata().ok().map(place) == fs::metadata(path).ok().map(place)
}

/// An open file keeps its name.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

fn check(dir: &Path, inputs: &[&Path], resume: bool) -> Result<()> {
    let real = dir.canonicalize().ok();
    if inputs.iter().any(|i| i.canonicalize().ok() == real) {
        let message = "`out_dir` is the directory that the run reads its model or adapter from";
        return Err(Problem::in_file(dir, message).hint("choose another `out_dir`").into());
    }
    for entry in fs::read_dir(dir).map_err(|e| io_problem(dir, &e))? {
        let name = entry.map_err(|e| io_problem(dir, &e))?.file_name();
        let name = name.to_string_lossy();
        let of_a_run = matches!(&*name, "metrics.jsonl" | "final" | "best" | "merged")
            || name.starts_with("step-");
        if of_a_run && !resume {
            return Err(taken(dir, &name).into());
        }
    }
    tempfile::Builder::new().prefix(".probe").tempfile_in(dir).map_err(|e| io_problem(dir, &e))?;
    Ok(())
}

/// The problem of a directory that holds the file `name` of a run.
fn taken(dir: &Path, name: &str) -> Problem {
    let hint =
        "`--resume auto` goes on with it; else choose another `out_dir`; nothing in it was changed";
    Problem::in_file(dir, format!("holds a run already (`{name}`)")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_a_run_is_refused() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("metrics.jsonl"), b"").unwrap();
        assert!(claim(home.path(), &[], false).unwrap_err().to_string().contains("metrics.jsonl"));
    }

    #[test]
    fn a_claim_given_back_leaves_an_empty_directory() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/b");
        claim(&dir, &[], false).unwrap().release();
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let _first = claim(home.path(), &[], false).unwrap();
        let error = claim(home.path(), &[], true).unwrap_err().to_string();
        assert!(error.contains("another run is at work"), "{error}");
    }

    #[test]
    fn a_lock_whose_file_went_is_no_claim() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(LOCK);
        let file = File::create(&path).unwrap();
        assert!(is_at(&file, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path));
        let _next = File::create(&path).unwrap();
        assert!(!is_at(&file, &path));
    }

    #[test]
    fn a_lock_that_nobody_holds_is_no_obstacle() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(LOCK), b"").unwrap();
        assert!(claim(home.path(), &[], false).is_ok());
    }

    #[test]
    fn a_run_to_be_taken_up_is_no_obstacle() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("metrics.jsonl"), b"").unwrap();
        assert!(claim(home.path(), &[], true).is_ok());
    }

    #[test]
    fn a_claim_given_up_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a");
        claim(&dir, &[], false).unwrap().give_up();
        assert!(!dir.exists());
    }

    #[test]
    fn a_directory_that_was_there_is_kept() {
        let home = tempfile::tempdir().unwrap();
        claim(home.path(), &[], false).unwrap().give_up();
        assert!(home.path().exists());
    }

    #[test]
    fn the_model_itself_is_no_out_dir() {
        let home = tempfile::tempdir().unwrap();
        let error = claim(home.path(), &[&home.path().join(".")], false).unwrap_err().to_string();
        assert!(error.contains("choose another `out_dir`"), "{error}");
    }
}
