//! Rows of every shape, and of none.
use super::*;
use serde_json::json;

fn parse(value: &Value) -> Result<Parsed, String> {
    Row::parse(value, &Columns::default())
}

fn error(value: &Value) -> String {
    parse(value).unwrap_err()
}

fn with(columns: &str, value: &Value) -> Result<Parsed, String> {
    Row::parse(value, &columns.parse().unwrap())
}

/// A conversation as `user: a | assistant: b`, with `-` after the role of an answer that is not trained.
fn said(value: &Value) -> String {
    let Row::Conversation { turns, .. } = parse(value).unwrap().row else {
        panic!("no conversation")
    };
    let mark = |t: &Turn| if t.train { "" } else { "-" };
    let one = |t: &Turn| format!("{}{}: {}", t.role.name(), mark(t), t.content);
    turns.iter().map(one).collect::<Vec<_>>().join(" | ")
}

fn turns(value: &Value) -> Vec<Turn> {
    match parse(value).unwrap().row {
        Row::Conversation { turns, .. } => turns,
        other => panic!("{other:?}"),
    }
}

/// System, instruction, input and output.
fn asked(parsed: Parsed) -> [String; 4] {
    match parsed.row {
        Row::Instruction { system, instruction, input, output, .. } => {
            [system.unwrap_or_default(), instruction, input, output]
        }
        other => panic!("{other:?}"),
    }
}

const QA: &str = "user: q | assistant: a";

#[test]
fn alpaca_has_everything() {
    let row = json!({"instruction": "i", "input": "x", "output": "o", "system": "s", "history": [["q", "a"]], "text": "t"});
    let parsed = parse(&row).unwrap();
    assert_eq!(parsed.shape, Shape::Alpaca);
    assert!(parsed.notes.contains(Notes::HISTORY));
    let turns = parsed.row.into_turns(|i, x| format!("{i}+{x}")).unwrap();
    let texts: Vec<_> = turns.iter().map(|t| t.content.as_str()).collect();
    assert_eq!(texts, ["s", "q", "a", "i+x", "o"]);
}

#[test]
fn instructions_have_many_names() {
    let rows = [
        json!({"instruction": "i", "input": null, "output": "o", "history": []}),
        json!({"instruction": "i", "context": "", "response": "o", "category": "qa"}),
        json!({"prompt": "i", "response": "o"}),
        json!({"question": "i", "answer": "o"}),
        json!({"id": "1", "system_prompt": "", "question": "i", "response": "o"}),
        json!({"input": "i", "output": "o", "language": "vie"}),
        json!({"inputs": "i", "targets": "o", "task": "t"}),
        json!({"question": "i", "chosen": "o", "rejected": "r"}),
    ];
    for row in rows {
        assert_eq!(asked(parse(&row).unwrap()), ["", "i", "", "o"], "{row}");
    }
}

#[test]
fn a_context_is_the_input() {
    let row = json!({"instruction": "i", "context": "c", "response": "o"});
    assert_eq!(asked(parse(&row).unwrap())[2], "c");
}

#[test]
fn a_system_prompt_is_kept() {
    let row = json!({"system_prompt": "s", "question": "i", "response": "o"});
    assert_eq!(asked(parse(&row).unwrap())[0], "s");
}

#[test]
fn conversations_have_many_names() {
    let pair = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    let rows = [
        json!({"messages": pair, "prompt": "q", "prompt_id": "1"}),
        json!({"messages": pair.to_string()}),
        json!({"conversations": pair}),
        json!({"conversations": [{"from": "Human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
        json!({"conversations": ["q", "a"], "source": "s"}),
        json!({"id": "0", "data": ["q", "a"]}),
        json!({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}),
        json!({"prompt": "q", "chosen": pair, "rejected": pair}),
        json!({"prompt": "q", "chosen": [pair[1]], "rejected": [pair[1]]}),
        json!({"prompt": [pair[0]], "chosen": [pair[1]]}),
        json!({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}}),
        json!({"prompt": [pair[0]], "completion": [pair[1]]}),
    ];
    for row in rows {
        assert_eq!(said(&row), QA, "{row}");
    }
}

#[test]
fn hh_rlhf_keeps_paragraphs() {
    let row = json!({"chosen": "\n\nHuman: q\n\nmore\n\nAssistant: a\n\nHuman: r\n\nAssistant: b"});
    assert_eq!(said(&row), "user: q\n\nmore | assistant: a | user: r | assistant: b");
}

#[test]
fn a_completion_is_taken_verbatim() {
    let row = json!({"prompt": "The sky is", "completion": " blue."});
    let expected = Row::Completion { prompt: "The sky is".into(), completion: " blue.".into() };
    assert_eq!(parse(&row).unwrap().row, expected);
}

#[test]
fn answers_in_a_prompt_are_not_trained() {
    let row = json!({"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
        {"role": "user", "content": "r"}], "completion": [{"role": "assistant", "content": "b"}]});
    assert_eq!(said(&row), "user: q | assistant-: a | user: r | assistant: b");
}

#[test]
fn an_unwanted_answer_is_refused() {
    assert!(
        error(&json!({"prompt": "p", "completion": "c", "label": false})).contains("`label: true`")
    );
}

#[test]
fn text_is_the_last_resort() {
    assert_eq!(parse(&json!({"text": "t", "id": 1})).unwrap().row, Row::Text("t".into()));
}

#[test]
fn a_null_column_is_no_column() {
    let row = json!({"messages": null, "instruction": "i", "output": "o"});
    assert_eq!(parse(&row).unwrap().shape, Shape::Alpaca);
}

#[test]
fn two_whole_shapes_are_refused() {
    let pair = json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]);
    let row = json!({"instruction": "q", "response": "a", "conversations": pair});
    assert!(error(&row).contains("columns: {conversations: conversations}"));
    assert_eq!(with("conversations=conversations", &row).unwrap().shape, Shape::ShareGpt);
}

