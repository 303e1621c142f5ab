//! LoRA: its configuration, which modules it adapts, its names in PEFT's files.

pub mod names;
pub mod targets;

pub use targets::Targets;

/// A LoRA adapter's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank R.
    pub r: usize,
    /// alpha; the product is scaled by alpha / R.
    pub alpha: f64,
    /// Dropout probability on the adapter's input.
    pub dropout: f64,
}

impl LoraConfig {
    /// s = alpha / R.
    pub fn scale(&self) -> f64 {
        self.alpha / self.r as f64
    }
}
