//! Adapters are prompted as they were trained: the chat template beside them, and what `generate` takes from them.

use crate::common::*;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;
use vft::checkpoint::manifest;
use vft::data::tokenizer::Tokenizer;

const MODEL: &str = "configs/smoke/model";
const ALPACA: &str = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
                      ### Instruction:\ntừ đầu tiên\n\n### Response:\n";

/// A short smoke run in a style.
fn styled(home: &Home, style: &[&str], more: &[&str]) -> Output {
    let mut args = vec!["--train.max_steps", "3", "--eval.initial_validation", "false"];
    args.extend(style.iter().chain(more));
    let output = home.smoke(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    output
}

/// The text that the adapter's own template makes of a question.
fn prompt(dir: &Path, question: &str) -> String {
    let template = Tokenizer::template_of(dir).unwrap().unwrap();
    template.render_messages(&[json!({"role": "user", "content": question})], None, true).unwrap()
}

fn generate(more: &[&str]) -> Output {
    let mut args = vec!["generate", "--device", "cpu", "--max-new-tokens", "8"];
    args.extend(more);
    vft(&args)
}

fn answer(more: &[&str]) -> (String, String) {
    let output = generate(more);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    (String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output))
}

#[test]
fn an_adapter_of_a_style_is_prompted_in_it() {
    let home = Home::new();
    styled(
        &home,
        &["--data.prompt_style", "alpaca"],
        &["--save_merged", "true", "--train.save_interval", "2", "--train.save_best", "true"],
    );
    let (last, merged) = (home.path("out/final"), home.path("out/merged"));
    assert_eq!(prompt(&last, "từ đầu tiên"), ALPACA);
    let own = std::fs::read(last.join("chat_template.jinja")).unwrap();
    for dir in ["out/merged", "out/best", "out/step-00000002"] {
        let file = home.path(dir).join("chat_template.jinja");
        assert!(std::fs::read(file).unwrap() == own, "{dir}");
    }
    let card = std::fs::read_to_string(last.join("README.md")).unwrap();
    let option = format!(" --chat-template {}/chat_template.jinja\n", home.text("out/final"));
    assert!(card.contains(&option), "{card}");

    let adapter = home.text("out/final");
    let (by_template, notes) = answer(&["--adapter", &adapter, "--prompt", "từ đầu tiên"]);
    assert!(notes.contains("prompt: by the adapter's chat template"), "{notes}");
    let (by_hand, _) = answer(&["--adapter", &adapter, "--raw", "--prompt", ALPACA]);
    assert_eq!(by_template, by_hand);
    let (of_merged, _) = answer(&[
        "--base",
        &merged.to_string_lossy(),
        "--precision",
        "32-true",
        "--prompt",
        "từ đầu tiên",
    ]);
    assert_eq!(of_merged, by_hand);

    // A checkpoint with another template is none.
    std::fs::write(home.path("out/step-00000002/chat_template.jinja"), "x").unwrap();
    let error = manifest::verify(&home.path("out/step-00000002")).unwrap_err().to_string();
    assert!(error.contains("`chat_template.jinja`"), "{error}");
}

#[test]
fn a_style_without_a_chat_template_ships_none() {
    let home = Home::new();
    // Rows keep their columns beside the shape that they have.
    let row = json!({"instruction": "từ", "output": "lửa", "topic": "nhà"});
    let rows = home.write("rows.jsonl", &format!("{row}\n").repeat(40));
    let template = "({topic}) {instruction}:";
    let output = styled(&home, &["--data.prompt_template", template], &["--data.path", &rows]);
    let note =
        "note: no chat_template.jinja goes with the adapter: `prompt_template` asks for `topic`";
    assert!(stderr(&output).contains(note), "{}", stderr(&output));
    assert!(!home.path("out/final/chat_template.jinja").exists());
    let card = std::fs::read_to_string(home.path("out/final/README.md")).unwrap();
    assert!(card.contains("\"prompt\": \"({topic}) {instruction}:\""), "{card}");
    let adapter = home.text("out/final");
    let (by_itself, notes) = answer(&["--adapter", &adapter, "--prompt", "(nhà) từ:"]);
    assert!(
        notes.contains("prompt: as it is, because the adapter has no chat template"),
        "{notes}"
    );
    assert_eq!(by_itself, answer(&["--adapter", &adapter, "--raw", "--prompt", "(nhà) từ:"]).0);
}

#[test]
fn an_answer_is_computed_as_the_adapter_was_trained() {
    let home = Home::new();
    styled(&home, &[], &["--quantize", "bnb.nf4", "--precision", "bf16-true"]);
    let adapter = home.text("out/final");
    let ask = |more: &[&str]| answer(&[&["--adapter", &adapter, "--prompt", "a"], more].concat()).1;
    let says = format!("as {adapter}/vft.yaml says");
    let notes = ask(&[]);
    assert!(notes.lines().any(|l| l == format!("base bnb.nf4, bf16-true, {says}")), "{notes}");
    assert!(notes.contains("configs/smoke/model, as the adapter says"), "{notes}");
    let notes = ask(&["--base", MODEL, "--quantize", "none"]);
    assert!(notes.lines().any(|l| l == format!("bf16-true, {says}")), "{notes}");
    let notes = ask(&["--quantize", "none", "--precision", "32-true"]);
    assert!(!notes.contains(&says), "{notes}");
}

#[test]
fn a_packed_base_does_not_go_with_mixed_precision() {
    let home = Home::new();
    let refused = "`quantize`: does not go with `precision: bf16-mixed`; write bf16-true";
    let mixed = ["--quantize", "bnb.nf4", "--precision", "bf16-mixed"];
    let ask = [&["--base", MODEL, "--prompt", "a"], &mixed[..]].concat();
    assert_refused(&generate(&ask), &[refused]);
    let (adapter, out) = ("tests/fixtures/merge/bf16/adapter", home.text("merged"));
    let args =
        ["merge", "--base", "tests/fixtures/merge/bf16", "--adapter", adapter, "--out", &out];
    assert_refused(&vft(&[&args[..], &mixed[..]].concat()), &[refused]);
    assert_refused(&home.smoke(&mixed), &[refused]);
}

#[test]
fn without_a_base_or_an_adapter_nothing_answers() {
    assert_refused(&generate(&["--prompt", "a"]), &["`--base` is missing", "`--adapter`"]);
}

#[test]
fn a_sample_is_compared_with_the_answer_alone() {
    let home = Home::new();
    styled(&home, &[], &["--eval.interval", "2"]);
    let text = std::fs::read_to_string(home.path("out/samples.jsonl")).unwrap();
    let sample: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let rows = std::fs::read_to_string(Path::new(ROOT).join("configs/smoke/data.jsonl")).unwrap();
    let mut outputs =
        rows.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["output"].clone());
    assert!(outputs.any(|o| o == sample["expected"]), "{sample}");
}
