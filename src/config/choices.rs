//! Values that are one of a few words: each with its spellings, the first of which is the one that is written out.

use super::near::nearest;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($(#[$say:meta])* $variant:ident = $word:literal $(| $other:literal)*;)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$say])* $variant),* }

        impl $name {
            /// The words that are written out, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),*];
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word $(| $other)* => Ok(Self::$variant),)*
                    _ => Err(none_of(text, Self::WORDS)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),* })
            }
        }
    )*};
}

/// "`x` is none of a, b and c", with the nearest of them if one is near.
pub(super) fn none_of(text: &str, words: &[&str]) -> String {
    let list = match words {
        [init @ .., last] if !init.is_empty() => format!("{} and {last}", init.join(", ")),
        _ => words.join(""),
    };
    match nearest(text, words.iter().copied()) {
        Some(word) => format!("`{text}` is none of {list}; did you mean `{word}`?"),
        None => format!("`{text}` is none of {list}"),
    }
}

choices! {
    /// Types of weights and activations.
    Precision {
        /// f32 throughout.
        F32 = "32-true" | "32";
        /// bf16 weights and activations, f32 sums, adapters and optimizer.
        Bf16 = "bf16-true" | "bf16";
        /// f16 weights and activations with a dynamic loss scale, f32 sums, adapters and optimizer; on CUDA only.
        F16 = "16-true" | "16";
        /// Products in bf16; residual stream, norms, softmax and loss in f32.
        Bf16Mixed = "bf16-mixed";
        /// As bf16-mixed with f16 and a dynamic loss scale; on CUDA only.
        F16Mixed = "16-mixed";
    }

    /// 4-bit base weights.
    Quantize {
        /// NF4 with f32 scales.
        Nf4 = "bnb.nf4" | "nf4";
        /// NF4 with scales quantised again.
        Nf4Dq = "bnb.nf4-dq" | "nf4-dq";
    }

    /// What layers compute again in the backward pass instead of keeping it.
    Checkpointing {
        /// The fastest of the others that fits the memory.
        Auto = "auto";
        /// Nothing.
        None = "none";
        /// The wide tensors of the MLP.
        Mlp = "mlp";
        /// Everything but the layer's input.
        Full = "full";
    }

    /// The optimizers.
    OptimizerKind {
        /// AdamW.
        AdamW = "AdamW" | "torch.optim.AdamW" | "bitsandbytes.optim.AdamW" | "bitsandbytes.optim.AdamW32bit"
            | "bnb.optim.AdamW" | "AdamW32bit";
        /// AdamW whose state may be paged out of device memory; on the CPU it is ordinary memory.
        PagedAdamW = "PagedAdamW" | "bitsandbytes.optim.PagedAdamW" | "bitsandbytes.optim.PagedAdamW32bit"
            | "bnb.optim.PagedAdamW" | "PagedAdamW32bit";
        /// AdamW with block-wise 8-bit moments.
        AdamW8bit = "AdamW8bit" | "bitsandbytes.optim.AdamW8bit" | "bnb.optim.AdamW8bit";
        /// Both.
        PagedAdamW8bit = "PagedAdamW8bit" | "bitsandbytes.optim.PagedAdamW8bit" | "bnb.optim.PagedAdamW8bit";
        /// Adam: weight decay is part of the gradient.
        Adam = "Adam" | "torch.optim.Adam";
        /// Stochastic gradient descent.
        Sgd = "SGD" | "torch.optim.SGD";
    }

    /// How the learning rate falls after the warm-up.
    Scheduler {
        /// Half a cosine.
        Cosine = "cosine";
        /// A straight line.
        Linear = "linear";
        /// Not at all.
        Constant = "constant";
        /// Not at all, then in a straight line over the last steps (warm-up, stable, decay).
        Wsd = "wsd";
    }

    /// The files that metrics go to besides `metrics.jsonl`.
    LoggerName {
        /// A table.
        Csv = "csv";
        /// TensorBoard's event files.
        TensorBoard = "tensorboard";
    }

    /// What is trained in a conversation.
    TrainOn {
        /// Every answer.
        Assistant = "assistant";
        /// Every token.
        All = "all";
        /// The last answer.
        Last = "last";
    }

    /// What becomes of a conversation of several exchanges.
    MultiTurn {
        /// It stays whole.
        Conversation = "conversation";
        /// Each exchange is a row of its own, without what came before: LitGPT's way.
        Pairs = "pairs";
        /// Only the first exchange is kept.
        First = "first";
    }

    /// What a row that cannot be used does.
    OnBadRow {
        /// It ends the run before it begins.
        Error = "error";
        /// It is left out and counted.
        Skip = "skip";
    }

    /// The base that an adapter is folded into.
    MergeBase {
        /// What training saw: weights that went through NF4 if the run is quantised.
        Dequant = "dequant";
        /// The weights of the files.
        Original = "original";
    }

    /// What merging does with an adapter on a head that is tied to the embedding.
    TiedHead {
        /// The merged model gets a head of its own.
        Untie = "untie";
        /// The head's adapter is left out.
        Drop = "drop";
        /// It refuses.
        Error = "error";
    }
}

