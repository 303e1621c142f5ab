//! A directory that appears whole or not at all: written beside its place, flushed, renamed.

use super::disk::{Disk, above, make_dirs, remove_tree, sync_tree};
use crate::error::{Problem, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files of a tokenizer that a model directory may hold.
pub(super) const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
];

/// Writes a directory through `fill`, which gets a temporary path, and renames it to `path`.
///
/// The parent is synced before the rename too: files beside the directory that it counts on have their names by then.
///
/// # Errors
/// When `path` exists or anything cannot be written; nothing is left behind then.
pub fn write_dir(
    disk: &dyn Disk,
    path: &Path,
    fill: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if path.file_name().is_none() {
        return Err(anyhow::anyhow!("{} is no place for a directory", path.display()));
    }
    if path.exists() {
        return Err(crate::error::UserError::from(Problem::in_file(path, "exists already")).into());
    }
    let (parent, temporary) = (above(path), beside(path, HALF));
    let write = || -> anyhow::Result<()> {
        make_dirs(disk, parent).map_err(|e| io_problem(parent, &e))?;
        clear(disk, &temporary).map_err(|e| io_problem(&temporary, &e))?;
        disk.make_dir(&temporary).map_err(|e| io_problem(&temporary, &e))?;
        // Held as long as the process lives: see `clear_dead`. Where there are no locks, nothing is cleared.
        let _held = hold(&temporary);
        fill(&temporary)?;
        sync_tree(disk, &temporary).map_err(|e| io_problem(&temporary, &e))?;
        disk.sync(parent).map_err(|e| io_problem(parent, &e))?;
        disk.rename(&temporary, path).map_err(|e| io_problem(path, &e))?;
        disk.sync(parent).map_err(|e| io_problem(parent, &e))?;
        Ok(())
    };
    let result = write();
    if result.is_err() {
        // The error at hand is the one to report; what cannot be removed carries a name that says what it is.
        let _ = clear(disk, &temporary);
    }
    result
}

/// As [`write_dir`], in the place of what `path` holds: the old directory stays until the new one is whole.
///
/// # Errors
/// When anything cannot be written; then the old directory is still there.
pub fn replace_dir(
    disk: &dyn Disk,
    path: &Path,
    fill: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if !path.exists() {
        return write_dir(disk, path, fill);
    }
    let (new, old) = (beside(path, WHOLE), beside(path, REPLACED));
    for stale in [&new, &old] {
        clear(disk, stale).map_err(|e| io_problem(stale, &e))?;
    }
    write_dir(disk, &new, fill)?;
    let swapped = disk.rename(path, &old).and_then(|()| {
        disk.rename(&new, path).inspect_err(|_| {
            // The error at hand is the one to report; the next start puts the old one back, if this cannot.
            let _ = disk.rename(&old, path);
        })
    });
    if let Err(e) = swapped {
        let _ = clear(disk, &new);
        return Err(io_problem(path, &e).into());
    }
    // Before the old one's files go, it is certain that the name is the new one's.
    disk.sync(above(path)).map_err(|e| io_problem(path, &e))?;
    // The new one is in place; what cannot be removed carries a name that says what it is.
    let _ = clear(disk, &old);
    Ok(())
}

/// Writes a file that appears whole or not at all, in the place of one that is there.
///
/// # Errors
/// When it cannot be written; then the old file is still there.
pub fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = beside(path, HALF);
    let written = disk
        .write(&temporary, bytes)
        .and_then(|()| disk.sync(&temporary))
        .and_then(|()| disk.rename(&temporary, path))
        .and_then(|()| disk.sync(above(path)));
    written.map_err(|e| {
        // What cannot be removed carries a name that says what it is.
        let _ = clear(disk, &temporary);
        io_problem(path, &e)
    })
}

/// Takes a directory away: its name in one step, then its files.
///
/// # Errors
/// When it cannot be removed; what is left of it is hidden or whole.
pub fn discard(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let gone = beside(dir, GONE);
    clear(disk, &gone)?;
    disk.rename(dir, &gone)?;
    disk.sync(above(dir))?;
    clear(disk, &gone)
}

/// A directory's lock; who clears may hold it for a moment.
fn hold(dir: &Path) -> Option<fs::File> {
    let dir = fs::File::open(dir).ok()?;
    let held = (0..10).any(|n| {
        std::thread::sleep(std::time::Duration::from_millis(n));
        dir.try_lock().is_ok()
    });
    held.then_some(dir)
}

/// Removes what processes left that died while they wrote the directory `path`; what a process at work holds stays.
pub fn clear_dead(disk: &dyn Disk, path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for entry in fs::read_dir(above(path)).into_iter().flatten().flatten() {
        let half = entry.file_name().to_string_lossy().into_owned();
        let is_half = mark_of(&half).is_some()
            && half
                .trim_start_matches('.')
                .strip_prefix(name.as_str())
                .is_some_and(|rest| [HALF, WHOLE].iter().any(|mark| rest.starts_with(mark)));
        let is_dead = || fs::File::open(entry.path()).is_ok_and(|dir| dir.try_lock().is_ok());
        if is_half && is_dead() {
            // What cannot be removed carries a name that says what it is.
            let _ = clear(disk, &entry.path());
        }
    }
}

