//! What a merged directory holds: heads, shards, config.

use crate::common::*;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use vft::hub::safetensors::Checkpoint;
use vft::merge::{MergeAsk, TiedHead};

const EXTRA: &str = "model.layers.0.self_attn.rotary_emb.inv_freq";

#[test]
fn tensors_that_no_model_knows_are_copied() {
    let (_home, ours) = merged("untied", "adapter", |_| ());
    let base = Checkpoint::open(&fixture("untied")).unwrap();
    assert_eq!(ours.tensor(EXTRA).unwrap().bytes(), base.tensor(EXTRA).unwrap().bytes());
}

#[test]
fn a_tied_head_with_an_adapter_becomes_its_own() {
    let (home, ours) = merged("tied", "adapter-head", |_| ());
    assert_near(&ours, &expected("tied", "head"), 1e-6);
    assert_eq!(config(&home.out())["tie_word_embeddings"], false);
    let base = Checkpoint::open(&fixture("tied")).unwrap();
    let embedding = "model.embed_tokens.weight";
    assert_eq!(ours.tensor(embedding).unwrap().bytes(), base.tensor(embedding).unwrap().bytes());
}

#[test]
fn a_dropped_head_stays_tied_and_is_told() {
    let home = Home::new();
    let base = fixture("tied");
    let drop = |ask: &mut MergeAsk<'_>| ask.tied_head = TiedHead::Drop;
    let report = merge_with(&home.out(), &base, &base.join("adapter-head"), drop).unwrap();
    assert!(report.notes[0].contains("its adapter is left out"), "{:?}", report.notes);
    let ours = Checkpoint::open(&home.out()).unwrap();
    assert!(ours.tensor("lm_head.weight").is_none());
    assert_eq!(config(&home.out())["tie_word_embeddings"], true);
}

#[test]
fn an_adapted_tied_head_can_be_an_error() {
    let home = Home::new();
    let base = fixture("tied");
    let error = |ask: &mut MergeAsk<'_>| ask.tied_head = TiedHead::Error;
    let error = merge_with(&home.out(), &base, &base.join("adapter-head"), error).unwrap_err();
    assert!(error.to_string().contains("`--tied-head untie`"), "{error}");
}

#[test]
fn a_tied_model_without_an_adapted_head_never_meets_the_rule() {
    let (_home, ours) = merged("tied", "adapter", |ask| ask.tied_head = TiedHead::Error);
    assert!(ours.tensor("lm_head.weight").is_none());
}

#[test]
fn small_shards_hold_the_same_tensors() {
    let limit = 6_000;
    let (whole, one) = merged("untied", "adapter", |_| ());
    let (home, many) = merged("untied", "adapter", |ask| ask.shard_bytes = limit);
    assert!(whole.out().join("model.safetensors").is_file());
    assert_eq!(names(&one), names(&many));
    for name in one.names() {
        assert_eq!(one.tensor(name).unwrap().bytes(), many.tensor(name).unwrap().bytes(), "{name}");
    }
    let text = fs::read_to_string(home.out().join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_str(&text).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    let mut bytes = BTreeMap::<PathBuf, u64>::new();
    for name in many.names() {
        let tensor = many.tensor(name).unwrap();
        assert_eq!(tensor.file, home.out().join(map[name].as_str().unwrap()), "{name}");
        *bytes.entry(tensor.file.clone()).or_default() += tensor.bytes().len() as u64;
    }
    assert_eq!(map.len(), names(&many).len());
    assert_eq!(index["metadata"]["total_size"], bytes.values().sum::<u64>());
    assert!(bytes.values().all(|b| *b <= limit), "{bytes:?}");
    let first = format!("model-00001-of-{:05}.safetensors", bytes.len());
    assert!(bytes.contains_key(&home.out().join(first)));
}

#[test]
fn files_say_that_they_are_pytorchs() {
    let (home, _) = merged("untied", "adapter", |_| ());
    let bytes = fs::read(home.out().join("model.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn the_config_is_kept_but_for_what_is_no_longer_true() {
    let home = Home::new();
    let base = home.path("base");
    fs::create_dir(&base).unwrap();
    for name in ["model.safetensors", "generation_config.json"] {
        fs::copy(fixture("tied").join(name), base.join(name)).unwrap();
    }
    let mut before = config(&fixture("tied"));
    before["quantization_config"] = Value::Null;
    before["of_mine"] = json!({"kept": [1, 2.5e-5]});
    fs::write(base.join("config.json"), before.to_string()).unwrap();
    merge_with(&home.out(), &base, &fixture("tied/adapter-head"), |_| ()).unwrap();
    let mut after = config(&home.out());
    assert!(after.as_object_mut().unwrap().get("quantization_config").is_none());
    after["tie_word_embeddings"] = json!(true);
    before.as_object_mut().unwrap().remove("quantization_config");
    assert_eq!(after, before);
    let generation = |dir: &Path| fs::read(dir.join("generation_config.json")).unwrap();
    assert_eq!(generation(&home.out()), generation(&base));
}
