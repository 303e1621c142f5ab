//! How an exchange becomes text: the tokenizer's chat template, a named style ([`table`]), or a text with `{column}` placeholders.
//!
//! A named style writes what LitGPT 0.5.13 writes, byte for byte, where LitGPT writes something: the prompt of a first exchange.
//! Later questions of a conversation follow the previous answer's EOS without a system text or preamble. An empty text counts as none,
//! as in Python's `or`.

mod jinja;
pub mod table;
mod text;

use crate::config::near::alike;
use crate::error::Problem;
pub use jinja::Marks;
use serde_json::{Map, Value};
use std::borrow::Cow;
use table::{Named, STYLES, System};

/// What a prompt is made of.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// The row's own system text; empty counts as none.
    pub system: Option<&'a str>,
    /// What is asked.
    pub instruction: &'a str,
    /// What it is about; may be empty.
    pub input: &'a str,
    /// The row as it was read, for a template's other columns.
    pub columns: &'a Map<String, Value>,
}

/// A prompt style.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Style(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    ChatTemplate,
    Named { style: &'static Named, message: Option<String> },
    Template(String),
}

impl Style {
    /// A style by short name, class path or bare class name; `system_message` is the class' argument.
    ///
    /// # Errors
    /// A problem without place: the name is unknown, or the class takes no `system_message`.
    pub fn named(name: &str, system_message: Option<&str>) -> Result<Self, Problem> {
        let takes = || {
            let with = STYLES.iter().filter(|s| s.takes_message);
            let names: Vec<_> = with.map(|s| format!("`{}`", s.name())).collect();
            format!("{} take one", names.join(", "))
        };
        let style = STYLES.iter().find(|s| s.names().any(|n| n == name));
        match style {
            Some(style) if system_message.is_some() && !style.takes_message => {
                Err(Problem::new(format!("`{name}` takes no `system_message`")).hint(takes()))
            }
            Some(style) => {
                let message = system_message.filter(|m| !m.is_empty()).map(str::to_owned);
                Ok(Self(Kind::Named { style, message }))
            }
            None if name == CHAT_TEMPLATE && system_message.is_some() => {
                let message = format!("`{name}` takes no `system_message`");
                Err(Problem::new(message).hint(takes()))
            }
            None if name == CHAT_TEMPLATE => Ok(Self::chat_template()),
            None => Err(unknown(name)),
        }
    }

    /// A user's own text with `{column}` placeholders, `{instruction}`, `{input}` and `{system}` among them.
    ///
    /// # Errors
    /// A problem without place: braces that do not match, no placeholder, or the answer as one.
    pub fn template(text: &str) -> Result<Self, Problem> {
        let columns = text::columns(text).map_err(Problem::new)?;
        if columns.contains(&"output") {
            let message = "`{output}` would show the answer in its own question";
            return Err(Problem::new(message).hint("the answer follows the template by itself"));
        }
        if columns.iter().all(|c| *c == "system") {
            let message = "has no placeholder, so every row would ask the same";
            return Err(Problem::new(message).hint("write the row's text as `{instruction}`"));
        }
        Ok(Self(Kind::Template(text.to_owned())))
    }

    /// The tokenizer's own chat template, which renders messages.
    pub fn chat_template() -> Self {
        Self(Kind::ChatTemplate)
    }

    /// Whether this is the tokenizer's own chat template.
    pub fn is_chat_template(&self) -> bool {
        self.0 == Kind::ChatTemplate
    }

    /// The name to write in a configuration.
    pub fn name(&self) -> &str {
        match &self.0 {
            Kind::ChatTemplate => CHAT_TEMPLATE,
            Kind::Named { style, .. } => style.name(),
            Kind::Template(_) => "prompt_template",
        }
    }

    /// A user's own text with its placeholders.
    pub fn own_text(&self) -> Option<&str> {
        match &self.0 {
            Kind::Template(text) => Some(text),
            _ => None,
        }
    }

    /// Whether prompts hold the exchange's input; most of LitGPT's styles leave it out.
    pub fn uses_input(&self) -> bool {
        match &self.0 {
            Kind::ChatTemplate => true,
            Kind::Named { style, .. } => style.uses_input(),
            Kind::Template(text) => asks_for(text, "input"),
        }
    }

    /// Whether prompts have a place for a row's system text.
    pub fn takes_system(&self) -> bool {
        match &self.0 {
            Kind::ChatTemplate => true,
            Kind::Named { style, .. } => style.system != System::None,
            Kind::Template(text) => asks_for(text, "system"),
        }
    }

