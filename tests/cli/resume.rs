//! Runs that end before their time are taken up and become the uninterrupted ones, byte for byte.
use crate::common::*;
use crate::left::left;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A run with dropout and everything that has state.
const RUN: &[&str] = &[
    "--train.max_steps",
    "12",
    "--train.save_interval",
    "4",
    "--eval.interval",
    "5",
    "--lora_dropout",
    "0.1",
    "--eval.max_new_tokens",
    "4",
    "--threads",
    "2",
];

/// The run cut short after `steps`, as a crash after that step's checkpoint leaves it.
fn cut_short(home: &Home, more: &[&str], keep: usize) {
    home.smoke(&[RUN, more].concat());
    std::fs::remove_dir_all(home.path("out/final")).unwrap();
    for step in [4, 8, 12] {
        if step > keep {
            std::fs::remove_dir_all(home.path(&format!("out/step-{step:08}"))).unwrap();
        }
    }
}

fn taken_up(more: &[&str], keep: usize) -> [(Vec<u8>, Vec<serde_json::Value>); 2] {
    let (whole, cut) = (Home::new(), Home::new());
    whole.smoke(&[RUN, more].concat());
    cut_short(&cut, more, keep);
    let output = cut.smoke(&[RUN, more, &["--resume", "auto"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    [whole, cut].map(|home| left(&home.path("out")))
}

#[test]
fn a_run_taken_up_is_the_uninterrupted_one() {
    let [whole, cut] = taken_up(&[], 4);
    assert_eq!(whole, cut);
}

#[test]
fn a_run_taken_up_in_another_epoch_is_the_uninterrupted_one() {
    let more = ["--train.global_batch_size", "64", "--train.micro_batch_size", "16"];
    let [whole, cut] = taken_up(&more, 8);
    assert_eq!(whole, cut);
}

#[test]
fn eight_bit_states_are_taken_up() {
    let [whole, cut] = taken_up(&["--optimizer", "AdamW8bit", "--lora_r", "64"], 8);
    assert_eq!(whole, cut);
}

#[test]
fn a_quantised_run_is_taken_up_on_other_threads() {
    let [whole, cut] = taken_up(&["--quantize", "bnb.nf4", "--precision", "bf16-true"], 4);
    assert_eq!(whole, cut);
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let (whole, cut) = (Home::new(), Home::new());
    whole.smoke(RUN);
    cut_short(&cut, &[], 8);
    let file = cut.path("out/step-00000008/optimizer.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let output = cut.smoke(&[RUN, &["--resume", "auto"]].concat());
    assert!(
        stderr(&output).contains("step-00000008 is damaged and passed over"),
        "{}",
        stderr(&output)
    );
    assert_eq!(left(&whole.path("out")).0, left(&cut.path("out")).0);
}

#[test]
fn a_run_stopped_by_a_signal_ends_with_75_and_is_taken_up() {
    let (whole, cut) = (Home::new(), Home::new());
    let long = [
        "--train.max_steps",
        "40",
        "--train.save_interval",
        "null",
        "--train.global_batch_size",
        "64",
    ];
    whole.smoke(&long);
    let out = cut.text("out");
    let mut child = Command::new(env!("CARGO_BIN_EXE_vft"))
        .args(["finetune", "--config", "configs/smoke.yml", "--out_dir", &out])
        .args(long)
        .current_dir(ROOT)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let stepped = || {
        let text = std::fs::read_to_string(cut.path("out/metrics.jsonl")).unwrap_or_default();
        text.contains("grad_norm")
    };
    while !stepped() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let output = cut.smoke(&[&long[..], &["--resume", "auto"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(left(&whole.path("out")).0, left(&cut.path("out")).0);
}

#[test]
fn without_a_checkpoint_a_run_begins_anew() {
    let home = Home::new();
    let output = home.smoke(&["--train.max_steps", "1", "--resume", "auto"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn what_a_run_without_a_checkpoint_left_is_begun_anew() {
    let home = Home::new();
    home.write("out/metrics.jsonl", "{\"step\": 0, \"val_loss\": 1.0, \"val_ppl\": 1.0}\n");
    let output = home.smoke(&["--train.max_steps", "1", "--resume", "auto"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(left(&home.path("out")).1.len(), 3);
}

#[test]
fn a_finished_run_says_so() {
    let home = Home::new();
    home.smoke(&["--train.max_steps", "1"]);
    let output = home.smoke(&["--train.max_steps", "1", "--resume", "auto"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("the run is finished"), "{}", stderr(&output));
}

#[test]
fn other_settings_are_refused_by_name() {
    let home = Home::new();
    cut_short(&home, &[], 4);
    let output = home.smoke(&[RUN, &["--resume", "auto", "--optimizer.lr", "1e-3"]].concat());
    assert_refused(
        &output,
        &["`optimizer.init_args.lr`: is 0.001, but the checkpoint was made with 0.005"],
    );
}

#[test]
fn other_rows_are_refused() {
    let home = Home::new();
    cut_short(&home, &[], 4);
    let output = home.smoke(&[RUN, &["--resume", "auto", "--data.mask_prompt", "false"]].concat());
    assert_refused(&output, &["the rows are not those of the checkpoint"]);
}

#[test]
fn harmless_changes_are_told() {
    let home = Home::new();
    cut_short(&home, &[], 4);
    let output = home.smoke(&[RUN, &["--resume", "auto", "--train.log_interval", "3"]].concat());
    assert!(stderr(&output).contains("train.log_interval was 1, is 3"), "{}", stderr(&output));
}

#[test]
fn only_so_many_checkpoints_are_kept() {
    let home = Home::new();
    home.smoke(&[
        "--train.max_steps",
        "5",
        "--train.save_interval",
        "1",
        "--train.save_total_limit",
        "2",
    ]);
    let kept: Vec<bool> =
        (1..=5).map(|s| home.path(&format!("out/step-{s:08}")).exists()).collect();
    assert_eq!(kept, [false, false, false, true, true]);
}

#[test]
fn a_run_ends_when_its_time_is_over() {
    let home = Home::new();
    let output = home.smoke(&["--train.max_time", "1e-6", "--eval.initial_validation", "false"]);
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
}
