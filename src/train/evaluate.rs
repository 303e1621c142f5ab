//! An evaluation of a run: the loss on the validation rows, a sample answer, the best adapter, the end of patience.

use super::judge::{Judge, Verdict};
use super::prepare::Run;
use super::sample::sample;
use super::validate::validate;
use crate::checkpoint::run_state::RunState;
use crate::config::RunConfig;
use crate::ops::rope;
use crate::report::metrics::JsonLines;
use crate::report::progress::Progress;
use crate::report::sink::Sinks;
use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::debug;

/// The evaluations of a run.
pub struct Evaluation {
    judge: Judge,
    samples: JsonLines,
    /// The last loss.
    pub last: Option<f64>,
    /// The step after which it was measured.
    pub evaluated: usize,
}

impl Evaluation {
    /// None yet; so many bytes of `samples.jsonl` are kept, of a run that is taken up.
    pub fn new(config: &RunConfig, after: Option<u64>) -> Self {
        let samples = JsonLines::new(&config.out_dir, "samples.jsonl");
        Self {
            judge: Judge::new(config.train.early_stopping_patience),
            samples: match after {
                Some(bytes) => samples.after(bytes),
                None => samples,
            },
            last: None,
            evaluated: 0,
        }
    }

    /// Knows what the run knew that is taken up.
    pub fn remember(&mut self, state: &RunState) {
        self.judge = self.judge.with_memory(state.lowest);
        (self.last, self.evaluated) = (state.val_loss, state.evaluated);
    }

    /// The lowest loss and the validations since.
    pub fn lowest(&self) -> (Option<f64>, usize) {
        self.judge.memory()
    }

    /// The bytes of `samples.jsonl` that lie on disk.
    pub fn settled(&self) -> u64 {
        self.samples.settled()
    }

    /// Validates over `most` micro-batches, or all; samples, logs, judges. Losses over different rows are not compared: an
    /// evaluation over all rows is judged only where those in between see all rows too, or where there was none.
    ///
    /// `None` when `stop` was set meanwhile: then nothing is logged or remembered, and a run that is taken up evaluates again.
    ///
    /// # Errors
    /// When the loss is not finite, the device fails or a file cannot be written.
    #[expect(clippy::too_many_arguments, reason = "the run's parts, which the loop owns")]
    pub fn run(
        &mut self,
        config: &RunConfig,
        run: &mut Run,
        rope: &rope::Table,
        most: Option<usize>,
        step: usize,
        sinks: &mut Sinks<'_>,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> Result<Option<Verdict>> {
        let size = config.train.micro_batch_size;
        let in_between = config.eval.max_iters;
        debug!(step, "validates");
        let record = validate(run, rope, most.unwrap_or(usize::MAX), size, step, stop)?;
        let Some(record) = record else {
            return Ok(Some(Verdict::GoOn).filter(|_| !stop.load(Ordering::Relaxed)));
        };
        debug!(step, "answers");
        let answer = if step > 0 { sample(config, run, rope, step, stop)? } else { None };
        if answer.is_none() && stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        sinks.eval(&record)?;
        progress.eval(&record);
        let comparable = most.is_some()
            || self.last.is_none()
            || run.data.val_len().div_ceil(size) <= in_between;
        self.last = Some(record.val_loss);
        let verdict =
            if comparable && step > 0 { self.judge.see(record.val_loss) } else { Verdict::GoOn };
        self.evaluated = step;
        if let Some(answer) = answer {
            self.samples.write(&answer)?;
            if let Some(complaint) = self.samples.complaint() {
                progress.note(&format!("note: {complaint}"));
            }
            progress.sample(&answer);
        }
        Ok(Some(verdict))
    }
}
