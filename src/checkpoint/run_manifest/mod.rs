//! What a finished run was made from and what came of it: the part `run` of the `manifest.json` beside the final adapter.
//!
//! One file, two readers. While a run is under way each checkpoint has a [`super::manifest`], which says what its own files are and
//! is written with them. When the run has ended, that of the final adapter gets two members more: `run`, and in `run_sha256` the SHA-256 of each
//! part of `run` (its JSON without white space between words). They come later because they tell of the end, of losses on rows that are validated after the
//! adapter is safe; the file is replaced whole, and its member `files` stays as it was. A second file would be one to lose: who copies the adapter copies this.
//!
//! The sums tell of slips of the hand and of disks, not of an enemy, who could write sums of their own.

mod file;

pub(super) use file::changed;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A run, from what it read to what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunManifest {
    /// Version of this record.
    pub format: u32,
    /// The program.
    pub vft: Program,
    /// Where it computed.
    pub machine: Machine,
    /// `config.json` and the weights.
    pub base: Inputs,
    /// The tokenizer's files.
    pub tokenizer: Inputs,
    /// The adapter that the run started from; empty without one.
    pub adapter: Inputs,
    /// The rows' files, set by set.
    pub data: Vec<SetFiles>,
    /// How each set's prompts are written.
    pub prompts: Vec<Prompt>,
    /// What the rows became.
    pub rows: Rows,
    /// The seeds.
    pub seeds: Seeds,
    /// The values of all keys, as YAML that can be run again.
    pub config: String,
    /// What the user was told at the start.
    pub notes: Vec<String>,
    /// What came of it.
    pub result: Outcome,
}

/// The binary that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// The features that it was built with.
    pub features: Vec<String>,
    /// The commit of its sources, if they came from a repository.
    pub commit: Option<String>,
    /// Whether they differed from that commit.
    pub modified: Option<bool>,
    /// The compiler.
    pub rustc: String,
    /// The target's triple.
    pub target: String,
    /// The SHA-256 of the binary itself, if it could be read.
    pub sha256: Option<String>,
}

/// Where a run computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The device, in words.
    pub device: String,
    /// The instruction set, in the words of `VFT_CPU`.
    pub instruction_set: String,
    /// The processor's name.
    pub processor: String,
    /// Threads; no result depends on them.
    pub threads: usize,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Where it lay.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its contents.
    pub sha256: String,
}

/// Files that belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The repository that they are of, if they came from the Hub.
    pub hub: Option<HubRepo>,
    /// The files.
    pub files: Vec<FileSum>,
}

/// A repository on the Hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubRepo {
    /// Its id.
    pub id: String,
    /// The commit.
    pub commit: String,
}

/// The files of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetFiles {
    /// Those that are trained on; of them rows may be held out.
    pub train: Inputs,
    /// Those that are validated on.
    pub validation: Inputs,
}

/// How prompts are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// The style's name.
    pub style: String,
    /// The SHA-256 of the chat template with its tokens, or of what the style writes.
    pub sha256: String,
}

/// What the rows became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Samples to train on.
    pub train: usize,
    /// Samples to validate on.
    pub validation: usize,
    /// Samples of an epoch.
    pub per_epoch: usize,
    /// The BLAKE3 hash of all samples that were kept, in the order of the split.
    pub blake3: String,
    /// The BLAKE3 hash of the first epoch's order.
    pub order_blake3: String,
}

/// The seeds of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeds {
    /// Of initial values, dropout and samples.
    pub run: u64,
    /// Of split and order.
    pub data: u64,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Steps done.
    pub steps: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// The SHA-256 of `adapter_model.safetensors`.
    pub adapter_sha256: String,
    /// The losses; `None` where `metrics.jsonl` could not be read.
    pub losses: Option<Losses>,
}

/// The losses of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// The first step's that was recorded.
    pub first: f64,
    /// The last step's.
    pub last: f64,
    /// The last on validation rows.
    pub validation: Option<f64>,
    /// Steps that were recorded.
    pub steps: usize,
    /// The SHA-256 of all losses, rates and norms, digit by digit.
    pub sha256: String,
}