    /// The columns of a row that a user's own template names, besides instruction, input and system.
    pub fn columns(&self) -> Vec<&str> {
        let Kind::Template(text) = &self.0 else { return Vec::new() };
        let mut columns = text::columns(text).unwrap_or_default();
        columns.retain(|c| !["instruction", "input", "system"].contains(c));
        columns
    }

    /// The prompt of a first exchange. A system text of the row replaces the style's.
    ///
    /// # Errors
    /// When there is a system text and no place for it, a template's column is missing or no text, or this is the chat template.
    pub fn prompt(&self, exchange: &Exchange<'_>) -> Result<String, String> {
        let said = exchange.system.filter(|s| !s.is_empty());
        if said.is_some() && !self.takes_system() {
            return Err(format!("the style `{}` has no place for a system text", self.name()));
        }
        let mut out = String::new();
        match &self.0 {
            Kind::ChatTemplate => return Err(RENDERS_MESSAGES.into()),
            Kind::Named { style, message } => {
                let default = match style.system {
                    System::None | System::Optional => None,
                    System::Default(text) => Some(text),
                    System::ByInput(with, without) => {
                        Some(if exchange.input.is_empty() { without } else { with })
                    }
                };
                match said.or(message.as_deref()).or(default) {
                    None => out.push_str(style.bare),
                    Some(system) => {
                        let system = if style.trims_system { trim(system) } else { system };
                        text::fill(&mut out, style.opening, |_| Ok(system.into()))?;
                    }
                }
                question(&mut out, style, exchange)?;
            }
            Kind::Template(text) => own(&mut out, text, exchange, said)?,
        }
        Ok(out)
    }

    /// What stands between an answer's EOS and the next answer of the same conversation; a system text is not looked at.
    ///
    /// A user's own template stands there as it is, with nothing for `{system}`.
    ///
    /// # Errors
    /// As [`Self::prompt`], but for the system text.
    pub fn next_prompt(&self, exchange: &Exchange<'_>) -> Result<String, String> {
        let mut out = String::new();
        match &self.0 {
            Kind::ChatTemplate => return Err(RENDERS_MESSAGES.into()),
            Kind::Named { style, .. } => {
                out.push_str(style.between);
                question(&mut out, style, exchange)?;
            }
            Kind::Template(text) => own(&mut out, text, exchange, None)?,
        }
        Ok(out)
    }

    /// One name of every style that can be named, the short one where there is one.
    pub fn names() -> impl Iterator<Item = &'static str> {
        std::iter::once(CHAT_TEMPLATE).chain(STYLES.iter().map(Named::name))
    }
}

const CHAT_TEMPLATE: &str = "chat_template";
const RENDERS_MESSAGES: &str = "the chat template renders messages, not single prompts";

/// A question in a named style.
fn question(out: &mut String, style: &Named, exchange: &Exchange<'_>) -> Result<(), String> {
    let with_input = style.with_input.filter(|_| !exchange.input.is_empty());
    text::fill(out, with_input.unwrap_or(style.question), |name| {
        Ok(if name == "input" { exchange.input } else { exchange.instruction }.into())
    })
}

/// A prompt by a user's own template.
fn own<'a>(
    out: &mut String,
    text: &str,
    exchange: &Exchange<'a>,
    system: Option<&'a str>,
) -> Result<(), String> {
    text::fill(out, text, |name| match name {
        "instruction" => Ok(Cow::Borrowed(exchange.instruction)),
        "input" => Ok(exchange.input.into()),
        "system" => Ok(system.unwrap_or_default().into()),
        other => text::column(exchange.columns, other),
    })
}

fn asks_for(text: &str, column: &str) -> bool {
    text::columns(text).is_ok_and(|columns| columns.contains(&column))
}

/// Python's `str.strip()`, which takes four separators for white space that Unicode does not.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

/// The problem of an unknown name: the nearest one, or all.
fn unknown(name: &str) -> Problem {
    let problem = Problem::new(format!("unknown prompt style `{name}`"));
    let spellings = STYLES.iter().flat_map(Named::names).chain([CHAT_TEMPLATE]);
    let score = |known: &str| {
        let near = alike;
        // Between a short name and a class of the same letters the case decides.
        near(&known.to_lowercase(), &name.to_lowercase()) + 0.01 * near(known, name)
    };
    let best = spellings.map(|s| (score(s), s)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, best)) if score > 0.6 => problem.hint(format!("did you mean `{best}`?")),
        _ => {
            let all: Vec<_> = Style::names().collect();
            let own = "a style of your own is a text, `prompt_template: \"{instruction}\\n\"`; Python classes are not run";
            problem.hint(format!("{own}; known are {}", all.join(", ")))
        }
    }
}

