//! Which files of a model's repo are fetched: those that vft reads, and never code.
//!
//! Weights are `model.safetensors`, or the shards that `model.safetensors.index.json` lists; the same choice as
//! [`crate::hub::safetensors`] makes in a directory. Other weights in the repo (`consolidated.safetensors`, pickles, GGUF, ONNX) stay there.

use super::error::{HubError, Result};
use super::names::{check_file, shown};
use super::progress::Call;
use super::repo::{Listed, Listing, Remote};
use crate::error::Problem;
use crate::small_file;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Every model has these.
const NEEDED: &[&str] = &["config.json", "tokenizer.json"];

/// These come where they are there.
const WELCOME: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
    "chat_template.json",
];

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The longest index that is read.
const INDEX_BYTES: u64 = 16 << 20;

/// Fetches a model and returns the folder of its files.
pub(super) fn fetch(remote: &Remote<'_>, call: Call<'_>) -> Result<PathBuf> {
    let listing = remote.list(call)?;
    let weights = if listing.file(INDEX).is_some() {
        INDEX
    } else if listing.file(SINGLE).is_some() {
        SINGLE
    } else {
        return Err(no_weights(remote, &listing));
    };
    if listing.file("config.json").is_none() {
        return Err(Problem::new(format!("{} holds no config.json", remote.what()))
            .hint("a model in transformers' format has config.json beside its weights")
            .into());
    }
    let mut files: Vec<&Listed> = WELCOME.iter().filter_map(|name| listing.file(name)).collect();
    if weights == INDEX {
        let index: Vec<&Listed> = listing.file(INDEX).into_iter().collect();
        let paths = remote.bring(&listing.commit, &index, call)?;
        for path in &paths {
            for shard in shards(path)? {
                files.push(listing.file(&shard).ok_or_else(|| {
                    let message = format!(
                        "names the shard `{}`, which {} does not hold",
                        shown(&shard),
                        remote.what()
                    );
                    HubError::from(Problem::in_file(path, message))
                })?);
            }
        }
    } else {
        files.extend(listing.file(SINGLE));
    }
    remote.bring(&listing.commit, &files, call)?;
    remote.store.note_commit(&listing.commit)?;
    Ok(remote.store.snapshot(&listing.commit))
}

/// The folder of a model that the cache has whole.
pub(super) fn cached(remote: &Remote<'_>) -> Result<PathBuf> {
    let commit = remote.offline_commit()?;
    let has = |name: &str| remote.store.cached(&commit, name);
    let mut missing = Vec::new();
    for name in NEEDED {
        if has(name)?.is_none() {
            missing.push((*name).to_owned());
        }
    }
    if let Some(index) = has(INDEX)? {
        for shard in shards(&index)? {
            if has(&shard)?.is_none() {
                missing.push(shard);
            }
        }
    } else if has(SINGLE)?.is_none() {
        missing.push(SINGLE.to_owned());
    }
    if missing.is_empty() {
        Ok(remote.store.snapshot(&commit))
    } else {
        Err(remote.offline_lacks(&commit, &missing))
    }
}

fn no_weights(remote: &Remote<'_>, listing: &Listing) -> HubError {
    let any = |is: &dyn Fn(&str) -> bool| listing.files.iter().any(|f| is(&f.name));
    let what = remote.what();
    if any(&|n| n == "adapter_config.json") {
        return Problem::new(format!("{what} is an adapter, not a model"))
            .hint("its adapter_config.json names the base model: `base_model_name_or_path`")
            .into();
    }
    if any(&|n| n.starts_with("pytorch_model") && n.ends_with(".bin")) {
        return Problem::new(format!("{what} has pickled weights only (pytorch_model.bin), which can run code when they are read"))
            .hint(
                "use a revision or a copy of it with safetensors (look for `refs/pr/…` by SFconvertbot), or save it once with \
                 transformers: `AutoModelForCausalLM.from_pretrained(…).save_pretrained(DIR)`",
            )
            .into();
    }
    if any(&|n| n.ends_with(".gguf")) {
        return Problem::new(format!("{what} has GGUF weights only"))
            .hint("finetune the repo that they were made from, which has safetensors weights")
            .into();
    }
    Problem::new(format!("{what} holds neither {SINGLE} nor {INDEX}"))
        .hint("finetuning needs a model in transformers' format with safetensors weights")
        .into()
}

/// The shards that an index lists: plain file names with the extension of safetensors.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let fault = |why: String| HubError::from(Problem::in_file(index, why));
    let unread = |e: std::io::Error| fault(format!("cannot be read: {e}"));
    let text = small_file::bytes(index, INDEX_BYTES).map_err(unread)?;
    let json: Value = serde_json::from_slice(&text).map_err(|e| {
        HubError::from(Problem::at(index, e.line(), e.column(), format!("is no valid JSON: {e}")))
    })?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| fault("`weight_map` is missing".into()))?;
    let mut names = BTreeSet::new();
    for (tensor, name) in map {
        let name =
            name.as_str().ok_or_else(|| fault(format!("`{}` names no file", shown(tensor))))?;
        check_file(name).map_err(|p| p.found_in(index))?;
        if name.contains('/') || !name.ends_with(".safetensors") {
            return Err(fault(format!(
                "shard `{}` is no plain name of a safetensors file",
                shown(name)
            )));
        }
        names.insert(name.to_owned());
    }
    if names.is_empty() { Err(fault("lists no shards".into())) } else { Ok(names) }
}
