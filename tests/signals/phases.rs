//! Each phase, and what a signal in it does.

use crate::common::{ROOT, Watched, hidden, vft};
use crate::model::{self, DEEP, LARGE, Shape};
use crate::phase::{End, Phase, Sent, is_all_written, signals};
use crate::server::{Repo, Request, Server, bytes};
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|a| (*a).to_owned()).collect()
}

/// A run with all that has state: it saves every other step, validates every third, answers, merges.
const RUN: &[&str] = &[
    "--config",
    "configs/smoke.yml",
    "--device",
    "cpu",
    "--train.max_steps",
    "6",
    "--train.save_interval",
    "2",
    "--eval.interval",
    "3",
    "--eval.max_new_tokens",
    "60",
    "--data.val_split_fraction",
    "0.3",
    "--lora_dropout",
    "0.1",
    "--save_merged",
    "true",
];

/// Signals in a part of [`RUN`].
fn part(name: &str, begins: &str, ends: &str) {
    let ends = End::Line(ends);
    Phase { name, begins, ends, args: strings(RUN), env: Vec::new() }.disturb();
}

#[test]
fn steps() {
    part("training steps", "step 1/6", "step 6/6");
}

#[test]
fn validation_before_the_first_step() {
    part("validation before the first step", "validates step=0", "step 0 | val loss");
}

#[test]
fn validation() {
    part("validation", "validates step=3", "answers step=3");
}

#[test]
fn last_validation() {
    part("validation after the last step", "validates step=6", "answers step=6");
}

#[test]
fn generation() {
    large("sample generation", ANSWERS, "answers step=1", End::Line("step 1 | sample"));
}

#[test]
fn last_generation() {
    large("sample after the last step", ANSWERS, "answers step=2", End::Line("step 2 | sample"));
}

#[test]
fn merging_at_the_end() {
    large("merging at the end of a run", ANSWERS, "merges", End::Merged);
}

#[test]
fn saving() {
    large("saving a checkpoint", SAVES, "saves step=1", End::Name("step-00000001"));
}

#[test]
fn saving_the_final_adapter() {
    large("saving the final adapter", SAVES, "saves the final adapter", End::Name("final"));
}

/// A few steps on the larger model: work that is left after it is loaded, for longer than it takes a process to see a signal on a busy machine.
const LOADED: &[&str] = &[
    "--config",
    "configs/smoke.yml",
    "--device",
    "cpu",
    "--train.max_steps",
    "4",
    "--train.lr_warmup_steps",
    "0",
    "--train.global_batch_size",
    "1",
    "--train.micro_batch_size",
    "1",
    "--lora_target_modules",
    "[q_proj]",
    "--eval.initial_validation",
    "false",
    "--eval.final_validation",
    "false",
];

/// Two steps on it, with answers of noise and a merge.
const ANSWERS: &[&str] = &[
    "--train.max_steps",
    "2",
    "--eval.interval",
    "1",
    "--eval.final_validation",
    "true",
    "--data.val_split_fraction",
    "0.01",
    "--eval.max_new_tokens",
    "60",
    "--save_merged",
    "true",
    "--quantize",
    "bnb.nf4",
];

/// Two steps with an adapter of 17 MB, and 35 MB of moments.
const SAVES: &[&str] = &[
    "--train.max_steps",
    "2",
    "--train.save_interval",
    "1",
    "--eval.final_validation",
    "true",
    "--eval.max_new_tokens",
    "0",
    "--data.val_split_fraction",
    "0.01",
    "--lora_target_modules",
    "all-linear",
    "--lora_r",
    "64",
];

fn large(name: &str, more: &[&str], begins: &str, ends: End<'_>) {
    loaded(name, &LARGE, more, begins, ends);
}

fn loaded(name: &str, shape: &Shape, more: &[&str], begins: &str, ends: End<'_>) {
    let home = tempfile::tempdir().unwrap();
    model::write(home.path(), shape);
    let mut args = strings(LOADED);
    args.extend(strings(more));
    args.extend(["--checkpoint_dir".into(), home.path().to_string_lossy().into_owned()]);
    Phase { name, begins, ends, args, env: Vec::new() }.disturb();
}

#[test]
fn loading() {
    loaded("loading weights", &DEEP, &[], "rows encoded", End::Line("weights ready"));
}

#[test]
fn quantising() {
    let more = ["--quantize", "bnb.nf4-dq", "--precision", "bf16-true"];
    large("quantising weights", &more, "rows encoded", End::Line("weights ready"));
}

/// Rows enough for a cache on disk.
fn many_rows(file: &Path) {
    let rows = std::fs::read_to_string(format!("{ROOT}/configs/smoke/data.jsonl")).unwrap();
    std::fs::write(file, rows.repeat(200)).unwrap();
}

#[test]
fn reading_rows() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("rows.jsonl");
    many_rows(&file);
    let mut args = strings(LOADED);
    args.extend(["--data.path".into(), file.to_string_lossy().into_owned()]);
    args.extend(strings(&["--train.max_steps", "60"]));
    let phase = Phase {
        name: "reading and encoding rows",
        begins: "reads rows",
        ends: End::Line("rows encoded"),
        args,
        env: Vec::new(),
    };
    phase.disturb();
}

