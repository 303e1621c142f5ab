//! Lists of messages: OpenAI's `messages`, ShareGPT's `conversations`, and lists of plain texts (LIMA, UltraChat).
//!
//! A message has `role` or `from`, and `content` or `value`: text, null beside `tool_calls`, or a list of text parts, which are joined.
//! `train` (Axolotl), `weight` 0 or 1 (OpenAI) and `loss` (XTuner, also as the text "False") say whether an answer is trained; on a part
//! they count for this part. Other members are kept for the chat template; a call's
//! `arguments` given as JSON text become the object that templates expect. ShareGPT's `function_call` becomes a call.
//!
//! Where a list or `tools` is text, as in CSV, it is read as JSON.

use super::columns::Fields;
use super::{Notes, Role, Row, Turn, conversation, kind};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// Reads the conversation in the column `key`.
pub(super) fn read(fields: &Fields<'_>, key: &str, notes: &mut Notes) -> Result<Row, String> {
    let list = list(fields, key)?;
    let mut turns = turns(&list, key)?;
    // Preference rows whose conversation ends with the question.
    if let Some(Value::Object(chosen)) = fields.get("chosen") {
        if turns.last().is_some_and(|t| t.role == Role::Assistant) {
            return Err(format!("`{key}` ends with an answer, and `chosen` is one more"));
        }
        turns.push(turn(chosen).map_err(|e| format!("chosen: {e}"))?);
    }
    if fields.has("rejected") {
        *notes |= Notes::REJECTED_IGNORED;
    }
    let turns = conversation::with_system(turns, fields.system()?, notes)?;
    let turns = conversation::mended(turns, notes).map_err(|e| format!("`{key}` {e}"))?;
    Ok(Row::Conversation { turns, tools: tools(fields)? })
}

/// Reads the list of texts in the column `key`: user and assistant in turns.
pub(super) fn read_texts(fields: &Fields<'_>, key: &str, notes: &mut Notes) -> Result<Row, String> {
    let list = list(fields, key)?;
    let roles = [Role::User, Role::Assistant].into_iter().cycle();
    let texts = list.iter().filter_map(Value::as_str);
    let turns = texts.zip(roles).map(|(text, role)| Turn::new(role, text)).collect();
    let turns = conversation::with_system(turns, fields.system()?, notes)?;
    let turns = conversation::mended(turns, notes).map_err(|e| format!("`{key}` {e}"))?;
    Ok(Row::Conversation { turns, tools: None })
}

/// A column's list, which may be JSON text.
fn list<'a>(fields: &Fields<'a>, key: &str) -> Result<Cow<'a, [Value]>, String> {
    match fields.get(key) {
        Some(Value::Array(list)) => Ok(Cow::Borrowed(list)),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(Value::Array(list)) => Ok(Cow::Owned(list)),
            _ => Err(format!("`{key}` is text that is no JSON list")),
        },
        other => Err(format!("`{key}` is {}, no list", other.map_or("missing", kind))),
    }
}

/// The row's tools: a list, or JSON text of one.
pub(super) fn tools(fields: &Fields<'_>) -> Result<Option<Value>, String> {
    let empty = match fields.get("tools") {
        None => true,
        Some(Value::String(text)) => text.trim().is_empty(),
        Some(_) => false,
    };
    if empty {
        return Ok(None);
    }
    let tools = list(fields, "tools")?.into_owned();
    Ok((!tools.is_empty()).then_some(Value::Array(tools)))
}

/// The turns of a list of messages in the column `key`.
pub(super) fn turns(list: &[Value], key: &str) -> Result<Vec<Turn>, String> {
    let read = |(i, value): (usize, &Value)| match value {
        Value::Object(message) => turn(message).map_err(|e| format!("{key}[{i}]: {e}")),
        other => Err(format!("{key}[{i}] is {}, no message", kind(other))),
    };
    list.iter().enumerate().map(read).collect()
}

/// Members of a message that are read here; the others are kept.
const READ: &[&str] = &["role", "from", "content", "value", "train", "weight", "loss"];

