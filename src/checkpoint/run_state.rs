//! Where a run stands: the numbers that it goes on from, the optimizer's arrays, what it was started with.
//!
//! `run_state.json` and `optimizer.safetensors` beside the adapter. The order of rows, dropout and samples are functions of seed and step and
//! need no state of their own.

use super::atomic::io_problem;
use super::disk::Disk;
use super::tensors;
use crate::error::{Problem, Result};
use crate::optim::state::{State, Values};
use crate::small_file::{self, DESCRIPTION};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub(super) const STATE: &str = "run_state.json";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";
/// Counted up when the meaning of a field changes.
const FORMAT: u32 = 1;

/// Where a run stands after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Version of this record.
    pub format: u32,
    /// Steps done.
    pub step: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds trained.
    pub elapsed_s: f64,
    /// Updates of the optimizer.
    pub updates: i32,
    /// The loss scale and its good steps in a row.
    pub loss_scale: (f32, usize),
    /// The lowest validation loss, and the validations since.
    pub lowest: (Option<f64>, usize),
    /// The last validation loss.
    pub val_loss: Option<f64>,
    /// The step after which rows were validated last.
    pub evaluated: usize,
    /// Bytes of the files that are appended to.
    pub bytes: BTreeMap<String, u64>,
    /// The values of all keys.
    pub config: BTreeMap<String, String>,
    /// Hash of the encoded rows.
    pub data: String,
    /// Hash of what tells the base's weights apart.
    pub base: String,
    /// Whether the run ended with this step because the validation loss fell no more.
    #[serde(default)]
    pub early: bool,
    /// Hash of the adapter that the run began with, if there was one.
    #[serde(default)]
    pub adapter: Option<String>,
    /// What computed it.
    #[serde(default)]
    pub surroundings: Surroundings,
}

/// What bytes depend on besides settings, rows and base.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// The processor's kind: `cpu`, or a card's name.
    pub device: String,
    /// The instruction set, in the words of `VFT_CPU`; of a card none.
    pub instruction_set: String,
    /// The program's version and commit.
    pub vft: String,
}

impl Surroundings {
    /// What was otherwise `before`, in words.
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let on = |s: &Self| match s.instruction_set.as_str() {
            "" => s.device.clone(),
            set => format!("{} with {set}", s.device),
        };
        let pairs = [
            ("computed on", on(before), on(self)),
            ("written by vft", before.vft.clone(), self.vft.clone()),
        ];
        let differs = pairs.into_iter().filter(|(_, was, is)| was != is);
        let tell = |(how, was, is)| {
            format!(
                "the checkpoint was {how} {was}, the run goes on with {is}: it may end in other bytes than without the interruption"
            )
        };
        differs.map(tell).collect()
    }
}

impl RunState {
    /// The version that this program writes.
    pub const FORMAT: u32 = FORMAT;

    /// Writes the state into `dir`; the optimizer's arrays too, if given.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, disk: &dyn Disk, dir: &Path, optimizer: Option<&State<'_>>) -> Result<()> {
        let path = dir.join(STATE);
        let failed = |path: &Path, e: &dyn std::fmt::Display| {
            Problem::in_file(path, format!("cannot be written: {e}"))
        };
        let text = serde_json::to_string_pretty(self).map_err(|e| failed(&path, &e))?;
        disk.write(&path, (text + "\n").as_bytes()).map_err(|e| io_problem(&path, &e))?;
        let Some(state) = optimizer else { return Ok(()) };
        let path = dir.join(OPTIMIZER);
        let mut views = Vec::new();
        for (name, values) in &state.arrays {
            let (dtype, bytes): (_, &[u8]) = match values {
                Values::F32(v) => (Dtype::F32, bytemuck::cast_slice(v)),
                Values::U8(v) => (Dtype::U8, v),
            };
            let shape = vec![bytes.len() * 8 / dtype.bitsize()];
            let view = TensorView::new(dtype, shape, bytes).map_err(|e| failed(&path, &e))?;
            views.push((name.clone(), view));
        }
        tensors::write(disk, &path, views, None)
    }

    /// What to say of a state that a later version wrote; `None` of any other.
    pub(super) fn newer_format(dir: &Path) -> Option<String> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let text = small_file::bytes(&dir.join(STATE), DESCRIPTION).ok()?;
        let Version { format } = serde_json::from_slice(&text).ok()?;
        let why = || format!("`{STATE}` has format {format}, this vft knows {FORMAT}");
        (format > FORMAT).then(why)
    }

    /// Reads the state of a checkpoint whose files are whole.
    ///
    /// # Errors
    /// When it is no state, or one of another version.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(STATE);
        let text = small_file::bytes(&path, DESCRIPTION)
            .map_err(|e| Problem::in_file(&path, format!("cannot be read: {e}")))?;
        let state: Self = serde_json::from_slice(&text).map_err(|e| {
            Problem::at(&path, e.line(), e.column(), format!("is no state of a run: {e}"))
        })?;
        if state.format != FORMAT {
            let message = format!("has format {}, this vft knows {FORMAT}", state.format);
            return Err(Problem::in_file(&path, message).into());
        }
        Ok(state)
    }

    /// Whether a checkpoint can be trained further.
    pub fn has_optimizer(dir: &Path) -> bool {
        dir.join(OPTIMIZER).is_file()
    }

    /// The optimizer's arrays; `None` where there are none.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn optimizer(&self, dir: &Path) -> Result<Option<State<'static>>> {
        let path = dir.join(OPTIMIZER);
        if !path.exists() {
            return Ok(None);
        }
        let broken =
            |e: &dyn std::fmt::Display| Problem::in_file(&path, format!("cannot be read: {e}"));
        let bytes = fs::read(&path).map_err(|e| broken(&e))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| broken(&e))?;
        let mut arrays = Vec::new();
        for (name, view) in tensors.tensors() {
            let values = match view.dtype() {
                Dtype::F32 => Values::F32(Cow::Owned(bytemuck::pod_collect_to_vec(view.data()))),
                Dtype::U8 => Values::U8(Cow::Owned(view.data().to_vec())),
                other => return Err(broken(&format!("`{name}` is {other:?}")).into()),
            };
            arrays.push((name, values));
        }
        Ok(Some(State { t: self.updates, arrays }))
    }
}