/// Gives what is at `path` a name that nothing takes: where it is now.
///
/// # Errors
/// When it cannot be renamed.
pub fn set_aside(disk: &dyn Disk, path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let named = |n: usize| path.with_file_name(format!("{name}.set-aside-{n}"));
    let Some(aside) = (1..).map(named).find(|p| p.symlink_metadata().is_err()) else {
        return Err(io::ErrorKind::AlreadyExists.into());
    };
    disk.rename(path, &aside)?;
    disk.sync(above(path))?;
    Ok(aside)
}

/// Puts a directory in order in which a process died while it wrote: what was whole gets its name, what was replaced comes back if nothing took
/// its place, what was half written or half removed goes.
pub fn recover(disk: &dyn Disk, dir: &Path) {
    let hidden: Vec<(String, &str)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let mark = mark_of(&name)?;
            Some((name, mark))
        })
        .collect();
    if hidden.is_empty() {
        return;
    }
    // What cannot be put in order is in nobody's way.
    for mark in [WHOLE, REPLACED] {
        for (name, _) in hidden.iter().filter(|(_, m)| *m == mark) {
            let place = name[1..].rsplit_once(mark).map(|(place, _)| dir.join(place));
            if let Some(place) = place.filter(|p| !p.exists()) {
                let _ = disk.rename(&dir.join(name), &place);
            }
        }
    }
    // Before anything goes, it is certain what has which name.
    if disk.sync(dir).is_ok() {
        for (name, _) in &hidden {
            let _ = clear(disk, &dir.join(name));
        }
    }
}

/// Ends of hidden names, before the number of the process: half written, whole and about to get its name, replaced, about to be removed.
const HALF: &str = ".tmp-";
const WHOLE: &str = ".new-";
const REPLACED: &str = ".old-";
const GONE: &str = ".gone-";

/// What a hidden name says; the last mark counts: a half written directory may be one that was to replace another.
fn mark_of(name: &str) -> Option<&'static str> {
    let process =
        |mark: &str| name.strip_prefix('.')?.rsplit_once(mark).map(|(_, process)| process);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    [HALF, GONE, WHOLE, REPLACED].into_iter().find(|mark| process(mark).is_some_and(is_number))
}

/// The hidden name beside `path`.
fn beside(path: &Path, mark: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{mark}{}", std::process::id()))
}

/// Removes what is at `path`, if anything.
fn clear(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match remove_tree(disk, path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// An input/output error as a problem that names its file.
pub fn io_problem(path: &Path, error: &io::Error) -> crate::error::UserError {
    Problem::in_file(path, format!("cannot be written: {error}")).into()
}

/// Copies the tokenizer's files of a model directory.
///
/// # Errors
/// When a file cannot be copied.
pub fn copy_tokenizer(disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
    for name in TOKENIZER_FILES {
        let (from, to): (PathBuf, PathBuf) = (from.join(name), to.join(name));
        if from.is_file() {
            let bytes = fs::read(&from)
                .map_err(|e| Problem::in_file(&from, format!("cannot be read: {e}")))?;
            disk.write(&to, &bytes).map_err(|e| io_problem(&to, &e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::disk::Real;
    use super::*;

    #[test]
    fn what_a_death_left_is_put_in_order() {
        let home = tempfile::tempdir().unwrap();
        let left = [
            ".best.old-1",
            ".step-2.new-1",
            ".step-3.tmp-1",
            "..best.new-1.tmp-1",
            ".step-1.gone-1",
            "logs",
        ];
        for name in left {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        recover(&Real, home.path());
        let entries = fs::read_dir(home.path()).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["best", "logs", "step-2"]);
    }

    #[test]
    fn what_a_dead_process_left_goes_and_what_one_at_work_holds_stays() {
        let home = tempfile::tempdir().unwrap();
        for name in [".model.tmp-1", ".model.tmp-2", ".other.tmp-1", ".model-2.tmp-1"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        let held = fs::File::open(home.path().join(".model.tmp-2")).unwrap();
        held.try_lock().unwrap();
        clear_dead(&Real, &home.path().join("model"));
        let entries = fs::read_dir(home.path()).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [".model-2.tmp-1", ".model.tmp-2", ".other.tmp-1"]);
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("final");
        let result = write_dir(&Real, &target, |dir| {
            fs::write(dir.join("half"), b"x")?;
            anyhow::bail!("stopped")
        });
        assert!(result.is_err());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_whole_write_appears_under_its_name() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("final");
        write_dir(&Real, &target, |dir| Ok(fs::write(dir.join("file"), b"x")?)).unwrap();
        assert_eq!(fs::read(target.join("file")).unwrap(), b"x");
    }
}
