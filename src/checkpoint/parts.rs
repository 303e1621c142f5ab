//! What a checkpoint is made of, written as one directory that appears whole or not at all.
//!
//! ```text
//! adapter_model.safetensors, adapter_config.json   the adapter as PEFT reads it
//! tokenizer.json, …                                the tokenizer's files of the base
//! vft.yaml                                         the config that it came from
//! run_state.json, optimizer.safetensors            where the run stands; the second only in step-…
//! manifest.json                                    the SHA-256 of each
//! ```

use super::atomic::{TOKENIZER_FILES, copy_tokenizer, io_problem, replace_dir};
use super::chat_template::Template;
use super::disk::Disk;
use super::run_state::RunState;
use super::{manifest, peft};
use crate::adapters::LoraConfig;
use crate::optim::Arena;
use crate::optim::state::State;
use anyhow::Result;
use std::path::Path;

/// The config's file.
pub(super) const CONFIG: &str = "vft.yaml";

/// The parts of a checkpoint.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// The adapter's parameters.
    pub arena: &'a Arena,
    /// Rank, alpha, dropout.
    pub lora: &'a LoraConfig,
    /// The adapted modules.
    pub paths: &'a [String],
    /// All modules that could be adapted.
    pub modules: &'a [String],
    /// What PEFT is told of the base: its directory or its id.
    pub base: &'a peft::Base<'a>,
    /// The directory with the tokenizer's files.
    pub tokenizer: &'a Path,
    /// The chat template in the place of the tokenizer's.
    pub template: Template<'a>,
    /// The config as YAML.
    pub config: &'a str,
    /// Where the run stands.
    pub state: &'a RunState,
    /// The optimizer's arrays, where the run is to be taken up from here.
    pub optimizer: Option<&'a State<'a>>,
}

/// Bytes on disk of what a checkpoint holds beside tensors, in blocks of `block` bytes.
pub fn besides(model: &Path, block: u64) -> u64 {
    let tokenizer = TOKENIZER_FILES.iter().filter_map(|name| model.join(name).metadata().ok());
    // The adapter's config, the run's config and state, the manifest: a few kilobytes each; the directory.
    let small = [SMALL; 5];
    tokenizer.map(|m| m.len()).chain(small).map(|n| n.next_multiple_of(block.max(1))).sum()
}

/// More than any of the small files has.
const SMALL: u64 = 8 << 10;

impl Parts<'_> {
    /// Writes the directory `place`, in the place of one that is there.
    ///
    /// # Errors
    /// When a value is not finite or a file cannot be written; then what was there is still there.
    pub fn write(&self, disk: &dyn Disk, place: &Path) -> Result<()> {
        replace_dir(disk, place, |dir| {
            peft::write(disk, dir, self.arena, self.lora, self.paths, self.modules, self.base)?;
            copy_tokenizer(disk, self.tokenizer, dir)?;
            self.template.write(disk, dir)?;
            let file = dir.join(CONFIG);
            disk.write(&file, self.config.as_bytes()).map_err(|e| io_problem(&file, &e))?;
            self.state.write(disk, dir, self.optimizer)?;
            Ok(manifest::write(disk, dir)?)
        })
    }
}
