//! Mistral 7B: Llama with a sliding window on every layer; transformers v5.23 `modeling_mistral.py`.

use super::{Family, common};
use crate::model::DecoderSpec;

pub(super) const MISTRAL: Family = Family {
    hf_name: "MistralForCausalLM",
    models: "Mistral 7B",
    spec: |config| Ok(DecoderSpec { sliding_window: config.sliding_window, ..common(config)? }),
};
