//! Runs that end before their time are taken up and become the uninterrupted ones, byte for byte.
use crate::checkpoint::{Kept, first_step, kept, newest, taken_up};
use crate::common::*;
use crate::left::left;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A run with dropout and everything that has state.
const RUN: &[&str] = &[
    "--train.max_steps",
    "12",
    "--train.save_interval",
    "3",
    "--train.save_best",
    "true",
    "--eval.interval",
    "5",
    "--lora_dropout",
    "0.1",
    "--eval.max_new_tokens",
    "4",
];

/// The adapter, the records, the last checkpoint, where the run stands at its end, the best adapter and where the run stood then.
type Come = (Vec<u8>, Vec<Value>, [Kept; 3], Vec<u8>);

/// What a [`RUN`] comes to.
fn come_to(home: &Home) -> Come {
    let (adapter, records) = left(&home.path("out"));
    let kept = ["step-00000009", "final", "best"].map(|name| kept(&home.path("out").join(name)));
    let best = std::fs::read(home.path("out/best/adapter_model.safetensors")).unwrap();
    (adapter, records, kept, best)
}

/// The run cut short, as a crash leaves it after the checkpoint of step `keep`.
fn cut_short(home: &Home, args: &[&str], keep: usize) {
    let output = home.smoke(args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    forget_after(home, keep);
}

/// Takes away what came after step `keep`, but for records.
fn forget_after(home: &Home, keep: usize) {
    std::fs::remove_dir_all(home.path("out/final")).unwrap();
    let best = home.path("out/best");
    if best.is_dir() && kept(&best).state["step"].as_u64() > Some(keep as u64) {
        std::fs::remove_dir_all(best).unwrap();
    }
    while let Some(step) = newest(&home.path("out")).filter(|step| *step > keep) {
        std::fs::remove_dir_all(home.path(&format!("out/step-{step:08}"))).unwrap();
    }
    assert_eq!(newest(&home.path("out")), Some(keep));
}

/// Takes the run up, which says so and goes on after step `after`.
fn take_up(home: &Home, args: &[&str], after: usize) -> Output {
    let output = home.smoke(&[args, &["--resume", "auto"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(taken_up(&stderr(&output)), Some(after), "{}", stderr(&output));
    assert_eq!(first_step(&stderr(&output)), Some(after + 1), "{}", stderr(&output));
    output
}

/// The uninterrupted run, and the one taken up after step 6 on other threads.
fn whole_and_taken_up(more: &[&str], threads: [&str; 2]) -> [Come; 2] {
    let (whole, cut) = (Home::new(), Home::new());
    let [first, second] = threads.map(|n| [RUN, more, &["--threads", n]].concat());
    cut_short(&cut, &first, 6);
    // What the first start has come to, it has come to without being taken up.
    let output = whole.smoke(&first);
    assert_eq!(taken_up(&stderr(&output)), None);
    take_up(&cut, &second, 6);
    let both = [whole, cut].map(|home| come_to(&home));
    assert!(both[0].2[0].moments.as_ref().is_some_and(|m| m.len() > 1000));
    both
}

#[test]
fn a_run_taken_up_is_the_uninterrupted_one() {
    let [whole, cut] = whole_and_taken_up(&[], ["2", "2"]);
    assert_eq!(whole, cut);
}

#[test]
fn a_run_taken_up_in_another_epoch_is_the_uninterrupted_one() {
    let more = ["--train.global_batch_size", "64", "--train.micro_batch_size", "16"];
    let [whole, cut] = whole_and_taken_up(&more, ["2", "2"]);
    assert_eq!(whole, cut);
}

#[test]
fn a_run_is_taken_up_on_more_threads() {
    let [whole, cut] = whole_and_taken_up(&[], ["1", "3"]);
    assert_eq!(whole, cut);
}

#[test]
fn a_quantised_run_is_taken_up_on_other_threads() {
    let more = ["--quantize", "bnb.nf4", "--precision", "bf16-true"];
    let [whole, cut] = whole_and_taken_up(&more, ["3", "1"]);
    assert_eq!(whole, cut);
}

#[test]
fn eight_bit_states_are_taken_up() {
    for kind in ["AdamW8bit", "PagedAdamW8bit"] {
        let more = ["--optimizer", kind, "--lora_r", "64"];
        let [whole, cut] = whole_and_taken_up(&more, ["1", "3"]);
        assert_eq!(whole, cut, "{kind}");
    }
}

#[test]
fn adam_is_taken_up() {
    for kind in ["Adam", "PagedAdamW"] {
        let more = ["--optimizer", kind, "--optimizer.weight_decay", "0.1"];
        let [whole, cut] = whole_and_taken_up(&more, ["1", "3"]);
        assert_eq!(whole, cut, "{kind}");
    }
}

/// The first gradient enters the momentum undamped, and no other.
#[test]
fn momentum_is_taken_up() {
    let sgd = ["--optimizer", "SGD", "--optimizer.lr", "0.1", "--optimizer.momentum", "0.9"];
    for of_momentum in [["--optimizer.dampening", "0.5"], ["--optimizer.nesterov", "true"]] {
        let more = [&sgd[..], &of_momentum].concat();
        let [whole, cut] = whole_and_taken_up(&more, ["1", "3"]);
        assert_eq!(whole, cut, "{of_momentum:?}");
    }
}

/// The tokens that a run says it has trained on are those of all its steps.
#[test]
fn tokens_are_counted_on() {
    let [_, (_, records, [_, last, _], _)] = whole_and_taken_up(&[], ["2", "2"]);
    let of_steps: u64 = records.iter().filter_map(|r| r["tokens"].as_u64()).sum();
    assert_eq!(last.state["tokens"].as_u64(), Some(of_steps));
}

/// Steps far too long: after step 4 the loss on validation rows only rises.
const ASTRAY: &[&str] = &[
    "--optimizer.lr",
    "0.03",
    "--train.lr_warmup_steps",
    "0",
    "--train.max_norm",
    "null",
    "--eval.interval",
    "2",
    "--eval.max_new_tokens",
    "0",
    "--train.early_stopping_patience",
    "4",
    "--train.save_best",
    "true",
    "--train.save_interval",
    "3",
];

/// Two of the four validations that patience waits for come before the cut, two after it.
#[test]
fn patience_and_the_lowest_loss_are_taken_up() {
    let home = Home::new();
    home.smoke(ASTRAY);
    let whole = come_to(&home);
    assert_eq!(whole.1.last().map(|r| r["step"].as_u64()), Some(Some(12)));
    assert_eq!(whole.2[2].state["step"], 4);
    forget_after(&home, 9);
    assert_eq!(kept(&home.path("out/step-00000009")).state["lowest"][1], 2);
    let output = take_up(&home, ASTRAY, 9);
    assert!(stderr(&output).contains("the validation loss fell no more: ended after step 12"));
    assert_eq!(come_to(&home), whole);
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let (whole, cut) = (Home::new(), Home::new());
    whole.smoke(RUN);
    cut_short(&cut, RUN, 9);
    let file = cut.path("out/step-00000009/optimizer.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let output = take_up(&cut, RUN, 6);
    assert!(
        stderr(&output).contains("step-00000009 is damaged and passed over"),
        "{}",
        stderr(&output)
    );
    assert_eq!(come_to(&whole), come_to(&cut));
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
    let records = || std::fs::read_to_string(cut.path("out/metrics.jsonl")).unwrap_or_default();
    while !records().contains("grad_norm") && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let last: Value = serde_json::from_str(records().lines().last().unwrap()).unwrap();
    let step = last["step"].as_u64().unwrap() as usize;
    assert_eq!(newest(&cut.path("out")), Some(step));
    take_up(&cut, &long, step);
    let [whole, cut] = [&whole, &cut].map(|home| home.path("out"));
    assert_eq!((left(&whole), kept(&whole.join("final"))), (left(&cut), kept(&cut.join("final"))));
}

#[test]
fn without_a_checkpoint_a_run_begins_anew() {
    let home = Home::new();
    let output = home.smoke(&["--train.max_steps", "1", "--resume", "auto"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!((taken_up(&stderr(&output)), first_step(&stderr(&output))), (None, Some(1)));
}

#[test]
fn what_a_run_without_a_checkpoint_left_is_begun_anew() {
    let home = Home::new();
    home.write("out/metrics.jsonl", "{\"step\": 0, \"val_loss\": 1.0, \"val_ppl\": 1.0}\n");
    let output = home.smoke(&["--train.max_steps", "1", "--resume", "auto"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!((taken_up(&stderr(&output)), first_step(&stderr(&output))), (None, Some(1)));
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
    cut_short(&home, RUN, 3);
    let output = home.smoke(&[RUN, &["--resume", "auto", "--optimizer.lr", "1e-3"]].concat());
    assert_refused(
        &output,
        &["`optimizer.init_args.lr`: is 0.001, but the checkpoint was made with 0.005"],
    );
}

#[test]
fn other_rows_are_refused() {
    let home = Home::new();
    cut_short(&home, RUN, 3);
    let output = home.smoke(&[RUN, &["--resume", "auto", "--data.mask_prompt", "false"]].concat());
    assert_refused(&output, &["the rows are not those of the checkpoint"]);
}

#[test]
fn harmless_changes_are_told() {
    let home = Home::new();
    cut_short(&home, RUN, 3);
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
