//! A style as a chat template, in Jinja: whoever renders messages with it gets the text that was trained.
//!
//! before? prompt₁ answer₁ EOS prompt₂ answer₂ EOS …, as in training: `before` is what the tokenizer puts in front of a text, unless the prompt
//! begins with BOS by itself; EOS follows an answer that does not end with it. A prompt ends where its answer begins, so it is the
//! same with `add_generation_prompt` and without, as in Llama 2's template. A user's message may have an `input` beside its `content`,
//! as rows have. What was refused in training raises an exception: roles out of turn, a system text without a place, content that is no text.
//!
//! All text stands in string literals, so that neither `trim_blocks` nor `lstrip_blocks` touches it.
//! transformers v5.23 `utils/chat_template_utils.py::_compile_jinja_template`

use super::table::{Named, System};
use super::text::{self, Piece};
use super::{Kind, RENDERS_MESSAGES, Style};

/// The tokens round a conversation, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// What the tokenizer puts in front of a text; may be nothing.
    pub before: String,
    /// The token that begins a text, which a prompt may have written itself.
    pub bos: Option<String>,
    /// What follows an answer.
    pub eos: String,
}

const CONTENT: &str = "message['content']";
const INPUT: &str = "message['input']";
const SYSTEM: &str = "ns.system";
const OUT_OF_TURN: &str =
    "a conversation is a system text, if any, and then questions and answers in turn";

impl Style {
    /// The style as a chat template.
    ///
    /// # Errors
    /// When messages do not have what the style asks for, or this is the chat template already.
    pub fn jinja(&self, marks: &Marks) -> Result<String, String> {
        if let [column, ..] = self.columns()[..] {
            return Err(format!(
                "`prompt_template` asks for `{column}`, which the messages of a chat do not have"
            ));
        }
        let (first, later) = match &self.0 {
            Kind::ChatTemplate => return Err(RENDERS_MESSAGES.into()),
            Kind::Named { style, message } => {
                let question = asked(style)?;
                let opening = opening(style, message.as_deref())?;
                (sum(&[opening, question.clone()]), sum(&[literal(style.between), question]))
            }
            Kind::Template(text) => (own(text, SYSTEM)?, own(text, "''")?),
        };
        let from = self.own_text().map_or_else(
            || format!("prompt_style: {}", self.name()),
            |_| "prompt_template".to_owned(),
        );
        let input = if self.uses_input() {
            " A user's message may have an `input` beside its `content`."
        } else {
            ""
        };
        let system = if self.takes_system() {
            format!("{{%- set {SYSTEM} = {CONTENT} -%}}")
        } else {
            let message = format!("the style `{}` has no place for a system text", self.name());
            format!(
                "{{%- if {CONTENT} -%}}\n{{{{- raise_exception({}) -}}}}\n{{%- endif -%}}",
                literal(&message)
            )
        };
        let first = match &marks.bos {
            _ if marks.before.is_empty() => format!("{{{{- {first} -}}}}"),
            None => format!("{{{{- {} ~ {first} -}}}}", literal(&marks.before)),
            Some(bos) => format!(
                "{{%- set text = {first} -%}}\n{{{{- '' if text.startswith({}) else {} -}}}}\n{{{{- text -}}}}",
                literal(bos),
                literal(&marks.before)
            ),
        };
        let (eos, turn) = (literal(&marks.eos), literal(OUT_OF_TURN));
        Ok(format!(
            "{{#- The text that `{from}` was trained with; written by vft.{input} -#}}
{{%- set ns = namespace(system='', asked=false, first=true) -%}}
{{%- for message in messages -%}}
{{%- if {CONTENT} is not string -%}}
{{{{- raise_exception('the content of a message must be text') -}}}}
{{%- elif message['role'] == 'system' and loop.first -%}}
{system}
{{%- elif message['role'] == 'user' and not ns.asked -%}}
{{%- if ns.first -%}}
{first}
{{%- else -%}}
{{{{- {later} -}}}}
{{%- endif -%}}
{{%- set ns.asked = true -%}}
{{%- set ns.first = false -%}}
{{%- elif message['role'] == 'assistant' and ns.asked -%}}
{{{{- {CONTENT} -}}}}
{{{{- '' if {CONTENT}.endswith({eos}) else {eos} -}}}}
{{%- set ns.asked = false -%}}
{{%- else -%}}
{{{{- raise_exception({turn}) -}}}}
{{%- endif -%}}
{{%- endfor -%}}
"
        ))
    }
}

/// What stands before the first question of a named style.
fn opening(style: &Named, message: Option<&str>) -> Result<String, String> {
    let default = match (message, style.system) {
        (_, System::None) => return Ok(literal(style.bare)),
        (Some(message), _) => Some(literal(message)),
        (None, System::Default(text)) => Some(literal(text)),
        (None, System::ByInput(with, without)) => {
            Some(format!("({} if {INPUT} else {})", literal(with), literal(without)))
        }
        (None, System::Optional) => None,
    };
    let given = default.as_ref().map_or(SYSTEM.to_owned(), |text| format!("({SYSTEM} or {text})"));
    let given = if style.trims_system { format!("({given} | trim)") } else { given };
    let opening = filled(style.opening, |_| given.clone())?;
    Ok(match default {
        Some(_) => opening,
        None => format!("({opening} if {SYSTEM} else {})", literal(style.bare)),
    })
}

/// A question of a named style.
fn asked(style: &Named) -> Result<String, String> {
    let value = |name: &str| (if name == "input" { INPUT } else { CONTENT }).to_owned();
    let without = filled(style.question, value)?;
    let Some(with) = style.with_input else { return Ok(without) };
    Ok(format!("({} if {INPUT} else {without})", filled(with, value)?))
}

/// A user's own text.
fn own(text: &str, system: &str) -> Result<String, String> {
    filled(text, |name| match name {
        "instruction" => CONTENT.to_owned(),
        "input" => format!("({INPUT} or '')"),
        _ => system.to_owned(),
    })
}

/// A text with placeholders as an expression.
fn filled(text: &str, value: impl Fn(&str) -> String) -> Result<String, String> {
    let (mut parts, mut said) = (Vec::new(), String::new());
    for piece in text::pieces(text)? {
        match piece {
            Piece::Text(more) => said.push_str(more),
            Piece::Column(name) => {
                parts.push(literal(&std::mem::take(&mut said)));
                parts.push(value(name));
            }
        }
    }
    parts.push(literal(&said));
    Ok(sum(&parts))
}

/// The expressions one after the other, without those that are empty texts.
fn sum(parts: &[String]) -> String {
    let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|p| *p != "''").collect();
    match parts[..] {
        [] => "''".into(),
        [one] => one.into(),
        _ => parts.join(" ~ "),
    }
}

/// A text as a string of Jinja; a tag within it is none, for those too who look for tags without reading strings.
fn literal(text: &str) -> String {
    let mut out = String::from("'");
    let mut last = ' ';
    for c in text.chars() {
        match c {
            '\\' | '\'' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '%' if last == '{' => out.push_str("\\u0025"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
        last = c;
    }
    out + "'"
}
