//! `vft_merge.json` beside merged weights: which adapter was folded into what, so that a merged model is known to be that of an adapter, and whole.

use super::{BaseWeights, MergeAsk};
use crate::checkpoint::atomic::io_problem;
use crate::checkpoint::manifest::sha256;
use crate::checkpoint::peft::WEIGHTS;
use crate::config::TiedHead;
use crate::error::{Problem, Result};
use crate::small_file::{self, DESCRIPTION};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Its name.
const NAME: &str = "vft_merge.json";

#[derive(Serialize, Deserialize)]
struct Made {
    vft: String,
    adapter_sha256: String,
    base_weights: String,
    tied_head: String,
    /// What was written.
    files: BTreeMap<String, File>,
}

#[derive(Serialize, Deserialize)]
struct File {
    bytes: u64,
    /// Of those that people may edit.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// The longest file whose contents are compared; weights are compared by their lengths.
const EDITABLE: u64 = 16 << 20;

/// A file as it is now; `None` where there is none.
fn file(path: &Path) -> Option<File> {
    let bytes = path.metadata().ok().filter(|m| m.is_file())?.len();
    let sum = || sha256(path).ok().map(|(sum, _)| sum);
    Some(File { bytes, sha256: if bytes <= EDITABLE { sum() } else { None } })
}

fn word(weights: BaseWeights) -> &'static str {
    match weights {
        BaseWeights::Original => "original",
        BaseWeights::Dequant { .. } => "dequant",
    }
}

/// Writes it into `dir`, after all other files.
pub(super) fn write(ask: &MergeAsk<'_>, dir: &Path) -> Result<()> {
    let weights = ask.adapter.join(WEIGHTS);
    let (adapter_sha256, _) =
        sha256(&weights).map_err(|e| Problem::in_file(&weights, format!("cannot be read: {e}")))?;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|e| io_problem(dir, &e))? {
        let entry = entry.map_err(|e| io_problem(dir, &e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.extend(file(&entry.path()).map(|file| (name, file)));
    }
    let made = Made {
        vft: env!("CARGO_PKG_VERSION").into(),
        adapter_sha256,
        base_weights: word(ask.base_weights).into(),
        tied_head: ask.tied_head.to_string(),
        files,
    };
    let path = dir.join(NAME);
    let text = serde_json::to_string_pretty(&made)
        .map_err(|e| Problem::in_file(&path, format!("cannot be written: {e}")))?;
    fs::write(&path, text + "\n").map_err(|e| io_problem(&path, &e))
}

/// Whether `dir` holds what a merge wrote, all of it and nothing else.
pub fn is_untouched(dir: &Path) -> bool {
    let Some(made) = read(dir) else { return false };
    let is_as_written = |(name, was): (&String, &File)| {
        file(&dir.join(name)).is_some_and(|is| is.bytes == was.bytes && is.sha256 == was.sha256)
    };
    let is_known = |entry: fs::DirEntry| {
        let name = entry.file_name();
        name == NAME || name.to_str().is_some_and(|name| made.files.contains_key(name))
    };
    made.files.iter().all(is_as_written)
        && fs::read_dir(dir).is_ok_and(|entries| entries.flatten().all(is_known))
}

/// Whether `dir` holds the weights of `adapter` as it is now, all of them in their lengths. What stands beside them may have been edited.
pub fn is_of(dir: &Path, adapter: &Path, dequant: bool, tied_head: TiedHead) -> bool {
    let Some(made) = read(dir) else { return false };
    let base = if dequant { "dequant" } else { "original" };
    let weights = made.files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
    let has_length = |(name, was): (&String, &File)| {
        dir.join(name).metadata().is_ok_and(|m| m.is_file() && m.len() == was.bytes)
    };
    made.base_weights == base
        && made.tied_head == tied_head.to_string()
        && weights.into_iter().all(has_length)
        && sha256(&adapter.join(WEIGHTS)).is_ok_and(|(sum, _)| sum == made.adapter_sha256)
}

fn read(dir: &Path) -> Option<Made> {
    let text = small_file::bytes(&dir.join(NAME), DESCRIPTION).ok()?;
    serde_json::from_slice(&text).ok()
}
