//! The real binary: a whole run, and how it meets bad input.

use crate::common::*;
use std::path::Path;
use std::process::{Command, Output};

fn losses(home: &Home) -> Vec<f64> {
    let text = std::fs::read_to_string(home.path("out/metrics.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    lines.filter_map(|v| v["loss"].as_f64()).collect()
}

#[test]
fn the_smoke_run_learns_and_answers_held_out_rows() {
    let home = Home::new();
    let output = home.smoke(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let losses = losses(&home);
    assert!(losses[losses.len() - 1] < losses[0] / 2.0, "{losses:?}");
    let held =
        std::fs::read_to_string(Path::new(ROOT).join("configs/smoke/heldout.jsonl")).unwrap();
    for line in held.lines().take(5) {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let prompt =
            format!("{}\n{}", row["instruction"].as_str().unwrap(), row["input"].as_str().unwrap());
        let adapter = home.text("out/final");
        let answer = vft(&[
            "generate",
            "--base",
            "configs/smoke/model",
            "--adapter",
            &adapter,
            "--precision",
            "32-true",
            "--prompt",
            &prompt,
        ]);
        assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), row["output"].as_str().unwrap());
    }
}

#[test]
fn one_seed_gives_one_adapter_for_any_number_of_threads() {
    let adapter = |threads: &str| {
        let home = Home::new();
        let run = home.smoke(&[
            "--train.max_steps",
            "6",
            "--lora_dropout",
            "0.1",
            "--quantize",
            "bnb.nf4-dq",
            "--threads",
            threads,
        ]);
        assert_eq!(run.status.code(), Some(0), "{}", stderr(&run));
        std::fs::read(home.path("out/final/adapter_model.safetensors")).unwrap()
    };
    let one = adapter("1");
    for threads in ["2", "3"] {
        assert!(adapter(threads) == one, "{threads} threads gave another adapter");
    }
}

#[test]
fn metrics_have_one_line_a_step_with_every_key() {
    let home = Home::new();
    home.smoke(&[
        "--train.max_steps",
        "3",
        "--train.log_interval",
        "2",
        "--eval.initial_validation",
        "false",
    ]);
    let text = std::fs::read_to_string(home.path("out/metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let keys: Vec<_> = lines[0].as_object().unwrap().keys().cloned().collect();
    let want = [
        "step",
        "epoch",
        "lr",
        "loss",
        "grad_norm",
        "tokens",
        "target_tokens",
        "tokens_per_s",
        "elapsed_s",
        "peak_mem_bytes",
    ];
    assert_eq!(keys, want);
    assert_eq!(lines.iter().filter(|l| l.get("loss").is_some()).count(), 3);
}

#[test]
fn the_saved_config_reads_back_as_itself() {
    let home = Home::new();
    home.smoke(&["--train.max_steps", "1"]);
    let saved = home.text("out/final/vft.yaml");
    let again = vft(&["finetune", "--config", &saved, "--print_config"]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), std::fs::read_to_string(saved).unwrap());
}

#[test]
fn the_config_of_a_run_from_an_adapter_runs_again_from_anywhere() {
    let (first, second) = (Home::new(), Home::new());
    first.smoke(&["--train.max_steps", "1"]);
    let config = std::fs::read_to_string(Path::new(ROOT).join("configs/smoke.yml")).unwrap();
    let kept = config.lines().filter(|l| !l.starts_with("lora_"));
    let text: String = kept.map(|l| format!("{l}\n")).collect();
    let file = second.write("run.yml", &text.replace("smoke/", &format!("{ROOT}/configs/smoke/")));
    let (adapter, out) = (first.text("out/final"), second.text("out"));
    let steps = ["--train.max_steps", "1"];
    let from = ["finetune", "--config", &file, "--adapter_path", &adapter, "--out_dir", &out];
    assert_eq!(vft(&[&from[..], &steps].concat()).status.code(), Some(0));
    let again = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "--config", "out/final/vft.yaml", "--out_dir", "again"])
        .current_dir(second.path("."))
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
}

