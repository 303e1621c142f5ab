//! The training loop, from the first step to the saved adapter.
//!
//! Where the loop stands is its number of steps: epoch, place in it, dropout and rates follow from that. So a run that is taken up does
//! what it would have done.

mod saving;

use super::evaluate::Evaluation;
use super::guard::Watch;
use super::judge::Verdict;
use super::loss_scale::LossScale;
use super::prepare::Run;
use super::resume::{Start, ended_early};
use super::step::{Step, Stepper};
use crate::checkpoint::atomic::{io_problem, set_aside};
use crate::checkpoint::disk::Real;
use crate::checkpoint::find;
use crate::config::{LoggerName, Precision, Resume, RunConfig};
use crate::data::mix::Mix;
use crate::error::is_disk_full;
use crate::optim::Optimizer;
use crate::report::memory::peak_bytes;
use crate::report::metrics::{self, StepRecord};
use crate::report::progress::Progress;
use crate::report::sink::{self, Sinks};
use anyhow::{Context, Result};
use saving::Room;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// The files that records are appended to.
const METRICS: &str = "metrics.jsonl";
const SAMPLES: &str = "samples.jsonl";

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done and the final adapter is saved.
    Finished,
    /// The validation loss fell no more; the final adapter is saved.
    Early,
    /// It was to end before its last step; the adapter of the last whole step is saved as a checkpoint.
    Interrupted,
    /// All steps are done and the final adapter is saved; it was to end in the validation after that.
    Unvalidated,
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Why it ended.
    pub ending: Ending,
    /// Steps done.
    pub step: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// The last step, if there was one.
    pub last: Option<StepRecord>,
    /// Loss of the last validation.
    pub val_loss: Option<f64>,
}

/// Trains, logs, validates and saves; `stop` set ends the run after the micro-batch at hand.
///
/// # Errors
/// When the loss or a gradient goes wrong, or a file cannot be written.
pub fn fit(config: &RunConfig, run: &mut Run, stop: &AtomicBool) -> Result<Outcome> {
    let mut at = Loop::new(config, run, stop)?;
    at.begin()?;
    while let Some(window) = at.next_window()? {
        at.step(&window)?;
        // First what must not be lost, then what can be computed again.
        at.save_if_due()?;
        at.evaluate_if_due()?;
    }
    at.end()
}

/// The run under way.
struct Loop<'a> {
    config: &'a RunConfig,
    run: &'a mut Run,
    stop: &'a AtomicBool,
    progress: Rc<Progress>,
    sinks: Sinks<'static>,
    stepper: Stepper,
    evaluation: Evaluation,
    resumed: Option<Start>,
    /// Checkpoints that were found damaged.
    damaged: Vec<PathBuf>,
    /// Steps done.
    step: usize,
    /// The order of the epoch at hand, and its number from 1.
    order: (Vec<usize>, usize),
    epochs: Mix,
    tokens: u64,
    /// Seconds trained before this start.
    before_s: f64,
    start: Instant,
    last: Option<StepRecord>,
    /// Whether the optimizer holds what the steps so far made of it.
    is_trained: bool,
    /// Set when the loop is to end before its last step.
    ending: Option<Ending>,
}

