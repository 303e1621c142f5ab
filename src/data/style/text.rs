//! Text with `{column}` placeholders; `{{` and `}}` are braces. What is put in is never looked at again, so braces in data are data.

use serde_json::{Map, Value};
use std::borrow::Cow;

/// One piece of a text with placeholders.
pub(super) enum Piece<'a> {
    Text(&'a str),
    Column(&'a str),
}

/// All pieces of `text`.
///
/// # Errors
/// As [`columns`].
pub(super) fn pieces(mut text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let (piece, rest) = piece(text)?;
        found.push(piece);
        text = rest;
    }
    Ok(found)
}

/// The next piece of `text`, which is not empty, and what follows it.
fn piece(text: &str) -> Result<(Piece<'_>, &str), String> {
    let at = text.find(['{', '}']).unwrap_or(text.len());
    if at > 0 {
        return Ok((Piece::Text(&text[..at]), &text[at..]));
    }
    for double in ["{{", "}}"] {
        if let Some(rest) = text.strip_prefix(double) {
            return Ok((Piece::Text(&double[..1]), rest));
        }
    }
    let Some(inner) = text.strip_prefix('{') else {
        return Err("`}` closes nothing; write `}}` for a brace".into());
    };
    match inner.find(['{', '}', '\n']) {
        Some(0) if inner.starts_with('}') => {
            Err("`{}` names no column; write `{{}}` for braces".into())
        }
        Some(end) if inner[end..].starts_with('}') => {
            Ok((Piece::Column(&inner[..end]), &inner[end + 1..]))
        }
        _ => {
            let shown: String = text.chars().take(24).take_while(|c| *c != '\n').collect();
            Err(format!("`{shown}` is never closed; write `{{{{` for a brace"))
        }
    }
}

/// The columns that `text` names, in order, some perhaps more than once.
///
/// # Errors
/// When a brace is not closed, opens nothing, or names nothing.
pub(super) fn columns(mut text: &str) -> Result<Vec<&str>, String> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let (piece, rest) = piece(text)?;
        if let Piece::Column(name) = piece {
            found.push(name);
        }
        text = rest;
    }
    Ok(found)
}

/// `text` with each placeholder replaced by `value` of its name, at the end of `out`.
///
/// # Errors
/// As [`columns`], and what `value` says.
pub(super) fn fill<'a>(
    out: &mut String,
    mut text: &str,
    value: impl Fn(&str) -> Result<Cow<'a, str>, String>,
) -> Result<(), String> {
    while !text.is_empty() {
        let (piece, rest) = piece(text)?;
        match piece {
            Piece::Text(t) => out.push_str(t),
            Piece::Column(name) => out.push_str(&value(name)?),
        }
        text = rest;
    }
    Ok(())
}

/// A row's column as text: numbers and truth values as JSON writes them, null as nothing.
///
/// # Errors
/// When the row lacks the column, or it is a list or an object.
pub(super) fn column<'a>(row: &'a Map<String, Value>, name: &str) -> Result<Cow<'a, str>, String> {
    let kind = match row.get(name) {
        Some(Value::String(text)) => return Ok(text.into()),
        Some(Value::Null) => return Ok("".into()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => return Ok(value.to_string().into()),
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
        None => {
            let keys: Vec<_> = row.keys().take(12).map(|k| format!("`{k}`")).collect();
            return Err(format!(
                "`prompt_template` asks for `{name}`; the row has {}",
                keys.join(", ")
            ));
        }
    };
    Err(format!("`prompt_template` asks for `{name}`, which is {kind}, not text"))
}
