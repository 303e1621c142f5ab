//! Chat templates against transformers. Cases: `scripts/fixtures/chat_template.py`.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use vft::data::template::ChatTemplate;
use vft::data::tokenizer::Tokenizer;

fn cases(kind: &str) -> Vec<Value> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat_template/cases.json");
    let json: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    json["cases"].as_array().unwrap().iter().filter(|c| c.get(kind).is_some()).cloned().collect()
}

fn tokens() -> (Tokenizer, Value) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tokenizer = Tokenizer::load(&root.join("configs/smoke/model")).unwrap();
    let file = root.join("tests/fixtures/chat_template/tokens.json");
    (tokenizer, serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap())
}

fn ids(case: &Value) -> Vec<u32> {
    serde_json::from_value(case["ids"].clone()).unwrap()
}

fn render(case: &Value) -> vft::error::Result<String> {
    let tokens =
        ["bos_token", "eos_token"].map(|k| (k.to_owned(), case[k].as_str().unwrap().to_owned()));
    let source = case["template"].as_str().unwrap();
    let template =
        ChatTemplate::new(Path::new("chat_template.jinja"), source, BTreeMap::from(tokens))?;
    let open = case["add_generation_prompt"].as_bool().unwrap();
    template.render_messages(case["messages"].as_array().unwrap(), None, open)
}

#[test]
fn texts_are_transformers() {
    for case in cases("expected") {
        let text = render(&case).unwrap_or_else(|e| format!("error: {e}"));
        assert_eq!(
            text,
            case["expected"].as_str().unwrap(),
            "{} {}",
            case["name"],
            case["messages"]
        );
    }
}

#[test]
fn exceptions_keep_their_words() {
    for case in cases("error") {
        let error = render(&case).unwrap_err().to_string();
        assert!(error.contains(case["error"].as_str().unwrap()), "{}: {error}", case["name"]);
    }
}

#[test]
fn token_ids_of_texts_are_transformers() {
    let (tokenizer, fixture) = tokens();
    for case in fixture["plain"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids(case), "{text:?}");
    }
}

#[test]
fn token_ids_of_conversations_are_transformers() {
    let (tokenizer, fixture) = tokens();
    for case in fixture["chat"].as_array().unwrap() {
        let template = tokenizer.template.as_ref().unwrap();
        let text =
            template.render_messages(case["messages"].as_array().unwrap(), None, true).unwrap();
        assert_eq!(tokenizer.encode(&text, false).unwrap(), ids(case), "{text:?}");
    }
}
