//! The training loop, from the first step to the saved adapter.

use super::evaluate::Evaluation;
use super::guard::Watch;
use super::judge::Verdict;
use super::loss_scale::LossScale;
use super::prepare::Run;
use super::resume::{self, Start};
use super::save::{resolved, rotate, save};
use super::{fault, objective};
use crate::checkpoint::find;
use crate::checkpoint::run_state::RunState;
use crate::config::{LoggerName, Precision, Resume, RunConfig};
use crate::data::batch::Batch;
use crate::model::decoder::Training;
use crate::model::linear::Draw;
use crate::ops::philox::seed_key;
use crate::ops::rope;
use crate::optim::Optimizer;
use crate::optim::arena::clip_factor;
use crate::report::memory::peak_bytes;
use crate::report::metrics::StepRecord;
use crate::report::progress::Progress;
use crate::report::sink::{self, Sinks};
use anyhow::{Context, Result};
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// A signal came; the adapter of the last whole step is saved as a checkpoint.
    Interrupted,
    /// `train.max_time` is over; the adapter of the last whole step is saved as a checkpoint.
    TimeUp,
    /// All steps are done and the final adapter is saved; a signal came after that.
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
    let (t, e) = (&config.train, &config.eval);
    let total = run.schedule.total_steps;
    let progress = Progress::new(total, t.log_interval);
    let logger = match config.logger_name {
        LoggerName::Csv => sink::LoggerName::Csv,
        LoggerName::TensorBoard => sink::LoggerName::TensorBoard,
    };
    let resumed = run.resumed.take();
    // What a run left that ended before its first checkpoint is begun anew.
    let kept = |name: &str| match &resumed {
        Some(start) if start.same_dir => Some(start.state.bytes.get(name).copied().unwrap_or(0)),
        None if config.resume == Resume::Auto => Some(0),
        _ => None,
    };
    let mut sinks =
        Sinks::open(&config.out_dir, Some(logger), kept(METRICS), |line| progress.note(line));
    let mut optimizer = Optimizer::new(run.optimizer, &run.cx, &run.arena)?;
    let f16 = matches!(run.precision, Precision::F16 | Precision::F16Mixed);
    let mut scale = LossScale::new(f16);
    let mut watch = Watch::new(&run.arena);
    let rope = run.decoder.rope_table(&run.cx, run.plan.positions)?;
    run.cx.set_token_capacity(run.plan.tokens);

    let mut evaluation = Evaluation::new(config);
    let mut outcome =
        Outcome { ending: Ending::Finished, step: 0, tokens: 0, last: None, val_loss: None };
    let (mut step, mut before_s) = (0, 0.0);
    if let Some(Start { dir, state, .. }) = &resumed {
        (step, before_s, outcome.tokens) = (state.step, state.elapsed_s, state.tokens);
        scale = scale.with_memory(state.loss_scale);
        evaluation = evaluation.with_memory(state);
        if let Some(bytes) = kept(SAMPLES) {
            evaluation = evaluation.after(bytes);
        }
        if step < total {
            let arrays = state.optimizer(dir)?;
            let arrays = arrays.context("the checkpoint has no optimizer to go on with")?;
            optimizer.restore(arrays)?;
        }
        // An evaluation that came after the checkpoint is done again.
        if step > 0
            && step < total
            && step.is_multiple_of(e.interval)
            && evaluation.evaluated != step
        {
            let most = Some(e.max_iters);
            evaluation.run(config, run, &rope, most, step, &mut sinks, &progress, stop)?;
        }
    } else {
        if let Some(bytes) = kept(SAMPLES) {
            evaluation = evaluation.after(bytes);
        }
        if e.initial_validation {
            evaluation.run(config, run, &rope, None, 0, &mut sinks, &progress, stop)?;
        }
    }
    let start = Instant::now();
    let first_epoch = step / run.steps_per_epoch;
    let (mut epoch, mut skip) = (first_epoch, step % run.steps_per_epoch);
    let mut epochs = run.data.epochs().skip(first_epoch);
    'run: while step < total {
        let order = epochs.next().context("the order of rows never ends")?;
        for window in order.chunks(t.global_batch_size).skip(skip).take(total - step) {
            if t.max_time.is_some_and(|most| start.elapsed().as_secs_f64() >= most) {
                outcome.ending = Ending::TimeUp;
                break 'run;
            }
            let began = Instant::now();
            let batches: Vec<Batch> = window
                .chunks(t.micro_batch_size)
                .map(|rows| Batch::collate(rows.iter().map(|r| (run.data.train(*r), *r as u64))))
                .collect();
            run.arena.zero_grads()?;
            let weight = objective::total_weight(&batches);
            let mut loss = 0.0;
            for batch in &batches {
                if stop.load(Ordering::Relaxed) {
                    outcome.ending = Ending::Interrupted;
                    break 'run;
                }
                let part = train_pass(config, run, &rope, batch, weight, step, scale.get())?;
                if !part.is_finite() {
                    let (Run { cx, decoder, arena, .. }, tokens) =
                        (&*run, objective::tokens(batch));
                    let module =
                        cx.install(|| decoder.first_not_finite(cx, arena, &rope, &tokens))?;
                    let untrained = (0..step).all(|i| run.schedule.rate(i) == 0.0);
                    return Err(fault::loss("loss", part, step + 1, module, untrained).into());
                }
                loss += part;
            }
            let lr = run.schedule.rate(step);
            step += 1;
            let (used, shown) = (f64::from(scale.get()), scale.shown());
            let norm = run.cx.install(|| run.arena.grad_norm(&run.cx))? / used;
            let skipped = scale.update(norm.is_finite());
            if !skipped {
                if watch.is_waiting() || !norm.is_finite() {
                    run.arena.fetch_grads()?;
                }
                run.cx.install(|| watch.check(&run.arena, step, lr, norm))?;
                let factor = (f64::from(clip_factor(norm, t.max_norm)) / used) as f32;
                run.cx.install(|| optimizer.step(&run.cx, &mut run.arena, lr, factor))?;
            }
            let tokens = batches.iter().map(|b| b.ids.len()).sum::<usize>();
            let in_epoch = (step - epoch * run.steps_per_epoch) as f64 / run.steps_per_epoch as f64;
            let record = StepRecord {
                step,
                epoch: epoch as f64 + in_epoch,
                lr,
                loss,
                grad_norm: norm,
                tokens,
                target_tokens: batches.iter().map(Batch::target_tokens).sum(),
                tokens_per_s: tokens as f64 / began.elapsed().as_secs_f64(),
                elapsed_s: before_s + start.elapsed().as_secs_f64(),
                peak_mem_bytes: run.cx.gpu().map_or_else(peak_bytes, |gpu| gpu.peak_bytes()),
                loss_scale: shown,
                skipped,
            };
            sinks.step(&record)?;
            progress.step(&record);
            outcome.tokens += tokens as u64;
            outcome.last = Some(record);
            // First what must not be lost, then what can be computed again.
            if step < total && t.save_interval.is_some_and(|n| step.is_multiple_of(n)) {
                let at =
                    Standing { step, elapsed_s: before_s + start.elapsed().as_secs_f64(), scale };
                checkpoint(config, run, &mut optimizer, &at, &outcome, &evaluation, &sinks)?;
            }
            if step < total && step.is_multiple_of(e.interval) {
                let most = Some(e.max_iters);
                let verdict =
                    evaluation.run(config, run, &rope, most, step, &mut sinks, &progress, stop)?;
                if verdict == Verdict::Best && t.save_best {
                    let at = Standing {
                        step,
                        elapsed_s: before_s + start.elapsed().as_secs_f64(),
                        scale,
                    };
                    let state = at.state(config, run, 0, &outcome, &evaluation, &sinks)?;
                    save(config, run, "best", &state, None)?;
                }
                if verdict == Verdict::Stop {
                    outcome.ending = Ending::Early;
                    break 'run;
                }
            }
        }
        (epoch, skip) = (epoch + 1, 0);
    }
    outcome.step = step;
    let at = Standing { step, elapsed_s: before_s + start.elapsed().as_secs_f64(), scale };
    if matches!(outcome.ending, Ending::Interrupted | Ending::TimeUp) {
        let there = config.out_dir.join(format!("step-{step:08}"));
        if step > 0 && find::check(&there).is_err() {
            checkpoint(config, run, &mut optimizer, &at, &outcome, &evaluation, &sinks)?;
        }
    } else {
        if find::check(&config.out_dir.join("final")).map(|s| s.step) != Ok(step) {
            let state = at.state(config, run, 0, &outcome, &evaluation, &sinks)?;
            save(config, run, "final", &state, None)?;
        }
        if e.final_validation {
            let verdict =
                evaluation.run(config, run, &rope, None, step, &mut sinks, &progress, stop)?;
            if verdict == Verdict::Best && t.save_best {
                let state = at.state(config, run, 0, &outcome, &evaluation, &sinks)?;
                save(config, run, "best", &state, None)?;
            }
        }
        if stop.load(Ordering::Relaxed) {
            outcome.ending = Ending::Unvalidated;
        }
    }
    outcome.val_loss = evaluation.last;
    progress.finish();
    Ok(outcome)
}

