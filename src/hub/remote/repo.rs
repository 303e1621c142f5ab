//! A repo at the Hub: its commit and files, and each file into the cache.
//!
//! `GET /api/{models,datasets}/<id>/revision/<revision>?blobs=true` answers `{"sha", "siblings": [{"rfilename", "size",
//! "lfs": {"sha256", "size"}}]}`. `HEAD /<id>/resolve/<commit>/<file>` tells `X-Repo-Commit`, `ETag` or `X-Linked-Etag` (the SHA-256 of a
//! large file), `Content-Length` or `X-Linked-Size`, and may redirect to where the bytes are.
//! huggingface_hub `file_download.py`, 2.4.0.

use super::error::{HubError, Result, Subject};
use super::http::{Follow, Http, Verb};
use super::names::{blob_name, check_file, check_harmless, encoded, is_commit, is_sha256, shown};
use super::progress::Call;
use super::store::Store;
use super::transfer::{self, Source, number};
use crate::error::Problem;
use hf_hub::RepoType;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The longest listing that is read.
const LISTING_BYTES: u64 = 64 << 20;

/// A file as the listing announces it.
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) size: Option<u64>,
    sha256: Option<String>,
}

/// The files of a commit.
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<Listed>,
}

impl Listing {
    pub(super) fn file(&self, name: &str) -> Option<&Listed> {
        self.files.iter().find(|f| f.name == name)
    }
}

#[derive(Deserialize)]
struct RepoInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// A repo at a revision.
pub(super) struct Remote<'a> {
    http: &'a Http,
    endpoint: &'a str,
    what: String,
    pub(super) store: Store,
}

impl<'a> Remote<'a> {
    pub(super) fn new(
        http: &'a Http,
        endpoint: &'a str,
        cache: &Path,
        kind: RepoType,
        id: &str,
        revision: &str,
    ) -> Self {
        let noun = if matches!(kind, RepoType::Dataset) { "dataset" } else { "model" };
        let store = Store::new(cache, kind, id, revision);
        Self { http, endpoint, what: format!("{noun} `{id}`"), store }
    }

    /// Such as ``model `org/name` ``.
    pub(super) fn what(&self) -> &str {
        &self.what
    }

    fn about<'b>(&'b self, file: Option<&'b str>) -> Subject<'b> {
        Subject {
            what: self.what.clone(),
            page: Some(format!("{}/{}", self.endpoint, self.store.repo.url())),
            revision: self.store.repo.revision(),
            file,
            has_token: self.http.has_token(),
        }
    }

    /// Asks for the commit of the revision and its files.
    pub(super) fn list(&self, call: Call<'_>) -> Result<Listing> {
        let about = self.about(None);
        let url = format!("{}/api/{}?blobs=true", self.endpoint, self.store.repo.api_url());
        let answer = self.http.send(Verb::Get, &url, &[], Follow::Anywhere, &about, call)?;
        let status = answer.status().as_u16();
        if status != 200 {
            return Err(about.refused(status, answer.headers()).into());
        }
        let fault = |why: String| {
            HubError::from(
                Problem::new(format!("the listing of {} {why}", self.what))
                    .hint("try again later; HF_ENDPOINT should name a Hub"),
            )
        };
        let text = answer.into_body().into_with_config().limit(LISTING_BYTES).read_to_vec();
        let text = text.map_err(|e| fault(format!("did not come whole: {e}")))?;
        let info: RepoInfo =
            serde_json::from_slice(&text).map_err(|e| fault(format!("cannot be read: {e}")))?;
        if !is_commit(&info.sha) {
            return Err(fault("names no commit".into()));
        }
        let listed = |s: Sibling| {
            check_file(&s.rfilename)?;
            let (sha256, size) = s.lfs.map_or((None, None), |l| (l.sha256, l.size));
            let sha256 = sha256.filter(|s| is_sha256(s));
            Ok(Listed { name: s.rfilename, size: size.or(s.size), sha256 })
        };
        let files = info.siblings.into_iter().map(listed).collect::<Result<Vec<_>, Problem>>()?;
        Ok(Listing { commit: info.sha, files })
    }

