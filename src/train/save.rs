//! A checkpoint of a run: the adapter, the tokenizer, the config that it came from.

use super::prepare::Run;
use crate::checkpoint::run_state::RunState;
use crate::checkpoint::{atomic, chat_template, find, manifest, peft};
use crate::config::RunConfig;
use crate::data::shipped::Shipped;
use crate::optim::state::State;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Writes `<out_dir>/<name>/`, in the place of one that is there; with the optimizer's state it can be taken up.
///
/// # Errors
/// When a file cannot be written or the device fails.
pub fn save(
    config: &RunConfig,
    run: &mut Run,
    name: &str,
    state: &RunState,
    optimizer: Option<&State>,
) -> Result<()> {
    run.arena.fetch_params()?;
    atomic::replace_dir(&config.out_dir.join(name), |dir| {
        let name = here(&config.checkpoint_dir);
        let base =
            peft::Base { name: &name.to_string_lossy(), revision: config.revision.as_deref() };
        let modules = run.decoder.spec.linear_paths();
        peft::write(dir, &run.arena, &run.lora, &run.paths, &modules, &base)?;
        atomic::copy_tokenizer(&run.model, dir)?;
        match &run.shipped {
            Shipped::Base => {}
            Shipped::Made(text) => chat_template::replace(dir, Some(text))?,
            Shipped::Nothing(_) => chat_template::replace(dir, None)?,
        }
        let file = dir.join("vft.yaml");
        let text = resolved(config, run).to_yaml();
        std::fs::write(&file, text).map_err(|e| atomic::io_problem(&file, &e))?;
        state.write(dir, optimizer)?;
        manifest::write(dir)?;
        Ok(())
    })
}

/// Removes the oldest checkpoints beyond `most`; the newest always stays.
pub fn rotate(out_dir: &Path, most: usize) {
    for (_, dir) in find::steps(out_dir).into_iter().skip(most.max(1)) {
        // What cannot be removed now gives way next time.
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// What the run really used, from wherever it is read again: absolute paths, the adapter's own numbers, the precision chosen.
pub fn resolved(config: &RunConfig, run: &Run) -> RunConfig {
    let mut config = config.clone();
    config.precision = run.precision;
    (config.lora.r, config.lora.alpha, config.lora.dropout) =
        (run.lora.r, run.lora.alpha, run.lora.dropout);
    for set in &mut config.data.sets {
        set.download_dir = absolute(&set.download_dir);
        for path in [set.path.as_mut(), set.val_path.as_mut()].into_iter().flatten() {
            *path = here(path);
        }
    }
    config.checkpoint_dir = here(&config.checkpoint_dir);
    config.out_dir = absolute(&config.out_dir);
    if let Some(path) = &mut config.adapter_path {
        *path = absolute(path);
    }
    config
}

/// A path from the root; what does not exist here is an id of the Hub and stays: PEFT and vLLM find it by that.
fn here(path: &Path) -> PathBuf {
    if path.exists() { absolute(path) } else { path.to_path_buf() }
}

fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    path.canonicalize().unwrap_or(path)
}
