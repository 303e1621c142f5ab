//! Each phase, and what a signal in it does.

use crate::common::{Left, ROOT, Watched, hidden, left, vft};
use crate::model;
use crate::server::{Repo, Request, Server, bytes};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use vft::checkpoint::find;

/// A run and the part of it that is meant: from a line on standard error to another.
struct Phase<'a> {
    name: &'a str,
    begins: &'a str,
    ends: &'a str,
    args: Vec<String>,
    env: Vec<(&'a str, String)>,
}

/// What came of the signals.
#[derive(Default)]
struct Tally {
    within: usize,
    codes: [usize; 2],
    slowest: Duration,
}

/// A small generator of random numbers.
struct Dice(u64);

impl Dice {
    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / (1u64 << 31) as f64
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|v| v.parse().ok())
}

/// The moments of a phase at which signals come, as shares of its length: its beginning and its middle, or as many as are asked for.
fn moments() -> Vec<f64> {
    let mut dice = Dice(number("VFT_SIGNAL_SEED").unwrap_or(7));
    match number("VFT_SIGNALS") {
        None => vec![0.0, 0.5],
        Some(count) => (0..count).map(|_| dice.share()).collect(),
    }
}

impl Phase<'_> {
    fn start(&self, home: &Path, resume: &str) -> Watched {
        let mut command = vft(home);
        command.arg("finetune").args(&self.args).args(["--resume", resume]);
        command.args(["--out_dir", &home.join("out").to_string_lossy()]);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        Watched::start(command)
    }

    /// The run that nobody disturbs: what it leaves, and how long the phase takes.
    fn whole(&self) -> (Left, Duration) {
        let home = tempfile::tempdir().unwrap();
        let mut run = self.start(home.path(), "false");
        let from = run.until(self.begins).unwrap();
        let to = run.until(self.ends).unwrap();
        assert_eq!(run.end(), Some(0), "{}", run.text());
        (left(&home.path().join("out")), to - from)
    }

    /// Sends signals at all moments; each time the run is taken up and becomes `whole`.
    fn disturb(&self, whole: &Left, length: Duration) {
        let (moments, mut tally) = (moments(), Tally::default());
        for (i, share) in moments.iter().enumerate() {
            let home = tempfile::tempdir().unwrap();
            let mut run = self.start(home.path(), "false");
            run.until(self.begins).unwrap();
            std::thread::sleep(length.mul_f64(*share));
            run.signal(["-TERM", "-INT"][i % 2]);
            let sent = Instant::now();
            let code = run.end();
            let what = format!("{}, signal {i} at {share:.3}:\n{}", self.name, run.text());
            tally.slowest = tally.slowest.max(sent.elapsed());
            tally.within += usize::from(!run.had(self.ends, sent));
            tally.codes[usize::from(code == Some(0))] += 1;
            assert!(matches!(code, Some(75 | 0)), "{code:?}: {what}");
            self.is_in_order(home.path(), &what);
            let mut again = self.start(home.path(), "auto");
            assert_eq!(again.end(), Some(0), "{what}\nthen\n{}", again.text());
            assert!(left(&home.path().join("out")) == *whole, "another run came of {what}");
        }
        let Tally { within, codes: [unfinished, done], slowest } = tally;
        println!(
            "| {} | {} | {within} | {unfinished} | {done} | {} | {} |",
            self.name,
            moments.len(),
            length.as_millis(),
            slowest.as_millis()
        );
    }

    /// Nothing is half written, and what was trained is on the disk.
    fn is_in_order(&self, home: &Path, what: &str) {
        let out = home.join("out");
        assert_eq!(hidden(&home.join("cache/data")), [""; 0], "{what}");
        assert!(hidden(&out).iter().all(|name| name == ".vft.lock"), "{:?} {what}", hidden(&out));
        let records = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
        if records.contains("grad_norm") {
            assert!(find::newest(&out).good.is_some(), "{what}");
        }
    }
}

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

fn of_run<'a>(name: &'a str, begins: &'a str, ends: &'a str) -> Phase<'a> {
    Phase { name, begins, ends, args: strings(RUN), env: Vec::new() }
}

/// Signals in a part of [`RUN`].
fn part(name: &str, begins: &str, ends: &str) {
    static WHOLE: OnceLock<(Left, Vec<(Instant, String)>)> = OnceLock::new();
    let phase = of_run(name, begins, ends);
    let (whole, lines) = WHOLE.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        let mut run = phase.start(home.path(), "false");
        assert_eq!(run.end(), Some(0), "{}", run.text());
        (left(&home.path().join("out")), run.seen)
    });
    let when = |text: &str| lines.iter().find(|(_, line)| line.contains(text)).unwrap().0;
    phase.disturb(whole, when(ends) - when(begins));
}

#[test]
fn steps() {
    part("training steps", "step 1/6", "step 6/6");
}

