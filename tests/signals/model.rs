//! A model that takes a while to load: the bundled one's tokenizer, more and wider layers, noise for weights.

use crate::common::ROOT;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::fs;
use std::path::Path;

const HIDDEN: usize = 256;
const WIDE: usize = 1024;
const LAYERS: usize = 12;

/// bf16 noise within ±0.05.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut x = seed;
    let next = |_| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = ((x >> 8) as f32 / (1 << 24) as f32 - 0.5) * 0.1;
        ((value.to_bits() >> 16) as u16).to_le_bytes()
    };
    (0..len).flat_map(next).collect()
}

pub(crate) fn write(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let from = Path::new(ROOT).join("configs/smoke/model");
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs::copy(from.join(name), dir.join(name)).unwrap();
    }
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    let sizes = [
        ("hidden_size", HIDDEN),
        ("intermediate_size", WIDE),
        ("num_hidden_layers", LAYERS),
        ("head_dim", HIDDEN / 4),
    ];
    for (name, size) in sizes {
        config[name] = size.into();
    }
    let vocab = config["vocab_size"].as_u64().unwrap() as usize;
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let of_layer = [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![WIDE, HIDDEN]),
            ("mlp.up_proj", vec![WIDE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, WIDE]),
        ];
        let named = |(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape);
        shapes.extend(of_layer.map(named));
    }
    let one = half::bf16::ONE.to_le_bytes();
    let values = |(i, (name, shape)): (usize, &(String, Vec<usize>))| {
        let len = shape.iter().product();
        if name.contains("norm") { one.repeat(len) } else { noise(len, i as u32) }
    };
    let bytes: Vec<Vec<u8>> = shapes.iter().enumerate().map(values).collect();
    let tensors = shapes.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(tensors, None, &dir.join("model.safetensors")).unwrap();
}
