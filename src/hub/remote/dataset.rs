//! Files of a dataset's repo. What they hold, and which belong to which split, is the data readers' business.

use super::error::{HubError, Result};
use super::names::{check_file, check_harmless, is_commit};
use super::progress::Call;
use super::repo::{Listed, Remote};
use crate::error::Problem;
use std::path::{Path, PathBuf};

const README: &str = "README.md";

/// The longest README that is read.
const README_BYTES: u64 = 8 << 20;

/// What a dataset's repo holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetFiles {
    /// The commit of the revision; as a revision it names these very files.
    pub commit: String,
    /// The names of its files, such as `data/train-00000-of-00001.parquet`; offline those that the cache has.
    pub names: Vec<String>,
    /// Its README.md, whose YAML head may say which files make which split.
    pub readme: Option<String>,
}

/// Asks for a dataset's files.
pub(super) fn list(remote: &Remote<'_>, call: Call<'_>) -> Result<DatasetFiles> {
    let listing = remote.list(call)?;
    let readme = match listing.file(README) {
        Some(file) if file.size.is_none_or(|s| s <= README_BYTES) => {
            let paths = remote.bring(&listing.commit, &[file], call)?;
            paths.first().map(|p| readme(p)).transpose()?
        }
        Some(_) => return Err(too_long().into()),
        None => None,
    };
    remote.store.note_commit(&listing.commit)?;
    let names = listing.files.into_iter().map(|f| f.name).collect();
    Ok(DatasetFiles { commit: listing.commit, names, readme })
}

/// What the cache has of a dataset.
pub(super) fn list_cached(remote: &Remote<'_>) -> Result<DatasetFiles> {
    let commit = remote.offline_commit()?;
    let readme = remote.store.cached(&commit, README)?.map(|p| readme(&p)).transpose()?;
    let names = remote.store.cached_names(&commit);
    Ok(DatasetFiles { commit, names, readme })
}

/// Brings the files `names`.
pub(super) fn fetch(remote: &Remote<'_>, names: &[String], call: Call<'_>) -> Result<Vec<PathBuf>> {
    check(names)?;
    let revision = remote.store.repo.revision();
    let cached: Option<Vec<PathBuf>> = if is_commit(revision) {
        names.iter().map(|n| remote.store.cached(revision, n)).collect::<Result<_>>()?
    } else {
        None
    };
    // A commit's files never change: what the cache has is asked of nobody.
    if let Some(paths) = cached {
        return Ok(paths);
    }
    let listing = remote.list(call)?;
    let unlisted: Vec<Listed> = names.iter().map(|n| Remote::unlisted(n)).collect();
    // The file's own address answers for a file that is not listed.
    let files: Vec<&Listed> = unlisted.iter().map(|u| listing.file(&u.name).unwrap_or(u)).collect();
    let paths = remote.bring(&listing.commit, &files, call)?;
    remote.store.note_commit(&listing.commit)?;
    Ok(paths)
}

/// The files `names` as the cache has them.
pub(super) fn cached(remote: &Remote<'_>, names: &[String]) -> Result<Vec<PathBuf>> {
    check(names)?;
    let commit = remote.offline_commit()?;
    let (mut paths, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match remote.store.cached(&commit, name)? {
            Some(path) => paths.push(path),
            None => missing.push(name.clone()),
        }
    }
    if missing.is_empty() { Ok(paths) } else { Err(remote.offline_lacks(&commit, &missing)) }
}

fn check(names: &[String]) -> Result<()> {
    for name in names {
        check_file(name)?;
        check_harmless(name)?;
    }
    Ok(())
}

fn readme(path: &Path) -> Result<String> {
    let unread =
        |e: std::io::Error| HubError::from(Problem::in_file(path, format!("cannot be read: {e}")));
    if path.metadata().map_err(unread)?.len() > README_BYTES {
        return Err(too_long().found_in(path).into());
    }
    let bytes = std::fs::read(path).map_err(unread)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn too_long() -> Problem {
    Problem::new(format!("{README} is longer than {README_BYTES} bytes"))
}
