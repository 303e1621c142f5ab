//! One row in one of the shapes that people have.

use serde_json::{Map, Value};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the roles of chat templates")]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// The role's name in chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Whether an assistant's turn is trained.
    pub train: bool,
}

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// A whole conversation.
    Conversation(Vec<Turn>),
    /// An instruction with its answer.
    Instruction {
        /// What is asked.
        instruction: String,
        /// What it is about; may be empty.
        input: String,
        /// The answer.
        output: String,
    },
    /// Tokens with their labels, taken verbatim: labels are unshifted, -100 is ignored.
    Tokens {
        /// Token ids.
        ids: Vec<u32>,
        /// Labels.
        labels: Vec<i32>,
    },
}

/// The shapes that are read.
pub const SHAPES: &str = "`messages` (a list of role and content), `instruction` and `output` (`input` optional), \
     or `input_ids` and `labels`";

impl Row {
    /// Reads a row by the keys that it has.
    ///
    /// # Errors
    /// A message without place: what is wrong with the row.
    pub fn parse(value: &Value) -> Result<Self, String> {
        let Value::Object(row) = value else {
            return Err(format!("a row is an object with {SHAPES}"));
        };
        let shapes = ["messages", "input_ids", "instruction"].map(|k| row.contains_key(k));
        if shapes.iter().filter(|s| **s).count() > 1 {
            return Err(
                "has more than one of `messages`, `input_ids` and `instruction`; keep one".into()
            );
        }
        if row.contains_key("messages") {
            return conversation(row);
        }
        if row.contains_key("input_ids") {
            return tokens(row);
        }
        if row.contains_key("instruction") {
            let said =
                |v: &&Value| !matches!(v, Value::Null) && **v != "" && **v != Value::Array(vec![]);
            if let Some(key) =
                ["system", "history"].iter().find(|k| row.get(**k).filter(said).is_some())
            {
                return Err(format!(
                    "`{key}` beside `instruction` is not supported yet; write the row as `messages`"
                ));
            }
            let input = match row.get("input") {
                None | Some(Value::Null) => String::new(),
                Some(_) => text(row, "input")?,
            };
            let (instruction, output) = (text(row, "instruction")?, text(row, "output")?);
            return Ok(Self::Instruction { instruction, input, output });
        }
        let keys: Vec<_> = row.keys().map(|k| format!("`{k}`")).collect();
        Err(format!("a row has {SHAPES}; this one has {}", keys.join(", ")))
    }
}