#[test]
fn saving() {
    part("saving a checkpoint", "saves step=4", "step 5/6");
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
fn generation() {
    large("sample generation", "answers step=1", "step 1 | sample");
}

#[test]
fn saving_the_final_adapter() {
    part("saving the final adapter", "saves the final adapter", "validates step=6");
}

#[test]
fn last_validation() {
    part("validation after the last step", "validates step=6", "answers step=6");
}

#[test]
fn last_generation() {
    large("sample after the last step", "answers step=2", "step 2 | sample");
}

#[test]
fn merging_at_the_end() {
    large("merging at the end of a run", "merges", "merged model saved");
}

/// One step on the larger model.
const LOADED: &[&str] = &[
    "--config",
    "configs/smoke.yml",
    "--device",
    "cpu",
    "--train.max_steps",
    "1",
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
fn large(name: &str, begins: &str, ends: &str) {
    let two = ["--train.max_steps", "2", "--eval.interval", "1", "--eval.final_validation", "true"];
    let few = ["--data.val_split_fraction", "0.01", "--eval.max_new_tokens", "30"];
    let more = [&two[..], &few, &["--save_merged", "true", "--quantize", "bnb.nf4"]].concat();
    loaded(name, &more, begins, ends);
}

fn loaded(name: &str, more: &[&str], begins: &str, ends: &str) {
    let home = tempfile::tempdir().unwrap();
    model::write(home.path());
    let mut args = strings(LOADED);
    args.extend(strings(more));
    args.extend(["--checkpoint_dir".into(), home.path().to_string_lossy().into_owned()]);
    let phase = Phase { name, begins, ends, args, env: Vec::new() };
    let (whole, length) = phase.whole();
    phase.disturb(&whole, length);
}

#[test]
fn loading() {
    loaded("loading weights", &[], "rows encoded", "weights ready");
}

#[test]
fn quantising() {
    let more = ["--quantize", "bnb.nf4-dq", "--precision", "bf16-true"];
    loaded("quantising weights", &more, "rows encoded", "weights ready");
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
    let phase = Phase {
        name: "reading and encoding rows",
        begins: "reads rows",
        ends: "rows encoded",
        args,
        env: Vec::new(),
    };
    let (whole, length) = phase.whole();
    phase.disturb(&whole, length);
}

/// A Hub that sends weights in parts of 6 MB, after a while each.
fn slow_hub() -> Server {
    let home = tempfile::tempdir().unwrap();
    model::write(home.path());
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
        ends: "config.json read",
        args,
        env: vec![("HF_ENDPOINT", server.url.clone())],
    };
    let (whole, length) = phase.whole();
    phase.disturb(&whole, length);
}

/// A download that a signal ends is gone on with where it ended.
#[test]
fn a_download_goes_on_where_it_ended() {
    let (server, home) = (slow_hub(), tempfile::tempdir().unwrap());
    let mut args = strings(LOADED);
    args.extend(strings(&["--checkpoint_dir", "org/tiny"]));
    let env = vec![("HF_ENDPOINT", server.url.clone())];
    let phase = Phase { name: "", begins: "", ends: "", args, env };
    let mut run = phase.start(home.path(), "false");
    run.until("goes on at byte").unwrap();
    run.signal("-TERM");
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
    model::write(&base);
    let mut args = strings(LOADED);
    args.extend(["--checkpoint_dir".into(), base.to_string_lossy().into_owned()]);
    let phase = Phase { name: "", begins: "", ends: "", args, env: Vec::new() };
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
    let length = run.until("merged: ").unwrap() - from;
    assert_eq!(run.end(), Some(0), "{}", run.text());
    let whole = std::fs::read(whole.join("model.safetensors")).unwrap();
    let (moments, mut tally) = (moments(), Tally::default());
    for (i, share) in moments.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("merged");
        let mut run = merge(&out);
        run.until("base weights: ").unwrap();
        std::thread::sleep(length.mul_f64(*share));
        run.signal(["-TERM", "-INT"][i % 2]);
        let sent = Instant::now();
        let code = run.end();
        tally.slowest = tally.slowest.max(sent.elapsed());
        tally.within += usize::from(!run.had("merged: ", sent));
        tally.codes[usize::from(code == Some(0))] += 1;
        if code != Some(0) {
            assert_eq!(code, Some(75), "{}", run.text());
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{}", run.text());
            assert_eq!(merge(&out).end(), Some(0));
        }
        assert!(std::fs::read(out.join("model.safetensors")).unwrap() == whole, "signal {i}");
    }
    let Tally { within, codes: [unfinished, done], slowest } = tally;
    println!(
        "| vft merge | {} | {within} | {unfinished} | {done} | {} | {} |",
        moments.len(),
        length.as_millis(),
        slowest.as_millis()
    );
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
    let phase = Phase { name: "", begins: "", ends: "", args, env: Vec::new() };
    let mut run = phase.start(home.path(), "false");
    run.until("saves the final adapter").unwrap();
    run.signal("-TERM");
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
    run.signal("-TERM");
    assert_eq!(run.end(), Some(75), "{}", run.text());
    assert_eq!(hidden(&home.path().join("cache/data")), [""; 0]);
}