/// Where the loop stands.
struct Standing {
    step: usize,
    elapsed_s: f64,
    scale: LossScale,
}

impl Standing {
    fn state(
        &self,
        config: &RunConfig,
        run: &Run,
        updates: i32,
        outcome: &Outcome,
        evaluation: &Evaluation,
        sinks: &Sinks<'_>,
    ) -> Result<RunState> {
        let bytes = [(METRICS, sinks.settled()?), (SAMPLES, evaluation.settled()?)];
        Ok(RunState {
            format: RunState::FORMAT,
            step: self.step,
            tokens: outcome.tokens,
            elapsed_s: self.elapsed_s,
            updates,
            loss_scale: self.scale.memory(),
            lowest: evaluation.lowest(),
            val_loss: evaluation.last,
            evaluated: evaluation.evaluated,
            bytes: bytes.map(|(name, n)| (name.to_owned(), n)).into(),
            config: resume::values(&resolved(config, run)),
            data: run.digest.clone(),
            base: run.fingerprint.clone(),
        })
    }
}

/// Saves the run as it stands, and lets the oldest checkpoints go.
fn checkpoint(
    config: &RunConfig,
    run: &mut Run,
    optimizer: &mut Optimizer,
    at: &Standing,
    outcome: &Outcome,
    evaluation: &Evaluation,
    sinks: &Sinks<'_>,
) -> Result<()> {
    let arrays = optimizer.state()?;
    let state = at.state(config, run, arrays.t, outcome, evaluation, sinks)?;
    save(config, run, &format!("step-{:08}", at.step), &state, Some(&arrays))?;
    if let Some(most) = config.train.save_total_limit {
        rotate(&config.out_dir, most);
    }
    Ok(())
}

/// Forward and backward pass of one micro-batch: its share of the step's loss.
fn train_pass(
    config: &RunConfig,
    run: &mut Run,
    rope: &rope::Table,
    batch: &Batch,
    weight: f64,
    step: usize,
    scale: f32,
) -> Result<f64> {
    let (tokens, labels) = (objective::tokens(batch), objective::labels(batch, weight, scale));
    let draw = Some(Draw { seed: seed_key(config.seed), step: step as u32 });
    let how = Training { draw, keep: run.plan.keep };
    let Run { cx, decoder, arena, .. } = run;
    let nll = cx.install(|| decoder.train_pass(cx, arena, rope, &tokens, &labels, how))?;
    Ok(objective::loss(&nll, &labels) / f64::from(scale))
}