#[test]
fn a_renamed_column_is_gone_under_its_name() {
    let row = json!({"input": "i", "output": "o"});
    assert_eq!(asked(with("instruction=input", &row).unwrap()), ["", "i", "", "o"]);
}

#[test]
fn columns_are_found_by_paths() {
    let row = json!({"title": "t", "answers": {"text": ["a", "b"]}, "text": "x"});
    let parsed = with("question=title,answer=answers.text.1", &row).unwrap();
    assert_eq!(asked(parsed), ["", "t", "", "b"]);
}

#[test]
fn a_missing_column_lists_those_there_are() {
    let error =
        with("instruction=titel,output=text", &json!({"title": "t", "text": null})).unwrap_err();
    assert_eq!(
        error,
        "has no column `titel` to read as `instruction`; it has `title`, `text` (null)"
    );
}

#[test]
fn a_misspelt_target_is_corrected() {
    let error = Columns::new([("instrution", "title")]).unwrap_err();
    assert!(error.ends_with("did you mean `instruction`?"), "{error}");
}

#[test]
fn columns_of_one_value_are_kept_for_templates() {
    let row = json!({"title": "t", "body": "b", "n": 3, "list": [1]});
    let Row::Instruction { columns, .. } = with("instruction=title,output=body", &row).unwrap().row
    else {
        panic!()
    };
    assert_eq!(
        Value::Object(columns),
        json!({"title": "t", "body": "b", "n": 3, "instruction": "t", "output": "b"})
    );
}

#[test]
fn a_trailing_question_is_dropped() {
    let row = json!({"conversations": ["q", "a", "r"]});
    assert_eq!(said(&row), QA);
    assert_eq!(parse(&row).unwrap().notes, Notes::TRAILING_DROPPED);
}

#[test]
fn a_leading_answer_is_dropped() {
    let row = json!({"system": "s", "conversations": [{"from": "gpt", "value": "hello"}, {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"}]});
    assert_eq!(said(&row), format!("system: s | {QA}"));
    assert!(parse(&row).unwrap().notes.contains(Notes::LEADING_DROPPED));
}

#[test]
fn turns_of_one_role_are_joined() {
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "user", "content": "r"},
        {"role": "assistant", "content": "a"}]});
    assert_eq!(said(&row), "user: q\n\nr | assistant: a");
    assert_eq!(parse(&row).unwrap().notes, Notes::JOINED);
}

#[test]
fn turns_trained_differently_are_joined_and_trained_in_part() {
    let answer =
        |text: &str, weight: i32| json!({"role": "assistant", "content": text, "weight": weight});
    let row = json!({"messages": [{"role": "user", "content": "q"}, answer("a", 0), answer("b", 1), answer("c", 0)]});
    assert_eq!(turns(&row)[1].untrained, [0..1, 4..6, 6..7]);
}

#[test]
fn an_empty_answer_is_noted() {
    assert_eq!(parse(&json!({"conversations": ["q", ""]})).unwrap().notes, Notes::EMPTY_ANSWER);
}

#[test]
fn a_question_alone_has_no_answer() {
    assert_eq!(error(&json!({"conversations": ["q"]})), "`conversations` has no assistant turn");
}