impl<'a> Loop<'a> {
    fn new(config: &'a RunConfig, run: &'a mut Run, stop: &'a AtomicBool) -> Result<Self> {
        let resumed = run.resumed.take();
        // What a run left that ended before its first checkpoint is begun anew.
        let kept = |name: &str| match &resumed {
            Some(start) if start.same_dir => {
                Some(start.state.bytes.get(name).copied().unwrap_or(0))
            }
            None if config.resume == Resume::Auto => Some(0),
            _ => None,
        };
        if resumed.is_none() && config.resume == Resume::Auto {
            set_records_aside(&config.out_dir)?;
        }
        let progress = Rc::new(Progress::new(run.schedule.total_steps, config.train.log_interval));
        let logger = match config.logger_name {
            LoggerName::Csv => sink::LoggerName::Csv,
            LoggerName::TensorBoard => sink::LoggerName::TensorBoard,
        };
        let told = progress.clone();
        let tell = move |line: &str| told.note(line);
        let tokens = resumed.as_ref().map_or(0, |start| start.state.tokens);
        let sinks = Sinks::open(&config.out_dir, Some(logger), (kept(METRICS), tokens), tell);
        let f16 = matches!(run.precision, Precision::F16 | Precision::F16Mixed);
        let stepper = Stepper {
            optimizer: Optimizer::new(run.optimizer, &run.cx, &run.arena)?,
            scale: LossScale::new(f16),
            watch: Watch::new(&run.arena),
            rope: run.decoder.rope_table(&run.cx, run.plan.positions)?,
        };
        run.cx.set_token_capacity(run.plan.tokens);
        run.cx.set_longest_sequence(run.plan.longest);
        Ok(Self {
            evaluation: Evaluation::new(config, kept(SAMPLES)),
            epochs: run.data.epochs(),
            config,
            run,
            stop,
            progress,
            sinks,
            stepper,
            resumed,
            damaged: Vec::new(),
            step: 0,
            order: (Vec::new(), 0),
            tokens: 0,
            before_s: 0.0,
            start: Instant::now(),
            last: None,
            is_trained: true,
            ending: None,
        })
    }

    fn total(&self) -> usize {
        self.run.schedule.total_steps
    }

    /// Takes up the run of the checkpoint, or validates before the first step.
    fn begin(&mut self) -> Result<()> {
        if let Some(Start { dir, state, damaged, same_dir }) = self.resumed.take() {
            self.damaged = damaged.into_iter().map(|(dir, _)| dir).collect();
            (self.step, self.before_s, self.tokens) = (state.step, state.elapsed_s, state.tokens);
            self.stepper.scale = self.stepper.scale.with_memory(state.loss_scale);
            self.evaluation.remember(&state);
            let metrics = self.config.out_dir.join(METRICS);
            self.last = metrics::last_step(&metrics).filter(|r| same_dir && r.step == self.step);
            // The arrays of a run that is not trained further are not read, and not to be written.
            self.is_trained = self.step < self.total() && !ended_early(self.config, &state);
            if ended_early(self.config, &state) {
                // What came after that was not done.
                self.ending = Some(Ending::Early);
            } else if self.is_trained {
                let arrays = state.optimizer(&dir)?;
                let arrays = arrays.context("the checkpoint has no optimizer to go on with")?;
                self.stepper.optimizer.restore(arrays)?;
            }
            // An evaluation that came after the checkpoint is done again.
            if self.step > 0 && self.evaluation.evaluated != self.step {
                self.evaluate_if_due()?;
            }
        } else if self.config.eval.initial_validation {
            self.evaluate(None)?;
        }
        self.start = Instant::now();
        Ok(())
    }

    /// The samples of the next step; `None` when the loop ends.
    fn next_window(&mut self) -> Result<Option<Vec<usize>>> {
        let t = &self.config.train;
        if self.ending.is_some() || self.step >= self.total() {
            return Ok(None);
        }
        let epoch = self.step / self.run.steps_per_epoch + 1;
        while self.order.1 < epoch {
            let order = self.epochs.next().context("the order of rows never ends")?;
            self.order = (order, self.order.1 + 1);
        }
        let place = self.step % self.run.steps_per_epoch;
        let window = self.order.0.chunks(t.global_batch_size).nth(place);
        Ok(Some(window.context("an epoch has fewer steps than counted")?.to_vec()))
    }

    fn step(&mut self, window: &[usize]) -> Result<()> {
        let began = Instant::now();
        let done = self.stepper.step(self.config, self.run, window, self.step, self.stop)?;
        let Some(step) = done else {
            self.ending = Some(Ending::Interrupted);
            return Ok(());
        };
        self.step += 1;
        self.tokens += step.tokens as u64;
        let record = self.record(step, began.elapsed().as_secs_f64());
        self.sinks.step(&record)?;
        self.progress.step(&record);
        self.last = Some(record);
        Ok(())
    }

