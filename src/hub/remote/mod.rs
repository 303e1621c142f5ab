//! Models and datasets from the Hugging Face Hub, into the cache that Python's huggingface_hub uses.
//!
//! Downloads go both ways: what one has fetched the other finds. Only files that are read are fetched, never code or pickles; every name
//! that a server sends is checked before it becomes a path.
//!
//! Of the hf-hub crate 0.5 are the repos' addresses and places in the cache. Its own downloads are not used: names are joined to paths
//! unchecked, sizes and hashes are not compared, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` are not read, nothing can end a download, who waits
//! for another process gives up after five seconds, and a redirect without a target panics. Version 1 needs an asynchronous runtime, a
//! second storage protocol and another library of cryptography (230 crates more), and does not resume plain downloads.
//!
//! Nothing is printed: see [`Progress`].

mod dataset;
mod error;
mod http;
mod model;
mod names;
mod partial;
mod progress;
mod repo;
mod store;
mod transfer;
mod url_file;
mod vars;

pub use crate::secret::Secret;
pub use dataset::DatasetFiles;
pub use error::{HubError, Result};
pub use http::Patience;
pub use names::is_repo_id;
pub use progress::Progress;

use hf_hub::RepoType;
use http::Http;
use names::{check_repo, check_revision};
use progress::Call;
use repo::Remote;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use vars::Vars;

/// The revision where none is given.
const MAIN: &str = "main";

/// The Hub, as the environment names it.
pub struct Hub {
    vars: Vars,
    http: Http,
}

impl Hub {
    /// The Hub of the environment's variables; `token` goes before `HF_TOKEN` and the token file.
    ///
    /// # Errors
    /// When a variable says nothing sensible.
    pub fn from_env(token: Option<Secret>) -> Result<Self> {
        Self::from_vars(token, &|name| std::env::var(name).ok(), Patience::default())
    }

    /// The same with variables read through `var`, and other waits.
    ///
    /// # Errors
    /// When a variable says nothing sensible.
    pub fn from_vars(
        token: Option<Secret>,
        var: &dyn Fn(&str) -> Option<String>,
        patience: Patience,
    ) -> Result<Self> {
        let vars = Vars::read(token, var)?;
        let http = Http::new(&vars, patience)?;
        Ok(Self { vars, http })
    }

    /// Fetches a model and returns the folder with config.json, the tokenizer's files and the safetensors weights.
    ///
    /// # Errors
    /// [`HubError::Interrupted`] after `stop`; else what is wrong and what to do. What has come stays for the next call.
    pub fn model(
        &self,
        repo: &str,
        revision: Option<&str>,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<PathBuf> {
        let remote = self.remote(RepoType::Model, repo, revision)?;
        if self.vars.offline {
            model::cached(&remote)
        } else {
            model::fetch(&remote, Call { progress, stop })
        }
    }

    /// Asks which files a dataset has. Its README is fetched, nothing else.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn dataset_files(
        &self,
        repo: &str,
        revision: Option<&str>,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<DatasetFiles> {
        let remote = self.remote(RepoType::Dataset, repo, revision)?;
        if self.vars.offline {
            dataset::list_cached(&remote)
        } else {
            dataset::list(&remote, Call { progress, stop })
        }
    }

    /// Fetches files of a dataset and returns where they are, in the order of `files`.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn dataset(
        &self,
        repo: &str,
        revision: Option<&str>,
        files: &[String],
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<Vec<PathBuf>> {
        let remote = self.remote(RepoType::Dataset, repo, revision)?;
        if self.vars.offline {
            dataset::cached(&remote, files)
        } else {
            dataset::fetch(&remote, files, Call { progress, stop })
        }
    }

    /// Fetches a file of http or https as `to`, whole or not at all. A file that is there is kept.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn url_file(
        &self,
        url: &str,
        to: &Path,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<()> {
        url_file::fetch(&self.http, self.vars.offline, url, to, Call { progress, stop })
    }

    fn remote(&self, kind: RepoType, repo: &str, revision: Option<&str>) -> Result<Remote<'_>> {
        let revision = revision.unwrap_or(MAIN);
        check_repo(repo)?;
        check_revision(revision)?;
        Ok(Remote::new(&self.http, &self.vars.endpoint, &self.vars.cache, kind, repo, revision))
    }
}
