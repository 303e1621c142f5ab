//! Where the answers of a rendered conversation lie.
//!
//! A conversation is rendered whole and encoded once, as transformers does. An assistant's part is what rendering up to its turn adds
//! to rendering up to the question with the answer opened; where a template writes earlier turns otherwise once more follow, it
//! is what changes with the answer.

use super::super::row::Turn;
use super::super::template::ChatTemplate;
use serde_json::Value;

/// A template with the tools that its conversations may call.
pub(super) struct Writer<'a> {
    /// The template.
    pub(super) template: &'a ChatTemplate,
    /// The tools.
    pub(super) tools: Option<&'a Value>,
}

impl Writer<'_> {
    /// The text of `turns`; `open` adds the opening of an answer.
    pub(super) fn render(&self, turns: &[Turn], open: bool) -> Result<String, String> {
        let messages: Vec<Value> = turns.iter().map(Turn::message).collect();
        self.template.render_messages(&messages, self.tools, open).map_err(|e| e.to_string())
    }
}

/// Where an answer lies in a rendered conversation.
pub(super) struct Span {
    /// Its bytes.
    pub(super) bytes: std::ops::Range<usize>,
    /// Where its content ends, if the bytes end there too and what closes it comes after.
    pub(super) content_end: Option<usize>,
}

/// The bytes of `text`, the whole conversation, that assistant turn `i` adds.
pub(super) fn answer_span(
    writer: &Writer<'_>,
    turns: &[Turn],
    i: usize,
    text: &str,
) -> Result<Span, String> {
    let opened = writer.render(&turns[..i], true)?;
    let whole =
        if i + 1 == turns.len() { text.to_owned() } else { writer.render(&turns[..=i], false)? };
    if whole.starts_with(&opened) && text.starts_with(&whole) {
        return Ok(Span { bytes: opened.len()..whole.len(), content_end: None });
    }
    // Templates whose opening of an answer differs from how they write one: start after the question.
    let asked = writer.render(&turns[..i], false)?;
    if whole.starts_with(&asked) && text.starts_with(&whole) {
        return Ok(Span { bytes: asked.len()..whole.len(), content_end: None });
    }
    // Templates that write earlier turns otherwise once more follow: the answer is what changes with its content.
    changed_span(writer, turns, i, text)
}

/// Where `text` changes when answer `i` is another.
fn changed_span(writer: &Writer<'_>, turns: &[Turn], i: usize, text: &str) -> Result<Span, String> {
    const ELSE: &str = "\u{1}\u{2}";
    let mut other = turns.to_vec();
    other[i].content = ELSE.into();
    let other = writer.render(&other, false)?;
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
    use super::super::super::row::Role;
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;

    /// Mistral's way: the system text stands in the last question.
    const LATE_SYSTEM: &str = "{% for m in messages[1:] %}{% if m.role == 'user' %}[Q]{% if loop.last or loop.index == messages|length - 2 %}{{ messages[0].content }} {% endif %}{{ m.content }}[/Q]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}";

    #[test]
    fn an_answer_is_found_where_the_template_moves_earlier_text() {
        let turn = |role, text: &str| Turn::new(role, text);
        let turns = [
            turn(Role::System, "S"),
            turn(Role::User, "a"),
            turn(Role::Assistant, "first"),
            turn(Role::User, "b"),
            turn(Role::Assistant, "second"),
        ];
        let template = ChatTemplate::new(Path::new("t"), LATE_SYSTEM, BTreeMap::new()).unwrap();
        let writer = Writer { template: &template, tools: None };
        let text = writer.render(&turns, false).unwrap();
        assert_eq!(text, "[Q]a[/Q]first</s>[Q]S b[/Q]second</s>");
        let answers: Vec<&str> =
            [2, 4].map(|i| &text[answer_span(&writer, &turns, i, &text).unwrap().bytes]).to_vec();
        assert_eq!(answers, ["first", "second</s>"]);
    }
}