/// A Hub that sends weights in parts of 6 MB, after a while each.
fn slow_hub() -> Server {
    let home = tempfile::tempdir().unwrap();
    model::write(home.path(), &LARGE);
    let read = |name: &str| std::fs::read(home.path().join(name)).unwrap();
    let names = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
    let files: Vec<(&'static str, Vec<u8>)> = names.map(|n| (n, read(n))).into();
    let files: Vec<(&'static str, &[u8])> = files.iter().map(|(n, b)| (*n, b.as_slice())).collect();
    let weights = read("model.safetensors");
    let repo = Repo::model(&files).large("model.safetensors", &weights);
    Server::start(move |request: &Request, _| {
        if request.method == "GET" && request.path.ends_with("model.safetensors") {
            std::thread::sleep(Duration::from_millis(50));
            return bytes(request, &weights).cut(6 << 20);
        }
        repo.answer(request)
    })
}

#[test]
fn downloading() {
    let server = slow_hub();
    let mut args = strings(LOADED);
    args.extend(strings(&["--checkpoint_dir", "org/tiny"]));
    let phase = Phase {
        name: "downloading",
        begins: "downloading model.safetensors",
        ends: End::Line("config.json read"),
        args,
        env: vec![("HF_ENDPOINT", server.url.clone())],
    };
    phase.disturb();
}

/// A download that a signal ends is gone on with where it ended.
#[test]
fn a_download_goes_on_where_it_ended() {
    let (server, home) = (slow_hub(), tempfile::tempdir().unwrap());
    let mut args = strings(LOADED);
    args.extend(strings(&["--checkpoint_dir", "org/tiny"]));
    let env = vec![("HF_ENDPOINT", server.url.clone())];
    let phase = Phase { name: "", begins: "", ends: End::Line(""), args, env };
    let mut run = phase.start(home.path(), "false");
    run.until("goes on at byte").unwrap();
    run.signal(Signal::TERM);
    assert_eq!(run.end(), Some(75), "{}", run.text());
    let before = server.log().len();
    assert_eq!(phase.start(home.path(), "auto").end(), Some(0));
    let log = server.log();
    let first = log[before..].iter().find(|r| r.method == "GET" && r.from().is_some());
    assert!(first.unwrap().from() >= Some(6 << 20), "{first:?}");
}

/// `vft merge` leaves the whole model or nothing.
#[test]
fn merging_by_itself() {
    let home = tempfile::tempdir().unwrap();
    let base = home.path().join("base");
    model::write(&base, &LARGE);
    let mut args = strings(LOADED);
    args.extend(["--checkpoint_dir".into(), base.to_string_lossy().into_owned()]);
    let phase = Phase { name: "", begins: "", ends: End::Line(""), args, env: Vec::new() };
    assert_eq!(phase.start(home.path(), "false").end(), Some(0));
    let merge = |out: &Path| {
        let mut command = vft(home.path());
        command.args(["merge", "--adapter", &home.path().join("out/final").to_string_lossy()]);
        command.args(["--base-weights", "dequant", "--quantize", "bnb.nf4"]);
        command.args(["--base", &base.to_string_lossy(), "--out", &out.to_string_lossy()]);
        Watched::start(command)
    };
    let whole = home.path().join("whole");
    let mut run = merge(&whole);
    let from = run.until("base weights: ").unwrap();
    let length = run.until_there(&whole) - from;
    assert_eq!(run.end(), Some(0), "{}", run.text());
    let whole = std::fs::read(whole.join("model.safetensors")).unwrap();
    signals("vft merge", length, |after, signal| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("merged");
        let mut run = merge(&out);
        run.until("base weights: ").unwrap();
        std::thread::sleep(after);
        let before = if run.is_running() { run.signal(signal) } else { Instant::now() };
        let within = !out.exists();
        let may_be_done = is_all_written(dir.path(), "merged", run.pid(), whole.len() as u64);
        let code = run.end();
        let took = before.elapsed();
        if code != Some(0) {
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{}", run.text());
            assert_eq!(merge(&out).end(), Some(0));
        }
        assert!(std::fs::read(out.join("model.safetensors")).unwrap() == whole, "{}", run.text());
        Sent { within, code, may_be_done, took }
    });
}

/// A run whose patience is over ends for good, however often its end is disturbed.
#[test]
fn an_early_end_stays_an_end() {
    let home = tempfile::tempdir().unwrap();
    let rows = std::fs::read_to_string(format!("{ROOT}/configs/smoke/data.jsonl")).unwrap();
    let file = home.path().join("rows.jsonl");
    // The validation after the last step takes a while, those before see one micro-batch.
    std::fs::write(&file, rows.repeat(15)).unwrap();
    let mut args = strings(RUN);
    let more = ["--train.early_stopping_patience", "1", "--optimizer.lr", "1e-9"];
    args.extend(strings(&more));
    args.extend(strings(&["--data.path", &file.to_string_lossy()]));
    args.extend(strings(&["--data.val_split_fraction", "0.95"]));
    args.extend(strings(&["--train.max_steps", "30", "--eval.max_iters", "1"]));
    let phase = Phase { name: "", begins: "", ends: End::Line(""), args, env: Vec::new() };
    let mut run = phase.start(home.path(), "false");
    run.until("saves the final adapter").unwrap();
    run.signal(Signal::TERM);
    assert_eq!(run.end(), Some(75), "{}", run.text());
    let mut again = phase.start(home.path(), "auto");
    assert_eq!(again.end(), Some(0), "{}", again.text());
    assert!(again.has("the validation loss fell no more: ended after step"), "{}", again.text());
    assert!(!again.has("step 30/30"), "{}", again.text());
}

/// What is encoded by `vft data preview` goes the same way.
#[test]
fn a_preview_leaves_nothing_half_written() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("rows.jsonl");
    many_rows(&file);
    let mut command: Command = vft(home.path());
    command.args(["data", "preview", "--config", "configs/smoke.yml"]);
    command.args(["--data.path", &file.to_string_lossy()]);
    let mut run = Watched::start(command);
    run.until("reads rows").unwrap();
    run.signal(Signal::TERM);
    assert_eq!(run.end(), Some(75), "{}", run.text());
    assert_eq!(hidden(&home.path().join("cache/data")), [""; 0]);
}