    fn record(&self, s: Step, seconds: f64) -> StepRecord {
        StepRecord {
            step: self.step,
            epoch: self.step as f64 / self.run.steps_per_epoch as f64,
            lr: s.lr,
            loss: s.loss,
            grad_norm: s.grad_norm,
            tokens: s.tokens,
            target_tokens: s.target_tokens,
            tokens_per_s: s.tokens as f64 / seconds,
            elapsed_s: self.elapsed_s(),
            peak_mem_bytes: self.run.cx.gpu().map_or_else(peak_bytes, |gpu| gpu.peak_bytes()),
            loss_scale: s.loss_scale,
            skipped: s.skipped,
        }
    }

    fn elapsed_s(&self) -> f64 {
        self.before_s + self.start.elapsed().as_secs_f64()
    }

    /// Whether something that comes every `n` steps comes now; what comes after the last step is done by itself.
    fn is_due(&self, n: usize) -> bool {
        self.ending.is_none() && self.step < self.total() && self.step.is_multiple_of(n)
    }

    fn evaluate_if_due(&mut self) -> Result<()> {
        if self.is_due(self.config.eval.interval)
            && self.evaluate(Some(self.config.eval.max_iters))? == Some(Verdict::Stop)
        {
            self.ending = Some(Ending::Early);
        }
        Ok(())
    }

    /// Validates over `most` micro-batches, or all; keeps the adapter if it is the best. `None` when it was cut short: it is as if it had
    /// not begun.
    fn evaluate(&mut self, most: Option<usize>) -> Result<Option<Verdict>> {
        let Self { config, run, stepper, sinks, progress, .. } = self;
        let (rope, step) = (&stepper.rope, self.step);
        let verdict =
            self.evaluation.run(config, run, rope, most, step, sinks, progress, self.stop)?;
        if verdict == Some(Verdict::Best) && self.config.train.save_best {
            self.save_best()?;
        }
        Ok(verdict)
    }

    /// Saves what the run has come to, and validates it.
    fn end(mut self) -> Result<Outcome> {
        let out_dir = &self.config.out_dir;
        let mut ending = self.ending.unwrap_or(Ending::Finished);
        if ending == Ending::Interrupted {
            if self.step > 0 && find::check(&out_dir.join(step_name(self.step))).is_err() {
                self.checkpoint(Room::Made)?;
            }
        } else {
            self.save_final()?;
            if self.config.train.save_interval.is_some() && self.is_trained && self.step > 0 {
                // A run that is asked for more steps goes on from here; the adapter is safe without it.
                match self.checkpoint(Room::AsIs) {
                    Err(e) if is_disk_full(&e) => {
                        self.progress.note("note: no room for a checkpoint of the last step");
                    }
                    saved => saved?,
                }
            }
            let size = self.config.train.micro_batch_size;
            let seen_all = self.evaluation.evaluated == self.step
                && self.step > 0
                && self.run.data.val_len().div_ceil(size) <= self.config.eval.max_iters;
            if self.config.eval.final_validation
                && !(ending == Ending::Early && seen_all)
                && self.evaluate(None)?.is_none()
            {
                ending = Ending::Unvalidated;
            }
        }
        self.progress.finish();
        Ok(Outcome {
            ending,
            step: self.step,
            tokens: self.tokens,
            last: self.last,
            val_loss: self.evaluation.last,
        })
    }
}

/// Records of a run without a checkpoint make way for those of the run that begins anew.
fn set_records_aside(out_dir: &Path) -> Result<()> {
    for name in [METRICS, SAMPLES] {
        let path = out_dir.join(name);
        if path.metadata().is_ok_and(|m| m.is_file() && m.len() > 0) {
            set_aside(&Real, &path).map_err(|e| io_problem(&path, &e))?;
        }
    }
    Ok(())
}

/// The directory of the checkpoint after a step.
pub fn step_name(step: usize) -> String {
    format!("step-{step:08}")
}