    /// Brings files of a commit into the cache, those that it lacks.
    pub(super) fn bring(
        &self,
        commit: &str,
        files: &[&Listed],
        call: Call<'_>,
    ) -> Result<Vec<PathBuf>> {
        let mut missing = Vec::new();
        for file in files {
            if self.store.cached(commit, &file.name)?.is_none() {
                missing.push(file);
            }
        }
        let bytes = missing.iter().try_fold(0_u64, |sum, f| sum.checked_add(f.size?));
        if !missing.is_empty() {
            call.progress.plan(missing.len(), bytes);
        }
        files.iter().map(|file| self.file(commit, file, call)).collect()
    }

    fn file(&self, commit: &str, listed: &Listed, call: Call<'_>) -> Result<PathBuf> {
        let name = listed.name.as_str();
        check_file(name)?;
        check_harmless(name)?;
        if let Some(path) = self.store.cached(commit, name)? {
            return Ok(path);
        }
        let about = self.about(Some(name));
        let url = format!(
            "{}/{}/resolve/{commit}/{}",
            self.endpoint,
            self.store.repo.url(),
            encoded(name)
        );
        let head = self.http.send(Verb::Head, &url, &[], Follow::SameHost, &about, call)?;
        let (status, headers) = (head.status(), head.headers());
        if !status.is_success() && !status.is_redirection() {
            return Err(about.refused(status.as_u16(), headers).into());
        }
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let fault = |why: &str| {
            HubError::from(
                Problem::new(format!("`{}` of {}: {why}", shown(name), self.what))
                    .hint("try again later; HF_ENDPOINT should name a Hub"),
            )
        };
        if text("x-repo-commit").is_some_and(|c| c != commit) {
            return Err(fault("the server answers for another commit than it was asked for"));
        }
        let etag = text("x-linked-etag").or_else(|| text("etag"));
        let etag = etag.ok_or_else(|| fault("the server sends no ETag"))?;
        let etag = blob_name(etag).ok_or_else(|| fault("the server's ETag is no plain name"))?;
        // The length of a redirection's own body says nothing about the file.
        let length = if status.is_success() { number(headers, "content-length") } else { None };
        let told = number(headers, "x-linked-size").or(length);
        if let (Some(told), Some(listed)) = (told, listed.size)
            && told != listed
        {
            return Err(fault(&format!(
                "the listing announces {listed} bytes, the file's headers {told}"
            )));
        }
        let sha256 = if is_sha256(&etag) { Some(etag.as_str()) } else { None };
        if let (Some(told), Some(listed)) = (sha256, listed.sha256.as_deref())
            && told != listed
        {
            return Err(fault("the listing announces another SHA-256 than the file's headers"));
        }
        let sha256 = sha256.or(listed.sha256.as_deref());
        let size = told.or(listed.size);
        let _lock = self.store.lock(&etag, name, call)?;
        let blob = self.store.blob(&etag);
        self.store.folders(&blob)?;
        let whole = blob.metadata().is_ok_and(|m| m.is_file() && size.is_none_or(|s| s == m.len()));
        if !whole {
            let partial = blob.with_file_name(format!("{etag}.incomplete"));
            let source = Source { url: &url, name, size, sha256, unchanged: None };
            transfer::fetch(self.http, &source, &partial, &blob, &about, call)?;
        }
        self.store.link(commit, name, &etag)
    }

    /// A file that no listing announced.
    pub(super) fn unlisted(name: &str) -> Listed {
        Listed { name: name.to_owned(), size: None, sha256: None }
    }

    /// The commit that the cache has for the revision.
    pub(super) fn offline_commit(&self) -> Result<String> {
        let revision = self.store.repo.revision();
        self.store.commit().filter(|c| self.store.snapshot(c).is_dir()).ok_or_else(|| {
            let folder = self.store.snapshot("<commit>");
            Problem::new(format!("{} at `{revision}` is not in the cache ({})", self.what, folder.display()))
                .hint("HF_HUB_OFFLINE is set: run once without it, or copy the repo's folder from another machine's cache")
                .into()
        })
    }

    /// The error for files that the cache lacks.
    pub(super) fn offline_lacks(&self, commit: &str, missing: &[String]) -> HubError {
        let names: Vec<_> = missing.iter().map(|m| format!("`{}`", shown(m))).collect();
        let folder = self.store.snapshot(commit);
        Problem::new(format!(
            "{}: the cache lacks {} ({})",
            self.what,
            names.join(", "),
            folder.display()
        ))
        .hint("HF_HUB_OFFLINE is set: run once without it, or copy the files there")
        .into()
    }
}
