//! VinaSmol's three runs as they are shipped, on the bundled model and rows of the right shape: they end well, and say what is other
//! than in LitGPT.

use crate::common::*;
use serde_json::{Value, json};

/// What a run printed, after its adapter has answered a prompt.
fn run(config: &str, rows: &str) -> String {
    let home = Home::new();
    let (rows, out) = (home.write("rows.json", rows), home.text("out"));
    // VinaSmol's BOS opens a turn.
    edit(
        &home,
        "tokenizer_config.json",
        "\"bos_token\": \"<s>\"",
        "\"bos_token\": \"<|im_start|>\"",
    );
    let model = home.text("model");
    let output = vft(&[
        "finetune_lora",
        "--config",
        &format!("configs/vinasmol/{config}.yml"),
        "--checkpoint_dir",
        &model,
        "--data.path",
        &rows,
        "--out_dir",
        &out,
        "--train.max_steps",
        "2",
        "--precision",
        "32-true",
        "--device",
        "cpu",
        "--eval.max_new_tokens",
        "8",
        // The bundled model sees no more.
        "--train.max_seq_length",
        "256",
    ]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("keep the BOS that they begin with; LitGPT strips it"), "{text}");
    let adapter = home.text("out/final");
    let asked = vft(&[
        "generate",
        "--base",
        &model,
        "--adapter",
        &adapter,
        "--prompt",
        "Xin chào!",
        "--max-new-tokens",
        "4",
        "--precision",
        "32-true",
        "--device",
        "cpu",
    ]);
    assert_eq!(asked.status.code(), Some(0), "{}", stderr(&asked));
    text
}

/// What each line of the list of differences begins with.
fn differences(text: &str) -> Vec<&str> {
    let lines = text.lines().skip_while(|l| *l != "other than in LitGPT:").skip(1);
    let lines = lines.map_while(|l| l.strip_prefix("  "));
    lines.map(|l| l.split([':', ';', ',']).next().unwrap()).collect()
}

fn lines(rows: impl Iterator<Item = Value>) -> String {
    rows.map(|row| format!("{row}\n")).collect()
}

#[test]
fn lima() {
    let turn = |i: usize| [format!("Đếm đến {i}?"), format!("Một đến {i}.")];
    let row = |i: usize| json!({"conversations": (0..=i % 3).flat_map(turn).collect::<Vec<_>>(), "source": "multi_turn"});
    let text = run("lima", &lines((0..20).map(row)));
    assert!(text.contains("data: 18 training and 2 validation rows"), "{text}");
    // Seven linear layers in each of three, and the head.
    assert!(text.contains("adapter: 22 modules"), "{text}");
    let expected = ["train.min_lr", "loss", "epochs", "conversations stay whole"];
    assert_eq!(differences(&text), expected);
}

#[test]
fn vi_alpaca() {
    let input = |i: usize| if i.is_multiple_of(2) { "" } else { "nhà nước chó" };
    let row = |i: usize| json!({"instruction": format!("Tính {i} + 1."), "input": input(i), "output": format!("{}", i + 1)});
    // One list, as the data set's file is.
    let text = run("vi_alpaca", &lines([Value::from_iter((0..30).map(row))].into_iter()));
    assert!(text.contains("data: 29 training and 1 validation rows"), "{text}");
    assert!(text.contains("adapter: 6 modules"), "{text}");
    assert_eq!(differences(&text), ["train.min_lr", "epochs"]);
}

#[test]
fn vi_multi_turn_alpaca() {
    let turn = |i: usize| {
        [
            json!({"role": "user", "content": format!("{i} + {i}?")}),
            json!({"role": "assistant", "content": format!("{}", 2 * i)}),
        ]
    };
    let row = |i: usize| json!({"messages": (0..=i % 3).flat_map(turn).collect::<Vec<_>>()});
    let text = run("vi_multi_turn_alpaca", &lines((0..24).map(row)));
    assert!(text.contains("data: 22 training and 2 validation rows"), "{text}");
    assert!(text.contains("adapter: 6 modules"), "{text}");
    let expected = ["train.min_lr", "epochs", "conversations stay whole"];
    assert_eq!(differences(&text), expected);
}
