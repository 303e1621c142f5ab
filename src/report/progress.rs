//! Progress: a bar on a terminal, plain lines elsewhere.

use super::metrics::{EvalRecord, SampleRecord, StepRecord};
use super::{beside_a_bar, print_note};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Letters of a sample that are shown.
const SHOWN: usize = 100;

/// The progress of a run on standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    log_interval: usize,
}

impl Progress {
    /// For a run of `total` steps that logs every `log_interval`.
    pub fn new(total: usize, log_interval: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} | {msg} | eta {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, total, log_interval }
    }

    /// Shows a step.
    pub fn step(&self, r: &StepRecord) {
        let numbers = format!(
            "loss {:.4} | lr {:.2e} | {:.0} tok/s | {:.2} GiB",
            r.loss,
            r.lr,
            r.tokens_per_s,
            r.peak_mem_bytes as f64 / f64::from(1 << 30)
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(r.step as u64);
                bar.set_message(numbers);
            }
            None if r.step.is_multiple_of(self.log_interval) => {
                let left = (self.total - r.step) as f64 * r.elapsed_s / r.step as f64;
                print_note(format_args!(
                    "step {}/{} | {numbers} | eta {left:.0}s",
                    r.step, self.total
                ));
            }
            None => {}
        }
    }

    /// Shows an evaluation.
    pub fn eval(&self, r: &EvalRecord) {
        self.note(&format!(
            "step {} | val loss {:.4} | perplexity {:.3}",
            r.step, r.val_loss, r.val_ppl
        ));
    }

    /// Shows a sample answer, in one line.
    pub fn sample(&self, r: &SampleRecord) {
        let short = |text: &str| {
            let shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
            if text.chars().count() > SHOWN { shown + "…" } else { shown }
        };
        let end = r.prompt.chars().rev().take(SHOWN).collect::<Vec<_>>();
        let end: String = end.into_iter().rev().collect();
        self.note(&format!("step {} | sample: {} -> {}", r.step, short(&end), short(&r.answer)));
    }

    /// Shows a line above the bar.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(beside_a_bar(text)),
            None => print_note(text),
        }
    }

    /// Leaves the bar as it stands.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
