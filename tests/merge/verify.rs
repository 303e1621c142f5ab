//! `--verify` and the command itself.

use crate::common::*;
use candle_core::DType;
use std::fs;
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;
use vft::merge::verify::{Comparison, VerifyAsk, sample, verify};
use vft::merge::{BaseWeights, MergeAsk, SHARD_BYTES, TiedHead, merge};
use vft::model::load::Nf4;
use vft::ops::Cx;

/// Merges a fixture with one base and compares it, in f32, with base and adapter as trained on NF4.
fn compared(base: &str, adapter: &str, dequant: bool, damage: impl FnOnce(&Home)) -> Comparison {
    let (home, stop) = (Home::new(), AtomicBool::new(false));
    let (base, out) = (fixture(base), home.out());
    let trained_on = (Nf4::Single, DType::F32);
    let (nf4, compute) = trained_on;
    let ask = MergeAsk {
        base: &base,
        adapter: &base.join(adapter),
        out: &out,
        replace: false,
        base_weights: if dequant {
            BaseWeights::Dequant { nf4, compute }
        } else {
            BaseWeights::Original
        },
        tied_head: TiedHead::Untie,
        shard_bytes: SHARD_BYTES,
        stop: &stop,
    };
    merge(&ask).unwrap();
    damage(&home);
    let cx = Cx::cpu(DType::F32, 1).unwrap();
    let sequences = sample(&cx, &base, 1, 8, 16).unwrap();
    let trained_on = Some(trained_on);
    verify(&VerifyAsk { cx: &cx, merge: &ask, trained_on, sequences: &sequences }).unwrap()
}

#[test]
fn dequant_is_the_model_that_was_trained() {
    let found = compared("tied", "adapter-head", true, |_| ());
    assert!(found.rows[0].is_written);
    assert!(found.rows[0].kl < 1e-9, "{found:?}");
    assert_eq!(found.rows[0].agreement, 1.0);
    assert!((found.rows[0].perplexity / found.perplexity - 1.0).abs() < 1e-5, "{found:?}");
}

#[test]
fn one_bf16_rounding_is_all_that_dequant_costs() {
    let found = compared("bf16", "adapter", true, |_| ());
    assert!(found.rows[0].kl < 1e-4, "{found:?}");
}

#[test]
fn the_original_base_is_farther_from_what_was_trained() {
    let found = compared("tied", "adapter", true, |_| ());
    assert!(found.rows[1].kl > 1e3 * found.rows[0].kl, "{found:?}");
}

/// Either base written gives the same two models: the one that is computed in memory is the one that would have been written.
#[test]
fn the_computed_model_is_the_one_that_would_have_been_written() {
    for (base, adapter) in [("tied", "adapter-head"), ("bf16", "adapter")] {
        let [a, b] = [true, false].map(|dequant| compared(base, adapter, dequant, |_| ()));
        let values =
            |c: &Comparison, i: usize| (c.rows[i].base_weights, c.rows[i].kl, c.rows[i].perplexity);
        assert_eq!(values(&a, 0), values(&b, 1), "{base}, dequant");
        assert_eq!(values(&a, 1), values(&b, 0), "{base}, original");
    }
}

#[test]
fn what_is_verified_is_the_file() {
    let whole = compared("tied", "adapter", true, |_| ());
    let damaged = compared("tied", "adapter", true, |home| {
        let file = home.out().join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        let end = bytes.len();
        bytes[end - 1024..].fill(0);
        fs::write(&file, bytes).unwrap();
    });
    assert!(damaged.rows[0].kl > 1e3 * whole.rows[0].kl.max(1e-9), "{damaged:?}");
}

#[test]
fn sampled_sequences_depend_on_their_seed_alone() {
    let cx = Cx::cpu(DType::F32, 1).unwrap();
    let drawn = |count| sample(&cx, &fixture("tied"), 1, count, 12).unwrap();
    let (two, three) = (drawn(2), drawn(3));
    assert_eq!(two, three[..2]);
    assert_ne!(two[0], two[1]);
}

