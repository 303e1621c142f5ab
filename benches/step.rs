//! Forward and backward of a whole model, without the optimizer: `cargo bench --bench step`. Items per second are tokens per second.
//!
//! Two layers of SmolLM2-135M's shape, random weights, rank 8 on every linear layer, 2 x 256 tokens that are all trained. The vocabulary is
//! 4,096 tokens: beside two layers the whole one would be most of the step.
#![expect(clippy::unwrap_used, reason = "a bench ends where something fails")]

use candle_core::{DType, Device, Tensor};
use divan::Bencher;
use divan::counter::ItemsCount;
use std::collections::HashMap;
use std::path::Path;
use vft::adapters::LoraConfig;
use vft::model::Tokens;
use vft::model::decoder::{Labels, Training};
use vft::model::layer::{Keep, Keeping};
use vft::model::load::{Nf4, attach, load};
use vft::ops::Cx;
use vft::optim::Arena;

const C: usize = 576;
const F: usize = 1536;
const KV: usize = 192;
const V: usize = 4096;
const LAYERS: usize = 2;
const SEQUENCES: usize = 2;
const LENGTH: usize = 256;

fn main() {
    divan::main();
}

/// A Llama in `dir`, its weights in `dtype`.
fn write_model(dir: &Path, dtype: DType) {
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": {C}, "intermediate_size": {F}, "num_hidden_layers": {LAYERS}, "vocab_size": {V},
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "attention_bias": false,
        "mlp_bias": false, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": {LENGTH},
        "tie_word_embeddings": false}}"#
    );
    std::fs::write(dir.join("config.json"), config).unwrap();
    let mut all = HashMap::new();
    let mut add = |name: String, tensor: Tensor| all.insert(name, tensor.to_dtype(dtype).unwrap());
    let random = |rows, cols| Tensor::randn(0f32, 0.02, (rows, cols), &Device::Cpu).unwrap();
    let ones = || Tensor::ones(C, DType::F32, &Device::Cpu).unwrap();
    add("model.embed_tokens.weight".into(), random(V, C));
    add("lm_head.weight".into(), random(V, C));
    add("model.norm.weight".into(), ones());
    for i in 0..LAYERS {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("model.layers.{i}.{norm}.weight"), ones());
        }
        for (leaf, out, inp) in [
            ("self_attn.q_proj", C, C),
            ("self_attn.k_proj", KV, C),
            ("self_attn.v_proj", KV, C),
            ("self_attn.o_proj", C, C),
            ("mlp.gate_proj", F, C),
            ("mlp.up_proj", F, C),
            ("mlp.down_proj", C, F),
        ] {
            add(format!("model.layers.{i}.{leaf}.weight"), random(out, inp));
        }
    }
    candle_core::safetensors::save(&all, dir.join("model.safetensors")).unwrap();
}

/// Every position but the last of a sequence predicts the next token.
fn labels(ids: &[u32]) -> Labels {
    let mut labels = Labels::default();
    for i in (0..ids.len() - 1).filter(|i| i % LENGTH != LENGTH - 1) {
        labels.rows.push(i as u32);
        labels.targets.push(ids[i + 1]);
    }
    labels.coefficients = vec![1.0 / labels.rows.len() as f32; labels.rows.len()];
    labels
}

// A run takes a good part of a second: the 100 samples that are usual would be minutes.
#[divan::bench(sample_count = 20, args = [(DType::F32, "f32"), (DType::BF16, "bf16"), (DType::BF16, "nf4")])]
fn forward_backward(bencher: Bencher<'_, '_>, (dtype, base): (DType, &str)) {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), dtype);
    let cx = Cx::cpu(dtype, 0).unwrap();
    let quantize = (base == "nf4").then_some(Nf4::Single);
    let mut decoder = load(&cx, dir.path(), quantize).unwrap();
    let lora = LoraConfig { r: 8, alpha: 16.0, dropout: 0.0 };
    let mut paths = decoder.spec.linear_paths();
    paths.retain(|path| path != "lm_head");
    let mut arena = Arena::default();
    attach(&mut decoder, &mut arena, &lora, &paths, 1, None).unwrap();
    let rope = decoder.rope_table(&cx, LENGTH).unwrap();
    let ids: Vec<u32> = (0..SEQUENCES * LENGTH).map(|i| (i * 7919 % V) as u32).collect();
    let tokens = Tokens::new(ids.chunks(LENGTH).enumerate().map(|(i, ids)| (ids, i as u32)));
    let labels = labels(&ids);
    let how = Training { draw: None, keep: Keeping::all(Keep::All) };
    bencher.counter(ItemsCount::new(ids.len())).bench_local(|| {
        arena.zero_grads().unwrap();
        cx.install(|| decoder.train_pass(&cx, &mut arena, &rope, &tokens, &labels, how)).unwrap()
    });
}
