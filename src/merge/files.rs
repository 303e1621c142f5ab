//! What stands beside the weights of a merged model: `config.json`, `generation_config.json`, the tokenizer with its chat template.

use crate::checkpoint::atomic::{copy_tokenizer, io_problem};
use crate::checkpoint::disk::Real;
use crate::error::{Problem, Result};
use crate::small_file::{self, DESCRIPTION};
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

/// Writes them into `to`; `untied` says that the head is no longer the embedding.
pub(super) fn write(base: &Path, adapter: &Path, to: &Path, untied: bool) -> Result<()> {
    let mut config = json(&base.join(CONFIG))?;
    config.remove("quantization_config");
    if untied {
        config.insert("tie_word_embeddings".into(), Value::Bool(false));
    }
    let file = to.join(CONFIG);
    let text = format!("{:#}\n", Value::Object(config));
    fs::write(&file, text).map_err(|e| io_problem(&file, &e))?;
    if base.join(GENERATION).is_file() {
        let file = to.join(GENERATION);
        fs::copy(base.join(GENERATION), &file).map_err(|e| io_problem(&file, &e))?;
    }
    // The adapter was trained with the tokenizer and the chat template that lie beside it. Those of two directories are not mixed:
    // a chat template of one would stand above that of the other.
    let own = adapter.join("tokenizer.json").is_file();
    copy_tokenizer(&Real, if own { adapter } else { base }, to)
}

/// A file that holds one JSON object.
pub(super) fn json(path: &Path) -> Result<Map<String, Value>> {
    let text = small_file::text(path, DESCRIPTION)
        .map_err(|e| Problem::in_file(path, format!("cannot be read: {e}")))?;
    serde_json::from_str(&text).map_err(|e| {
        Problem::at(path, e.line(), e.column(), format!("is no valid JSON: {e}")).into()
    })
}
