//! An adapter folded into full weights: M = W + s·B·A, a model directory that needs no adapter.
//!
//! W is the base as it lies on disk ([`BaseWeights::Original`]), or what a run with `quantize` computed with in its place
//! ([`BaseWeights::Dequant`]): Ŵ, the NF4 round trip of W, rounded to the run's compute dtype before and after. Training on NF4 fitted
//! B·A to Ŵ, so Ŵ + s·B·A is the model that was trained, but for one rounding; W + s·B·A adds the quantisation's error W − Ŵ, which
//! the adapter never saw, and which may help or hurt: [`verify`] measures it. Embeddings, norms and the head are never quantised, so
//! they are W in both.
//!
//! Sums are f32 and cast once to the dtype that the base's file has. B·A is summed over the rank in ascending order, scaled, then
//! added, as PEFT's `get_delta_weight` and `merge` do; results that are not finite are refused, as by its `safe_merge` (which rounds
//! the product before it adds it: one rounding more than here).
//!
//! Tensors go one by one from mapped files into the new ones, 2 MiB of f32 at a time; `dequant` needs one linear in f32 and its codes
//! besides. What is held beside the adapter's factors, measured with a 360M shape in bf16 (its largest tensor, the embedding, has
//! 90 MiB, its largest linear 4.7 MiB): 10 MiB, with `dequant` 20 MiB.
//!
//! PEFT 0.21 `tuners/lora/layer.py` · safetensors' format · the Hub's index of shards, huggingface_hub `serialization/_base.py`

mod files;
mod fold;
pub mod made;
mod plan;
mod shards;
pub mod verify;

use crate::checkpoint::disk::Real;
use crate::checkpoint::{atomic, peft};
pub use crate::config::TiedHead;
use crate::error::{Problem, Result as UserResult, UserError};
use crate::hub::remote::is_repo_id;
use crate::model::load::Nf4;
use anyhow::Result;
use candle_core::DType;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a shard if nothing else is asked for: 5 GB.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// What the adapter is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseWeights {
    /// The weights as they lie in the base's files.
    Original,
    /// The linears that training quantises after their NF4 round trip.
    Dequant {
        /// With f32 scales or with nested ones, as in training.
        nf4: Nf4,
        /// The dtype that the run computed in.
        compute: DType,
    },
}

/// What to merge, and how.
#[derive(Clone, Copy)]
pub struct MergeAsk<'a> {
    /// Hugging Face directory of the base.
    pub base: &'a Path,
    /// PEFT directory of the adapter.
    pub adapter: &'a Path,
    /// The directory to be made.
    pub out: &'a Path,
    /// Whether it takes the place of one that is there; else there must be none.
    pub replace: bool,
    /// What the adapter is added to.
    pub base_weights: BaseWeights,
    /// What becomes of an adapter on a tied head.
    pub tied_head: TiedHead,
    /// Bytes of tensors in one file at most; a larger tensor has a file of its own.
    pub shard_bytes: u64,
    /// Set by a signal: the merge ends with an error and leaves nothing.
    pub stop: &'a AtomicBool,
}

/// What a merge wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeReport {
    /// The files with tensors.
    pub files: Vec<String>,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Tensors written.
    pub tensors: usize,
    /// Linears with the adapter folded in.
    pub adapted: usize,
    /// Linears that went through NF4, adapted or not.
    pub round_trips: usize,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Merges: `out` appears whole, or not at all.
