//! What a run is: the checked values of all keys.

use crate::error::{Place, Problem};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Type of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f32 throughout.
    F32,
    /// bf16 weights and activations, f32 sums, adapters and optimizer.
    Bf16,
}

/// 4-bit base weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantize {
    /// NF4 with f32 scales.
    Nf4,
    /// NF4 with scales quantised again.
    Nf4Dq,
}

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

/// The `data` block.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct DataSection {
    pub path: PathBuf,
    pub val_split_fraction: Option<f64>,
    pub mask_prompt: bool,
    pub prompt_style: Option<String>,
    pub seed: u64,
}

/// The `train` block.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct TrainSection {
    pub global_batch_size: usize,
    pub micro_batch_size: usize,
    pub lr_warmup_steps: usize,
    pub epochs: Option<usize>,
    pub max_steps: Option<usize>,
    pub max_seq_length: Option<usize>,
    pub max_norm: Option<f64>,
    pub min_lr: f64,
    pub shuffle: bool,
    pub save_interval: Option<usize>,
    pub log_interval: usize,
}

/// The `eval` block.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct EvalSection {
    pub interval: usize,
    pub max_iters: usize,
    pub initial_validation: bool,
    pub final_validation: bool,
}

/// The optimizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptimizerKind {
    /// AdamW.
    AdamW,
    /// AdamW whose state may be paged out of device memory; on the CPU it is ordinary memory.
    PagedAdamW,
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
}

/// A run, checked as far as the file alone allows.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "fields carry the names of the keys, which the table documents")]
pub struct RunConfig {
    pub checkpoint_dir: PathBuf,
    pub out_dir: PathBuf,
    pub precision: Precision,
    pub quantize: Option<Quantize>,
    pub lora: LoraSection,
    pub adapter_path: Option<PathBuf>,
    pub data: DataSection,
    pub train: TrainSection,
    pub eval: EvalSection,
    pub optimizer: OptimizerSection,
    pub seed: u64,
    /// Where each written key stands.
    pub places: BTreeMap<String, Place>,
    /// The keys as written or set on the command line, in the order of the table.
    pub written: Vec<(String, String)>,
}

impl RunConfig {
    /// A problem at the place where `key` is written, or about the key alone.
    pub fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        let message = format!("`{key}`: {}", message.into());
        match self.places.get(key) {
            Some(place) => Problem { place: Some(place.clone()), message, hint: None },
            None => Problem::new(message),
        }
    }
}