fn vft(args: &[&str]) -> Output {
    let root = env!("CARGO_MANIFEST_DIR");
    Command::new(env!("CARGO_BIN_EXE_vft")).args(args).current_dir(root).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn merge_command(home: &Home, more: &[&str]) -> Output {
    let out = home.out().to_string_lossy().into_owned();
    vft(&[&["merge", "--out", &out], more].concat())
}

/// A short NF4 run of the bundled model.
fn trained(home: &Home) -> String {
    let out = home.path("run").to_string_lossy().into_owned();
    let run = vft(&[
        "finetune",
        "--config",
        "configs/smoke.yml",
        "--out_dir",
        &out,
        "--train.max_steps",
        "3",
        "--quantize",
        "bnb.nf4-dq",
        "--eval.initial_validation",
        "false",
    ]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    home.path("run/final").to_string_lossy().into_owned()
}

#[test]
fn an_adapter_of_an_nf4_run_knows_its_base_and_how_it_was_quantised() {
    let home = Home::new();
    let adapter = trained(&home);
    let rows = home.path("held.txt");
    fs::write(&rows, "từ đầu tiên\n\nnhà nước\n").unwrap();
    let rows = rows.to_string_lossy();
    let done = merge_command(&home, &["--adapter", &adapter, "--verify", "--verify-text", &rows]);
    let notes = text(&done.stderr);
    assert_eq!(done.status.code(), Some(0), "{notes}");
    assert!(notes.contains("configs/smoke/model, as the adapter says"), "{notes}");
    assert!(notes.contains("base weights: dequant, bnb.nf4-dq rounded to 32-true"), "{notes}");
    let table = text(&done.stdout);
    assert!(table.contains("merged, dequant (written)"), "{table}");
    assert!(table.contains("\n2 sequences, "), "{table}");
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        assert!(home.out().join(file).is_file(), "{file}");
    }
}

#[test]
fn without_knowledge_the_base_is_the_original() {
    let home = Home::new();
    let done = merge_command(&home, &["--adapter", "tests/fixtures/merge/tied/adapter"]);
    let notes = text(&done.stderr);
    assert_eq!(done.status.code(), Some(0), "{notes}");
    assert!(notes.contains("base weights: original (nothing says"), "{notes}");
}

#[test]
fn quantize_says_what_the_adapter_was_trained_on() {
    let home = Home::new();
    let adapter = "tests/fixtures/merge/tied/adapter";
    let done = merge_command(&home, &["--adapter", adapter, "--quantize", "bnb.nf4"]);
    let notes = text(&done.stderr);
    assert!(notes.contains("dequant, bnb.nf4 rounded to bf16-true"), "{notes}");
    assert!(notes.contains("4 linears with the adapter, 14 through NF4"), "{notes}");
}

#[test]
fn dequant_needs_to_know_the_kind() {
    let home = Home::new();
    let adapter = "tests/fixtures/merge/tied/adapter";
    let done = merge_command(&home, &["--adapter", adapter, "--base-weights", "dequant"]);
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("hint: give `--quantize bnb.nf4`"));
    assert_eq!(home.entries(), 0);
}

#[test]
fn flags_that_change_nothing_are_refused() {
    let home = Home::new();
    let adapter = "tests/fixtures/merge/tied/adapter";
    let original = ["--adapter", adapter, "--base-weights", "original", "--quantize", "nf4"];
    let done = merge_command(&home, &original);
    assert!(text(&done.stderr).contains("change nothing"), "{}", text(&done.stderr));
    let done = merge_command(&home, &["--adapter", adapter, "--device", "cpu"]);
    assert!(text(&done.stderr).contains("--verify"), "{}", text(&done.stderr));
    assert_eq!(home.entries(), 0);
}

#[test]
fn a_base_that_is_not_here_must_be_given() {
    let home = Home::new();
    let adapter = home.path("adapter");
    fs::create_dir(&adapter).unwrap();
    let json = "{\"base_model_name_or_path\": \"/models/SmolLM2-360M\"}";
    fs::write(adapter.join("adapter_config.json"), json).unwrap();
    let done = merge_command(&home, &["--adapter", &adapter.to_string_lossy()]);
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("hint: give the base model's directory as `--base DIR`"));
}
