//! Instructions with answers, under the many names of their columns: Alpaca, Dolly, questions, FLAN.

use super::columns::Fields;
use super::{Notes, Row, kind};
use serde_json::Value;

/// Reads the columns `[instruction, input, output]`; an empty name for `input` is none.
pub(super) fn read(fields: &Fields<'_>, keys: [&str; 3], notes: &mut Notes) -> Result<Row, String> {
    let [instruction, input, output] = keys;
    let history = history(fields.get("history"))?;
    if !history.is_empty() {
        *notes |= Notes::HISTORY;
    }
    let output = fields.text(output)?;
    if output.is_empty() || history.iter().any(|(_, answer)| answer.is_empty()) {
        *notes |= Notes::EMPTY_ANSWER;
    }
    Ok(Row::Instruction {
        system: fields.system()?,
        history,
        instruction: fields.text(instruction)?,
        input: fields.optional_text(input)?.unwrap_or_default(),
        output,
        columns: fields.scalars(),
    })
}

/// `[[question, answer], …]`.
fn history(value: Option<&Value>) -> Result<Vec<(String, String)>, String> {
    let wrong = |what: String| format!("`history` is a list of [question, answer]; {what}");
    let list = match value {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(format!("this one is {}", kind(other)))),
    };
    let pair = |(i, item): (usize, &Value)| match item.as_array().map(Vec::as_slice) {
        Some([Value::String(q), Value::String(a)]) => Ok((q.clone(), a.clone())),
        _ => Err(wrong(format!("its item {i} is something else"))),
    };
    list.iter().enumerate().map(pair).collect()
}
