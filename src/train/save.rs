//! A checkpoint of a run: the adapter, the tokenizer, the config that it came from.

use super::prepare::Run;
use crate::checkpoint::{atomic, peft};
use crate::config::RunConfig;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Writes `<out_dir>/<name>/`.
///
/// # Errors
/// When a file cannot be written or the device fails.
pub fn save(config: &RunConfig, run: &mut Run, name: &str) -> Result<()> {
    run.arena.fetch_params()?;
    let dir = config.out_dir.join(name);
    let base = absolute(&config.checkpoint_dir);
    let modules = run.decoder.spec.linear_paths();
    let resolved = resolved(config, run);
    atomic::write_dir(&dir, |dir| {
        peft::write(dir, &run.arena, &run.lora, &run.paths, &modules, &base.to_string_lossy())?;
        atomic::copy_tokenizer(&config.checkpoint_dir, dir)?;
        let file = dir.join("vft.yaml");
        std::fs::write(&file, resolved.to_yaml()).map_err(|e| atomic::io_problem(&file, &e))?;
        Ok(())
    })
}

/// What the run really used, from wherever it is read again: absolute paths, the adapter's own numbers, the precision chosen.
fn resolved(config: &RunConfig, run: &Run) -> RunConfig {
    let mut config = config.clone();
    config.precision = run.precision;
    (config.lora.r, config.lora.alpha, config.lora.dropout) =
        (run.lora.r, run.lora.alpha, run.lora.dropout);
    let sets = config.data.sets.iter_mut();
    let of_sets =
        sets.flat_map(|s| [s.path.as_mut(), s.val_path.as_mut(), Some(&mut s.download_dir)]);
    let others =
        [Some(&mut config.checkpoint_dir), Some(&mut config.out_dir), config.adapter_path.as_mut()];
    for path in of_sets.chain(others).flatten() {
        *path = absolute(path);
    }
    config
}

fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    path.canonicalize().unwrap_or(path)
}
