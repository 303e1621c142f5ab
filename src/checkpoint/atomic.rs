//! A directory that appears whole or not at all: written beside its place, flushed, renamed.

use crate::error::{Problem, Result};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Files of a tokenizer that a model directory may hold.
const TOKENIZER_FILES: &[&str] = &[
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
/// # Errors
/// When `path` exists or anything cannot be written; nothing is left behind then.
pub fn write_dir(
    path: &Path,
    fill: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(anyhow::anyhow!("{} is no place for a directory", path.display()));
    };
    if path.exists() {
        return Err(crate::error::UserError::from(Problem::in_file(path, "exists already")).into());
    }
    let temporary = parent.join(format!(".{}.tmp-{}", name.to_string_lossy(), std::process::id()));
    let write = || -> anyhow::Result<()> {
        fs::create_dir_all(&temporary).map_err(|e| io_problem(&temporary, &e))?;
        fill(&temporary)?;
        sync_dir(&temporary).map_err(|e| io_problem(&temporary, &e))?;
        fs::rename(&temporary, path).map_err(|e| io_problem(path, &e))?;
        File::open(parent).and_then(|d| d.sync_all()).map_err(|e| io_problem(parent, &e))?;
        Ok(())
    };
    let result = write();
    if result.is_err() {
        // The error at hand is the one to report; what cannot be removed carries a name that says what it is.
        let _ = fs::remove_dir_all(&temporary);
    }
    result
}

/// As [`write_dir`], in the place of what `path` holds: the old directory stays until the new one is whole.
///
/// # Errors
/// When anything cannot be written; then the old directory is still there.
pub fn replace_dir(
    path: &Path,
    fill: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if !path.exists() {
        return write_dir(path, fill);
    }
    let beside = |end: &str| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!(".{name}.{end}-{}", std::process::id()))
    };
    let (new, old) = (beside("new"), beside("old"));
    write_dir(&new, fill)?;
    fs::rename(path, &old).map_err(|e| io_problem(path, &e))?;
    fs::rename(&new, path).map_err(|e| io_problem(path, &e))?;
    // The new one is in place; what cannot be removed carries a name that says what it is.
    let _ = fs::remove_dir_all(&old);
    Ok(())
}

/// Puts a directory in order in which a process died while it wrote: what was whole gets its name, what was replaced comes back if nothing took
/// its place, what was half written goes.
pub fn recover(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let hidden = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = hidden.strip_prefix('.') else { continue };
        let whole = [".new-", ".old-"].iter().find_map(|mark| rest.rsplit_once(mark));
        let half = rest.contains(".tmp-");
        let path = entry.path();
        match whole.map(|(name, _)| dir.join(name)) {
            // What cannot be put in order is in nobody's way.
            Some(place) if !half && !place.exists() => {
                let _ = fs::rename(&path, place);
            }
            Some(_) => {
                let _ = fs::remove_dir_all(&path);
            }
            None if half => {
                let _ = fs::remove_dir_all(&path);
            }
            None => {}
        }
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(dir)?.sync_all()
}

/// An input/output error as a problem that names its file.
pub fn io_problem(path: &Path, error: &io::Error) -> crate::error::UserError {
    Problem::in_file(path, format!("cannot be written: {error}")).into()
}

/// Copies the tokenizer's files of a model directory.
///
/// # Errors
/// When a file cannot be copied.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for name in TOKENIZER_FILES {
        let (from, to): (PathBuf, PathBuf) = (from.join(name), to.join(name));
        if from.is_file() {
            fs::copy(&from, &to).map_err(|e| io_problem(&to, &e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_death_left_is_put_in_order() {
        let home = tempfile::tempdir().unwrap();
        for name in [".best.old-1", ".step-2.new-1", ".step-3.tmp-1", "..best.new-1.tmp-1", "logs"]
        {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        recover(home.path());
        let entries = fs::read_dir(home.path()).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["best", "logs", "step-2"]);
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("final");
        let result = write_dir(&target, |dir| {
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
        write_dir(&target, |dir| Ok(fs::write(dir.join("file"), b"x")?)).unwrap();
        assert_eq!(fs::read(target.join("file")).unwrap(), b"x");
    }
}
