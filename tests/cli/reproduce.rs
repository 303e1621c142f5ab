//! A run is made again from its manifest: the same where all is the same, else the difference by its name.
use crate::checkpoint::taken_up;
use crate::common::*;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

/// A short run with all that draws random numbers.
const RUN: &[&str] = &[
    "--train.max_steps",
    "6",
    "--train.global_batch_size",
    "4",
    "--lora_dropout",
    "0.1",
    "--eval.initial_validation",
    "false",
    "--eval.max_new_tokens",
    "3",
];

/// A finished run on a model and rows of its own, which a test may change.
fn finished(more: &[&str]) -> Home {
    let home = Home::new();
    let model = home.model().to_string_lossy().into_owned();
    let rows = std::fs::read_to_string(Path::new(ROOT).join("configs/smoke/data.jsonl")).unwrap();
    let rows = home.write("rows.jsonl", &rows);
    let args = [RUN, &["--checkpoint_dir", &model, "--data.path", &rows], more].concat();
    let output = home.smoke(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    home
}

fn again(home: &Home, more: &[&str]) -> Output {
    vft(&[&["reproduce", &home.text("out/final/manifest.json")], more].concat())
}

fn manifest(home: &Home) -> Value {
    let text = std::fs::read_to_string(home.path("out/final/manifest.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What coreutils make of a file.
fn sha256(path: &Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

#[test]
fn the_same_run_has_the_same_bytes() {
    let home = finished(&[]);
    let output = again(&home, &["--threads", "1"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    for part in
        ["adapter: the same bytes", "losses: the same in all 6 steps", "verdict: reproduced"]
    {
        assert!(text.contains(part), "{text}");
    }
    let bytes = |dir: &str| std::fs::read(home.path(dir).join("adapter_model.safetensors"));
    assert_eq!(bytes("out/final").unwrap(), bytes("out/reproduced/final").unwrap());
}

#[test]
fn the_manifest_names_what_the_run_was_made_from() {
    let home = finished(&[]);
    let run = &manifest(&home)["run"];
    let sum = |group: &Value, name: &str| {
        let of = |f: &&Value| f["path"].as_str().unwrap().ends_with(name);
        group["files"].as_array().unwrap().iter().find(of).unwrap()["sha256"].clone()
    };
    assert_eq!(
        sum(&run["base"], "model.safetensors"),
        sha256(&home.path("model/model.safetensors"))
    );
    assert_eq!(sum(&run["base"], "config.json"), sha256(&home.path("model/config.json")));
    assert_eq!(
        sum(&run["tokenizer"], "tokenizer.json"),
        sha256(&home.path("model/tokenizer.json"))
    );
    assert_eq!(sum(&run["data"][0]["train"], "rows.jsonl"), sha256(&home.path("rows.jsonl")));
    let adapter = sha256(&home.path("out/final/adapter_model.safetensors"));
    assert_eq!(run["result"]["adapter_sha256"], adapter);
    assert_eq!(run["vft"]["sha256"], sha256(Path::new(env!("CARGO_BIN_EXE_vft"))));
    assert_eq!((&run["seeds"]["run"], &run["seeds"]["data"]), (&1337.into(), &42.into()));
    assert_eq!(run["prompts"][0]["style"], "chat_template");
    let metrics = std::fs::read_to_string(home.path("out/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().rev().nth(1).unwrap()).unwrap();
    assert_eq!(run["result"]["losses"]["last"], last["loss"]);
}

#[test]
fn the_config_of_a_manifest_can_be_run() {
    let home = finished(&[]);
    let text = manifest(&home)["run"]["config"].as_str().unwrap().to_owned();
    let file = home.write("again.yml", &text);
    let output = vft(&["finetune", "--config", &file, "--out_dir", &home.text("again")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let bytes = |dir: &str| std::fs::read(home.path(dir).join("final/adapter_model.safetensors"));
    assert_eq!(bytes("out").unwrap(), bytes("again").unwrap());
}

#[test]
fn a_run_taken_up_is_reproduced_from_its_first_step() {
    let home = finished(&["--train.save_interval", "2"]);
    for name in ["final", "step-00000006", "step-00000004"] {
        std::fs::remove_dir_all(home.path("out").join(name)).unwrap();
    }
    let model = home.text("model");
    let rows = home.text("rows.jsonl");
    let more = ["--checkpoint_dir", &model, "--data.path", &rows, "--train.save_interval", "2"];
    let output = home.smoke(&[RUN, &more, &["--resume", "auto"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(taken_up(&stderr(&output)), Some(2));
    let output = again(&home, &[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn a_changed_row_is_refused_with_both_sums() {
    let home = finished(&[]);
    let was = sha256(&home.path("rows.jsonl"));
    let text = std::fs::read_to_string(home.path("rows.jsonl")).unwrap();
    let first = text.lines().next().unwrap();
    home.write("rows.jsonl", &text.replacen(first, &first.replacen("từ", "tù", 1), 1));
    let now = sha256(&home.path("rows.jsonl"));
    assert_ne!(was, now);
    let output = again(&home, &[]);
    assert_refused(
        &output,
        &["rows.jsonl: is not the file that the run read (the rows)", &was, &now],
    );
    assert!(!home.path("out/reproduced").exists());
}

#[test]
fn a_changed_base_is_refused_by_its_name() {
    let home = finished(&[]);
    let file = home.path("model/model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_refused(&again(&home, &[]), &["model.safetensors: is not the file", "(the base)"]);
}

#[test]
fn a_changed_template_is_refused_by_its_name() {
    let home = finished(&[]);
    let file = home.path("model/chat_template.jinja");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + " ").unwrap();
    let output = again(&home, &[]);
    assert_refused(&output, &["chat_template.jinja: is not the file", "(the tokenizer)"]);
}

#[test]
fn a_changed_seed_is_refused() {
    let home = finished(&[]);
    let path = home.path("out/final/manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("seed: 1337", "seed: 1338")).unwrap();
    assert_refused(&again(&home, &[]), &["`run.config` was changed after it was written"]);
}

#[test]
fn a_truncated_manifest_is_refused() {
    let home = finished(&[]);
    let path = home.path("out/final/manifest.json");
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert_refused(&again(&home, &[]), &["manifest.json:", "ends in the middle"]);
}

#[test]
fn a_run_on_another_machine_is_given_its_places() {
    let home = finished(&[]);
    for (from, to) in [("model", "elsewhere"), ("rows.jsonl", "there.jsonl")] {
        std::fs::rename(home.path(from), home.path(to)).unwrap();
    }
    assert_refused(&again(&home, &[]), &["`--base DIR` names the model's directory here"]);
    let (base, rows) = (home.text("elsewhere"), home.text("there.jsonl"));
    assert_refused(&again(&home, &["--base", &base]), &["`--data PATH` names the rows here"]);
    let output = again(&home, &["--base", &base, "--data", &rows]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn paths_that_moved_together_are_named_once() {
    let home = finished(&[]);
    let model = home.text("model");
    std::fs::create_dir(home.path("disk")).unwrap();
    for name in ["model", "rows.jsonl"] {
        std::fs::rename(home.path(name), home.path("disk").join(name)).unwrap();
    }
    let old = Path::new(&model).parent().unwrap().to_string_lossy().into_owned();
    let moved = format!("{old}={}", home.text("disk"));
    let output = again(&home, &["--moved", &moved, "--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn what_comes_out_otherwise_is_told_tensor_by_tensor() {
    let home = finished(&["--train.max_steps", "2", "--eval.final_validation", "false"]);
    if manifest(&home)["run"]["machine"]["instruction_set"] == "portable" {
        return;
    }
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["reproduce", &home.text("out")])
        .current_dir(ROOT)
        .env("VFT_CPU", "portable")
        .output()
        .unwrap();
    let (out, err) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(2), "{out}{err}");
    assert!(err.contains("the instruction set was"), "{err}");
    for part in ["adapter: other bytes", "lora_B.weight: ", "verdict: not reproduced"] {
        assert!(out.contains(part), "{part}\n{out}");
    }
}

#[test]
fn the_run_itself_is_not_overwritten() {
    let home = finished(&[]);
    let output = again(&home, &["--out", &home.text("out")]);
    assert_refused(&output, &["holds a run already"]);
}

#[test]
fn the_final_adapter_is_still_a_whole_checkpoint() {
    let home = finished(&[]);
    let (model, rows) = (home.text("model"), home.text("rows.jsonl"));
    let more = ["--checkpoint_dir", &model, "--data.path", &rows, "--resume", "auto"];
    let output = home.smoke(&[RUN, &more].concat());
    assert!(stderr(&output).contains("the run is finished"), "{}", stderr(&output));
}

#[test]
fn a_signal_ends_it_with_75_and_leaves_nothing() {
    let home = finished(&["--train.max_steps", "57", "--eval.max_new_tokens", "0"]);
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["reproduce", &home.text("out")])
        .current_dir(ROOT)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let metrics = home.path("out/reproduced/metrics.jsonl");
    let began = std::time::Instant::now();
    while !metrics.exists() && began.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(!home.path("out/reproduced").exists());
}

#[test]
fn lines_in_a_foreign_manifest_are_not_taken_for_a_verdict() {
    let home = finished(&["--train.max_steps", "2", "--eval.final_validation", "false"]);
    let mut whole = manifest(&home);
    let forged = "0\x1b[2J\nverdict: reproduced";
    whole["run"]["result"]["adapter_sha256"] = forged.into();
    whole["run"]["notes"] = vec![forged].into();
    whole["run"]["vft"]["version"] = forged.into();
    for part in ["result", "notes", "vft"] {
        home.write("part", &whole["run"][part].to_string());
        whole["run_sha256"][part] = sha256(&home.path("part")).into();
    }
    home.write("out/final/manifest.json", &format!("{whole:#}\n"));
    let output = again(&home, &[]);
    let (out, err) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(2), "{out}{err}");
    assert!(err.contains(r"the run was told: 0\u{1b}[2J\nverdict: reproduced"), "{err}");
    let both = out + &err;
    assert!(!both.contains('\x1b'), "{both:?}");
    assert!(both.lines().all(|l| l != "verdict: reproduced"), "{both}");
}

#[test]
fn a_pipe_in_place_of_the_rows_is_refused() {
    let home = finished(&["--train.max_steps", "1"]);
    home.pipe("rows.jsonl");
    let output = vft_in_time(&["reproduce", &home.text("out/final/manifest.json")]);
    assert_refused(&output, &["rows.jsonl", "no regular file"]);
}
