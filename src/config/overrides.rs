//! Command-line overrides: `--a.b value` or `--a.b=value`; the command line always wins over the file.

use super::keys::KEYS;
use super::values::{Values, split_block};
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
    let flow = text.trim_start().starts_with(['[', '{']);
    let node = if flow {
        match yaml::parse(Path::new(&format!("--{key}")), text) {
            Ok(node) => node,
            Err(e) => return read.problems.extend(e.problems),
        }
    } else {
        Node::text(text)
    };
    let style = "data.init_args.prompt_style";
    if key == style
        && let Value::Map(items) = &node.value
        && let [(name, class)] = items.as_slice()
        && name.name == "class_path"
    {
        return read.set(style, class.clone(), None);
    }
    // A whole block at once: `--data '{class_path: JSON, init_args: {path: rows.jsonl}}'`.
    let block = key.strip_suffix(".class_path").unwrap_or(key);
    let is_block = KEYS.iter().any(|k| k.name.starts_with(&format!("{block}.")));
    if is_block && matches!(node.value, Value::Map(_)) {
        return split_block(None, block, &node, read);
    }
    read.set(key, node, None);
}
