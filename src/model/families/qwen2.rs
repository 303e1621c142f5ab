//! Qwen2 and Qwen2.5: Llama with biases on q, k and v; transformers v5.23 `modeling_qwen2.py`.

use super::{Family, common};
use crate::error::Problem;
use crate::model::DecoderSpec;

pub(super) const QWEN2: Family = Family {
    hf_name: "Qwen2ForCausalLM",
    models: "Qwen2, Qwen2.5",
    spec: |config| {
        if config.sliding_window.is_some() {
            let message = "`use_sliding_window: true` is not supported for Qwen2";
            let hint = "released Qwen2 and Qwen2.5 models have it false; set it so if yours does not need it";
            return Err(Problem::in_file(&config.path, message).hint(hint).into());
        }
        Ok(DecoderSpec { qkv_bias: true, ..common(config)? })
    },
};
