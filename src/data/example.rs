//! A row as token ids and labels.
//!
//! A conversation is rendered whole and encoded once, as transformers does. An assistant's part is what rendering up to its turn
//! adds to rendering up to the question with the answer opened; its tokens are labels up to the turn's closing special
//! token, which is always trained. With `mask_prompt: false` every token is a label.

use super::row::{Role, Row, Turn};
use super::style::{Style, joined};
use super::template::ChatTemplate;
use super::tokenizer::Tokenizer;

/// Token ids with their labels, unshifted; -100 is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Labels.
    pub labels: Vec<i32>,
    /// Line of the row in its file.
    pub line: usize,
}

impl Example {
    /// The number of tokens that are predicted and trained.
    pub fn targets(&self) -> usize {
        self.labels.iter().skip(1).filter(|l| **l != -100).count()
    }
}

/// Turns rows into examples.
pub struct Encoder<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How instruction rows become text.
    pub style: Style,
    /// Whether only answers are labels.
    pub mask_prompt: bool,
}

impl Encoder<'_> {
    /// Encodes a row of `line`.
    ///
    /// # Errors
    /// A message without place.
    pub fn encode(&self, row: Row, line: usize) -> Result<Example, String> {
        let (ids, labels) = match row {
            Row::Tokens { ids, labels } => (ids, labels),
            Row::Conversation { tools: Some(_), .. } => {
                return Err("`tools` are not supported yet".into());
            }
            Row::Conversation { turns, .. } => self.conversation(&turns)?,
            Row::Instruction {
                ref system,
                ref history,
                ref instruction,
                ref input,
                ref output,
                ..
            } => match self.style.prompt(instruction, input) {
                Some(_) if system.is_some() || !history.is_empty() => {
                    return Err("`system` and `history` beside `instruction` need `prompt_style: chat_template`".into());
                }
                Some(prompt) => self.prompt(&prompt, output)?,
                None => self.conversation(&row.into_turns(joined).unwrap_or_default())?,
            },
            Row::Completion { prompt, completion } => self.prompt(&prompt, &completion)?,
            Row::Text(text) => {
                let (ids, _) = self.prompt("", &text)?;
                let labels = ids.iter().map(|id| *id as i32).collect();
                (ids, labels)
            }
        };
        Ok(Example { ids, labels, line })
    }

    /// Prompt and answer encoded apart, as LitGPT does, and EOS.
    fn prompt(&self, prompt: &str, output: &str) -> Result<(Vec<u32>, Vec<i32>), String> {
        let encode =
            |text: &str, special| self.tokenizer.encode(text, special).map_err(|e| e.to_string());
        let plain = encode(prompt, false)?;
        let starts_with_bos = !plain.is_empty() && plain.first() == self.tokenizer.bos_id.as_ref();
        let mut ids = if starts_with_bos { plain } else { encode(prompt, true)? };
        // A tokenizer that closes every text with EOS would close the prompt too.
        if ids.last().is_some()
            && ids.last() == self.tokenizer.eos_id.as_ref()
            && !prompt.is_empty()
            && !starts_with_bos
        {
            ids.pop();
        }
        let masked = ids.len();
        ids.extend(encode(output, false)?);
        let eos = self
            .tokenizer
            .eos_id
            .ok_or("the tokenizer has no EOS token, so no answer could end")?;
        if ids.last() != Some(&eos) || ids.len() == masked {
            ids.push(eos);
        }
        let mut labels: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        if self.mask_prompt {
            labels[..masked].fill(-100);
        }
        Ok((ids, labels))
    }

    fn conversation(&self, turns: &[Turn]) -> Result<(Vec<u32>, Vec<i32>), String> {
        let template = self.tokenizer.template.as_ref().ok_or(
            "the tokenizer has no chat template; give instruction rows with `prompt_style: alpaca`, or add chat_template.jinja to the model directory",
        )?;
        let text = render(template, turns, false).map_err(|e| e.to_string())?;
        let (mut ids, starts) =
            self.tokenizer.encode_with_starts(&text).map_err(|e| e.to_string())?;
        let mut labels = vec![-100; ids.len()];
        if !self.mask_prompt {
            labels = ids.iter().map(|id| *id as i32).collect();
        }
        let mut closed = true;
        let last = turns.iter().rposition(|t| t.role == Role::Assistant);
        for (i, turn) in turns.iter().enumerate().filter(|(_, t)| t.role == Role::Assistant) {
            // Where everything is trained, only an answer that is not, and the end of the last, must be found.
            let all = !self.mask_prompt && turn.train;
            if all && last != Some(i) {
                continue;
            }
            let span = match answer_span(template, turns, i, &text) {
                Ok(span) => span,
                Err(_) if all => continue,
                Err(e) => return Err(e),
            };
            let inside: Vec<usize> =
                (0..starts.len()).filter(|t| span.bytes.contains(&starts[*t])).collect();
            let stops = |t: &usize| {
                self.tokenizer.is_special(ids[*t]) || Some(ids[*t]) == self.tokenizer.eos_id
            };
            let end = match span.content_end {
                // The turn ends with its last special token; what the template writes after it is no part of the answer.
                None => inside.iter().rev().find(|t| stops(t)).map(|t| t + 1),
                // The turn ends with the special token right after its content.
                Some(at) => {
                    let next = (0..starts.len()).find(|t| starts[*t] >= at);
                    next.filter(stops).map(|t| t + 1)
                }
            };
            closed = end.is_some();
            let Some(&first) = inside.first() else { continue };
            let end = end.unwrap_or(inside[inside.len() - 1] + 1);
            for t in first..end {
                labels[t] = if turn.train { ids[t] as i32 } else { -100 };
            }
        }
        if !closed && let Some(eos) = self.tokenizer.eos_id {
            ids.push(eos);
            let trained = turns.last().is_none_or(|t| t.train);
            labels.push(if trained { eos as i32 } else { -100 });
        }
        Ok((ids, labels))
    }
}

