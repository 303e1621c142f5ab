//! Rotary frequencies of every rope type against transformers. Cases: `scripts/fixtures/rope.py`.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use serde_json::{Value, json};
use std::path::Path;
use vft::hub::config::HfConfig;
use vft::model::{families, rope};

fn cases() -> Vec<(String, Value)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rope/cases.json");
    let json: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    json["cases"].as_object().unwrap().clone().into_iter().collect()
}

fn ours(case: &Value) -> (Vec<f32>, f32) {
    let config = json!({"architectures": ["LlamaForCausalLM"], "vocab_size": 8, "hidden_size": 512, "intermediate_size": 128,
        "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 16384, "rope_parameters": case["rope_parameters"]});
    let config = HfConfig::parse(Path::new("config.json"), &config).unwrap();
    rope::frequencies(&families::spec(&config).unwrap())
}

#[test]
fn frequencies_are_transformers() {
    for (name, case) in cases() {
        let theirs: Vec<f32> = serde_json::from_value(case["inv_freq"].clone()).unwrap();
        let (freqs, _) = ours(&case);
        assert_eq!(freqs.len(), theirs.len(), "{name}");
        for (i, (a, b)) in freqs.iter().zip(&theirs).enumerate() {
            assert!((a / b - 1.0).abs() < 5e-7, "{name}[{i}]: {a} and {b}");
        }
    }
}

#[test]
fn attention_factors_are_transformers() {
    for (name, case) in cases() {
        let theirs = case["attention_factor"].as_f64().unwrap() as f32;
        assert_eq!(ours(&case).1, theirs, "{name}");
    }
}
