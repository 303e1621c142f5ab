//! How runs end: early, with their best adapter, with merged weights; and the ends that are refused before they begin.
use crate::checkpoint::taken_up;
use crate::common::*;
use std::process::{Command, Output, Stdio};

fn validations(home: &Home) -> Vec<(u64, f64)> {
    let text = std::fs::read_to_string(home.path("out/metrics.jsonl")).unwrap();
    let records = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    records.filter_map(|r| Some((r["step"].as_u64()?, r["val_loss"].as_f64()?))).collect()
}

/// Steps far too long: the loss on validation rows rises.
const ASTRAY: &[&str] = &[
    "--optimizer.lr",
    "1",
    "--train.lr_warmup_steps",
    "0",
    "--train.max_norm",
    "null",
    "--eval.interval",
    "1",
    "--train.early_stopping_patience",
    "1",
    "--train.save_best",
    "true",
];

#[test]
fn a_run_whose_validation_loss_rises_ends_early_and_validates_each_step_once() {
    let home = Home::new();
    let output = home.smoke(ASTRAY);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("the validation loss fell no more: ended after step "));
    let seen = validations(&home);
    let lowest = seen.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
    assert!(seen[seen.len() - 1].1 >= lowest, "{seen:?}");
    let steps: Vec<u64> = seen.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (0..steps.len() as u64).collect::<Vec<_>>());
}

#[test]
fn the_best_adapter_is_the_one_of_the_lowest_validation_loss() {
    let home = Home::new();
    home.smoke(&[ASTRAY, &["--train.save_interval", "1"]].concat());
    let seen = validations(&home);
    let best = seen[1..].iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let adapter = |dir: &str| {
        std::fs::read(home.path("out").join(dir).join("adapter_model.safetensors")).unwrap()
    };
    assert_eq!(adapter("best"), adapter(&format!("step-{:08}", best.0)));
}

#[test]
fn a_run_taken_up_is_merged_at_its_end() {
    let home = Home::new();
    let run = ["--train.max_steps", "4", "--train.save_interval", "2", "--save_merged", "true"];
    home.smoke(&run);
    let merged = || std::fs::read(home.path("out/merged/model.safetensors")).unwrap();
    let whole = merged();
    for dir in ["out/final", "out/merged", "out/step-00000004"] {
        // The last one is there only where the last step is a checkpoint of its own.
        let _ = std::fs::remove_dir_all(home.path(dir));
    }
    let output = home.smoke(&[&run[..], &["--resume", "auto"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(taken_up(&stderr(&output)), Some(2));
    assert_eq!(merged(), whole);
}

#[test]
fn a_tied_head_that_must_not_be_adapted_is_refused_before_the_run() {
    let output = Home::new().smoke(&[
        "--lora_target_modules",
        "[lm_head]",
        "--save_merged",
        "true",
        "--merge.tied_head",
        "error",
    ]);
    assert_refused(&output, &["merge.tied_head", "is the embedding of this model", "`untie`"]);
    assert!(!stderr(&output).contains("step 1/"), "{}", stderr(&output));
}

#[test]
fn the_best_of_no_validation_rows_is_refused() {
    let more = ["--train.save_best", "true", "--data.val_split_fraction", "0"];
    assert_refused(&Home::new().smoke(&more), &["train.save_best", "no validation rows"]);
}

#[test]
fn an_unknown_style_is_told_before_anything_is_opened() {
    let home = Home::new();
    let text = "checkpoint_dir: nowhere\ndata:\n  class_path: JSON\n  init_args:\n    path: a\n    prompt_style: alpca\n";
    let file = home.write("run.yml", text);
    let output = vft(&["finetune", "--config", &file, "--print_config"]);
    assert_refused(&output, &["run.yml:6:5: `data.init_args.prompt_style`", "`alpaca`?"]);
}

#[test]
fn an_adapter_that_is_not_there_is_told_by_its_key() {
    let more = ["--adapter_path", "nowhere", "--lora_target_modules", "null"];
    assert_refused(&Home::new().smoke(&more), &["`adapter_path`: `nowhere` is no directory"]);
}

/// How a command ends whose standard output is `out`.
fn into(out: Stdio, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vft"));
    command.args(args).current_dir(ROOT).stdout(out).stderr(Stdio::piped());
    command.spawn().unwrap().wait_with_output().unwrap()
}

const PRINTING: [&[&str]; 4] = [
    &["--help"],
    &["finetune", "--config", "configs/smoke.yml", "--print_config"],
    &["data", "preview", "--config", "configs/smoke.yml", "-n", "1"],
    &["generate", "--base", "configs/smoke/model", "--prompt", "a", "--max-new-tokens", "1"],
];

#[test]
fn what_was_asked_for_and_cannot_be_written_is_an_error() {
    for args in PRINTING {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = into(full.into(), args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(74), "{args:?}: {text}");
        assert!(text.contains("standard output cannot be written: No space left"), "{text}");
    }
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    for args in PRINTING {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = into(writer.into(), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_file_beyond_the_limit_of_files_is_a_full_disk() {
    let home = Home::new();
    let vft = env!("CARGO_BIN_EXE_vft");
    let run = format!(
        "ulimit -f 8; exec {vft} finetune --config configs/smoke.yml --out_dir {} --train.max_steps 1",
        home.text("out")
    );
    let output = Command::new("sh").args(["-c", &run]).current_dir(ROOT).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(74), "{text}");
    assert!(text.contains("File too large"), "{text}");
}
