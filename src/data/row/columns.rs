//! The user's names for columns: `columns: {instruction: title, output: post.text}`.
//!
//! The key is what the row is read as, the value the column that it has; a path with dots leads into objects and, by number, lists.
//! A column that is renamed is no longer seen under its own name.

use super::kind;
use crate::config::near::nearest;
use serde_json::{Map, Value};
use std::str::FromStr;

/// What columns can be renamed to: all keys that a shape reads.
const TARGETS: &[&str] = &[
    "messages",
    "conversations",
    "data",
    "tools",
    "system",
    "system_prompt",
    "instruction",
    "input",
    "context",
    "output",
    "response",
    "history",
    "prompt",
    "completion",
    "question",
    "answer",
    "inputs",
    "targets",
    "text",
    "chosen",
    "rejected",
    "input_ids",
    "labels",
    "label",
];

/// Which column is read as what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// Targets with their sources.
    renamed: Vec<(&'static str, String)>,
}

impl Columns {
    /// A mapping of `(target, source)` pairs.
    ///
    /// # Errors
    /// A message without place, when a target is unknown or named twice, or a source is empty.
    pub fn new<T: AsRef<str>, S: Into<String>>(
        pairs: impl IntoIterator<Item = (T, S)>,
    ) -> Result<Self, String> {
        let mut renamed: Vec<(&'static str, String)> = Vec::new();
        for (target, source) in pairs {
            let (target, source) = (target.as_ref(), source.into());
            let Some(known) = TARGETS.iter().find(|t| **t == target) else {
                let near = nearest(target, TARGETS.iter().copied());
                let hint =
                    near.map_or_else(|| TARGETS.join(", "), |t| format!("did you mean `{t}`?"));
                return Err(format!("a column cannot be read as `{target}`; {hint}"));
            };
            if renamed.iter().any(|(t, _)| t == known) {
                return Err(format!("`{known}` is named twice"));
            }
            if source.is_empty() {
                return Err(format!("`{known}` names no column"));
            }
            renamed.push((*known, source));
        }
        Ok(Self { renamed })
    }

    /// Whether nothing is renamed.
    pub fn is_empty(&self) -> bool {
        self.renamed.is_empty()
    }

    /// The columns of the data set that are named, without what follows the first dot.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.renamed.iter().map(|(_, s)| s.split('.').next().unwrap_or(s))
    }

    /// The row under its new names.
    pub(super) fn fields<'a>(&'a self, row: &'a Map<String, Value>) -> Result<Fields<'a>, String> {
        let mut renamed = Vec::with_capacity(self.renamed.len());
        for (target, source) in &self.renamed {
            let value = find(row, source).ok_or_else(|| {
                format!("has no column `{source}` to read as `{target}`; it has {}", names(row))
            })?;
            renamed.push((*target, source.as_str(), value));
        }
        Ok(Fields { row, renamed })
    }
}

impl FromStr for Columns {
    type Err = String;

    /// `instruction=title,output=text`, for a command line.
    fn from_str(text: &str) -> Result<Self, String> {
        let pair = |part: &str| {
            let (target, source) = part.split_once('=').ok_or_else(|| {
                format!("`{part}` renames no column; write `instruction=title,output=text`")
            })?;
            Ok((target.trim().to_owned(), source.trim().to_owned()))
        };
        let pairs: Vec<_> = text.split(',').map(pair).collect::<Result<_, String>>()?;
        Self::new(pairs)
    }
}

/// The value at `source`: a column of that very name, or a path.
fn find<'a>(row: &'a Map<String, Value>, source: &str) -> Option<&'a Value> {
    if let Some(value) = row.get(source) {
        return Some(value);
    }
    let (first, rest) = source.split_once('.')?;
    rest.split('.').try_fold(row.get(first)?, |value, step| match value {
        Value::Object(map) => map.get(step),
        Value::Array(list) => list.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// The row's columns, for messages.
pub(super) fn names(row: &Map<String, Value>) -> String {
    if row.is_empty() {
        return "none".into();
    }
    let name = |(k, v): (&String, &Value)| {
        if v.is_null() { format!("`{k}` (null)") } else { format!("`{k}`") }
    };
    row.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// A row under the names that shapes know. What is null is absent.
pub(super) struct Fields<'a> {
    pub(super) row: &'a Map<String, Value>,
    renamed: Vec<(&'static str, &'a str, &'a Value)>,
}

impl<'a> Fields<'a> {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        if let Some((.., value)) = self.renamed.iter().find(|(target, ..)| *target == key) {
            return Some(*value).filter(|v| !v.is_null());
        }
        if self.renamed.iter().any(|(_, source, _)| *source == key) {
            return None;
        }
        self.row.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The keys that the user named.
    pub(super) fn targets(&self) -> impl Iterator<Item = &'static str> {
        self.renamed.iter().map(|(target, ..)| *target)
    }

    /// The text of a key.
    pub(super) fn text(&self, key: &str) -> Result<String, String> {
        self.optional_text(key)?.ok_or_else(|| {
            let null = self.row.get(key).is_some_and(Value::is_null);
            format!("`{key}` is {}", if null { "null" } else { "missing" })
        })
    }

    pub(super) fn optional_text(&self, key: &str) -> Result<Option<String>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(format!("`{key}` is {}, not text", kind(other))),
        }
    }

    /// The row's own system prompt, unless it is empty. `sys_prompt` is the column that LitGPT's styles know.
    pub(super) fn system(&self) -> Result<Option<String>, String> {
        for key in ["system", "system_prompt", "sys_prompt"] {
            if let Some(text) = self.optional_text(key)?.filter(|t| !t.trim().is_empty()) {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// The columns of one value, under their own and their new names.
    pub(super) fn scalars(&self) -> Map<String, Value> {
        let scalar = |v: &Value| !v.is_array() && !v.is_object();
        let own = self.row.iter().map(|(k, v)| (k.as_str(), v));
        let new = self.renamed.iter().map(|(k, _, v)| (*k, *v));
        own.chain(new).filter(|(_, v)| scalar(v)).map(|(k, v)| (k.to_owned(), v.clone())).collect()
    }
}