/// An instruction and its input as one user message.
pub fn joined(instruction: &str, input: &str) -> String {
    if input.is_empty() { instruction.to_owned() } else { format!("{instruction}\n{input}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn asked<'a>(columns: &'a Map<String, Value>, instruction: &'a str) -> Exchange<'a> {
        Exchange { system: None, instruction, input: "", columns }
    }

    fn hint(name: &str) -> String {
        Style::named(name, None).unwrap_err().hint.unwrap()
    }

    fn template_error(text: &str) -> String {
        Style::template(text).unwrap_err().message
    }

    #[test]
    fn no_name_is_known_twice() {
        let mut names: Vec<_> = STYLES.iter().flat_map(Named::names).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_typo_gets_the_nearest_name() {
        assert_eq!(hint("alpca"), "did you mean `alpaca`?");
    }

    #[test]
    fn a_typo_in_a_class_path_gets_the_nearest_path() {
        assert_eq!(hint("litgpt.prompts.Lama3"), "did you mean `litgpt.prompts.Llama3`?");
    }

    #[test]
    fn a_foreign_class_is_shown_the_way() {
        assert!(hint("my_company.styles.Vi").contains("prompt_template"));
    }

    #[test]
    fn system_message_is_for_those_that_take_it() {
        let error = Style::named("llama2", Some("S")).unwrap_err();
        assert_eq!(error.message, "`llama2` takes no `system_message`");
    }

    #[test]
    fn a_template_fills_columns() {
        let columns = row(json!({"n": 3, "ok": true, "none": null}));
        let style = Style::template("{{{n}}} {ok}{none}: {instruction}\n").unwrap();
        assert_eq!(style.prompt(&asked(&columns, "a {n}")).unwrap(), "{3} true: a {n}\n");
    }

    #[test]
    fn a_missing_column_is_named() {
        let columns = row(json!({"title": "t"}));
        let style = Style::template("{titel}").unwrap();
        let error = style.prompt(&asked(&columns, "")).unwrap_err();
        assert_eq!(error, "`prompt_template` asks for `titel`; the row has `title`");
    }

    #[test]
    fn a_list_is_no_text() {
        let columns = row(json!({"x": []}));
        let error = Style::template("{x}").unwrap().prompt(&asked(&columns, "")).unwrap_err();
        assert_eq!(error, "`prompt_template` asks for `x`, which is a list, not text");
    }

    #[test]
    fn an_unclosed_brace_is_shown() {
        assert!(template_error("### {instruction\n").starts_with("`{instruction` is never closed"));
    }

    #[test]
    fn a_brace_within_a_placeholder_is_shown() {
        assert!(template_error("{a{b}}").starts_with("`{a{b}}` is never closed"));
    }

    #[test]
    fn a_lone_closing_brace_is_an_error() {
        assert!(template_error("a } {instruction}").starts_with("`}` closes nothing"));
    }

    #[test]
    fn an_empty_placeholder_is_an_error() {
        assert!(template_error("{}").starts_with("`{}` names no column"));
    }

    #[test]
    fn a_template_asks_something() {
        assert!(template_error("{system}Hi").starts_with("has no placeholder"));
    }

    #[test]
    fn a_template_does_not_tell_the_answer() {
        assert!(template_error("{instruction}{output}").starts_with("`{output}` would show"));
    }

    #[test]
    fn a_templates_system_text_is_not_repeated() {
        let columns = Map::new();
        let style = Style::template("<{system}>{instruction}").unwrap();
        let exchange = Exchange { system: Some("S"), ..asked(&columns, "q") };
        assert_eq!(style.prompt(&exchange).unwrap(), "<S>q");
        assert_eq!(style.next_prompt(&exchange).unwrap(), "<>q");
    }

    #[test]
    fn a_template_without_place_refuses_a_system_text() {
        let columns = Map::new();
        let exchange = Exchange { system: Some("S"), ..asked(&columns, "q") };
        let error = Style::template("{instruction}").unwrap().prompt(&exchange).unwrap_err();
        assert_eq!(error, "the style `prompt_template` has no place for a system text");
    }

    #[test]
    fn other_columns_of_a_template_are_listed() {
        let style = Style::template("{instruction}{topic}{input}{câu hỏi}").unwrap();
        assert_eq!(style.columns(), ["topic", "câu hỏi"]);
    }

    #[test]
    fn our_own_chatml_keeps_the_input() {
        let columns = Map::new();
        let exchange = Exchange { input: "i", ..asked(&columns, "q") };
        let text = Style::named("chatml", None).unwrap().prompt(&exchange).unwrap();
        assert_eq!(text, "<|im_start|>user\nq\ni<|im_end|>\n<|im_start|>assistant\n");
    }
}
