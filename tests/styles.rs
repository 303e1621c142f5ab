//! Prompt styles against LitGPT's own output (`scripts/fixtures/litgpt_styles.py`), conversations against transformers' chat
//! templates, and `docs/prompt-styles.md` against the table.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use vft::data::style::table::{Named, STYLES, System};
use vft::data::style::{Exchange, Style};

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn json(relative: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(relative)).unwrap()).unwrap()
}

fn litgpt() -> Value {
    json("tests/fixtures/litgpt/styles.json")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn style_of(case: &Value) -> Style {
    let message = case["init_args"]["system_message"].as_str();
    Style::named(case["class_path"].as_str().unwrap(), message).unwrap()
}

fn exchange<'a>(case: &'a Value, columns: &'a Map<String, Value>) -> Exchange<'a> {
    Exchange {
        system: case["system"].as_str(),
        instruction: case["instruction"].as_str().unwrap(),
        input: case["input"].as_str().unwrap(),
        columns,
    }
}

/// VinaSmol leaves an empty question unclosed, so that the answer would be the user's.
fn is_left_open(case: &Value, asked: &Value) -> bool {
    case["class_path"].as_str().unwrap().starts_with("vinasmol_datamodule.")
        && asked["instruction"] == ""
}

#[test]
fn every_class_writes_litgpts_prompts() {
    let (fixture, columns) = (litgpt(), Map::new());
    for case in list(&fixture["cases"]) {
        let style = style_of(case);
        for (asked, text) in list(&fixture["exchanges"]).iter().zip(list(&case["texts"])) {
            if is_left_open(case, asked) {
                continue;
            }
            let mut exchange = exchange(asked, &columns);
            // LitGPT leaves the system text out where a style has no place for it.
            exchange.system = exchange.system.filter(|_| style.takes_system());
            let written = style.prompt(&exchange).unwrap();
            assert_eq!(written, text.as_str().unwrap(), "{} {asked}", case["class_path"]);
        }
    }
}

#[test]
fn an_empty_question_is_a_closed_turn() {
    let (fixture, columns) = (litgpt(), Map::new());
    let asked = list(&fixture["exchanges"]).iter().find(|e| e["instruction"] == "").unwrap();
    let style = Style::named("vinasmol_datamodule.ChatMLNoSys", None).unwrap();
    let text = style.prompt(&exchange(asked, &columns)).unwrap();
    assert_eq!(text, "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n");
}

#[test]
fn a_system_text_without_place_is_refused() {
    let (fixture, columns) = (litgpt(), Map::new());
    let asked =
        list(&fixture["exchanges"]).iter().find(|e| e["system"] == "Bạn là trợ lý.").unwrap();
    for style in list(&fixture["cases"]).iter().map(style_of).filter(|s| !s.takes_system()) {
        let error = style.prompt(&exchange(asked, &columns)).unwrap_err();
        assert!(error.ends_with("has no place for a system text"), "{}: {error}", style.name());
    }
}

#[test]
fn every_short_name_is_litgpts_class() {
    for (name, class) in litgpt()["names"].as_object().unwrap() {
        let class = Style::named(class.as_str().unwrap(), None).unwrap();
        assert_eq!(Style::named(name, None).unwrap(), class);
    }
}

#[test]
fn every_class_is_known_by_its_bare_name() {
    for case in list(&litgpt()["cases"]) {
        let class = case["class_path"].as_str().unwrap();
        let bare = class.rsplit('.').next().unwrap();
        assert_eq!(Style::named(bare, None), Style::named(class, None));
    }
}

#[test]
fn every_class_of_the_table_is_in_the_fixture() {
    let fixture = litgpt();
    let paths: Vec<_> = list(&fixture["cases"]).iter().map(|c| &c["class_path"]).collect();
    for class in STYLES.iter().filter_map(|s| s.class) {
        assert!(paths.iter().any(|p| *p == class), "{class}");
    }
}

#[test]
fn no_style_writes_python_none() {
    for case in list(&litgpt()["cases"]) {
        for asked in list(&litgpt()["exchanges"]) {
            let columns = Map::new();
            let exchange = Exchange { system: None, ..exchange(asked, &columns) };
            assert!(!style_of(case).prompt(&exchange).unwrap().contains("None"));
        }
    }
}

/// A conversation of two questions as transformers renders it with `template`.
fn rendered(template: &str) -> (Vec<String>, String) {
    let fixture = json("tests/fixtures/chat_template/cases.json");
    let is_it = |c: &&Value| {
        c["name"] == template
            && list(&c["messages"]).len() == 4
            && c["add_generation_prompt"] == false
    };
    let case = list(&fixture["cases"]).iter().find(is_it).unwrap();
    let said = list(&case["messages"]).iter().map(|m| m["content"].as_str().unwrap().to_owned());
    (said.collect(), case["expected"].as_str().unwrap().to_owned())
}

/// What follows the first question's words, in a style and in a chat template that ends a conversation with `end` after EOS.
fn conversations(style: &str, template: &str, eos: &str, end: &str) -> (String, String) {
    let (said, expected) = rendered(template);
    let (style, columns) = (Style::named(style, None).unwrap(), Map::new());
    let asked =
        |i: usize| Exchange { system: None, instruction: &said[i], input: "", columns: &columns };
    let (first, later) = (style.prompt(&asked(0)).unwrap(), style.next_prompt(&asked(2)).unwrap());
    let text = format!("{first}{}{eos}{later}{}{eos}{end}", said[1], said[3]);
    let after = |t: &str| t.split_once(&said[0]).unwrap().1.to_owned();
    (after(&text), after(&expected))
}

#[test]
fn chatml_conversations_are_transformers() {
    let (ours, theirs) = conversations("litgpt.prompts.ChatML", "chatml", "<|im_end|>", "\n");
    assert_eq!(ours, theirs);
}

#[test]
fn smollm2_conversations_are_transformers() {
    let (ours, theirs) = conversations("smollm2", "smollm2", "<|im_end|>", "\n");
    assert_eq!(ours, theirs);
}

#[test]
fn qwen2_5_conversations_are_transformers() {
    let (ours, theirs) = conversations("qwen2.5", "qwen2.5", "<|im_end|>", "\n");
    assert_eq!(ours, theirs);
}

#[test]
fn llama3_conversations_are_transformers() {
    let (ours, theirs) = conversations("llama3", "llama3", "<|eot_id|>", "");
    assert_eq!(ours, theirs);
}

#[test]
fn mistral_conversations_are_transformers() {
    let (ours, theirs) = conversations("codellama", "mistral", "</s>", "");
    assert_eq!(ours, theirs);
}

#[test]
fn a_later_alpaca_question_has_no_preamble() {
    let columns = Map::new();
    let asked = Exchange { system: Some("S"), instruction: "q", input: "i", columns: &columns };
    let text = Style::named("alpaca", None).unwrap().next_prompt(&asked).unwrap();
    assert_eq!(text, "\n\n### Instruction:\nq\n\n### Input:\ni\n\n### Response:\n");
}

#[test]
fn a_later_llama2_question_is_an_instruction_alone() {
    let columns = Map::new();
    let asked = Exchange { system: Some("S"), instruction: "q", input: "", columns: &columns };
    let text = Style::named("llama2", None).unwrap().next_prompt(&asked).unwrap();
    assert_eq!(text, "[INST] q [/INST] ");
}

const DOCS: &str = "docs/prompt-styles.md";
const HEAD: &str = "<!-- Written by tests/styles.rs from src/data/style/table.rs: VFT_BLESS=1 cargo test --test styles docs -->

# Prompt styles

`data.init_args.prompt_style` takes a short name, a class path (`{class_path: litgpt.prompts.ChatML, init_args: {system_message: …}}`
or `prompt_style: litgpt.prompts.Llama3`) or a bare class name. Named styles write LitGPT 0.5.13's text, byte for byte.

- `chat_template` is the tokenizer's own template, for whole conversations and exchanges alike.
- `prompt_template: \"### Câu hỏi: {instruction}\\n### Trả lời:\"` is a text of your own: `{column}` is a row's column (`instruction`, `input`
  and `system` under the names that the row's shape gives them), `{{` and `}}` are braces. The answer and EOS follow it.
- **Input**: most styles leave a row's `input` out, as LitGPT does; the data census counts such rows.
- **System text**: a row's own replaces the style's default. Where there is no place for one, such rows are refused, or counted with `on_bad_row: skip`. In `alpaca`,
  `flan` and `longform` it replaces the preamble, paragraph break included, as in LitGPT.
- A later question of a conversation follows the previous answer's EOS without system text or preamble.
- The adapter (and the merged model) gets a `chat_template.jinja` made from the style, so that `vft generate`, transformers' `apply_chat_template` and
  vLLM (`--chat-template`, as the model card shows) write what was trained: BOS where training had it, EOS after each answer, the style's
  own system text. A message may have an `input` beside its `content`. A `prompt_template` that names other columns, or sets of
  different styles, have no chat template: the run notes it, none is shipped, and the card shows a whole prompt.
- LitGPT's names and classes are first, VinaSmol's follow. `chatml` and `default` are our own: they put the input on a line of its own after
  the instruction.
- An empty question in VinaSmol's two styles is a turn that is closed; there it stays open, and the answer would be the user's.

";

/// A text of the table in one line of Markdown.
fn quoted(text: &str) -> String {
    let line = text.trim_end().replace('\n', " ");
    let short: String = line.chars().take(72).collect();
    let more = if short == line { "" } else { " …" };
    format!("\"{}{more}\"", short.trim_end().replace('|', "\\|").replace('<', "\\<"))
}

fn system(style: &Named) -> String {
    let text = match style.system {
        System::None => "no place".into(),
        System::Optional => "none unless given".into(),
        System::Default(text) => quoted(text),
        System::ByInput(with, without) => {
            format!("with input {}, without {}", quoted(with), quoted(without))
        }
    };
    if style.takes_message { format!("{text}; `system_message`") } else { text }
}

fn docs() -> String {
    let mut text = HEAD.to_owned();
    text += "| short name | class path | input | system text |\n|---|---|---|---|\n";
    for style in STYLES {
        let code = |name: Option<&str>| name.map(|n| format!("`{n}`")).unwrap_or_default();
        let input = if style.uses_input() { "used" } else { "left out" };
        writeln!(
            text,
            "| {} | {} | {input} | {} |",
            code(style.name),
            code(style.class),
            system(style)
        )
        .unwrap();
    }
    text
}

#[test]
fn docs_are_current() {
    let file = path(DOCS);
    if std::env::var_os("VFT_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, docs()).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    let way = "run `VFT_BLESS=1 cargo test --test styles docs`";
    assert!(written == docs(), "{DOCS} is not what the table says; {way}");
}
