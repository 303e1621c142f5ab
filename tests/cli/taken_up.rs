//! What a run may be taken up with, from where, and what it is refused with.
use crate::common::*;
use crate::left::left;

const RUN: &[&str] = &[
    "--train.max_steps",
    "6",
    "--train.save_interval",
    "2",
    "--eval.interval",
    "4",
    "--eval.max_new_tokens",
    "0",
];
const RESUME: &[&str] = &["--resume", "auto"];

/// A finished run.
fn finished(more: &[&str]) -> Home {
    let home = Home::new();
    let output = home.smoke(&[RUN, more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    home
}

/// A run that died after its second checkpoint.
fn unfinished(more: &[&str]) -> Home {
    let home = finished(more);
    for dir in ["out/final", "out/step-00000006"] {
        std::fs::remove_dir_all(home.path(dir)).unwrap();
    }
    home
}

fn assert_ends_well(output: &std::process::Output, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
}

/// Settings that make another run, each with the key that is named.
const OTHERS: &[(&[&str], &str)] = &[
    (&["--precision", "bf16-true"], "precision"),
    (&["--quantize", "bnb.nf4"], "quantize"),
    (&["--lora_r", "4"], "lora_r"),
    (&["--lora_alpha", "3"], "lora_alpha"),
    (&["--lora_dropout", "0.3"], "lora_dropout"),
    (&["--lora_target_modules", "[q_proj]"], "lora_target_modules"),
    (&["--data.seed", "7"], "data.init_args.seed"),
    (&["--train.global_batch_size", "4"], "train.global_batch_size"),
    (&["--train.lr_scheduler", "constant"], "train.lr_scheduler"),
    (&["--train.lr_warmup_steps", "1"], "train.lr_warmup_steps"),
    (&["--train.max_norm", "0.5"], "train.max_norm"),
    (&["--train.min_lr", "1e-5"], "train.min_lr"),
    (&["--train.shuffle", "false"], "train.shuffle"),
    (&["--optimizer.class_path", "AdamW8bit"], "optimizer.class_path"),
    (&["--optimizer.lr", "1e-3"], "optimizer.init_args.lr"),
    (&["--optimizer.weight_decay", "0.3"], "optimizer.init_args.weight_decay"),
    (&["--optimizer.betas", "[0.8, 0.9]"], "optimizer.init_args.betas"),
    (&["--seed", "7"], "seed"),
];

#[test]
fn every_setting_that_makes_another_run_is_refused_by_name() {
    let home = unfinished(&[]);
    for (setting, key) in OTHERS {
        let output = home.smoke(&[RUN, RESUME, setting].concat());
        assert_refused(&output, &[&format!("`{key}`: is "), "but the checkpoint was made with"]);
    }
}

#[test]
fn a_finished_run_with_another_setting_is_not_said_to_be_done() {
    let home = finished(&[]);
    let output = home.smoke(&[RUN, RESUME, &["--optimizer.lr", "1e-3"]].concat());
    assert_refused(&output, &["`optimizer.init_args.lr`: is 0.001"]);
}

#[test]
fn a_finished_run_with_other_rows_is_not_said_to_be_done() {
    let home = finished(&[]);
    let output = home.smoke(&[RUN, RESUME, &["--data.mask_prompt", "false"]].concat());
    assert_refused(&output, &["the rows are not those of the checkpoint"]);
}

/// Changes a tensor in the middle of the model's file.
fn spoil(model: &std::path::Path) {
    let file = model.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + (64 << 10)].iter_mut().for_each(|b| *b ^= 0x40);
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn another_base_is_refused() {
    let home = Home::new();
    let model = home.model();
    let base = ["--checkpoint_dir", model.to_str().unwrap()];
    home.smoke(&[RUN, &base].concat());
    spoil(&model);
    let refused = ["is not the model that the checkpoint"];
    assert_refused(&home.smoke(&[RUN, RESUME, &base].concat()), &refused);
    std::fs::remove_dir_all(home.path("out/final")).unwrap();
    assert_refused(&home.smoke(&[RUN, RESUME, &base].concat()), &refused);
}

#[test]
fn a_finished_run_whose_rows_are_gone_is_still_finished() {
    let home = Home::new();
    let rows = home.write(
        "rows.jsonl",
        &std::fs::read_to_string(format!("{ROOT}/configs/smoke/data.jsonl")).unwrap(),
    );
    let data = ["--data.path", &rows];
    assert_ends_well(&home.smoke(&[RUN, &data].concat()), &[]);
    std::fs::remove_file(&rows).unwrap();
    assert_ends_well(
        &home.smoke(&[RUN, RESUME, &data].concat()),
        &["which do not lie here, were not compared", "the run is finished"],
    );
}

#[test]
fn a_finished_run_that_is_named_goes_on_for_more_steps() {
    let home = finished(&["--train.lr_scheduler", "constant"]);
    let more = ["--train.lr_scheduler", "constant", "--train.max_steps", "8"];
    let longer = finished(&more);
    let last = home.text("out/final");
    let output = home.smoke(&[RUN, &more, &["--resume", &last]].concat());
    assert_ends_well(&output, &["taken up after step 6"]);
    assert_eq!(left(&home.path("out")), left(&longer.path("out")));
}

#[test]
fn an_adapter_without_an_optimizer_is_refused() {
    let home = unfinished(&["--train.save_best", "true"]);
    let best = home.text("out/best");
    let output = home.smoke(&[RUN, &["--train.save_best", "true", "--resume", &best]].concat());
    assert_refused(&output, &["has no optimizer to go on with", "`adapter_path` begins a new run"]);
}

#[test]
fn a_checkpoint_of_another_directory_is_gone_on_with_here() {
    let (there, here) = (finished(&[]), Home::new());
    let checkpoint = there.text("out/step-00000002");
    assert_ends_well(
        &here.smoke(&[RUN, &["--resume", &checkpoint]].concat()),
        &["taken up after step 2"],
    );
    assert_eq!(left(&here.path("out")).0, left(&there.path("out")).0);
}

#[test]
fn another_runs_directory_is_not_written_to() {
    let (there, here) = (finished(&[]), finished(&[]));
    let checkpoint = there.text("out/step-00000002");
    let output = here.smoke(&[RUN, &["--resume", &checkpoint]].concat());
    assert_refused(&output, &["holds a run already"]);
}

#[test]
fn going_back_beside_newer_checkpoints_is_refused() {
    let home = unfinished(&[]);
    let older = home.text("out/step-00000002");
    let output = home.smoke(&[RUN, &["--resume", &older]].concat());
    assert_refused(&output, &["step-00000004` is newer", "take newer checkpoints away"]);
}

#[test]
fn a_run_that_ended_early_goes_on_with_more_patience() {
    let astray = [
        ["--optimizer.lr", "1"],
        ["--train.lr_warmup_steps", "0"],
        ["--train.max_norm", "null"],
        ["--eval.interval", "1"],
        ["--train.save_interval", "1"],
    ];
    let run = |home: &Home, patience: &str, more: &[&str]| {
        let patience = ["--train.early_stopping_patience", patience];
        home.smoke(&[&astray.concat()[..], &patience, more].concat())
    };
    let home = Home::new();
    assert_ends_well(&run(&home, "1", &[]), &["the validation loss fell no more"]);
    let steps = || left(&home.path("out")).1.iter().filter(|r| r["loss"].is_f64()).count();
    let impatient = steps();
    assert_ends_well(&run(&home, "1", RESUME), &["the run is finished"]);
    let told = ["taken up after step", "train.early_stopping_patience was 1, is 4"];
    assert_ends_well(&run(&home, "4", RESUME), &told);
    assert!(steps() > impatient, "{impatient} steps");
}

#[test]
fn another_instruction_set_is_told() {
    let home = unfinished(&[]);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vft"));
    command.args(["finetune", "--config", "configs/smoke.yml", "--out_dir", &home.text("out")]);
    command.args(RUN).args(RESUME).current_dir(ROOT).env("VFT_CPU", "portable");
    assert_ends_well(
        &command.output().unwrap(),
        &["the checkpoint was computed on cpu with ", "goes on with cpu with portable"],
    );
}

#[test]
fn a_card_that_is_written_by_a_run_taken_up_at_its_end_tells_the_loss() {
    let home = finished(&[]);
    let card = || std::fs::read_to_string(home.path("out/final/README.md")).unwrap();
    let whole = card();
    std::fs::remove_file(home.path("out/final/README.md")).unwrap();
    assert_ends_well(&home.smoke(&[RUN, RESUME].concat()), &["taken up after step 6"]);
    assert_eq!(card(), whole);
}

#[test]
fn a_finished_adapter_that_was_changed_is_set_aside_and_made_again() {
    let home = finished(&[]);
    let whole = left(&home.path("out"));
    let config = home.path("out/final/adapter_config.json");
    std::fs::write(&config, "{}").unwrap();
    std::fs::remove_dir_all(home.path("out/step-00000006")).unwrap();
    let output = home.smoke(&[RUN, RESUME].concat());
    assert_ends_well(
        &output,
        &["final is not what was written; it lies in", "taken up after step 4"],
    );
    assert_eq!(left(&home.path("out")), whole);
    let aside = home.path("out/final.set-aside-1/adapter_config.json");
    assert_eq!(std::fs::read_to_string(aside).unwrap(), "{}");
}

#[test]
fn a_longer_run_merges_again() {
    let merged = ["--save_merged", "true", "--train.lr_scheduler", "constant"];
    let home = finished(&merged);
    let model = || std::fs::read(home.path("out/merged/model.safetensors")).unwrap();
    let short = model();
    let longer = home.smoke(&[RUN, &merged, &["--train.max_steps", "8"], RESUME].concat());
    assert_ends_well(&longer, &["taken up after step 6", "merged model saved in"]);
    assert_ne!(model(), short);
}

#[test]
fn a_merged_model_that_was_cut_is_made_again() {
    let merged = ["--save_merged", "true"];
    let home = finished(&merged);
    let file = home.path("out/merged/model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..100]).unwrap();
    assert_ends_well(&home.smoke(&[RUN, &merged, RESUME].concat()), &["merged model saved in"]);
    assert_eq!(std::fs::read(&file).unwrap(), whole);
}

#[test]
fn a_run_that_began_with_an_adapter_goes_on_with_that_one_only() {
    let (first, second) = (finished(&[]), finished(&["--seed", "7"]));
    let began = |home: &Home| {
        let path = home.text("out/final");
        std::fs::write(home.path("from.yml"), from_adapter(&path)).unwrap();
        home.text("from.yml")
    };
    let (one, other) = (began(&first), began(&second));
    let home = Home::new();
    let run = |config: &str, more: &[&str]| {
        let out = home.text("out");
        vft(&[&["finetune", "--config", config, "--out_dir", &out], RUN, more].concat())
    };
    assert_ends_well(&run(&one, &[]), &[]);
    assert_refused(&run(&other, RESUME), &["is not the adapter that the run began with"]);
    std::fs::remove_dir_all(home.path("out/final")).unwrap();
    assert_refused(&run(&other, RESUME), &["is not the adapter that the run began with"]);
}

/// The smoke config, from an adapter.
fn from_adapter(adapter: &str) -> String {
    let text = std::fs::read_to_string(format!("{ROOT}/configs/smoke.yml")).unwrap();
    let own = |line: &&str| !line.starts_with("lora_");
    let lines: Vec<&str> = text.lines().filter(own).collect();
    lines
        .join("\n")
        .replace("smoke/model ", &format!("{ROOT}/configs/smoke/model "))
        .replace("path: smoke/", &format!("path: {ROOT}/configs/smoke/"))
        + &format!("\nadapter_path: {adapter}\n")
}

#[test]
fn a_checkpoint_of_a_later_version_is_not_passed_over() {
    let home = unfinished(&[]);
    let newest = home.path("out/step-00000004");
    let (state, manifest) = (newest.join("run_state.json"), newest.join("manifest.json"));
    let change = |path: &std::path::Path, from: &str, to: &str| {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    let sum = || vft::checkpoint::manifest::sha256(&state).unwrap().0;
    let before = sum();
    change(&state, "\"format\": 1", "\"format\": 2");
    change(&manifest, &before, &sum());
    let may_be_good = ["may be a good checkpoint, but `run_state.json` has format 2"];
    assert_refused(&home.smoke(&[RUN, RESUME].concat()), &may_be_good);
    change(&manifest, "\"version\": 1", "\"version\": 2");
    assert_refused(&home.smoke(&[RUN, RESUME].concat()), &may_be_good);
    assert!(newest.is_dir());
}

#[test]
fn records_of_a_run_without_a_checkpoint_are_set_aside() {
    let home = finished(&[]);
    let records = std::fs::read(home.path("out/metrics.jsonl")).unwrap();
    for dir in ["final", "step-00000002", "step-00000004", "step-00000006"] {
        std::fs::remove_dir_all(home.path("out").join(dir)).unwrap();
    }
    assert_ends_well(&home.smoke(&[RUN, RESUME].concat()), &[]);
    assert_eq!(std::fs::read(home.path("out/metrics.jsonl.set-aside-1")).unwrap(), records);
}

#[test]
fn what_somebody_put_beside_merged_weights_is_kept() {
    let merged = ["--save_merged", "true", "--train.lr_scheduler", "constant"];
    let home = finished(&merged);
    let added = home.path("out/merged/model-q4.gguf");
    std::fs::write(&added, "mine").unwrap();
    assert_ends_well(&home.smoke(&[RUN, &merged, RESUME].concat()), &["the run is finished"]);
    assert!(added.is_file());
    let longer = home.smoke(&[RUN, &merged, &["--train.max_steps", "8"], RESUME].concat());
    assert_ends_well(&longer, &["merged is not what a merge wrote", "merged model saved in"]);
    let aside = home.path("out/merged.set-aside-1/model-q4.gguf");
    assert_eq!(std::fs::read_to_string(aside).unwrap(), "mine");
}