#[test]
fn an_adapter_can_be_trained_further() {
    let home = Home::new();
    home.smoke(&["--train.max_steps", "20"]);
    let first = losses(&home);
    let second = Home::new();
    let adapter = home.text("out/final");
    let config = std::fs::read_to_string(Path::new(ROOT).join("configs/smoke.yml")).unwrap();
    let kept: String =
        config.lines().filter(|l| !l.starts_with("lora_")).map(|l| format!("{l}\n")).collect();
    let file = second.write("run.yml", &kept.replace("smoke/", &format!("{ROOT}/configs/smoke/")));
    let output = vft(&[
        "finetune",
        "--config",
        &file,
        "--adapter_path",
        &adapter,
        "--out_dir",
        &second.text("out"),
        "--train.max_steps",
        "2",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(losses(&second)[0] < first[0] / 5.0, "{:?} after {first:?}", losses(&second));
}

/// A config with an adapter to start from, and one line more.
fn from_adapter(line: &str) -> Output {
    let home = Home::new();
    home.smoke(&["--train.max_steps", "1"]);
    let config = std::fs::read_to_string(Path::new(ROOT).join("configs/smoke.yml")).unwrap();
    let kept = config.lines().filter(|l| !l.starts_with("lora_"));
    let text: String = kept.map(|l| format!("{l}\n")).collect();
    let file = home.write("run.yml", &format!("{text}{line}\n"));
    let (adapter, out) = (home.text("out/final"), home.text("again"));
    let data = format!("{ROOT}/configs/smoke/data.jsonl");
    vft(&[
        "finetune",
        "--config",
        &file,
        "--adapter_path",
        &adapter,
        "--out_dir",
        &out,
        "--checkpoint_dir",
        "configs/smoke/model",
        "--data.path",
        &data,
        "--train.max_steps",
        "1",
    ])
}

#[test]
fn an_adapter_and_a_choice_of_modules_exclude_each_other() {
    let output = from_adapter("lora_mlp: true");
    assert_refused(
        &output,
        &["run.yml:", "`lora_mlp`", "cannot be set together with `adapter_path`"],
    );
}

#[test]
fn an_adapter_of_another_rank_is_refused() {
    assert_refused(&from_adapter("lora_r: 3"), &["run.yml:", "`lora_r`", "remove the key"]);
}

#[test]
fn pre_tokenised_rows_are_taken_verbatim() {
    let home = Home::new();
    let row = r#"{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]}"#;
    let data = home.write("data.jsonl", &format!("{row}\n{row}\n"));
    home.smoke(&["--data.path", &data, "--data.val_split_fraction", "0", "--train.max_steps", "1"]);
    let text = std::fs::read_to_string(home.path("out/metrics.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((first["tokens"].as_u64(), first["target_tokens"].as_u64()), (Some(8), Some(4)));
}

// Config

#[test]
fn an_unknown_key_is_placed_with_a_hint() {
    let home = Home::new();
    let file = home.write("x.yml", "checkpoint_dir: a\nlora_rank: 8\n");
    assert_refused(
        &vft(&["finetune", "--config", &file]),
        &["x.yml:2:1: unknown key `lora_rank`", "did you mean `lora_r`?"],
    );
}

#[test]
fn all_problems_of_a_config_are_told_at_once() {
    let home = Home::new();
    let file = home
        .write("x.yml", "lora_r: 5.0\ntrain:\n  epochz: 1\n  learning_rate: 1\nprecision: fp8\n");
    let parts = [
        "x.yml:1:1: `lora_r`: `5.0` is no whole number; write `5`",
        "x.yml:3:3",
        "optimizer.init_args.lr",
        "`fp8`",
        "`checkpoint_dir` is missing",
    ];
    assert_refused(&vft(&["finetune", "--config", &file]), &parts);
}

#[test]
fn a_missing_config_is_named() {
    assert_refused(
        &vft(&["finetune", "--config", "no/such.yml"]),
        &["no/such.yml", "cannot be read"],
    );
}

#[test]
fn an_empty_config_is_refused() {
    let home = Home::new();
    assert_refused(
        &vft(&["finetune", "--config", &home.write("x.yml", "")]),
        &["x.yml", "is empty"],
    );
}

#[test]
fn an_unknown_flag_has_a_hint() {
    assert_refused(
        &Home::new().smoke(&["--train.max_step", "3"]),
        &["did you mean `train.max_steps`?"],
    );
}

#[test]
fn diagnostics_come_when_they_are_asked_for() {
    let home = Home::new();
    let output = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "--config", "configs/smoke.yml", "--train.max_steps", "1"])
        .args(["--out_dir", &home.text("out")])
        .env("VFT_LOG", "vft::train=debug")
        .current_dir(ROOT)
        .output()
        .unwrap();
    let text = stderr(&output);
    assert!(text.contains("DEBUG") && text.contains("weights ready"), "{text}");
}

#[test]
fn an_unknown_choice_of_products_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["selftest", "--device", "cpu", "--quick"])
        .env("VFT_CPU", "sse9")
        .output()
        .unwrap();
    let text = stderr(&output);
    assert!(output.status.code() == Some(2) && text.contains("VFT_CPU=sse9"), "{text}");
}

