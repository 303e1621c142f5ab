//! A model that takes a while to load: the bundled one's tokenizer, more and wider layers, noise for weights.

use crate::common::ROOT;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::fs;
use std::path::Path;

/// Sizes of a model.
pub(crate) struct Shape {
    hidden: usize,
    wide: usize,
    layers: usize,
}

/// One whose steps, answers and weights take a while.
pub(crate) const LARGE: Shape = Shape { hidden: 256, wide: 1024, layers: 12 };

/// One of so many tensors that to look each up takes a while: mapped weights load at once.
pub(crate) const DEEP: Shape = Shape { hidden: 64, wide: 128, layers: 400 };

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

pub(crate) fn write(dir: &Path, shape: &Shape) {
    let Shape { hidden, wide, layers } = *shape;
    fs::create_dir_all(dir).unwrap();
    let from = Path::new(ROOT).join("configs/smoke/model");
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs::copy(from.join(name), dir.join(name)).unwrap();
    }
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    let sizes = [
        ("hidden_size", hidden),
        ("intermediate_size", wide),
        ("num_hidden_layers", layers),
        ("head_dim", hidden / 4),
    ];
    for (name, size) in sizes {
        config[name] = size.into();
    }
    let vocab = config["vocab_size"].as_u64().unwrap() as usize;
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        let of_layer = [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![hidden / 2, hidden]),
            ("self_attn.v_proj", vec![hidden / 2, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![wide, hidden]),
            ("mlp.up_proj", vec![wide, hidden]),
            ("mlp.down_proj", vec![hidden, wide]),
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