/// The text of turns with all their members.
fn render(template: &ChatTemplate, turns: &[Turn], open: bool) -> crate::error::Result<String> {
    template.render_messages(&turns.iter().map(Turn::message).collect::<Vec<_>>(), open)
}

/// Where an answer lies in a rendered conversation.
struct Span {
    /// Its bytes.
    bytes: std::ops::Range<usize>,
    /// Where its content ends, if the bytes end there too and what closes it comes after.
    content_end: Option<usize>,
}

/// The bytes of `text`, the whole conversation, that assistant turn `i` adds.
fn answer_span(
    template: &ChatTemplate,
    turns: &[Turn],
    i: usize,
    text: &str,
) -> Result<Span, String> {
    let render =
        |turns: &[Turn], open| self::render(template, turns, open).map_err(|e| e.to_string());
    let opened = render(&turns[..i], true)?;
    let whole = if i + 1 == turns.len() { text.to_owned() } else { render(&turns[..=i], false)? };
    if whole.starts_with(&opened) && text.starts_with(&whole) {
        return Ok(Span { bytes: opened.len()..whole.len(), content_end: None });
    }
    // Templates whose opening of an answer differs from how they write one: start after the question.
    let asked = render(&turns[..i], false)?;
    if whole.starts_with(&asked) && text.starts_with(&whole) {
        return Ok(Span { bytes: asked.len()..whole.len(), content_end: None });
    }
    // Templates that write earlier turns otherwise once more follow: the answer is what changes with its content.
    changed_span(template, turns, i, text)
}

/// Where `text` changes when answer `i` is another.
fn changed_span(
    template: &ChatTemplate,
    turns: &[Turn],
    i: usize,
    text: &str,
) -> Result<Span, String> {
    const ELSE: &str = "\u{1}\u{2}";
    let mut other = turns.to_vec();
    other[i].content = ELSE.into();
    let other = render(template, &other, false).map_err(|e| e.to_string())?;
    let content = turns[i].content.trim();
    let start = other.find(ELSE).filter(|at| {
        text.is_char_boundary(*at)
            && text[*at..].starts_with(content)
            && other[..*at] == text[..*at]
    });
    let Some(start) = start else {
        return Err("the chat template does not write this answer as it is, so its tokens cannot be told apart; use \
                    `mask_prompt: false` or rows of one exchange"
            .into());
    };
    let after = &other[start + ELSE.len()..];
    let end = start + content.len();
    if text[end..] != *after {
        return Err("the chat template writes an answer twice, so its tokens cannot be told apart; use `mask_prompt: false`".into());
    }
    Ok(Span { bytes: start..end, content_end: Some(end) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;

    /// Mistral's way: the system text stands in the last question.
    const LATE_SYSTEM: &str = "{% for m in messages[1:] %}{% if m.role == 'user' %}[Q]{% if loop.last or loop.index == messages|length - 2 %}{{ messages[0].content }} {% endif %}{{ m.content }}[/Q]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}";

    #[test]
    fn an_answer_is_found_where_the_template_moves_earlier_text() {
        let turns = [
            Turn::new(Role::System, "S"),
            Turn::new(Role::User, "a"),
            Turn::new(Role::Assistant, "first"),
            Turn::new(Role::User, "b"),
            Turn::new(Role::Assistant, "second"),
        ];
        let template = ChatTemplate::new(Path::new("t"), LATE_SYSTEM, BTreeMap::new()).unwrap();
        let text = template.render(&turns, false).unwrap();
        assert_eq!(text, "[Q]a[/Q]first</s>[Q]S b[/Q]second</s>");
        let answers: Vec<&str> =
            [2, 4].map(|i| &text[answer_span(&template, &turns, i, &text).unwrap().bytes]).to_vec();
        assert_eq!(answers, ["first", "second</s>"]);
    }
}
