//! A checkpoint of a run: the adapter, the tokenizer, the config that it came from.

use super::prepare::Run;
use crate::checkpoint::chat_template::Template;
use crate::checkpoint::disk::Real;
use crate::checkpoint::parts::Parts;
use crate::checkpoint::peft;
use crate::checkpoint::room::with_room;
use crate::checkpoint::run_state::RunState;
use crate::config::RunConfig;
use crate::data::shipped::Shipped;
use crate::optim::state::State;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Writes `<out_dir>/<name>/`, in the place of one that is there; with the optimizer's state it can be taken up. Where the disk is full, older
/// checkpoints give way if there is somebody to `tell`.
///
/// # Errors
/// When a file cannot be written or the device fails.
pub fn save(
    config: &RunConfig,
    run: &mut Run,
    name: &str,
    state: &RunState,
    optimizer: Option<&State<'_>>,
    tell: Option<&dyn Fn(&str)>,
) -> Result<()> {
    run.arena.fetch_params()?;
    let name_of_base = here(&config.checkpoint_dir);
    let base =
        peft::Base { name: &name_of_base.to_string_lossy(), revision: config.revision.as_deref() };
    let parts = Parts {
        arena: &run.arena,
        lora: &run.lora,
        paths: &run.paths,
        modules: &run.decoder.spec.linear_paths(),
        base: &base,
        tokenizer: &run.model,
        template: match &run.shipped {
            Shipped::Base => Template::OfTheTokenizer,
            Shipped::Made(text) => Template::Text(text),
            Shipped::Nothing(_) => Template::Nothing,
        },
        config: &resolved(config, run).to_yaml(),
        state,
        optimizer,
    };
    let place = config.out_dir.join(name);
    match tell {
        Some(tell) => with_room(&Real, &config.out_dir, tell, || parts.write(&Real, &place)),
        None => parts.write(&Real, &place),
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
