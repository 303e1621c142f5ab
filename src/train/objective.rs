//! Supervised finetuning: the token-weighted mean of the targets' negative log-probability over a whole step.
//!
//! L = Σ wᵢ·nllᵢ / Σ wᵢ over all targets of all micro-batches of the step, so each target's coefficient is wᵢ / Σ w and is known
//! before the first forward pass: gradients do not depend on how a step is cut into micro-batches.

use crate::data::batch::Batch;
use crate::model::Tokens;
use crate::model::decoder::Labels;

/// The sum of all target weights of a step.
pub fn total_weight(window: &[Batch]) -> f64 {
    window.iter().flat_map(|b| &b.weights).map(|w| f64::from(*w)).sum()
}

/// The tokens of a batch in the decoder's terms.
pub fn tokens(batch: &Batch) -> Tokens {
    let sequences = batch.seq_starts.windows(2).zip(&batch.sample_ids);
    Tokens::new(sequences.map(|(w, id)| (&batch.ids[w[0]..w[1]], *id as u32)))
}

/// The labelled rows of a batch, with coefficients for a step of `total` weight times the loss scale.
pub fn labels(batch: &Batch, total: f64, scale: f32) -> Labels {
    let mut labels = Labels::default();
    for (row, (&target, &weight)) in batch.targets.iter().zip(&batch.weights).enumerate() {
        if let Ok(target) = u32::try_from(target)
            && weight != 0.0
        {
            labels.rows.push(row as u32);
            labels.targets.push(target);
            labels.coefficients.push((f64::from(weight) / total) as f32 * scale);
        }
    }
    labels
}

/// Σ coefficient·nll: this batch's share of the step's loss.
pub fn loss(nll: &[f32], labels: &Labels) -> f64 {
    nll.iter().zip(&labels.coefficients).map(|(n, c)| f64::from(*n) * f64::from(*c)).sum()
}