fn turn(message: &Map<String, Value>) -> Result<Turn, String> {
    let member = |names: [&str; 2]| names.iter().find_map(|n| message.get(*n));
    let name = match member(["role", "from"]) {
        Some(Value::String(name)) => name,
        Some(other) => return Err(format!("the role is {}, not text", kind(other))),
        None => return Err("has no `role`".into()),
    };
    let role = Role::named(name).ok_or_else(|| {
        format!("unknown role `{name}`; known are system, user, assistant, tool and ShareGPT's names for them")
    })?;
    let mut extra: Map<String, Value> = Map::new();
    for (key, value) in message.iter().filter(|(k, v)| !READ.contains(&k.as_str()) && !v.is_null())
    {
        if key == "tool_calls" {
            if let Some(calls) = calls(value)? {
                extra.insert(key.clone(), calls);
            }
        } else {
            extra.insert(key.clone(), value.clone());
        }
    }
    let mut turn = Turn { train: flag(message)?.unwrap_or(true), ..Turn::new(role, "") };
    match member(["content", "value"]) {
        Some(Value::String(text)) => turn.content.clone_from(text),
        Some(Value::Array(parts)) => add_parts(&mut turn, parts)?,
        None | Some(Value::Null) if extra.contains_key("tool_calls") => {
            extra.insert("content".into(), Value::Null);
        }
        None => return Err("has no `content`".into()),
        Some(other) => return Err(format!("the content is {}, not text", kind(other))),
    }
    if matches!(name.as_str(), "function_call" | "tool_call")
        && let Some(calls) = spoken_calls(&turn.content)
    {
        extra.insert("tool_calls".into(), calls);
        turn.content.clear();
        turn.untrained.clear();
    }
    Ok(Turn { extra, ..turn })
}

/// Whether a message or part says that it is trained.
fn flag(members: &Map<String, Value>) -> Result<Option<bool>, String> {
    let mut said = None;
    for key in ["train", "weight", "loss"] {
        let flag = match members.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Bool(flag)) if key != "weight" => *flag,
            Some(Value::String(text)) if key == "loss" && text.eq_ignore_ascii_case("true") => true,
            Some(Value::String(text)) if key == "loss" && text.eq_ignore_ascii_case("false") => {
                false
            }
            Some(n) if key == "weight" && n.as_f64() == Some(0.0) => false,
            Some(n) if key == "weight" && n.as_f64() == Some(1.0) => true,
            Some(other) => {
                return Err(format!(
                    "`{key}` is {other}; `weight` is 0 or 1, `train` and `loss` are true or false"
                ));
            }
        };
        if said.is_some_and(|s| s != flag) {
            return Err("`train`, `weight` and `loss` contradict each other".into());
        }
        said = Some(flag);
    }
    Ok(said)
}

/// Adds the text of content parts; what a part says of training counts for it.
fn add_parts(turn: &mut Turn, parts: &[Value]) -> Result<(), String> {
    let train = turn.train;
    for part in parts {
        let Value::Object(members) = part else {
            return Err(format!("a content part is {}, no object", kind(part)));
        };
        match (members.get("type").and_then(Value::as_str), members.get("text")) {
            (None | Some("text"), Some(Value::String(text))) => {
                turn.push(text, flag(members)?.unwrap_or(train));
            }
            (Some(other), _) if other != "text" => {
                return Err(format!("a content part is `{other}`; only text is read"));
            }
            _ => return Err("a content part has no `text`".into()),
        }
    }
    Ok(())
}

/// Tool calls as chat templates read them; `None` for an empty list.
fn calls(value: &Value) -> Result<Option<Value>, String> {
    let parsed;
    let list = match value {
        Value::Array(list) => list,
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(Value::Array(list)) => {
                parsed = list;
                &parsed
            }
            _ => return Err("`tool_calls` is text that is no JSON list".into()),
        },
        other => return Err(format!("`tool_calls` is {}, no list", kind(other))),
    };
    let call = |call: &Value| {
        let mut call = call.clone();
        let holder =
            if call.get("function").is_some() { call.get_mut("function") } else { Some(&mut call) };
        if let Some(arguments) = holder.and_then(|h| h.get_mut("arguments"))
            && let Some(text) = arguments.as_str()
            && let Ok(object @ Value::Object(_)) = serde_json::from_str(text)
        {
            *arguments = object;
        }
        call
    };
    Ok((!list.is_empty()).then(|| list.iter().map(call).collect()))
}

/// ShareGPT's call, `{"name": …, "arguments": …}` or a list of them, as JSON text.
fn spoken_calls(text: &str) -> Option<Value> {
    let list = match serde_json::from_str(text).ok()? {
        Value::Array(list) => list,
        one @ Value::Object(_) => vec![one],
        _ => return None,
    };
    let named = list.iter().all(|c| c.get("name").is_some_and(Value::is_string));
    let list = list.into_iter().map(|c| json!({"type": "function", "function": c})).collect();
    if named { calls(&Value::Array(list)).ok()? } else { None }
}
