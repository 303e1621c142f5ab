//! The real binary with files that someone broke: adapters, tokenizers, weights.
use crate::common::*;
use std::process::{Command, Output};

/// An adapter of the bundled model, to be damaged.
fn adapter(home: &Home) -> String {
    home.smoke(&["--train.max_steps", "1"]);
    home.text("out/final")
}

fn answer(adapter: &str) -> Output {
    let model = "configs/smoke/model";
    vft(&["generate", "--base", model, "--adapter", adapter, "--prompt", "a", "--device", "cpu"])
}

fn with_setting(from: &str, to: &str) -> Output {
    let home = Home::new();
    let dir = adapter(&home);
    let file = home.path("out/final/adapter_config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from));
    std::fs::write(&file, text.replace(from, to)).unwrap();
    answer(&dir)
}

#[test]
fn an_adapter_on_a_changed_base_is_refused() {
    let output = with_setting("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"");
    assert_refused(&output, &["adapter_config.json", "`init_lora_weights` is \"pissa\""]);
}

#[test]
fn an_adapter_that_repeats_layers_is_refused() {
    let output = with_setting("\"layer_replication\": null", "\"layer_replication\": [[0, 2]]");
    assert_refused(&output, &["adapter_config.json", "`layer_replication`"]);
}

#[test]
fn an_adapter_without_tensors_is_refused() {
    let home = Home::new();
    let dir = adapter(&home);
    let mut empty = 2u64.to_le_bytes().to_vec();
    empty.extend(b"{}");
    std::fs::write(home.path("out/final/adapter_model.safetensors"), empty).unwrap();
    assert_refused(&answer(&dir), &["adapter_model.safetensors", "no adapter tensors"]);
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let home = Home::new();
    let dir = adapter(&home);
    let model = home.model();
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let wide = config.replace("\"intermediate_size\": 192", "\"intermediate_size\": 128");
    std::fs::write(model.join("config.json"), wide).unwrap();
    shrink(&model.join("model.safetensors"));
    let base = home.text("model");
    let output =
        vft(&["generate", "--base", &base, "--adapter", &dir, "--prompt", "a", "--device", "cpu"]);
    assert_refused(&output, &["out/final", "another base model"]);
}

/// Cuts every dimension of 192 to 128: the weights of a narrower model.
fn shrink(file: &std::path::Path) {
    let bytes = std::fs::read(file).unwrap();
    let views = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut parts = Vec::new();
    for (name, view) in views.tensors() {
        let shape: Vec<usize> =
            view.shape().iter().map(|n| if *n == 192 { 128 } else { *n }).collect();
        let bytes = shape.iter().product::<usize>() * 2;
        parts.push((name, shape, view.data()[..bytes].to_vec()));
    }
    let views = parts.iter().map(|(name, shape, data)| {
        let dtype = safetensors::Dtype::BF16;
        (name, safetensors::tensor::TensorView::new(dtype, shape.clone(), data).unwrap())
    });
    std::fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_missing_weight_file_is_named() {
    let home = Home::new();
    std::fs::remove_file(home.model().join("model.safetensors")).unwrap();
    let output = home.smoke(&["--checkpoint_dir", &home.text("model")]);
    assert_refused(&output, &["no model.safetensors", "safetensors weights"]);
}

#[test]
fn a_missing_shard_is_named() {
    let home = Home::new();
    let model = home.model();
    std::fs::remove_file(model.join("model.safetensors")).unwrap();
    let index = r#"{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}"#;
    std::fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    let output = home.smoke(&["--checkpoint_dir", &home.text("model")]);
    assert_refused(&output, &["model-00001-of-00002.safetensors"]);
}

#[test]
fn a_tokenizer_that_breaks_its_reader_is_refused() {
    let home = Home::new();
    let file = home.model().join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    json["normalizer"] = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    std::fs::write(&file, json.to_string()).unwrap();
    let output = home.smoke(&["--checkpoint_dir", &home.text("model")]);
    assert_refused(&output, &["tokenizer.json", "is no tokenizer"]);
}

#[test]
fn a_pipe_in_place_of_data_is_refused() {
    let home = Home::new();
    let pipe = home.text("rows.jsonl");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_refused(&home.smoke(&["--data.path", &pipe]), &["rows.jsonl", "no regular file"]);
}

#[test]
fn pipes_in_place_of_a_models_files_are_refused() {
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    ] {
        let home = Home::new();
        home.model();
        home.pipe(&format!("model/{name}"));
        let (model, out) = (home.text("model"), home.text("out"));
        let run = ["finetune", "--config", "configs/smoke.yml", "--out_dir", &out];
        let output = vft_in_time(&[&run[..], &["--checkpoint_dir", &model]].concat());
        assert_refused(&output, &[name, "no regular file"]);
    }
}

#[test]
fn pipes_in_place_of_an_adapters_files_are_refused() {
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let home = Home::new();
        let dir = adapter(&home);
        home.pipe(&format!("out/final/{name}"));
        let answer = ["generate", "--adapter", &dir, "--prompt", "a", "--device", "cpu"];
        assert_refused(&vft_in_time(&answer), &[name, "no regular file"]);
    }
}

#[test]
fn a_pipe_in_place_of_a_checkpoints_manifest_is_refused() {
    let home = Home::new();
    home.smoke(&["--train.max_steps", "2", "--train.save_interval", "1"]);
    home.pipe("out/step-00000001/manifest.json");
    let (out, step) = (home.text("again"), home.text("out/step-00000001"));
    let run = ["finetune", "--config", "configs/smoke.yml", "--out_dir", &out, "--resume", &step];
    assert_refused(&vft_in_time(&run), &["manifest.json", "no regular file"]);
}

#[test]
fn two_shapes_in_one_row_are_refused() {
    let home = Home::new();
    let row = r#"{"instruction": "a", "output": "b", "input_ids": [5], "labels": [5]}"#;
    let data = home.write("rows.jsonl", row);
    assert_refused(&home.smoke(&["--data.path", &data]), &["rows.jsonl:1", "more than one of"]);
}

#[test]
fn a_run_that_failed_before_its_first_step_leaves_the_place_free() {
    let home = Home::new();
    let data = home.write("rows.jsonl", r#"{"instruction": "a", "output": 7}"#);
    home.smoke(&["--data.path", &data]);
    let again = home.smoke(&["--train.max_steps", "1"]);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
}

#[test]
fn a_chat_template_that_doubles_a_text_without_end_is_refused() {
    let home = Home::new();
    let doubled = "{% set ns = namespace(x='0123456789') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
    std::fs::write(home.model().join("chat_template.jinja"), doubled).unwrap();
    let output = home.smoke(&["--checkpoint_dir", &home.text("model")]);
    assert_refused(&output, &["chat_template.jinja", "takes more memory than any of its kind"]);
}

#[test]
fn what_a_template_says_is_shown_and_not_obeyed() {
    let home = Home::new();
    let shout = "{{ raise_exception('boo \x1b[2J\x07\nerror: forged') }}";
    std::fs::write(home.model().join("chat_template.jinja"), shout).unwrap();
    let output = home.smoke(&["--checkpoint_dir", &home.text("model")]);
    assert_refused(&output, &[r"boo \u{1b}[2J\u{7}"]);
    let text = stderr(&output);
    assert!(!text.contains(['\x1b', '\x07']), "{text:?}");
    assert!(text.lines().all(|l| l != "error: forged"), "{text}");
}

#[test]
fn no_error_has_a_backtrace() {
    let output = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["generate", "--base", "configs/smoke/model", "--prompt", "a", "--device", "cpu"])
        .current_dir(ROOT)
        .envs([("RUST_BACKTRACE", "1"), ("VFT_CPU", "foo")])
        .output()
        .unwrap();
    assert_refused(&output, &["VFT_CPU"]);
    let text = stderr(&output);
    assert!(text.lines().count() < 4 && !text.contains("main.rs"), "{text}");
}