/// Where a run begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// At its first step.
    No,
    /// Where the newest good checkpoint in `out_dir` ends, else at its first step.
    Auto,
    /// Where this checkpoint ends.
    From(PathBuf),
}

impl FromStr for Resume {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "false" | "no" | "off" | "False" => Ok(Self::No),
            "auto" => Ok(Self::Auto),
            "true" | "yes" | "on" | "True" => {
                Err("write `auto`: the newest good checkpoint in out_dir, or the path of one"
                    .into())
            }
            "" => Err("is empty; write false, auto or the path of a checkpoint".into()),
            path => Ok(Self::From(path.into())),
        }
    }
}

impl fmt::Display for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("false"),
            Self::Auto => f.write_str("auto"),
            Self::From(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where notices appear that the machine is taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preemption {
    /// At the metadata service of AWS.
    Aws,
    /// At that of Google Compute Engine.
    Gcp,
    /// At that of Azure.
    Azure,
    /// In the file system: a file that comes to be.
    File(PathBuf),
}

impl FromStr for Preemption {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("file:")) {
            ("aws", _) => Ok(Self::Aws),
            ("gcp", _) => Ok(Self::Gcp),
            ("azure", _) => Ok(Self::Azure),
            (_, Some(path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(none_of(text, &["aws", "gcp", "azure", "file:PATH"])),
        }
    }
}

impl fmt::Display for Preemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aws => f.write_str("aws"),
            Self::Gcp => f.write_str("gcp"),
            Self::Azure => f.write_str("azure"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

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

/// An amount of memory: `8GiB`, `512 MiB`, `2GB` or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, f64); 7] = [
            ("KiB", 1024.0),
            ("MiB", 1_048_576.0),
            ("GiB", 1_073_741_824.0),
            ("KB", 1e3),
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

/// Whether a base that is packed as `quantize` says can be computed with in `precision`.
///
/// # Errors
/// What is wrong with the key or option `quantize`.
pub fn goes_with(quantize: Option<Quantize>, precision: Precision) -> Result<(), String> {
    let mixed = matches!(precision, Precision::Bf16Mixed | Precision::F16Mixed);
    if mixed && quantize.is_some() {
        return Err(format!("does not go with `precision: {precision}`; write bf16-true"));
    }
    Ok(())
}

/// Which validation row is answered at each evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaluateExample {
    /// The first.
    First,
    /// Another one each time, drawn from the seed.
    Random,
    /// The one of this number, from 0.
    Index(usize),
}

impl FromStr for EvaluateExample {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "first" => Ok(Self::First),
            "random" => Ok(Self::Random),
            _ => text
                .parse()
                .map(Self::Index)
                .map_err(|_| format!("`{text}` is no row; write first, random or a number from 0")),
        }
    }
}

impl fmt::Display for EvaluateExample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("first"),
            Self::Random => f.write_str("random"),
            Self::Index(n) => write!(f, "{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_units_of_1000_and_of_1024() {
        let all = ["100KB", "100 KiB", "2MB", "7"].map(|text| text.parse::<Size>().unwrap().0);
        assert_eq!(all, [100_000, 102_400, 2_000_000, 7]);
    }
}
