//! The table of families: one file and one line each.

mod llama;
mod mistral;
mod qwen2;

use super::DecoderSpec;
use crate::error::{Problem, Result};
use crate::hub::config::HfConfig;

/// One architecture: its name in `config.json` and how its config becomes a spec.
pub struct Family {
    /// The entry of `architectures`.
    pub hf_name: &'static str,
    /// Models of this family that people know.
    pub models: &'static str,
    /// Reads the spec.
    pub spec: fn(&HfConfig) -> Result<DecoderSpec>,
}

/// Every supported family.
pub const FAMILIES: &[Family] = &[llama::LLAMA, mistral::MISTRAL, qwen2::QWEN2];

/// The spec of the model that `config` describes.
///
/// # Errors
/// When the architecture is not supported or its config holds something that is not.
pub fn spec(config: &HfConfig) -> Result<DecoderSpec> {
    let name = config.architecture.as_str();
    if let Some(family) = FAMILIES.iter().find(|f| f.hf_name == name) {
        return (family.spec)(config);
    }
    let works: Vec<_> = FAMILIES.iter().map(|f| format!("{} ({})", f.hf_name, f.models)).collect();
    let message = format!("architecture `{name}` is not supported");
    let problem = Problem::in_file(&config.path, message);
    let why = if config.has_code {
        "its repository brings code of its own (`auto_map`), and no code of a repository is run; "
    } else {
        ""
    };
    Err(problem.hint(format!("{why}supported are {}", works.join(", "))).into())
}

/// What all families share; each family file changes what differs.
fn common(config: &HfConfig) -> Result<DecoderSpec> {
    if config.hidden_act != "silu" {
        let message = format!("`hidden_act` is `{}`; this family uses `silu`", config.hidden_act);
        return Err(Problem::in_file(&config.path, message).into());
    }
    Ok(DecoderSpec {
        vocab: config.vocab_size,
        hidden: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_size: config.head_dim,
        ffn: config.intermediate_size,
        norm_eps: config.rms_norm_eps as f32,
        rope_theta: config.rope_theta,
        rope_scaling: config.rope_scaling.clone(),
        sliding_window: None,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        tied_head: config.tie_word_embeddings,
        context: config.max_position_embeddings,
    })
}
