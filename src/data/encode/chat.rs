//! Conversations by the tokenizer's chat template: rendered whole, encoded once, each answer's tokens found.

use super::super::row::{Role, Row, Turn};
use super::answers::{Writer, answer_span};
use super::{Encoder, Fault, IGNORED, Tokens};
use crate::config::TrainOn;
use serde_json::Value;
use std::ops::Range;

impl Encoder<'_> {
    /// The tokens of a conversation; its answers are labels up to the closing special token, or everything is.
    pub(super) fn chat(&self, turns: &[Turn], tools: Option<&Value>) -> Result<Tokens, Fault> {
        let template = self.tokenizer.template.as_ref().ok_or_else(|| Fault {
            message: "the tokenizer has no chat template".into(),
            hint: Some("name a `prompt_style`, such as alpaca, or add chat_template.jinja to the model directory".into()),
        })?;
        let writer = Writer { template, tools };
        let text = writer.render(turns, false)?;
        let last = turns.iter().rposition(|t| t.role == Role::Assistant);
        let trained =
            |i: usize| turns[i].train && (self.train_on != TrainOn::Last || last == Some(i));
        let mask = self.train_on != TrainOn::All;
        if let Some(name) = unwritten_call(turns, &text) {
            return Err(Fault {
                message: format!("the chat template does not write the call of `{name}`"),
                hint: Some(
                    "take a model whose template knows tools, or leave such rows out".into(),
                ),
            });
        }
        let (mut ids, bytes) =
            self.tokenizer.encode_with_bytes(&text).map_err(|e| e.to_string())?;
        let mut labels = vec![IGNORED; ids.len()];
        if !mask {
            labels = ids.iter().map(|id| *id as i32).collect();
        }
        let prompt = first_question(&writer, turns, &text);
        let prompt = bytes.iter().filter(|b| b.end <= prompt).count();
        let mut closed = true;
        for (i, _) in turns.iter().enumerate().filter(|(_, t)| t.role == Role::Assistant) {
            // Where everything is trained, only an answer that is not, and the end of the last, must be found.
            let all = !mask && trained(i) && turns[i].untrained.is_empty();
            // Where it is not, an answer that is not trained needs no place.
            if last != Some(i) && (all || mask && !trained(i)) {
                continue;
            }
            let span = match answer_span(&writer, turns, i, &text) {
                Ok(span) => span,
                Err(_) if all => continue,
                Err(e) => return Err(e.into()),
            };
            // A token that reaches into the answer from before is one of its tokens: nothing else teaches its first letters.
            let touches =
                |t: &usize| bytes[*t].start < span.bytes.end && bytes[*t].end > span.bytes.start;
            let inside: Vec<usize> = (0..bytes.len()).filter(touches).collect();
            let content = turns[i].content.trim();
            let at = match span.content_end {
                Some(end) => Some(end - content.len()),
                None => text[span.bytes.clone()].find(content).map(|at| span.bytes.start + at),
            };
            // What the answer itself says closes nothing.
            let said = at.map_or(span.bytes.start, |at| at + content.len());
            let stops = |t: &usize| {
                let closes =
                    self.tokenizer.is_special(ids[*t]) || Some(ids[*t]) == self.tokenizer.eos_id;
                closes && bytes[*t].start >= said
            };
            let end = match span.content_end {
                // The turn ends with its last special token; what the template writes after it is no part of the answer.
                None => inside.iter().rev().copied().find(stops).map(|t| t + 1),
                // The turn ends with the special token right after its content.
                Some(at) => {
                    let next = (0..bytes.len()).find(|t| bytes[*t].start >= at);
                    next.filter(stops).map(|t| t + 1)
                }
            };
            closed = end.is_some();
            let (Some(&start), Some(&stop)) = (inside.first(), inside.last()) else { continue };
            for t in start..end.unwrap_or(stop + 1) {
                labels[t] = if trained(i) { ids[t] as i32 } else { IGNORED };
            }
            if trained(i) && !turns[i].untrained.is_empty() {
                let at = at.ok_or("the chat template does not write an answer as it is, so its untrained parts cannot be told apart")?;
                let trimmed = turns[i].content.len() - turns[i].content.trim_start().len();
                let place = |byte: usize| at + byte.saturating_sub(trimmed).min(content.len());
                let parts = turns[i].untrained.iter().map(|r| place(r.start)..place(r.end));
                leave_out(&mut labels, &bytes, parts);
            }
        }
        if !closed && let Some(eos) = self.tokenizer.eos_id {
            ids.push(eos);
            labels.push(if last.is_none_or(trained) { eos as i32 } else { IGNORED });
        }
        Ok((ids, labels, prompt))
    }

    /// Whether a conversation has tools of which nothing is written.
    pub(super) fn leaves_out_tools(&self, row: &Row) -> bool {
        let Row::Conversation { turns, tools: Some(tools) } = row else { return false };
        let template = self.tokenizer.template.as_ref().filter(|_| self.style.is_chat_template());
        let Some(template) = template else { return true };
        let text = |tools| Writer { template, tools }.render(turns, false);
        text(Some(tools)).is_ok_and(|with| text(None).is_ok_and(|without| with == without))
    }
}

