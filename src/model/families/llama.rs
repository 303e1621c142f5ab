//! Llama 2, 3, 3.1, 3.2, 3.3, TinyLlama, SmolLM2: transformers v5.23 `modeling_llama.py`.

use super::{Family, common};
use crate::model::DecoderSpec;

pub(super) const LLAMA: Family = Family {
    hf_name: "LlamaForCausalLM",
    models: "Llama 2 and 3.x, TinyLlama, SmolLM2",
    spec: |config| {
        Ok(DecoderSpec {
            qkv_bias: config.attention_bias,
            o_bias: config.attention_bias,
            mlp_bias: config.mlp_bias,
            ..common(config)?
        })
    },
};
