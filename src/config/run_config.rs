//! What a run is: the checked values of all keys.

use super::choices::*;
use super::class::DataClass;
use crate::error::{Place, Problem};
use crate::secret::Secret;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which modules get an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// Module names.
    Names(Vec<String>),
    /// A regular expression for whole paths.
    Regex(String),
    /// Every linear layer but the head.
    AllLinear,
}

/// The LoRA keys.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct LoraSection {
    pub r: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub targets: TargetModules,
}

/// One set of rows: `data.init_args`, or an item of its `dataset_mix`.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct SetSection {
    /// The key in front of this set's keys.
    pub prefix: String,
    pub class: &'static DataClass,
    pub path: Option<PathBuf>,
    pub val_path: Option<PathBuf>,
    pub download_dir: PathBuf,
    pub file_name: Option<String>,
    pub file_url: Option<String>,
    pub url: Option<String>,
    pub subsets: Vec<String>,
    pub repo_id: Option<String>,
    pub revision: Option<String>,
    pub subset: Option<String>,
    pub split: Option<String>,
    pub val_split: Option<String>,
    pub val_split_fraction: Option<f64>,
    pub columns: BTreeMap<String, String>,
    pub prompt_style: Option<String>,
    pub system_message: Option<String>,
    pub prompt_template: Option<String>,
    pub train_on: TrainOn,
    pub multi_turn: MultiTurn,
    pub max_samples: Option<usize>,
    pub weight: f64,
}

/// The `data` block.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct DataSection {
    /// The sets, at least one.
    pub sets: Vec<SetSection>,
    /// Whether the sets are items of `dataset_mix`.
    pub mixed: bool,
    pub on_bad_row: OnBadRow,
    pub ignore_index: i64,
    pub num_workers: Option<usize>,
    pub access_token: Option<Secret>,
    pub seed: u64,
}

/// The `train` block.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct TrainSection {
    pub global_batch_size: usize,
    pub micro_batch_size: usize,
    pub lr_scheduler: Scheduler,
    pub lr_warmup_steps: usize,
    pub lr_warmup_fraction: Option<f64>,
    pub lr_decay_fraction: f64,
    pub epochs: Option<usize>,
    pub max_tokens: Option<usize>,
    pub max_steps: Option<usize>,
    pub max_time: Option<f64>,
    pub preemption: Option<Preemption>,
    pub max_seq_length: Option<usize>,
    pub max_norm: Option<f64>,
    pub min_lr: f64,
    pub shuffle: bool,
    pub save_interval: Option<usize>,
    pub save_total_limit: Option<usize>,
    pub save_best: bool,
    pub early_stopping_patience: Option<usize>,
    pub gradient_checkpointing: Checkpointing,
    pub max_memory: Option<Size>,
    pub log_interval: usize,
}

/// The `eval` block.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct EvalSection {
    pub interval: usize,
    pub max_iters: usize,
    pub max_new_tokens: usize,
    pub evaluate_example: EvaluateExample,
    pub initial_validation: bool,
    pub final_validation: bool,
}

/// The `optimizer` block.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct OptimizerSection {
    pub kind: OptimizerKind,
    pub lr: f64,
    pub weight_decay: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub momentum: f64,
    pub dampening: f64,
    pub nesterov: bool,
}

/// The `log` block: what the run is called in its model card and its TensorBoard directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct LogSection {
    pub project: Option<String>,
    pub run: Option<String>,
    pub group: Option<String>,
}

/// The `merge` block.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct MergeSection {
    pub base: MergeBase,
    pub tied_head: TiedHead,
}

/// A run, checked as far as the file alone allows.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct RunConfig {
    pub checkpoint_dir: PathBuf,
    pub revision: Option<String>,
    pub access_token: Option<Secret>,
    pub out_dir: PathBuf,
    pub resume: Resume,
    pub device: Device,
    pub precision: Precision,
    pub quantize: Option<Quantize>,
    pub lora: LoraSection,
    pub adapter_path: Option<PathBuf>,
    pub data: DataSection,
    pub train: TrainSection,
    pub eval: EvalSection,
    pub optimizer: OptimizerSection,
    pub logger_name: LoggerName,
    pub log: LogSection,
    pub save_merged: bool,
    pub merge: MergeSection,
    pub seed: u64,
    /// Where each written key stands.
    pub places: BTreeMap<String, Place>,
    /// The keys as written or set on the command line, in the order of the table.
    pub written: Vec<(String, String)>,
    /// What the reader of the config should know.
    pub notes: Vec<String>,
}

impl RunConfig {
    /// The directories that are read.
    pub fn inputs(&self) -> Vec<&Path> {
        let adapter = self.adapter_path.as_deref();
        adapter.into_iter().chain([self.checkpoint_dir.as_path()]).collect()
    }

    /// Whether a key is written in the file or set on the command line.
    pub fn is_written(&self, key: &str) -> bool {
        self.written.iter().any(|(k, _)| k == key)
    }

    /// A problem at the place where `key` is written, or about the key alone.
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let message = format!("`{key}`: {}", message.into());
        match self.places.get(key) {
            Some(place) => Problem { place: Some(place.clone()), message, hint: None },
            None => Problem::new(message),
        }
    }
}

impl SetSection {
    /// The full name of one of this set's keys.
    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }
}
