//! A chat template, rendered as transformers renders it.
//!
//! transformers compiles templates with jinja2's `trim_blocks` and `lstrip_blocks`, loop controls, a `tojson` that keeps non-ASCII
//! and HTML characters, `raise_exception` and `strftime_now`; Python's string and dict methods come from minijinja-contrib.
//! transformers v5.23 `utils/chat_template_utils.py::_compile_jinja_template`

use super::namespaces::used_as_value;
use super::row::Turn;
use crate::budget::within;
use crate::error::{Problem, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as Jinja};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Steps that a template may take: far more than any conversation needs.
const FUEL: u64 = 1_000_000;

/// Bytes of stack that it has, of which it touches what it needs: a list inside a list inside a list, one a loop, is printed and dropped by recursion, and
/// the steps allow many of them.
pub const STACK: usize = 512 << 20;

/// Bytes that a template may have alive: minijinja bounds a text that is repeated, not one that is doubled again and again. See [`crate::budget`].
const MEMORY: usize = 512 << 20;

/// Spaces of an indent of `tojson`.
const MOST_INDENT: usize = 64;

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    /// What a message calls it.
    name: String,
    tokens: BTreeMap<String, String>,
    /// The template's text.
    pub source: String,
}

impl ChatTemplate {
    /// Compiles `source`, found in the file `path`; `tokens` are bos_token and its like.
    ///
    /// # Errors
    /// When the template does not parse.
    pub fn new(path: &Path, source: &str, tokens: BTreeMap<String, String>) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let broken = |e: Error| {
            let message = format!("the chat template does not parse: {e}");
            Problem::at(path, 0, 0, message)
        };
        environment.set_syntax(syntax.map_err(broken)?);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        if let Some(name) = used_as_value(source) {
            let message = format!("the chat template uses `{name}` as a value");
            let hint =
                "a namespace that holds itself has no end; use its attributes, as in `ns.name`";
            return Err(Problem::in_file(path, message).hint(hint).into());
        }
        let name = format!("{}: the chat template", path.display());
        // Constants are folded when a template is compiled.
        within(&name, MEMORY, || {
            environment.add_template_owned("chat", without_generation_tags(source))
        })
        .map_err(broken)?;
        Ok(Self { environment, path: path.into(), name, tokens, source: source.into() })
    }

    /// What decides the text of a conversation: the template and the tokens that it names.
    pub fn identity(&self) -> String {
        format!("{:?} {}", self.tokens, self.source)
    }

    /// The text of `turns`; `open` adds the opening of an assistant's answer.
    ///
    /// # Errors
    /// When the template fails or raises an exception, with its words.
    pub fn render(&self, turns: &[Turn], open: bool) -> Result<String> {
        self.render_messages(&turns.iter().map(Turn::message).collect::<Vec<_>>(), None, open)
    }

    /// The text of messages given as JSON; `tools` are those that the assistant may call.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_messages(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        open: bool,
    ) -> Result<String> {
        let variables = context! {
            messages => Jinja::from(Serde(messages)),
            add_generation_prompt => open,
            tools => tools.map(|t| Jinja::from(Serde(t))),
            documents => (),
            ..Jinja::from(Serde(&self.tokens))
        };
        // Errors hold values too, and so are dropped where there is stack for it.
        stacker::maybe_grow(STACK, STACK, || {
            let template = self.environment.get_template("chat");
            let render = || template.and_then(|t| t.render(variables));
            within(&self.name, MEMORY, render).map_err(|e| {
                let detail = e.detail().map_or_else(|| e.to_string(), str::to_owned);
                Problem::in_file(&self.path, format!("the chat template fails: {detail}")).into()
            })
        })
    }
}

/// `{% generation %}` marks an assistant's text for other tools and renders as nothing.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        // `{%}` opens a tag and ends none.
        let Some(len) = rest[start + 2..].find("%}") else { break };
        let tag = &rest[start..start + len + 4];
        let word =
            tag[2..tag.len() - 2].trim_matches(|c: char| c.is_whitespace() || "-+".contains(c));
        out.push_str(&rest[..start]);
        if matches!(word, "generation" | "endgeneration") {
            // An empty `if` keeps the tag's whitespace control.
            let (left, right) = (tag.starts_with("{%-"), tag.ends_with("-%}"));
            let (l, r) = (if left { "{%-" } else { "{%" }, if right { "-%}" } else { "%}" });
            let middle = if word == "generation" { "if true" } else { "endif" };
            out.push_str(&format!("{l} {middle} {r}"));
        } else {
            out.push_str(tag);
        }
        rest = &rest[start + tag.len()..];
    }
    out + rest
}

/// `json.dumps(value, ensure_ascii=False, indent=…)`.
fn tojson(value: &Jinja, kwargs: Kwargs) -> Result<Jinja, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let json = serde_json::to_value(value).map_err(failed)?;
    let mut out = Vec::new();
    match indent {
        Some(n) => {
            if n > MOST_INDENT {
                let message = format!("tojson: an indent of {n} is more than {MOST_INDENT}");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
            let indent = " ".repeat(n);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
                .map_err(failed)?;
        }
        None => {
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced))
                .map_err(failed)?;
        }
    }
    Ok(Jinja::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// Python's separators: `", "` and `": "`.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: std::io::Write + ?Sized>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }
    fn begin_object_key<W: std::io::Write + ?Sized>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }
    fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

/// The local time in strftime's notation, as Llama 3's template asks for the day.
fn strftime_now(format: &str) -> Result<String, Error> {
    time_as(format, &jiff::Zoned::now())
}

fn time_as(format: &str, time: &jiff::Zoned) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, time).map_err(|e| {
        let message = format!("strftime_now: `{format}` cannot be used: {e}");
        Error::new(ErrorKind::InvalidOperation, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_written_as_python_writes_it() {
        let time = jiff::civil::date(2024, 2, 29)
            .at(7, 5, 9, 0)
            .to_zoned(jiff::tz::TimeZone::UTC)
            .unwrap();
        // Python: datetime(2024, 2, 29, 7, 5, 9).strftime("%A %d %b %Y %H:%M:%S %j %y %-d")
        assert_eq!(
            time_as("%A %d %b %Y %H:%M:%S %j %y %-d", &time).unwrap(),
            "Thursday 29 Feb 2024 07:05:09 060 24 29"
        );
    }

    #[test]
    fn an_exception_keeps_its_words() {
        let source = "{{ raise_exception('roles must alternate') }}";
        let template = ChatTemplate::new(Path::new("t"), source, BTreeMap::new()).unwrap();
        let error = template.render(&[], false).unwrap_err().to_string();
        assert!(error.contains("roles must alternate"), "{error}");
    }
}
