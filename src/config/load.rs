//! From a file and the command line to a checked [`RunConfig`].

use super::choices::Resume;
use super::run_config::RunConfig;
use super::values::Values;
use super::{overrides, reader, rivals, yaml};
use crate::error::{Problem, Result};
use crate::small_file;
use std::path::{Path, PathBuf};

impl RunConfig {
    /// Reads a file and the command line, which wins.
    ///
    /// # Errors
    /// All problems at once: unreadable file, broken YAML, unknown keys, wrong types, values that contradict each other.
    pub fn load(file: Option<&Path>, arguments: &[String]) -> Result<Self> {
        let mut read = Values::default();
        if let Some(path) = file {
            let bytes = small_file::bytes_of_any(path, yaml::MAX_BYTES as u64)
                .map_err(|e| Problem::in_file(path, format!("cannot be read: {e}")))?;
            let text = String::from_utf8(bytes)
                .map_err(|e| Problem::in_file(path, format!("is no UTF-8 text: {e}")))?;
            read = Values::file(path, &yaml::parse(path, &text)?);
        }
        overrides::apply(arguments, &mut read);
        rivals::settle(&mut read);
        let mut config = reader::run_config(read)?;
        if let Some(dir) = file.and_then(Path::parent) {
            let mut beside_the_file = Vec::new();
            for path in config.input_paths() {
                let beside = dir.join(&*path);
                if path.is_relative() && !path.exists() && beside.exists() {
                    beside_the_file.push(format!(
                        "`{}` is read beside the config file, as it is not in the working directory",
                        path.display()
                    ));
                    *path = beside;
                }
            }
            config.notes.extend(beside_the_file);
        }
        config.as_litgpt_keeps_it();
        Ok(config)
    }

    /// Reads a config from its text, as [`RunConfig::to_yaml`] writes it; `path` is named in errors.
    ///
    /// # Errors
    /// As [`RunConfig::load`].
    pub fn from_yaml(path: &Path, text: &str) -> Result<Self> {
        let mut read = Values::file(path, &yaml::parse(path, text)?);
        rivals::settle(&mut read);
        reader::run_config(read)
    }

    /// A model that LitGPT downloaded: `checkpoints/org/name` for `org/name`, if it has weights that are read.
    fn as_litgpt_keeps_it(&mut self) {
        let (path, theirs) = (&self.checkpoint_dir, Path::new("checkpoints"));
        let kept = theirs.join(path);
        let weights = ["model.safetensors", "model.safetensors.index.json"];
        if path.is_relative()
            && !path.starts_with(theirs)
            && !path.is_dir()
            && weights.iter().any(|name| kept.join(name).exists())
        {
            self.notes.push(format!(
                "`{}` is read from {}, as in LitGPT",
                path.display(),
                kept.display()
            ));
            self.checkpoint_dir = kept;
        }
    }

    /// Paths that are read: relative to the working directory, else to the config file.
    pub fn input_paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![&mut self.checkpoint_dir];
        paths.extend(self.adapter_path.as_mut());
        if let Resume::From(path) = &mut self.resume {
            paths.push(path);
        }
        for set in &mut self.data.sets {
            paths.extend(set.path.as_mut());
            paths.extend(set.val_path.as_mut());
            paths.push(&mut set.download_dir);
        }
        paths
    }
}