#[test]
fn too_many_threads_are_refused() {
    let output = Home::new().smoke(&["--threads", "100000"]);
    assert_refused(&output, &["`--threads`: 100000 is more than 1024"]);
}

#[test]
fn f16_needs_cuda() {
    for (f16, instead) in [("16-true", "bf16-true"), ("16-mixed", "bf16-mixed")] {
        let output = Home::new().smoke(&["--device", "cpu", "--precision", f16]);
        let refusal = format!("`precision: {f16}` needs a CUDA device");
        assert_refused(&output, &[&refusal, instead]);
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_so() {
    assert_refused(
        &Home::new().smoke(&["--device", "cuda"]),
        &["this vft was built without CUDA", "--features cuda"],
    );
}

#[test]
fn an_unknown_device_is_refused() {
    let output = Home::new().smoke(&["--device", "tpu"]);
    assert_refused(&output, &["`device`: `tpu` is no device", "cuda:1"]);
}

#[test]
fn selftest_passes_on_the_cpu() {
    let output = vft(&["selftest", "--device", "cpu", "--quick"]);
    let table = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert!(table.contains("verdict: this device computes what it should"), "{table}");
}

#[test]
fn a_whole_block_can_be_set_on_the_command_line() {
    let data = "{class_path: JSON, init_args: {path: configs/smoke/data.jsonl, mask_prompt: true}}";
    let output = vft(&[
        "finetune",
        "--checkpoint_dir",
        "configs/smoke/model",
        "--data",
        data,
        "--train",
        "{epochs: 2, max_norm: 0.5}",
        "--print_config",
    ]);
    let text = String::from_utf8_lossy(&output.stdout);
    for line in ["train_on: assistant", "epochs: 2", "max_norm: 0.5"] {
        assert!(text.contains(line), "`{line}` is not in:\n{text}{}", stderr(&output));
    }
}

// Model

#[test]
fn a_missing_model_names_the_key_and_place() {
    let output = Home::new().smoke(&["--checkpoint_dir", "no/model"]);
    assert_refused(&output, &["`checkpoint_dir`", "no/model"]);
}

#[test]
fn truncated_weights_are_refused() {
    let home = Home::new();
    let file = home.model().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    assert_refused(
        &home.smoke(&["--checkpoint_dir", &home.text("model")]),
        &["model.safetensors", "no intact safetensors file"],
    );
}

#[test]
fn a_lying_header_is_refused() {
    let home = Home::new();
    let file = home.model().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    assert_refused(
        &home.smoke(&["--checkpoint_dir", &home.text("model")]),
        &["model.safetensors", "no intact safetensors file"],
    );
}

#[test]
fn a_lying_shape_is_refused() {
    let home = Home::new();
    edit(&home, "config.json", "\"intermediate_size\": 192", "\"intermediate_size\": 256");
    assert_refused(
        &home.smoke(&["--checkpoint_dir", &home.text("model")]),
        &["mlp.gate_proj.weight", "[192, 64]", "[256, 64]"],
    );
}

#[test]
fn weights_that_the_config_does_not_know_are_refused() {
    let home = Home::new();
    edit(&home, "config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2");
    let output = home.smoke(&["--checkpoint_dir", &home.text("model")]);
    assert_refused(&output, &["tensors that the model", "model.layers.2.", "num_hidden_layers"]);
}

/// A model whose second layer holds NaN.
fn broken_model(home: &Home) -> String {
    let file = home.model().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + size]).unwrap();
    let at = header["model.layers.1.mlp.down_proj.weight"]["data_offsets"][0].as_u64().unwrap();
    let mut bytes = bytes;
    bytes[8 + size + at as usize..][..4].fill(0xFF);
    std::fs::write(&file, bytes).unwrap();
    home.text("model")
}

