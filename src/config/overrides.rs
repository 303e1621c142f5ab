//! Command-line overrides: `--a.b value` or `--a.b=value`; the command line always wins over the file.

use super::values::{Values, key_of};
use super::yaml::{self, Node, Value};
use crate::error::Problem;
use std::path::Path;

/// Sets the keys that `arguments` name.
pub(super) fn apply(arguments: &[String], read: &mut Values) {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(flag) = argument.strip_prefix("--") else {
            let problem = Problem::new(format!("unexpected argument `{argument}`"));
            read.problems.push(problem.hint("keys are set as `--train.max_steps 10`"));
            continue;
        };
        let (key, value) = match flag.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (flag, rest.next().cloned()),
        };
        let Some(value) = value else {
            read.problems.push(Problem::new(format!("`--{key}` needs a value")));
            continue;
        };
        set(&long_name(key), &value, read);
    }
}

/// `data.path` stands for `data.init_args.path`, `optimizer.lr` for `optimizer.init_args.lr`.
fn long_name(key: &str) -> String {
    for block in ["data", "optimizer"] {
        match key.strip_prefix(block).map(|rest| rest.strip_prefix('.')) {
            Some(None) if key == block => return format!("{block}.class_path"),
            Some(Some(rest)) if rest != "class_path" && !rest.starts_with("init_args") => {
                return format!("{block}.init_args.{rest}");
            }
            _ => {}
        }
    }
    key.to_owned()
}

fn set(key: &str, text: &str, read: &mut Values) {
    let is_text = key_of(key).is_some_and(|k| k.kind == "text");
    let flow = !is_text && text.trim_start().starts_with(['[', '{']);
    let node = if flow {
        match yaml::parse(Path::new(&format!("--{key}")), text) {
            Ok(node) => node,
            Err(e) => return read.problems.extend(e.problems),
        }
    } else {
        Node::text(text)
    };
    // A whole block at once: `--data '{class_path: JSON, init_args: {path: rows.jsonl}}'`.
    let key = match node.value {
        Value::Map(_) => key.strip_suffix(".class_path").unwrap_or(key),
        _ => key,
    };
    read.take(key, &node, None);
}
