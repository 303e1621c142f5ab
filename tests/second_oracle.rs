//! The forward pass against candle-transformers' Llama: an oracle that shares no code with transformers or vft.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};
use std::path::Path;
use vft::model::Tokens;
use vft::model::load::load;
use vft::ops::Cx;
use vft::optim::Arena;

#[test]
fn llama_logits_of_the_last_token_are_candle_transformers() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/llama");
    let ids: Vec<u32> = (3..40).map(|i| i * 7 % 128).collect();

    // Its base falls back to 10000 where only the nested spelling is there; that is this fixture's base.
    let config: LlamaConfig =
        serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let config = config.into_config(false);
    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
    let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap();
    let mut cache = Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
    let input = Tensor::from_vec(ids.clone(), (1, ids.len()), &Device::Cpu).unwrap();
    let theirs = Llama::load(weights, &config).unwrap().forward(&input, 0, &mut cache).unwrap();
    let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();

    let cx = Cx::cpu(DType::F32, 1).unwrap();
    let decoder = load(&cx, &dir, None).unwrap();
    let tokens = Tokens::new([(ids.as_slice(), 0)]);
    let rope = decoder.rope_table(&cx, 64).unwrap();
    let ours = decoder.logits(&cx, &Arena::default(), &rope, &tokens).unwrap();
    let ours = &ours.f32().unwrap()[(ids.len() - 1) * 128..];
    let far: f32 = ours.iter().zip(&theirs).map(|(a, b)| (a - b).powi(2)).sum();
    let error = (far / theirs.iter().map(|b| b * b).sum::<f32>()).sqrt();
    assert!(error < 1e-5, "{error:e}");
}
