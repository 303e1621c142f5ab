//! What the loop saves, and when: checkpoints to go on from, the adapter with the lowest loss, the final one.

use super::{Ending, Loop, METRICS, SAMPLES, step_name};
use crate::checkpoint::atomic::{io_problem, set_aside};
use crate::checkpoint::disk::Real;
use crate::checkpoint::find;
use crate::checkpoint::room::rotate;
use crate::checkpoint::run_state::RunState;
use crate::train::resume::{self, asks_for_more};
use crate::train::save::{resolved, save};
use anyhow::Result;
use tracing::debug;

/// What is saved of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// What it has come to.
    Adapter,
    /// What it goes on from as well: the optimizer's state.
    Resumable,
}

/// Whether older checkpoints give way to what is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Made,
    AsIs,
}

impl Loop<'_> {
    /// A checkpoint, if one comes after this step.
    pub(super) fn save_if_due(&mut self) -> Result<()> {
        match self.config.train.save_interval {
            Some(n) if self.is_due(n) => self.checkpoint(Room::Made),
            _ => Ok(()),
        }
    }

    /// Saves the run as it stands, and lets the oldest checkpoints go.
    pub(super) fn checkpoint(&mut self, room: Room) -> Result<()> {
        debug!(step = self.step, "saves");
        let name = step_name(self.step);
        self.save(&name, What::Resumable, room)?;
        // It has been written again.
        self.damaged.retain(|dir| !dir.ends_with(&name));
        if let Some(most) = self.config.train.save_total_limit {
            rotate(&Real, &self.config.out_dir, self.step, most, &self.damaged);
        }
        Ok(())
    }

    fn save(&mut self, name: &str, what: What, room: Room) -> Result<()> {
        let resumable = what == What::Resumable;
        let state = self.state(if resumable { self.stepper.optimizer.updates() } else { 0 })?;
        let Self { config, run, progress, stepper, .. } = self;
        let arrays = if resumable { Some(stepper.optimizer.state()?) } else { None };
        let tell = |line: &str| progress.note(line);
        let tell: Option<&dyn Fn(&str)> = if room == Room::Made { Some(&tell) } else { None };
        save(config, run, name, &state, arrays.as_ref(), tell)
    }

    fn state(&self, updates: i32) -> Result<RunState> {
        let bytes = [(METRICS, self.sinks.settled()), (SAMPLES, self.evaluation.settled())];
        Ok(RunState {
            format: RunState::FORMAT,
            step: self.step,
            tokens: self.tokens,
            elapsed_s: self.elapsed_s(),
            updates,
            loss_scale: self.stepper.scale.memory(),
            lowest: self.evaluation.lowest(),
            val_loss: self.evaluation.last,
            evaluated: self.evaluation.evaluated,
            bytes: bytes.map(|(name, n)| (name.to_owned(), n)).into(),
            config: resume::values(&resolved(self.config, self.run)),
            data: self.run.digest.clone(),
            base: self.run.fingerprint.clone(),
            early: self.ending == Some(Ending::Early),
            adapter: self.run.began_with.clone(),
            surroundings: self.run.surroundings.clone(),
        })
    }

    /// Saves the adapter as the one with the lowest loss.
    pub(super) fn save_best(&mut self) -> Result<()> {
        self.save("best", What::Adapter, Room::Made)
    }

    /// Saves the final adapter, where it is not there yet. One that somebody changed is set aside.
    pub(super) fn save_final(&mut self) -> Result<()> {
        let place = self.config.out_dir.join("final");
        let is_there = |s: &RunState| s.step == self.step && !asks_for_more(self.config, s);
        match find::check(&place) {
            Ok(state) if is_there(&state) => return Ok(()),
            Err(_) if place.exists() => {
                let aside = set_aside(&Real, &place).map_err(|e| io_problem(&place, &e))?;
                let (place, aside) = (place.display(), aside.display());
                self.progress.note(&format!(
                    "note: {place} is not what was written; it lies in {aside} now"
                ));
            }
            Ok(_) | Err(_) => {}
        }
        debug!(step = self.step, "saves the final adapter");
        self.save("final", What::Adapter, Room::Made)
    }
}
