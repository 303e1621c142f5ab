//! Conversations by the tokenizer's chat template: rendered whole, encoded once, each answer's tokens found.

use super::super::row::{Role, Turn};
use super::answers::{Writer, answer_span};
use super::{Encoder, Fault, IGNORED, Tokens};
use crate::config::TrainOn;
use serde_json::Value;

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
        let (mut ids, starts) =
            self.tokenizer.encode_with_starts(&text).map_err(|e| e.to_string())?;
        let mut labels = vec![IGNORED; ids.len()];
        if !mask {
            labels = ids.iter().map(|id| *id as i32).collect();
        }
        let prompt = first_question(&writer, turns, &text);
        let prompt = starts.iter().filter(|s| **s < prompt).count();
        let mut closed = true;
        for (i, _) in turns.iter().enumerate().filter(|(_, t)| t.role == Role::Assistant) {
            // Where everything is trained, only an answer that is not, and the end of the last, must be found.
            let all = !mask && trained(i);
            // Where it is not, an answer that is not trained needs no place.
            if last != Some(i) && (all || mask && !trained(i)) {
                continue;
            }
            let span = match answer_span(&writer, turns, i, &text) {
                Ok(span) => span,
                Err(_) if all => continue,
                Err(e) => return Err(e.into()),
            };
            let inside: Vec<usize> =
                (0..starts.len()).filter(|t| span.bytes.contains(&starts[*t])).collect();
            let stops = |t: &usize| {
                self.tokenizer.is_special(ids[*t]) || Some(ids[*t]) == self.tokenizer.eos_id
            };
            let end = match span.content_end {
                // The turn ends with its last special token; what the template writes after it is no part of the answer.
                None => inside.iter().rev().copied().find(stops).map(|t| t + 1),
                // The turn ends with the special token right after its content.
                Some(at) => {
                    let next = (0..starts.len()).find(|t| starts[*t] >= at);
                    next.filter(stops).map(|t| t + 1)
                }
            };
            closed = end.is_some();
            let (Some(&start), Some(&stop)) = (inside.first(), inside.last()) else { continue };
            for t in start..end.unwrap_or(stop + 1) {
                labels[t] = if trained(i) { ids[t] as i32 } else { IGNORED };
            }
        }
        if !closed && let Some(eos) = self.tokenizer.eos_id {
            ids.push(eos);
            labels.push(if last.is_none_or(trained) { eos as i32 } else { IGNORED });
        }
        Ok((ids, labels, prompt))
    }
}

/// The bytes of the text before the first answer; 0 where the template opens an answer otherwise than it writes one.
fn first_question(writer: &Writer<'_>, turns: &[Turn], text: &str) -> usize {
    let Some(first) = turns.iter().position(|t| t.role == Role::Assistant) else { return 0 };
    // Some templates refuse half a conversation; then nothing is asked of the model, and nothing is lost.
    let opened = writer.render(&turns[..first], true).unwrap_or_default();
    if text.starts_with(&opened) { opened.len() } else { 0 }
}
