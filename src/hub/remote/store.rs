//! The cache on disk, in the layout that huggingface_hub reads and writes.
//!
//! ```text
//! <cache>/models--org--name/refs/main                     the commit of a branch or tag
//!                          /blobs/<etag>                  contents; `<etag>.incomplete` while they come
//!                          /snapshots/<commit>/<file>     links to blobs
//!        /.locks/models--org--name/<etag>.lock            held by who fetches
//! ```
//!
//! Names and places of repos, and their addresses at the Hub, come from the hf-hub crate. Nothing is followed out of the cache: the
//! folders on the way to a file must be folders, and a link may lead to the repo's blobs or to the blobs that huggingface_hub (2.x)
//! shares between repos.

use super::error::{Result, disk};
use super::names::{is_commit, shown};
use super::progress::Call;
use crate::error::Problem;
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// A repo's part of the cache.
pub(super) struct Store {
    cache: PathBuf,
    dir: PathBuf,
    places: CacheRepo,
    pub(super) repo: Repo,
}

impl Store {
    pub(super) fn new(cache: &Path, kind: RepoType, id: &str, revision: &str) -> Self {
        let repo = Repo::with_revision(id.to_owned(), kind, revision.to_owned());
        let places = Cache::new(cache.to_path_buf()).repo(repo.clone());
        Self { cache: cache.to_path_buf(), dir: cache.join(repo.folder_name()), places, repo }
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.places.pointer_path(commit)
    }

    /// The place of the contents `etag`.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.places.blob_path(etag)
    }

    /// The commit that the cache knows for the revision.
    pub(super) fn commit(&self) -> Option<String> {
        let revision = self.repo.revision();
        let from_ref = || fs::read_to_string(self.dir.join("refs").join(revision)).ok();
        let commit = if is_commit(revision) { Some(revision.to_owned()) } else { from_ref() };
        commit.map(|c| c.trim().to_owned()).filter(|c| is_commit(c))
    }

    /// Notes the commit of the revision, where it is a branch or a tag.
    pub(super) fn note_commit(&self, commit: &str) -> Result<()> {
        if is_commit(self.repo.revision()) || self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.dir.join("refs").join(self.repo.revision());
        self.folders(&path)?;
        let Some(folder) = path.parent() else { return Ok(()) };
        // Whole at once: another process may be reading it.
        let mut file = ref_builder().tempfile_in(folder).map_err(|e| disk(&path, &e))?;
        io::Write::write_all(&mut file, commit.as_bytes()).map_err(|e| disk(&path, &e))?;
        file.persist(&path).map_err(|e| disk(&path, &e.error))?;
        Ok(())
    }

    /// A file of a commit, where the cache has it.
    pub(super) fn cached(&self, commit: &str, name: &str) -> Result<Option<PathBuf>> {
        let path = self.snapshot(commit).join(name);
        if !path.is_file() {
            return Ok(None);
        }
        self.only_folders(&path)?;
        let real = path.canonicalize().map_err(|e| disk(&path, &e))?;
        let homes = [self.dir.join("blobs"), self.cache.join("blobs"), self.snapshot(commit)];
        let inside =
            homes.iter().filter_map(|h| h.canonicalize().ok()).any(|h| real.starts_with(h));
        if !inside {
            return Err(Problem::in_file(&path, "is a link that leaves the cache")
                .hint("remove the link and run again: the file is then downloaded anew")
                .into());
        }
        Ok(Some(path))
    }

    /// The names of all files of a commit that the cache has.
    pub(super) fn cached_names(&self, commit: &str) -> Vec<String> {
        let root = self.snapshot(commit);
        let mut names = Vec::new();
        let mut folders = vec![(root.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|t| t.is_dir()) && depth < 32 {
                    folders.push((path, depth + 1));
                } else if path.is_file()
                    && let Some(name) = path.strip_prefix(&root).ok().and_then(Path::to_str)
                {
                    names.push(name.replace('\\', "/"));
                }
            }
        }
        names.sort();
        names
    }

    /// Shows the contents `etag` as the file `name` of a commit.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<PathBuf> {
        let path = self.snapshot(commit).join(name);
        self.folders(&path)?;
        let failed = |e: io::Error| disk(&path, &e);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let up: PathBuf = name.split('/').map(|_| "..").collect();
        let target = up.join("..").join("blobs").join(etag);
        match symlink(&target, &path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            // A disk without links: the contents twice, as huggingface_hub does there; under the name only when they are whole.
            Err(_) => {
                let aside = path.with_file_name(format!(".{etag}.incomplete"));
                fs::copy(self.blob(etag), &aside).map_err(failed)?;
                fs::rename(&aside, &path).map_err(failed)?;
            }
        }
        Ok(path)
    }

    /// Waits until no other process fetches `etag`; the lock ends with the file.
    pub(super) fn lock(&self, etag: &str, name: &str, call: Call<'_>) -> Result<File> {
        let path =
            self.cache.join(".locks").join(self.repo.folder_name()).join(format!("{etag}.lock"));
        self.folders(&path)?;
        let file = File::create(&path).map_err(|e| disk(&path, &e))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        call.progress.note(&format!(
                            "waits for another process that downloads `{}`",
                            shown(name)
                        ));
                        told = true;
                    }
                    call.wait(Duration::from_millis(200))?;
                }
                // A disk without locks is no reason not to download.
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
            }
        }
    }

    /// Makes the folders above `path`.
    pub(super) fn folders(&self, path: &Path) -> Result<()> {
        let Some(folder) = path.parent() else { return Ok(()) };
        self.only_folders(path)?;
        fs::create_dir_all(folder).map_err(|e| disk(folder, &e))?;
        self.only_folders(path)
    }

    /// Refuses links among the folders between the cache and `path`.
    fn only_folders(&self, path: &Path) -> Result<()> {
        let Some(below) = path.parent().and_then(|p| p.strip_prefix(&self.cache).ok()) else {
            return Ok(());
        };
        let mut folder = self.cache.clone();
        for part in below.components() {
            let Component::Normal(part) = part else { continue };
            folder.push(part);
            if folder.is_symlink() {
                return Err(Problem::in_file(&folder, "is a link where the cache has folders")
                    .hint("remove it; to keep the cache elsewhere, set HF_HUB_CACHE")
                    .into());
            }
        }
        Ok(())
    }
}

/// A file that others of a shared cache may read, as the umask says; temporary files are private by default.
fn ref_builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
