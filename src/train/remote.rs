//! What a run fetches: a model or rows that are named by their id on the Hub, and the files of data classes.

use crate::config::RunConfig;
use crate::data::source::splits::{Layout, split_files};
use crate::error::{Problem, Result, UserError};
use crate::hub::remote::{Hub, Progress, is_repo_id};
use crate::hub::safetensors::holds_weights;
use crate::report::download::Download;
use crate::secret::Secret;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Refuses a directory whose only weights are LitGPT's.
fn not_litgpts(dir: &Path) -> Result<()> {
    const THEIRS: &str = "lit_model.pth";
    if !dir.join(THEIRS).exists() || holds_weights(dir) {
        return Ok(());
    }
    let message = format!("holds no safetensors weights, only LitGPT's {THEIRS}, a pickle");
    let hint = "give the Hugging Face model that it was made from, its directory or its id, such as HuggingFaceTB/SmolLM2-135M";
    Err(Problem::in_file(dir, message).hint(hint).into())
}

/// The Hub's error about what may have been meant as a path: `here` says that it is none.
pub(super) fn nor_here(here: &str, error: UserError) -> UserError {
    let told = |p: Problem| {
        let place = p.place.map_or_else(String::new, |place| format!("{place}: "));
        let message = format!("{here}, and on the Hub: {place}{}", p.message);
        Problem { place: None, message, hint: p.hint }
    };
    UserError { problems: error.problems.into_iter().map(told).collect() }
}

impl Progress for Download {
    fn file(&self, name: &str, bytes: Option<u64>) {
        self.file(name, bytes);
    }
    fn at(&self, bytes: u64) {
        self.at(bytes);
    }
    fn done(&self, _name: &str) {
        self.done();
    }
    fn note(&self, text: &str) {
        self.note(text);
    }
}

/// A data set on the Hub: its splits as names of files, and the commit that they are of.
pub struct RemoteSet {
    /// The repository.
    pub repo: String,
    /// The commit.
    pub commit: String,
    /// The names of each split's files.
    pub layout: Layout<String>,
}

/// The Hub, asked only when something is not on this machine. A signal during a download ends the process; what has come stays for
/// the next start.
pub struct Remote {
    token: Option<Secret>,
    progress: Download,
    go_on: AtomicBool,
}

impl Remote {
    /// With the token that the config has, if any.
    pub fn new(token: Option<Secret>) -> Self {
        Self { token, progress: Download::default(), go_on: AtomicBool::new(false) }
    }

    /// The token of a config for the rows, else that for everything.
    pub fn of_data(config: &RunConfig) -> Self {
        Self::new(config.data.access_token.clone().or_else(|| config.access_token.clone()))
    }

    fn hub(&self) -> Result<Hub> {
        Ok(Hub::from_env(self.token.clone())?)
    }

    /// The directory of a model: the path itself, or the snapshot of a model on the Hub.
    ///
    /// # Errors
    /// When it is neither, or cannot be fetched.
    pub fn model(&self, path: &Path, revision: Option<&str>) -> Result<PathBuf> {
        if path.is_dir() {
            not_litgpts(path)?;
            return Ok(path.into());
        }
        match path.to_str().filter(|text| is_repo_id(text)) {
            Some(repo) => {
                let fetched = self.hub()?.model(repo, revision, &self.progress, &self.go_on);
                fetched.map_err(|e| nor_here(&format!("`{repo}` is no directory here"), e.into()))
            }
            None => Err(Problem::new(format!("`{}` is no directory", path.display()))
                .hint("give a Hugging Face model directory with config.json, *.safetensors and tokenizer.json, or a model on the Hub such as HuggingFaceTB/SmolLM2-135M")
                .into()),
        }
    }

    /// The files of a data set on the Hub, not fetched yet; `config_name` picks one of its configs.
    ///
    /// # Errors
    /// When it cannot be asked for or holds no rows.
    pub fn set(
        &self,
        repo: &str,
        revision: Option<&str>,
        config_name: Option<&str>,
    ) -> Result<RemoteSet> {
        let files = self.hub()?.dataset_files(repo, revision, &self.progress, &self.go_on)?;
        let layout =
            split_files(&files.names, files.readme.as_deref(), config_name).map_err(|message| {
                UserError::from(Problem::new(format!("data set `{repo}`: {message}")))
            })?;
        Ok(RemoteSet { repo: repo.into(), commit: files.commit, layout })
    }

    /// Fetches files of a data set.
    ///
    /// # Errors
    /// When one cannot be fetched.
    pub fn files(&self, repo: &str, commit: &str, names: &[String]) -> Result<Vec<PathBuf>> {
        Ok(self.hub()?.dataset(repo, Some(commit), names, &self.progress, &self.go_on)?)
    }

    /// Fetches a file to its place, unless it is there.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub fn file(&self, url: &str, to: &Path) -> Result<()> {
        Ok(self.hub()?.url_file(url, to, &self.progress, &self.go_on)?)
    }
}