#[test]
fn a_loss_that_is_no_number_names_step_and_module() {
    let home = Home::new();
    let model = broken_model(&home);
    let output = home.smoke(&["--checkpoint_dir", &model, "--eval.initial_validation", "false"]);
    assert_refused(&output, &["loss is NaN at step 1", "`model.layers.1`", "the base model"]);
}

#[test]
fn a_validation_loss_that_is_no_number_ends_the_run() {
    let home = Home::new();
    let model = broken_model(&home);
    let output = home.smoke(&["--checkpoint_dir", &model]);
    assert_refused(&output, &["validation loss is NaN at step 0", "`model.layers.1`"]);
}

/// A NaN's code would be that of a number, and the run would train on it.
#[test]
fn a_weight_that_is_not_finite_is_not_packed() {
    let home = Home::new();
    let model = broken_model(&home);
    let nf4 = ["--quantize", "bnb.nf4", "--precision", "bf16-true"];
    let output = home.smoke(&[&["--checkpoint_dir", &model][..], &nf4].concat());
    let file = format!("{model}/model.safetensors");
    assert_refused(&output, &[&file, "`model.layers.1.mlp.down_proj.weight`", "not finite"]);
}

#[test]
fn a_broken_model_does_not_answer() {
    let home = Home::new();
    let model = broken_model(&home);
    let output = vft(&["generate", "--base", &model, "--prompt", "a b", "--device", "cpu"]);
    assert_refused(&output, &["not finite"]);
}

#[test]
fn an_unknown_architecture_lists_what_works() {
    let home = Home::new();
    edit(&home, "config.json", "LlamaForCausalLM", "WizardForCausalLM");
    let parts = ["`WizardForCausalLM` is not supported", "Qwen2ForCausalLM"];
    assert_refused(&home.smoke(&["--checkpoint_dir", &home.text("model")]), &parts);
}

#[test]
fn a_shard_outside_the_directory_is_refused() {
    let home = Home::new();
    let model = home.model();
    std::fs::rename(model.join("model.safetensors"), home.path("evil.safetensors")).unwrap();
    let index = r#"{"weight_map": {"model.norm.weight": "../evil.safetensors"}}"#;
    std::fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    assert_refused(
        &home.smoke(&["--checkpoint_dir", &home.text("model")]),
        &["`../evil.safetensors` is no plain file name"],
    );
}

#[test]
fn a_corrupt_tokenizer_is_refused() {
    let home = Home::new();
    edit(&home, "tokenizer.json", "\"vocab\": {", "\"vocab\": [");
    let output = home.smoke(&["--checkpoint_dir", &home.text("model")]);
    assert_refused(&output, &["tokenizer.json"]);
}

#[test]
fn a_tokenizer_bigger_than_the_embedding_is_refused() {
    let home = Home::new();
    edit(&home, "tokenizer.json", "\"vocab\": {", "\"vocab\": {\"zzzz\": 9000,");
    let output = home.smoke(&["--checkpoint_dir", &home.text("model")]);
    assert_refused(&output, &["tokenizer.json: has 9001 tokens"]);
}

// Data

fn with_data(text: &str, more: &[&str]) -> Output {
    let home = Home::new();
    let data = home.write("data.jsonl", text);
    let mut args = vec!["--data.path", data.as_str()];
    args.extend(more);
    home.smoke(&args)
}

#[test]
fn a_broken_row_is_placed() {
    let text = "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \n";
    assert_refused(&with_data(text, &[]), &["data.jsonl:2", "no valid JSON"]);
}

#[test]
fn a_row_of_the_wrong_type_is_placed() {
    let text =
        "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\", \"output\": 7}\n";
    assert_refused(&with_data(text, &[]), &["data.jsonl:2", "`output` is a number, not text"]);
}

#[test]
fn data_without_a_trainable_token_is_refused() {
    let text = "{\"input_ids\": [5, 6], \"labels\": [-100, -100]}\n";
    assert_refused(&with_data(text, &[]), &["no row has a token to train on"]);
}

#[test]
fn a_row_longer_than_the_context_is_placed() {
    let text = format!("{{\"instruction\": \"{}\", \"output\": \"b\"}}\n", "ab ".repeat(400));
    assert_refused(
        &with_data(&text, &[]),
        &["data.jsonl:1", "at most 256", "train.max_seq_length: 256"],
    );
}

#[test]
fn an_id_outside_the_vocabulary_is_placed() {
    let text = "{\"input_ids\": [5, 600000], \"labels\": [5, 6]}\n";
    assert_refused(&with_data(text, &[]), &["data.jsonl:1", "600000"]);
}

