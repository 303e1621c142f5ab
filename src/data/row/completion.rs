//! TRL's `prompt` and `completion`: texts taken verbatim, or lists of messages of which the completion's answers are trained.
//!
//! `prompt` and `response` are not this but a question and its answer (`instruction`): no data set that calls them so keeps the
//! separator between the two. <https://huggingface.co/docs/trl/dataset_formats#prompt-completion>

use super::columns::Fields;
use super::{Notes, Role, Row, conversation, kind, messages};
use serde_json::Value;

pub(super) fn read(fields: &Fields<'_>, notes: &mut Notes) -> Result<Row, String> {
    if fields.get("label") == Some(&Value::Bool(false)) {
        return Err("`label: false` marks an answer that is not wanted (KTO); keep only the rows with `label: true`".into());
    }
    match (fields.get("prompt"), fields.get("completion")) {
        (Some(Value::String(prompt)), Some(Value::String(completion))) => {
            if completion.is_empty() {
                *notes |= Notes::EMPTY_ANSWER;
            }
            Ok(Row::Completion { prompt: prompt.clone(), completion: completion.clone() })
        }
        (Some(Value::Array(prompt)), Some(Value::Array(completion))) => {
            let mut turns = messages::turns(prompt, "prompt")?;
            turns.iter_mut().filter(|t| t.role == Role::Assistant).for_each(|t| t.train = false);
            turns.extend(messages::turns(completion, "completion")?);
            let tools = messages::tools(fields)?;
            let turns =
                conversation::mended(turns, notes).map_err(|e| format!("`completion` {e}"))?;
            Ok(Row::Conversation { turns, tools })
        }
        (prompt, completion) => {
            let is = |v: Option<&Value>| v.map_or("missing", kind);
            Err(format!(
                "`prompt` is {}, `completion` {}; both are texts, or both lists of messages",
                is(prompt),
                is(completion)
            ))
        }
    }
}
