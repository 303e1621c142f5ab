//! What a run is: the checked values of all keys.

use crate::error::{Place, Problem};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a run computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The first CUDA device if there is one that works, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => number
                .map(Self::Cuda)
                .ok_or_else(|| format!("`{text}` is no device; write auto, cpu, cuda or cuda:1")),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// Type of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// f32 throughout.
    F32,
    /// bf16 weights and activations, f32 sums, adapters and optimizer.
    Bf16,
    /// f16 weights and activations with a dynamic loss scale, f32 sums, adapters and optimizer; on CUDA only.
    F16,
}

impl FromStr for Precision {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "32-true" | "32" => Ok(Self::F32),
            "bf16-true" | "bf16" => Ok(Self::Bf16),
            "16-true" | "16" => Ok(Self::F16),
            _ => {
                Err(format!("`{text}` is not supported; `32-true`, `bf16-true` and `16-true` are"))
            }
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "32-true",
            Self::Bf16 => "bf16-true",
            Self::F16 => "16-true",
        })
    }
}

/// 4-bit base weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantize {
    /// NF4 with f32 scales.
    Nf4,
    /// NF4 with scales quantised again.
    Nf4Dq,
}

impl FromStr for Quantize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("bnb.").unwrap_or(text) {
            "nf4" => Ok(Self::Nf4),
            "nf4-dq" => Ok(Self::Nf4Dq),
            _ => Err(format!("`{text}` is not supported; `bnb.nf4` and `bnb.nf4-dq` are")),
        }
    }
}

impl fmt::Display for Quantize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Nf4 { "bnb.nf4" } else { "bnb.nf4-dq" })
    }
}

/// What layers compute again in the backward pass instead of keeping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpointing {
    /// The fastest of the others that fits the memory.
    Auto,
    /// Nothing.
    None,
    /// The wide tensors of the MLP.
    Mlp,
    /// Everything but the layer's input.
    Full,
}

impl FromStr for Checkpointing {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            "mlp" => Ok(Self::Mlp),
            "full" => Ok(Self::Full),
            _ => Err(format!("`{text}` is none of auto, none, mlp and full")),
        }
    }
}

impl fmt::Display for Checkpointing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Mlp => "mlp",
            Self::Full => "full",
        })
    }
}

/// An amount of memory: `8GiB`, `512 MiB`, `2GB` or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, f64); 6] = [
            ("KiB", 1024.0),
            ("MiB", 1_048_576.0),
            ("GiB", 1_073_741_824.0),
            ("MB", 1e6),
            ("GB", 1e9),
            ("", 1.0),
        ];
        let text = text.trim();
        let read = |(unit, bytes): &(&str, f64)| {
            let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            (number > 0.0 && number.is_finite()).then_some(Self((number * bytes) as u64))
        };
        let size = UNITS.iter().find_map(read);
        size.ok_or_else(|| format!("`{text}` is no size; write 6GiB, 800MiB or a number of bytes"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
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
    pub device: Device,
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