fn text(row: &Map<String, Value>, key: &str) -> Result<String, String> {
    match row.get(key) {
        Some(Value::String(s)) => Ok(s.clone()),
        None => Err(format!("`{key}` is missing")),
        Some(other) => Err(format!("`{key}` is {}, not text", kind(other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn conversation(row: &Map<String, Value>) -> Result<Row, String> {
    let Some(Value::Array(messages)) = row.get("messages") else {
        return Err("`messages` is no list".into());
    };
    let mut turns = messages.iter().enumerate().map(turn).collect::<Result<Vec<_>, _>>()?;
    // A trailing question has no answer to train on.
    while turns.last().is_some_and(|t| t.role != Role::Assistant) {
        turns.pop();
    }
    if turns.is_empty() {
        return Err("`messages` has no assistant turn".into());
    }
    Ok(Row::Conversation(turns))
}

fn turn((i, value): (usize, &Value)) -> Result<Turn, String> {
    let at = |message: String| format!("messages[{i}]: {message}");
    let Value::Object(m) = value else { return Err(at("is no object".into())) };
    let role = match text(m, "role").map_err(at)?.as_str() {
        "system" | "developer" => Role::System,
        "user" | "human" => Role::User,
        "assistant" | "gpt" => Role::Assistant,
        "tool" => Role::Tool,
        other => {
            return Err(at(format!(
                "unknown role `{other}`; known are system, user, assistant, tool"
            )));
        }
    };
    if m.get("tool_calls").is_some_and(|v| !v.is_null()) {
        return Err(at("`tool_calls` are not supported yet".into()));
    }
    let content = match m.get("content") {
        Some(Value::Array(parts)) => {
            parts.iter().map(part).collect::<Result<String, _>>().map_err(at)?
        }
        _ => text(m, "content").map_err(at)?,
    };
    let train = match (m.get("train"), m.get("weight")) {
        (None, None) => true,
        (Some(Value::Bool(train)), None) => *train,
        (None, Some(weight)) if weight.as_f64() == Some(0.0) => false,
        (None, Some(weight)) if weight.as_f64() == Some(1.0) => true,
        _ => {
            return Err(at(
                "`train` must be true or false, `weight` 0 or 1, and only one of them".into()
            ));
        }
    };
    Ok(Turn { role, content, train })
}

fn part(value: &Value) -> Result<String, String> {
    match value {
        Value::Object(m) if m.get("type").and_then(Value::as_str) == Some("text") => {
            text(m, "text")
        }
        _ => Err("a content part is no text".into()),
    }
}

fn tokens(row: &Map<String, Value>) -> Result<Row, String> {
    let numbers = |key: &str| -> Result<Vec<i64>, String> {
        let Some(Value::Array(list)) = row.get(key) else {
            return Err(format!("`{key}` is missing or no list"));
        };
        let number = |v: &Value| {
            v.as_i64().ok_or_else(|| format!("`{key}` holds {v}, which is no whole number"))
        };
        list.iter().map(number).collect()
    };
    let (ids, labels) = (numbers("input_ids")?, numbers("labels")?);
    if ids.len() != labels.len() {
        return Err(format!("`input_ids` has {} items, `labels` {}", ids.len(), labels.len()));
    }
    let id = |n: &i64| {
        u32::try_from(*n).map_err(|_| format!("`input_ids` holds {n}, which is no token id"))
    };
    let label = |n: &i64| match i32::try_from(*n) {
        Ok(l) if l == -100 || l >= 0 => Ok(l),
        _ => Err(format!("`labels` holds {n}; labels are token ids or -100")),
    };
    Ok(Row::Tokens {
        ids: ids.iter().map(id).collect::<Result<_, _>>()?,
        labels: labels.iter().map(label).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error(value: &Value) -> String {
        Row::parse(value).unwrap_err()
    }

    #[test]
    fn input_is_optional() {
        let row = Row::parse(&json!({"instruction": "a", "output": "b"})).unwrap();
        assert_eq!(
            row,
            Row::Instruction { instruction: "a".into(), input: String::new(), output: "b".into() }
        );
    }

    #[test]
    fn a_wrong_type_names_the_key() {
        assert_eq!(
            error(&json!({"instruction": "a", "output": 3})),
            "`output` is a number, not text"
        );
    }

    #[test]
    fn an_unknown_shape_lists_its_keys() {
        assert!(error(&json!({"frage": 1})).ends_with("this one has `frage`"));
    }

    #[test]
    fn an_unknown_role_is_named() {
        assert!(
            error(&json!({"messages": [{"role": "wizard", "content": ""}]})).contains("`wizard`")
        );
    }

    #[test]
    fn a_trailing_question_is_dropped() {
        let row = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"}]});
        let Row::Conversation(turns) = Row::parse(&row).unwrap() else { panic!() };
        assert_eq!(turns.len(), 2);
    }

    #[test]
    fn weight_zero_masks_a_turn() {
        let row = json!({"messages": [{"role": "assistant", "content": "b", "weight": 0}]});
        let Row::Conversation(turns) = Row::parse(&row).unwrap() else { panic!() };
        assert!(!turns[0].train);
    }

    #[test]
    fn tokens_and_labels_must_be_as_many() {
        assert!(error(&json!({"input_ids": [1, 2], "labels": [1]})).contains("2 items"));
    }
}
