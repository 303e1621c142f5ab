//! VinaSmol's three runs as they are shipped, on the bundled model and rows of the right shape: they end well, say what is other than in
//! LitGPT, and leave an adapter that is asked as it was trained.

use crate::common::*;
use serde_json::{Value, json};
use vft::checkpoint::peft;
use vft::data::tokenizer::Tokenizer;

/// What a run left and printed.
struct Done {
    home: Home,
    text: String,
}

fn run(config: &str, rows: &str) -> Done {
    let home = Home::new();
    let (rows, out) = (home.write("rows.json", rows), home.text("out"));
    // VinaSmol's BOS opens a turn.
    edit(
        &home,
        "tokenizer_config.json",
        "\"bos_token\": \"<s>\"",
        "\"bos_token\": \"<|im_start|>\"",
    );
    let output = vft(&[
        "finetune_lora",
        "--config",
        &format!("configs/vinasmol/{config}.yml"),
        "--checkpoint_dir",
        &home.text("model"),
        "--data.path",
        &rows,
        "--out_dir",
        &out,
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
    Done { home, text }
}

impl Done {
    fn answer(&self, more: &[&str]) -> (String, String) {
        let adapter = self.home.text("out/final");
        let args = ["generate", "--adapter", &adapter, "--max-new-tokens", "8", "--device", "cpu"];
        let output = vft(&[&args[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        (String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output))
    }

    /// The adapter is asked in bf16 and in the style that it was trained in: `prompt` is what that makes of a greeting.
    fn is_asked_by(&self, prompt: &str) {
        let dir = self.home.path("out/final");
        let template = Tokenizer::template_of(&dir).unwrap().unwrap();
        let greeting = json!({"role": "user", "content": "Xin chào!"});
        assert_eq!(template.render_messages(&[greeting], None, true).unwrap(), prompt);
        let (by_template, notes) = self.answer(&["--prompt", "Xin chào!"]);
        assert!(notes.contains("base not quantised, bf16-true, as "), "{notes}");
        assert!(notes.contains("prompt: by the adapter's chat template"), "{notes}");
        assert_eq!(by_template, self.answer(&["--raw", "--prompt", prompt]).0);
    }

    /// The modules that are adapted, each of which has learned something.
    fn trained(&self) -> Vec<String> {
        let adapter = peft::read(&self.home.path("out/final")).unwrap();
        for (path, (_, b)) in &adapter.tensors {
            assert!(b.iter().any(|x| *x != 0.0), "{path} is as it began");
        }
        let mut names: Vec<String> =
            adapter.tensors.keys().map(|p| p.rsplit('.').next().unwrap().to_owned()).collect();
        names.sort();
        names.dedup();
        names
    }
}

const CHATML_ALPACA: &str = "<|im_start|>system\nYou are a helpful assistant. Follow the user's request and provide a complete, relevant answer. \
     Stay concise, factual, and on-topic, and do not add unrelated content.\n\n<|im_end|>\n\
     <|im_start|>user\nXin chào!<|im_end|>\n<|im_start|>assistant\n";
const CHATML_NO_SYS: &str = "<|im_start|>user\nXin chào!<|im_end|>\n<|im_start|>assistant\n";

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
    let done = run("lima", &lines((0..20).map(row)));
    let text = &done.text;
    assert!(text.contains("data: 18 training and 2 validation rows"), "{text}");
    // Seven linear layers in each of three, and the head.
    assert!(text.contains("adapter: 22 modules"), "{text}");
    let expected = ["train.min_lr", "precision", "loss", "epochs", "conversations stay whole"];
    assert_eq!(differences(text), expected);
    let everywhere =
        ["down_proj", "gate_proj", "k_proj", "lm_head", "o_proj", "q_proj", "up_proj", "v_proj"];
    assert_eq!(done.trained(), everywhere);
    done.is_asked_by(CHATML_ALPACA);
}

#[test]
fn vi_alpaca() {
    let input = |i: usize| if i.is_multiple_of(2) { "" } else { "nhà nước chó" };
    let row = |i: usize| json!({"instruction": format!("Tính {i} + 1."), "input": input(i), "output": format!("{}", i + 1)});
    // One list, as the data set's file is.
    let done = run("vi_alpaca", &lines([Value::from_iter((0..30).map(row))].into_iter()));
    let text = &done.text;
    assert!(text.contains("data: 29 training and 1 validation rows"), "{text}");
    assert!(text.contains("adapter: 6 modules"), "{text}");
    assert_eq!(differences(text), ["train.min_lr", "precision", "epochs"]);
    assert_eq!(done.trained(), ["q_proj", "v_proj"]);
    done.is_asked_by(CHATML_ALPACA);
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
    let done = run("vi_multi_turn_alpaca", &lines((0..24).map(row)));
    let text = &done.text;
    assert!(text.contains("data: 22 training and 2 validation rows"), "{text}");
    assert!(text.contains("adapter: 6 modules"), "{text}");
    let expected = ["train.min_lr", "precision", "epochs", "conversations stay whole"];
    assert_eq!(differences(text), expected);
    assert_eq!(done.trained(), ["q_proj", "v_proj"]);
    done.is_asked_by(CHATML_NO_SYS);
}