/// Takes the tokens that have a byte in one of `parts` out of what is trained.
pub(super) fn leave_out(
    labels: &mut [i32],
    bytes: &[Range<usize>],
    parts: impl Iterator<Item = Range<usize>>,
) {
    for part in parts {
        for (label, token) in labels.iter_mut().zip(bytes) {
            if token.start < part.end && token.end > part.start {
                *label = IGNORED;
            }
        }
    }
}

/// The name of a function that is called in the conversation and does not appear in its text.
fn unwritten_call<'a>(turns: &'a [Turn], text: &str) -> Option<&'a str> {
    let calls = turns.iter().filter_map(|t| t.extra.get("tool_calls")?.as_array()).flatten();
    let name = |call: &'a Value| call.get("function").unwrap_or(call).get("name")?.as_str();
    calls.filter_map(name).find(|name| !text.contains(name))
}

/// The bytes of the text before the first answer; 0 where the template opens an answer otherwise than it writes one.
fn first_question(writer: &Writer<'_>, turns: &[Turn], text: &str) -> usize {
    let Some(first) = turns.iter().position(|t| t.role == Role::Assistant) else { return 0 };
    // Some templates refuse half a conversation; then nothing is asked of the model, and nothing is lost.
    let opened = writer.render(&turns[..first], true).unwrap_or_default();
    if text.starts_with(&opened) { opened.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::super::super::style::Style;
    use super::*;
    use crate::config::MultiTurn;
    use crate::data::tokenizer::Tokenizer;
    use std::path::Path;

    /// The trained text of a conversation by the bundled tokenizer with another chat template.
    fn trained(template: &str, answer: &str) -> Result<String, Fault> {
        trained_but(template, answer, None)
    }

    /// As [`trained`], without some bytes of the answer.
    fn trained_but(
        template: &str,
        answer: &str,
        untrained: Option<Range<usize>>,
    ) -> Result<String, Fault> {
        let tokenizer = with_template(template);
        let encoder = encoder(&tokenizer);
        let mut turns = vec![Turn::new(Role::User, "a"), Turn::new(Role::Assistant, answer)];
        turns[1].untrained.extend(untrained);
        if answer.is_empty() {
            let call = serde_json::json!([{"function": {"name": "weather", "arguments": {}}}]);
            turns[1].extra.insert("tool_calls".into(), call);
        }
        let (ids, labels, _) = encoder.chat(&turns, None)?;
        let kept: Vec<u32> =
            ids.iter().zip(&labels).filter(|(_, l)| **l != IGNORED).map(|(id, _)| *id).collect();
        Ok(tokenizer.decode(&kept, false).unwrap())
    }

    fn with_template(template: &str) -> Tokenizer {
        let home = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke/model");
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(from.join(name), home.path().join(name)).unwrap();
        }
        std::fs::write(home.path().join("chat_template.jinja"), template).unwrap();
        Tokenizer::load(home.path()).unwrap()
    }

    fn encoder(tokenizer: &Tokenizer) -> Encoder<'_> {
        Encoder {
            tokenizer,
            style: Style::chat_template(),
            chosen: false,
            train_on: TrainOn::Assistant,
            multi_turn: MultiTurn::Conversation,
            limit: None,
            context: 1000,
            vocab: 1000,
            ignore_index: -100,
        }
    }

    /// The space before the answer is a part of its first token.
    const SPACE: &str = "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }} {% else %}A: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}A: {% endif %}";
    /// Turns end with a line break and no token of their own.
    const LINES: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

    #[test]
    fn a_token_that_begins_before_the_answer_is_trained() {
        assert_eq!(trained(SPACE, "đất").unwrap().trim_start(), "đất<|im_end|>");
    }

    #[test]
    fn a_special_token_in_an_answer_ends_nothing() {
        let text = trained(LINES, "one <|im_end|> tail").unwrap();
        assert_eq!(text.trim_start(), "one <|im_end|> tail\n<|im_end|>");
    }

    #[test]
    fn a_part_of_an_answer_is_left_out() {
        let text = trained_but(LINES, " đất trời mưa", Some(0..7)).unwrap();
        assert_eq!(text.trim_start(), "trời mưa\n<|im_end|>");
    }

    #[test]
    fn a_call_that_the_template_leaves_out_is_refused() {
        assert!(trained(LINES, "").unwrap_err().message.contains("`weather`"));
    }

    #[test]
    fn tools_are_left_out_where_the_template_does_not_write_them() {
        let left_out = |template: &str| {
            let tokenizer = with_template(template);
            let turns = vec![Turn::new(Role::User, "a"), Turn::new(Role::Assistant, "b")];
            let tools = Some(serde_json::json!([{"name": "weather"}]));
            encoder(&tokenizer).leaves_out_tools(&Row::Conversation { turns, tools })
        };
        assert!(left_out(LINES));
        assert!(!left_out(&format!("{{{{ tools | tojson }}}}{LINES}")));
    }
}
