//! One optimizer step: forward and backward passes of its micro-batches, norm, clipping, update.

use super::guard::Watch;
use super::loss_scale::LossScale;
use super::prepare::Run;
use super::{fault, objective};
use crate::config::RunConfig;
use crate::data::batch::Batch;
use crate::model::decoder::Training;
use crate::model::linear::Draw;
use crate::ops::philox::seed_key;
use crate::ops::rope;
use crate::optim::Optimizer;
use crate::optim::arena::clip_factor;
use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};

/// What updates the adapter, and what watches over it.
pub struct Stepper {
    /// The optimizer with its state.
    pub optimizer: Optimizer,
    /// The loss scale.
    pub scale: LossScale,
    /// The watch over gradients.
    pub watch: Watch,
    /// Positions of rotary embeddings.
    pub rope: rope::Table,
}

/// What a step was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Token-weighted mean loss.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Tokens.
    pub tokens: usize,
    /// Trained tokens.
    pub target_tokens: usize,
    /// The loss scale, in f16.
    pub loss_scale: Option<f32>,
    /// The gradients overflowed in f16: nothing was updated.
    pub skipped: bool,
}

impl Stepper {
    /// Trains on the samples `window`, after `done` steps; `None` when `stop` was set before all of them were seen: then the adapter
    /// is what it was.
    ///
    /// # Errors
    /// When the loss or a gradient goes wrong, or the device fails.
    pub fn step(
        &mut self,
        config: &RunConfig,
        run: &mut Run,
        window: &[usize],
        done: usize,
        stop: &AtomicBool,
    ) -> Result<Option<Step>> {
        let sample = |r: &usize| (run.data.train(*r), *r as u64);
        let batches: Vec<Batch> = window
            .chunks(config.train.micro_batch_size)
            .map(|rows| Batch::collate(rows.iter().map(sample)))
            .collect();
        run.cx.install(|| run.arena.zero_grads())?;
        let weight = objective::total_weight(&batches);
        let mut loss = 0.0;
        for batch in &batches {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            loss += self.pass(config, run, batch, weight, done)?;
        }
        let lr = run.schedule.rate(done);
        let (used, loss_scale) = (f64::from(self.scale.get()), self.scale.shown());
        let grad_norm = run.cx.install(|| run.arena.grad_norm(&run.cx))? / used;
        let skipped = self.scale.update(grad_norm.is_finite());
        if !skipped {
            if self.watch.is_waiting() || !grad_norm.is_finite() {
                run.arena.fetch_grads()?;
            }
            run.cx.install(|| self.watch.check(&run.arena, done + 1, lr, grad_norm))?;
            let clip = f64::from(clip_factor(grad_norm, config.train.max_norm));
            let factor = (clip / used) as f32;
            run.cx.install(|| self.optimizer.step(&run.cx, &mut run.arena, lr, factor))?;
        }
        Ok(Some(Step {
            loss,
            lr,
            grad_norm,
            tokens: batches.iter().map(|b| b.ids.len()).sum(),
            target_tokens: batches.iter().map(Batch::target_tokens).sum(),
            loss_scale,
            skipped,
        }))
    }

    /// Forward and backward pass of one micro-batch: its share of the step's loss.
    fn pass(
        &self,
        config: &RunConfig,
        run: &mut Run,
        batch: &Batch,
        weight: f64,
        done: usize,
    ) -> Result<f64> {
        let scale = self.scale.get();
        let (tokens, labels) = (objective::tokens(batch), objective::labels(batch, weight, scale));
        let draw = Some(Draw { seed: seed_key(config.seed), step: done as u32 });
        let how = Training { draw, keep: run.plan.keep };
        let Run { cx, decoder, arena, schedule, .. } = run;
        let nll =
            cx.install(|| decoder.train_pass(cx, arena, &self.rope, &tokens, &labels, how))?;
        let loss = objective::loss(&nll, &labels) / f64::from(scale);
        if !loss.is_finite() {
            let module = cx.install(|| decoder.first_not_finite(cx, arena, &self.rope, &tokens))?;
            let untrained = (0..done).all(|i| schedule.rate(i) == 0.0);
            return Err(fault::loss("loss", loss, done + 1, module, untrained).into());
        }
        Ok(loss)
    }
}
