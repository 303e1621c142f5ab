//! Where rows and models are looked for, and what is told of what is not read.

use crate::common::*;
use std::path::Path;
use std::process::{Command, Output};

/// `n` rows of an instruction and its answer, the first numbered `from`.
fn rows(from: usize, n: usize) -> String {
    let row =
        |i| format!("{{\"instruction\": \"từ {i} chó mèo\", \"output\": \"chó mèo {i} đất\"}}\n");
    (from..from + n).map(row).collect()
}

/// The numbers and notes of `vft data preview`, in the directory `dir`.
fn preview_in(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vft"));
    command.args(["data", "preview", "-n", "0"]).args(args);
    command.current_dir(dir).env("HF_HUB_OFFLINE", "1").env("HF_HOME", dir).output().unwrap()
}

/// The same of rows at `path`, read with the bundled model.
fn preview(path: &str, more: &[&str]) -> Output {
    let model = "configs/smoke/model";
    let fixed = ["--checkpoint_dir", model, "--data", "JSON", "--data.path", path];
    preview_in(Path::new(ROOT), &[&fixed, more].concat())
}

fn told(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_directory_of_several_formats_names_what_it_passes_over() {
    let home = Home::new();
    home.write("rows/train/a.jsonl", &rows(0, 4));
    home.write("rows/train/b.jsonl", &rows(4, 4));
    home.write("rows/train/c.csv", "instruction,output\na,b\n");
    home.write("rows/val/d.csv", "instruction,output\na,b\n");
    let text = told(&preview(&home.text("rows"), &[]));
    assert!(text.contains("8 training and 1 validation rows"), "{text}");
    assert!(text.contains("in that of train/a.jsonl: train/c.csv\n"), "{text}");
}

#[test]
fn a_preview_tells_the_configs_notes() {
    let home = Home::new();
    home.write("rows.jsonl", &rows(0, 4));
    let config = format!(
        "checkpoint_dir: {ROOT}/configs/smoke/model\ndata:\n  class_path: JSON\n  init_args:\n    path: rows.jsonl\n"
    );
    let config = home.write("run.yml", &config);
    let text = told(&preview_in(Path::new(ROOT), &["--config", &config]));
    assert!(text.contains("note: `rows.jsonl` is read beside the config file"), "{text}");
}

/// A run in a home that holds no rows, with more lines of `init_args`.
fn refused_config(home: &Home, model: &str, lines: &str) -> Output {
    let config =
        format!("checkpoint_dir: {model}\ndata:\n  class_path: JSON\n  init_args:\n{lines}");
    let config = home.write("run.yml", &config);
    preview_in(&home.path(""), &["--config", &config])
}

#[test]
fn a_path_that_leads_nowhere_is_named_with_its_key() {
    let (home, model) = (Home::new(), format!("{ROOT}/configs/smoke/model"));
    let output = refused_config(&home, &model, "    path: data/train\n");
    let named =
        "`data.init_args.path`: `data/train` is no file or directory here, and on the Hub: ";
    assert_refused(&output, &["run.yml:5:", named]);
}

#[test]
fn a_model_that_is_nowhere_is_named_with_its_key() {
    let home = Home::new();
    let output = refused_config(&home, "models/foo", "    path: rows.jsonl\n");
    let named = "`checkpoint_dir`: `models/foo` is no directory here, and on the Hub: ";
    assert_refused(&output, &["run.yml:1:", named]);
}

#[test]
fn validation_rows_that_are_nowhere_are_named_with_their_key() {
    let (home, model) = (Home::new(), format!("{ROOT}/configs/smoke/model"));
    home.write("rows.jsonl", &rows(0, 4));
    let output = refused_config(&home, &model, "    path: rows.jsonl\n    val_path: nope/x.csv\n");
    let named = "`data.init_args.val_path`: `nope/x.csv` is no file and no directory here";
    assert_refused(&output, &["run.yml:6:", named, "hint: a relative path"]);
}

#[test]
fn a_fraction_beside_validation_rows_is_the_key_at_fault() {
    let home = Home::new();
    let train = home.write("rows/train.jsonl", &rows(0, 4));
    let val = home.write("rows/val.jsonl", &rows(4, 4));
    let half = ["--data.val_split_fraction", "0.5"];
    let key = "`data.init_args.val_split_fraction`: ";
    let both = preview(&train, &[&half[..], &["--data.val_path", &val]].concat());
    assert_refused(
        &both,
        &[key.trim_end_matches(": "), "does not go with `data.init_args.val_path`"],
    );
    let found = preview(&home.text("rows"), &half);
    assert_refused(&found, &[key, "has validation rows of its own", ".split: train`"]);
    let file = "checkpoint_dir: configs/smoke/model\ndata: {class_path: JSON, init_args: {path: x, val_split_fraction: 0.5}}\n";
    let file = home.write("run.yml", file);
    let won = vft(&["data", "preview", "--config", &file, "--data.path", &home.text("rows")]);
    assert_eq!(won.status.code(), Some(0), "{}", stderr(&won));
    assert!(told(&won).contains("4 training and 4 validation rows"), "{}", told(&won));
}

#[test]
fn validation_rows_that_are_trained_on_are_told() {
    let home = Home::new();
    let path = home.write("rows.jsonl", &rows(0, 10));
    let told = |train: &str, val: &str| {
        let text = told(&preview(&path, &["--data.split", train, "--data.val_split", val]));
        let note = text.lines().find(|line| line.contains("are trained on too"));
        note.map(|note| note.split(" validation").next().unwrap().to_owned())
    };
    let again = told("train[:8]", "train[6:]");
    assert_eq!(again.as_deref(), Some("note: 2 of the 4"));
    assert_eq!(told("train[:6]", "train[6:]"), None);
}

#[test]
fn a_model_lies_where_litgpt_keeps_it() {
    let home = Home::new();
    let kept = home.path("checkpoints/org");
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::rename(home.model(), kept.join("tiny")).unwrap();
    home.write("rows.jsonl", &rows(0, 4));
    let args = ["--checkpoint_dir", "org/tiny", "--data", "JSON", "--data.path", "rows.jsonl"];
    let text = told(&preview_in(&home.path(""), &args));
    assert!(text.contains("`org/tiny` is read from checkpoints/org/tiny, as in LitGPT"), "{text}");
}

#[test]
fn weights_of_litgpts_own_format_are_refused_with_the_way_out() {
    let home = Home::new();
    let model = home.model();
    std::fs::rename(model.join("model.safetensors"), model.join("lit_model.pth")).unwrap();
    let path = home.write("rows.jsonl", &rows(0, 4));
    let output = preview(&path, &["--checkpoint_dir", &model.to_string_lossy()]);
    assert_refused(&output, &["only LitGPT's lit_model.pth", "hint: give the Hugging Face model"]);
}
