//! Pairs of answers, of which supervised finetuning trains the `chosen` one.
//!
//! hh-rlhf writes conversations as text: `\n\nHuman: …\n\nAssistant: …`. Others have lists of messages, with or without the
//! `prompt`, or an answer to `prompt` or `question`.

use super::columns::Fields;
use super::{Notes, Role, Row, Turn, conversation, instruction, kind, messages};
use serde_json::Value;

const MARKS: [(&str, Role); 2] =
    [("\n\nHuman: ", Role::User), ("\n\nAssistant: ", Role::Assistant)];

pub(super) fn read(fields: &Fields<'_>, notes: &mut Notes) -> Result<Row, String> {
    if fields.has("rejected") {
        *notes |= Notes::REJECTED_IGNORED;
    }
    let asked = ["prompt", "question"].into_iter().find(|k| fields.has(k));
    let turns = match fields.get("chosen") {
        Some(Value::String(text)) if text.starts_with(MARKS[0].0) => hh(text),
        Some(Value::String(answer)) => match asked.map(|k| (k, fields.get(k))) {
            Some((_, Some(Value::String(text)))) if text.starts_with(MARKS[0].0) => {
                let mut turns = hh(text);
                // The prompt ends where the answer starts.
                turns.pop_if(|t| t.role == Role::Assistant && t.content.trim().is_empty());
                turns.push(Turn::new(Role::Assistant, answer.trim_start()));
                turns
            }
            Some((key, Some(Value::String(_)))) => {
                return instruction::read(fields, [key, "", "chosen"], notes);
            }
            Some((key, Some(Value::Array(prompt)))) => {
                let mut turns = messages::turns(prompt, key)?;
                turns.push(Turn::new(Role::Assistant, answer));
                turns
            }
            _ => {
                return Err(
                    "`chosen` is text that is no conversation, and there is no `prompt`".into()
                );
            }
        },
        Some(Value::Array(chosen)) => {
            let mut turns = messages::turns(chosen, "chosen")?;
            if !turns.iter().any(|t| t.role == Role::User) {
                let before = match asked.and_then(|k| fields.get(k)) {
                    Some(Value::String(text)) => vec![Turn::new(Role::User, text)],
                    Some(Value::Array(prompt)) => messages::turns(prompt, "prompt")?,
                    _ => return Err("`chosen` is an answer alone, and there is no `prompt`".into()),
                };
                turns.splice(..0, before);
            } else if let Some(Value::Array(prompt)) = asked.and_then(|k| fields.get(k)) {
                let before = messages::turns(prompt, "prompt")?;
                if !turns.starts_with(&before) {
                    turns.splice(..0, before);
                }
            }
            turns
        }
        other => {
            return Err(format!(
                "`chosen` is {}, neither text nor a list",
                other.map_or("missing", kind)
            ));
        }
    };
    let turns = conversation::with_system(turns, fields.system()?, notes)?;
    let turns = conversation::mended(turns, notes).map_err(|e| format!("`chosen` {e}"))?;
    Ok(Row::Conversation { turns, tools: messages::tools(fields)? })
}

/// The turns of hh-rlhf's text.
fn hh(text: &str) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    let mut rest = text;
    while let Some((mark, role)) = MARKS.iter().find(|(mark, _)| rest.starts_with(mark)) {
        let body = &rest[mark.len()..];
        let end = MARKS.iter().filter_map(|(mark, _)| body.find(mark)).min().unwrap_or(body.len());
        turns.push(Turn::new(*role, &body[..end]));
        rest = &body[end..];
    }
    turns
}
