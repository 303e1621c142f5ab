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
    /// Bytes of each file.
    files: BTreeMap<String, u64>,
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
        let bytes = entry.metadata().map_err(|e| io_problem(dir, &e))?.len();
        files.insert(entry.file_name().to_string_lossy().into_owned(), bytes);
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

/// Whether `dir` is a merged model of this program.
pub fn is_merged(dir: &Path) -> bool {
    read(dir).is_some()
}

/// Whether `dir` is the merged model of `adapter` as it is now, all of whose files have their lengths.
pub fn is_of(dir: &Path, adapter: &Path, dequant: bool, tied_head: TiedHead) -> bool {
    let Some(made) = read(dir) else { return false };
    let base = if dequant { "dequant" } else { "original" };
    let has_length = |(name, bytes): (&String, &u64)| {
        dir.join(name).metadata().is_ok_and(|m| m.is_file() && m.len() == *bytes)
    };
    made.base_weights == base
        && made.tied_head == tied_head.to_string()
        && made.files.iter().all(has_length)
        && sha256(&adapter.join(WEIGHTS)).is_ok_and(|(sum, _)| sum == made.adapter_sha256)
}

fn read(dir: &Path) -> Option<Made> {
    let text = small_file::bytes(&dir.join(NAME), DESCRIPTION).ok()?;
    serde_json::from_slice(&text).ok()
}
