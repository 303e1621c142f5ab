//! Where a config means something else than in LitGPT: a line for each rule that applies to it.
//!
//! LitGPT 0.5.13. What depends on the model or the rows is told by the code that sees them.

use super::{MultiTurn, Precision, RunConfig};

impl RunConfig {
    /// The lines.
    pub fn litgpt_differences(&self) -> Vec<String> {
        let (t, mut lines) = (&self.train, Vec::new());
        let mut tell = |applies: bool, line: &str| {
            if applies {
                lines.push(line.to_owned());
            }
        };
        tell(
            self.is_written("train.min_lr") && t.min_lr > 0.0,
            "train.min_lr: the learning rate ends there; LitGPT's finetuning ignores the key and ends at 0",
        );
        tell(
            !self.is_written("precision"),
            "precision: bf16-true (16-true on a card without bf16) if nothing is written; LitGPT takes bf16-mixed",
        );
        tell(
            self.precision == Precision::Bf16 && self.is_written("precision"),
            "precision: adapters, gradients and optimizer are f32 in bf16-true; LitGPT trains them in bf16",
        );
        tell(
            self.quantize.is_some(),
            "quantize: lm_head and embeddings stay as they are and nothing is added to the model; LitGPT also quantises lm_head and \
             puts a LayerNorm behind the embedding",
        );
        tell(
            t.global_batch_size > t.micro_batch_size,
            "loss: each trained token of a step weighs the same; LitGPT takes the mean of the micro-batches' means",
        );
        tell(
            t.epochs.is_some(),
            "epochs: the last rows of an epoch make a smaller step; LitGPT carries them over and drops the last ones",
        );
        tell(
            t.max_time.is_some(),
            "train.max_time: ends the run with a checkpoint that `--resume auto` takes up, and exit code 75; LitGPT ends it as if it were done",
        );
        tell(
            t.log_interval > 1 && t.global_batch_size > t.micro_batch_size,
            "train.log_interval: counts steps; LitGPT counts micro-batches",
        );
        let sets = &self.data.sets;
        tell(
            sets.iter().any(|s| s.class.multi_turn && s.multi_turn == MultiTurn::Conversation),
            "conversations stay whole; LitGPT trains each exchange by itself (multi_turn: pairs) or the first one only (multi_turn: first)",
        );
        lines
    }
}
