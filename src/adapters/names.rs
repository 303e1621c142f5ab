//! The names of adapter tensors in PEFT's files: `base_model.model.<module>.lora_A.weight` and `.lora_B.weight`.
//!
//! PEFT leaves the adapter's own name out of the file; with it (`lora_A.default.weight`) other PEFT versions load nothing.

const PREFIX: &str = "base_model.model.";

/// The keys of a module's A and B.
pub fn peft_keys(path: &str) -> (String, String) {
    (format!("{PREFIX}{path}.lora_A.weight"), format!("{PREFIX}{path}.lora_B.weight"))
}

/// The module of a key, and whether the key names B; `None` for any other key.
pub fn module_of(key: &str) -> Option<(&str, bool)> {
    let rest = key.strip_prefix(PREFIX)?;
    let a = rest.strip_suffix(".lora_A.weight").map(|m| (m, false));
    a.or_else(|| rest.strip_suffix(".lora_B.weight").map(|m| (m, true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_pefts() {
        assert_eq!(
            peft_keys("model.layers.0.self_attn.q_proj").0,
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        );
    }

    #[test]
    fn a_key_gives_its_module_back() {
        assert_eq!(module_of(&peft_keys("lm_head").1), Some(("lm_head", true)));
    }
}
