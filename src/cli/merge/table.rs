//! What `--verify` measured, as a table.

use crate::merge::BaseWeights;
use crate::merge::verify::{Comparison, Row};

pub(super) fn render(comparison: &Comparison, quantised: bool) -> String {
    let mut lines = vec![line("model", "KL(adapter ‖ merged)", "top-1 agreement", "perplexity")];
    let reference = if quantised { "adapter on NF4" } else { "adapter on the base" };
    lines.push(line(reference, "", "", &format!("{:.4}", comparison.perplexity)));
    for row in &comparison.rows {
        let kl = format!("{:.2e}", row.kl);
        let agreement = format!("{:.2} %", 100.0 * row.agreement);
        lines.push(line(&name(row), &kl, &agreement, &format!("{:.4}", row.perplexity)));
    }
    lines.push(format!(
        "{} sequences, {} tokens; KL in nats, mean of a token",
        comparison.sequences, comparison.tokens
    ));
    lines.join("\n") + "\n"
}

fn name(row: &Row) -> String {
    let base = match row.base_weights {
        BaseWeights::Original => "original",
        BaseWeights::Dequant { .. } => "dequant",
    };
    format!("merged, {base}{}", if row.is_written { " (written)" } else { "" })
}

fn line(model: &str, kl: &str, agreement: &str, perplexity: &str) -> String {
    format!("{model:<28}{kl:>20}{agreement:>18}{perplexity:>14}")
}
