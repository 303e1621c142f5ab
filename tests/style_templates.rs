//! Chat templates made from prompt styles write the styles' own texts. `scripts/check_style_templates.py` renders the same with transformers.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use vft::data::style::table::STYLES;
use vft::data::style::{Exchange, Marks, Style};
use vft::data::template::ChatTemplate;

const SYSTEMS: [Option<&str>; 4] =
    [None, Some(""), Some(" Bạn là 'trợ lý'.\n"), Some("{{ x }} \\n")];
/// Questions with an input or without, and answers; some end with EOS or hold what would be a tag.
const EXCHANGES: [[[&str; 3]; 2]; 4] = [
    [["Thủ đô của\nViệt Nam?", "", "Hà Nội"], ["  1 + 1? ", "", "2\n"]],
    [["Dịch", "a {b} {% if %}", "dịch</s>"], ["{instruction}", "", ""]],
    [["a", "", "{{ b }}"], ["c", "d\\n", "</s> e"]],
    [["", "", ""], ["<s>f", "g", "h"]],
];
/// Texts of a user's own, with braces, quotes, tags and tokens.
const OWN: [&str; 5] = [
    "### Câu hỏi: {instruction}\n### Trả lời:",
    "{system}\n\n{instruction}\n{input}\n=> ",
    "<s>[{instruction}]",
    "{{{{ '{instruction}' }}}} \\ \"{{% raw %}}\"\t{{# x #}}\r\n",
    "{input}{instruction}",
];

fn marks() -> [Marks; 3] {
    let eos = "</s>".to_owned();
    [
        Marks { before: String::new(), bos: None, eos: eos.clone() },
        Marks { before: "<s>".into(), bos: Some("<s>".into()), eos: eos.clone() },
        Marks { before: "[CLS]".into(), bos: None, eos },
    ]
}

fn styles() -> Vec<Style> {
    let named = STYLES.iter().flat_map(|s| {
        let message = s.takes_message.then(|| Style::named(s.name(), Some("Trả lời 'ngắn'.")));
        [Some(Style::named(s.name(), None)), message].into_iter().flatten()
    });
    named.chain(OWN.map(Style::template)).map(Result::unwrap).collect()
}

/// What training makes of a conversation.
fn trained(style: &Style, marks: &Marks, system: Option<&str>, said: &[[&str; 3]]) -> String {
    let (mut out, columns) = (String::new(), Map::new());
    for (i, [instruction, input, answer]) in said.iter().enumerate() {
        let exchange = Exchange { system, instruction, input, columns: &columns };
        if i == 0 {
            let prompt = style.prompt(&exchange).unwrap();
            if !marks.bos.as_ref().is_some_and(|bos| prompt.starts_with(bos)) {
                out += &marks.before;
            }
            out += &prompt;
        } else {
            out += &style.next_prompt(&exchange).unwrap();
        }
        if i + 1 < said.len() {
            out += answer;
            if !answer.ends_with(&marks.eos) {
                out += &marks.eos;
            }
        }
    }
    out
}

fn messages(system: Option<&str>, said: &[[&str; 3]]) -> Vec<Value> {
    let system = system.map(|s| json!({"role": "system", "content": s}));
    let mut messages: Vec<Value> = system.into_iter().collect();
    for [instruction, input, answer] in said {
        let mut user = json!({"role": "user", "content": instruction});
        if !input.is_empty() {
            user["input"] = (*input).into();
        }
        messages.extend([user, json!({"role": "assistant", "content": answer})]);
    }
    messages.pop();
    messages
}

fn compiled(source: &str) -> ChatTemplate {
    ChatTemplate::new(Path::new("chat_template.jinja"), source, BTreeMap::new()).unwrap()
}

/// Every style with every kind of conversation, and what it should become.
fn each_case(mut check: impl FnMut(&Style, &str, &[Value], String)) {
    for style in styles() {
        for marks in marks() {
            let source = style.jinja(&marks).unwrap();
            for system in SYSTEMS {
                if !style.takes_system() && system.is_some_and(|s| !s.is_empty()) {
                    continue;
                }
                for said in &EXCHANGES {
                    for said in [&said[..1], &said[..]] {
                        let want = trained(&style, &marks, system, said);
                        check(&style, &source, &messages(system, said), want);
                    }
                }
            }
        }
    }
}

#[test]
fn every_style_is_written_as_it_is_trained() {
    let mut cases = Vec::new();
    each_case(|style, source, messages, want| {
        let text = compiled(source).render_messages(messages, None, true).unwrap();
        assert_eq!(text, want, "{} {messages:?}", style.name());
        cases.push(
            json!({"style": style.name(), "template": source, "messages": messages, "text": want}),
        );
    });
    if let Some(file) = std::env::var_os("VFT_CASES") {
        std::fs::write(file, Value::from(cases).to_string()).unwrap();
    }
}

#[test]
fn a_whole_conversation_ends_with_eos() {
    let messages =
        [json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b"})];
    let source = Style::named("alpaca", None).unwrap().jinja(&marks()[0]).unwrap();
    let text = compiled(&source).render_messages(&messages, None, false).unwrap();
    assert!(text.ends_with("### Instruction:\na\n\n### Response:\nb</s>"), "{text}");
}

/// The error of a style's template for messages.
fn refused(style: &str, messages: &Value) -> String {
    let source = Style::named(style, None).unwrap().jinja(&marks()[0]).unwrap();
    let messages = messages.as_array().unwrap();
    compiled(&source).render_messages(messages, None, true).unwrap_err().to_string()
}

#[test]
fn a_system_text_without_place_raises() {
    let messages = json!([{"role": "system", "content": "S"}, {"role": "user", "content": "a"}]);
    let error = refused("phi-2", &messages);
    assert!(error.contains("the style `phi-2` has no place for a system text"), "{error}");
}

#[test]
fn roles_out_of_turn_raise() {
    for messages in [
        json!([{"role": "assistant", "content": "a"}]),
        json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
        json!([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]),
        json!([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]),
    ] {
        let error = refused("llama2", &messages);
        assert!(error.contains("questions and answers in turn"), "{messages}: {error}");
    }
}

#[test]
fn content_that_is_no_text_raises() {
    let messages = json!([{"role": "user", "content": [{"type": "text", "text": "a"}]}]);
    let error = refused("alpaca", &messages);
    assert!(error.contains("the content of a message must be text"), "{error}");
}

#[test]
fn a_text_that_names_other_columns_has_no_template() {
    let error = Style::template("{title}: {instruction}").unwrap().jinja(&marks()[0]).unwrap_err();
    assert_eq!(
        error,
        "`prompt_template` asks for `title`, which the messages of a chat do not have"
    );
}