// out_dir and signals

#[test]
fn a_directory_with_a_run_is_left_alone() {
    let home = Home::new();
    home.smoke(&["--train.max_steps", "1"]);
    let before = std::fs::read(home.path("out/metrics.jsonl")).unwrap();
    assert_refused(&home.smoke(&[]), &["holds a run already"]);
    assert_eq!(std::fs::read(home.path("out/metrics.jsonl")).unwrap(), before);
}

#[test]
fn the_models_directory_is_no_out_dir() {
    let home = Home::new();
    let model = home.model().to_string_lossy().into_owned();
    let output = home.smoke(&["--checkpoint_dir", &model, "--out_dir", &model]);
    assert_refused(&output, &["choose another `out_dir`"]);
}

#[test]
fn a_run_that_cannot_start_leaves_no_directory() {
    let home = Home::new();
    home.smoke(&["--checkpoint_dir", "no/model"]);
    assert!(!home.path("out").exists());
}

#[test]
fn an_out_dir_that_is_a_file_is_refused() {
    let home = Home::new();
    home.write("out", "a file");
    assert_refused(&home.smoke(&[]), &["cannot be written"]);
}

/// The smoke run, interrupted as soon as `ready` says so: its exit code.
fn interrupted(home: &Home, more: &[&str], ready: impl Fn() -> bool) -> Option<i32> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "--config", "configs/smoke.yml", "--out_dir", &home.text("out")])
        .args(more)
        .current_dir(ROOT)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !ready() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    child.wait().unwrap().code()
}

#[test]
fn an_interrupt_in_the_last_validation_keeps_the_final_adapter() {
    let home = Home::new();
    let rows = std::fs::read_to_string(Path::new(ROOT).join("configs/smoke/data.jsonl")).unwrap();
    let data = home.write("many.jsonl", &rows.repeat(60));
    let more =
        ["--data.path", &data, "--data.val_split_fraction", "0.99", "--train.max_steps", "1"];
    let more = [&more[..], &["--eval.initial_validation", "false"]].concat();
    let adapter = home.path("out/final/adapter_model.safetensors");
    assert_eq!(interrupted(&home, &more, || adapter.exists()), Some(75));
    assert!(adapter.exists());
}

#[test]
fn an_interrupt_saves_the_adapter_and_ends_cleanly() {
    let home = Home::new();
    let metrics = home.path("out/metrics.jsonl");
    let ready = || std::fs::read_to_string(&metrics).is_ok_and(|t| t.contains("\"step\":5,"));
    assert_eq!(interrupted(&home, &["--train.epochs", "100000"], ready), Some(75));
    let saved = std::fs::read_dir(home.path("out")).unwrap();
    let saved: Vec<_> = saved.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(saved.iter().filter(|n| n.starts_with("step-")).count(), 1, "{saved:?}");
}

/// The part of the plan's line that says what is computed again.
fn planned(more: &[&str]) -> String {
    let home = Home::new();
    let text = stderr(&home.smoke(more));
    let line = text.lines().find(|l| l.starts_with("memory: ")).unwrap_or_default().to_owned();
    line.rsplit(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn with_memory_enough_nothing_is_computed_again() {
    assert_eq!(planned(&["--train.max_memory", "64GiB"]), "none");
}

#[test]
fn a_limit_that_the_leanest_plan_exceeds_is_refused() {
    let output = Home::new().smoke(&["--train.max_memory", "1MiB"]);
    assert_refused(&output, &["train.max_memory", "the leanest plan takes", "not 1"]);
}

#[test]
fn a_policy_that_is_asked_for_is_taken() {
    assert_eq!(planned(&["--train.gradient_checkpointing", "mlp"]), "mlp");
}

#[test]
fn the_plan_knows_the_largest_micro_batch() {
    let home = Home::new();
    let text = stderr(&home.smoke(&["--train.micro_batch_size", "1"]));
    assert!(text.contains("longest 25\n") && text.contains("up to 25 tokens"), "{text}");
}

#[test]
fn an_unknown_policy_is_refused() {
    let home = Home::new();
    let output = home.smoke(&["--train.gradient_checkpointing", "some"]);
    let text = stderr(&output);
    assert!(output.status.code() == Some(2) && text.contains("auto, none, mlp and full"), "{text}");
}