///
/// # Errors
/// When the base, the adapter or the disk is not as a merge needs it, when a merged value is not finite, or when `stop` was set.
pub fn merge(ask: &MergeAsk<'_>) -> Result<MergeReport> {
    let out = std::path::absolute(ask.out)?;
    if out.exists() && !ask.replace {
        let hint = "choose another `--out`, or move this one away; nothing in it was changed";
        return Err(user(Problem::in_file(ask.out, "exists already").hint(hint)));
    }
    let adapter = peft::read(ask.adapter)?;
    let plan = plan::Plan::new(ask.base, ask.adapter, adapter, ask.base_weights, ask.tied_head)?;
    enough_space(&out, plan.bytes())?;
    let parents = missing_parents(&out);
    let mut written = Vec::new();
    atomic::clear_dead(&Real, &out);
    let done = atomic::replace_dir(&Real, &out, |dir| {
        written = shards::write(dir, &plan.pieces, ask.shard_bytes, ask.stop)?;
        files::write(ask.base, ask.adapter, dir, plan.untied)?;
        made::write(ask, dir)?;
        proceed(ask.stop)
    });
    if let Err(error) = done {
        for dir in parents {
            // Only what is empty goes away.
            let _ = std::fs::remove_dir(dir);
        }
        return Err(error);
    }
    Ok(MergeReport {
        files: written,
        bytes: plan.bytes(),
        tensors: plan.pieces.len(),
        adapted: plan.pieces.iter().filter(|p| p.low_rank.is_some()).count(),
        round_trips: plan.pieces.iter().filter(|p| p.nf4.is_some()).count(),
        notes: plan.notes,
    })
}

/// The base that an adapter names, a directory here or an id on the Hub, and its revision there.
///
/// # Errors
/// When the adapter names none, or one that is not here.
pub fn base_of(adapter: &Path) -> UserResult<(PathBuf, Option<String>)> {
    let path = adapter.join("adapter_config.json");
    let json = files::json(&path)?;
    let hint = "give the base model's directory as `--base DIR`";
    let text = |key: &str| json.get(key)?.as_str().filter(|text| !text.is_empty());
    let Some(name) = text("base_model_name_or_path") else {
        return Err(Problem::in_file(path, "names no base model").hint(hint).into());
    };
    if !Path::new(name).is_dir() && !is_repo_id(name) {
        let message = format!("the base `{name}` is no directory here and no model on the Hub");
        return Err(Problem::in_file(path, message).hint(hint).into());
    }
    Ok((name.into(), text("revision").map(str::to_owned)))
}

fn user(problem: Problem) -> anyhow::Error {
    UserError::from(problem).into()
}

fn proceed(stop: &AtomicBool) -> Result<()> {
    anyhow::ensure!(!stop.load(Ordering::Relaxed), "stopped by a signal; nothing was written");
    Ok(())
}

/// The directories above `out` that are not there, the deepest first.
fn missing_parents(out: &Path) -> Vec<&Path> {
    out.ancestors().skip(1).take_while(|dir| !dir.exists()).collect()
}

/// Bytes beside the tensors: headers, tokenizer, the file system's own.
pub const BESIDES: u64 = 64 << 20;

/// Refuses to begin what the disk cannot hold.
fn enough_space(out: &Path, bytes: u64) -> Result<()> {
    let Some(there) = out.ancestors().skip(1).find(|dir| dir.exists()) else { return Ok(()) };
    // A file system that does not tell is no reason to stop: writing finds out.
    let Ok(free) = fs4::available_space(there) else { return Ok(()) };
    let needed = bytes.saturating_add(BESIDES);
    if needed <= free {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let message =
        format!("the merged model may take {} MiB, and {} MiB are free", mib(needed), free >> 20);
    let problem = Problem::in_file(there, message).hint("free some, or choose another `--out`");
    Err(io::Error::new(io::ErrorKind::StorageFull, UserError::from(problem)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_larger_than_the_disk_is_refused_as_a_full_disk() {
        let home = tempfile::tempdir().unwrap();
        let error = enough_space(&home.path().join("a/b"), u64::MAX / 2).unwrap_err();
        let io = error.downcast_ref::<io::Error>().unwrap();
        assert_eq!(io.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn only_parents_that_are_not_there_count_as_made() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("a/b/c");
        assert_eq!(missing_parents(&out), [home.path().join("a/b"), home.path().join("a")]);
    }
}