#[test]
fn two_system_prompts_are_refused() {
    let row = json!({"system": "s", "messages": [{"role": "system", "content": "t"}, {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"}]});
    assert!(error(&row).contains("another system turn"));
}

#[test]
fn answers_say_whether_they_are_trained() {
    for (key, value) in [("weight", json!(0)), ("train", json!(false)), ("loss", json!("False"))] {
        let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", key: value}]});
        assert_eq!(said(&row), "user: q | assistant-: a", "{key}");
    }
}

#[test]
fn flags_must_agree() {
    let answer = json!({"role": "assistant", "content": "a", "train": true, "weight": 0});
    assert!(error(&json!({"messages": [answer]})).contains("contradict"));
}

#[test]
fn parts_are_joined_and_may_mask_the_turn() {
    let parts = json!([{"type": "text", "text": "a", "weight": 0}, {"type": "text", "text": "b", "train": false}]);
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": parts}]});
    assert_eq!(said(&row), "user: q | assistant-: ab");
}

#[test]
fn a_part_says_whether_it_is_trained() {
    let parts = json!([{"type": "text", "text": "a", "weight": 0}, {"type": "text", "text": "bc"}, {"text": "d", "train": false}]);
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": parts}]});
    assert_eq!(turns(&row)[1].untrained, [0..1, 3..4]);
}

#[test]
fn a_part_counts_for_more_than_its_message() {
    let parts = json!([{"text": "a"}, {"text": "b", "train": true}]);
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": parts, "train": false}]});
    let answer = &turns(&row)[1];
    assert_eq!((answer.train, answer.untrained.first()), (true, Some(&(0..1))));
}

#[test]
fn an_image_is_refused() {
    let parts = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
    assert!(
        error(&json!({"messages": [{"role": "user", "content": parts}]})).contains("`image_url`")
    );
}

#[test]
fn tool_calls_reach_the_template() {
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}});
    let row = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "content": "7", "tool_call_id": "1"}, {"role": "assistant", "content": "a", "tool_calls": null}],
        "tools": "[{\"type\": \"function\"}]"});
    let object =
        json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}});
    let messages: Vec<Value> = turns(&row).iter().map(Turn::message).collect();
    assert_eq!(messages[1], json!({"role": "assistant", "content": null, "tool_calls": [object]}));
    assert_eq!(messages[2], json!({"role": "tool", "content": "7", "tool_call_id": "1"}));
    assert_eq!(messages[3], json!({"role": "assistant", "content": "a"}));
    let Row::Conversation { tools, .. } = parse(&row).unwrap().row else { panic!() };
    assert_eq!(tools, Some(json!([{"type": "function"}])));
}

#[test]
fn a_spoken_call_becomes_a_call() {
    let row = json!({"conversations": [{"from": "human", "value": "q"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {}}"},
        {"from": "observation", "value": "7"}, {"from": "gpt", "value": "a"}]});
    let call = json!([{"type": "function", "function": {"name": "f", "arguments": {}}}]);
    let turns = turns(&row);
    assert_eq!(turns[1].extra["tool_calls"], call);
    assert_eq!(turns[2].role, Role::Tool);
}

#[test]
fn exchanges_carry_the_system_prompt() {
    let row = json!({"system": "s", "conversations": ["q", "a", "r", "b"]});
    let turns = turns(&row);
    let found = exchanges(&turns).unwrap();
    let one = |question, answer| Exchange { system: Some(&turns[0]), question, answer };
    assert_eq!(found, [one(&turns[1], &turns[2]), one(&turns[3], &turns[4])]);
}

#[test]
fn a_system_turn_in_the_middle_belongs_to_no_exchange() {
    let mut turns = turns(&json!({"conversations": ["q", "a", "r", "b"]}));
    turns.insert(2, Turn::new(Role::System, "s"));
    assert!(exchanges(&turns).unwrap_err().contains("system turn"));
}

#[test]
fn the_first_exchange_stands_before_any_call() {
    let mut turns = turns(&json!({"conversations": ["q", "a", "r", "b"]}));
    turns[3].extra.insert("tool_calls".into(), json!([1]));
    assert!(exchanges(&turns).unwrap_err().contains("tools"));
    assert_eq!(first_exchange(&turns).unwrap().unwrap().answer.content, "a");
}

#[test]
fn a_wrong_type_names_the_key() {
    assert_eq!(error(&json!({"instruction": "a", "output": 3})), "`output` is a number, not text");
}

#[test]
fn a_null_answer_is_told() {
    assert_eq!(error(&json!({"instruction": "a", "output": null})), "`output` is null");
}

#[test]
fn an_unknown_shape_lists_its_keys() {
    assert!(error(&json!({"frage": 1})).contains("this row has `frage`;"));
}

#[test]
fn a_message_tree_is_told() {
    assert!(error(&json!({"message_id": "1", "parent_id": "0", "text": null})).contains("oasst1"));
}

#[test]
fn an_unknown_role_is_named() {
    let row = json!({"messages": [{"role": "wizard", "content": ""}]});
    assert!(error(&row).starts_with("messages[0]: unknown role `wizard`"));
}

#[test]
fn tokens_and_labels_must_be_as_many() {
    assert!(error(&json!({"input_ids": [1, 2], "labels": [1]})).contains("2 items"));
}

#[test]
fn deep_json_text_is_an_error_not_a_crash() {
    let row = json!({"messages": "[".repeat(100_000)});
    assert_eq!(error(&row), "`messages` is text that is no JSON list");
}
