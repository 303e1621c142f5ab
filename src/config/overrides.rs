//! Command-line overrides: `--a.b value` or `--a.b=value`; the command line always wins over the file.

use super::values::{MIX, Values, key_of};
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
    leave_rows_behind(key, &node, read);
    // Between a path and a mix the later one counts.
    const PATH: &str = "data.init_args.path";
    for (one, other) in [(MIX, PATH), (PATH, MIX)] {
        if key == one && read.is_argument(other) {
            read.leave_out(other, one);
        }
    }
    read.take(key, &node, None);
}

/// Where rows come from: what another data class makes meaningless.
const PLACES: &[&str] = &[
    "path",
    "val_path",
    "repo_id",
    "revision",
    "subset",
    "split",
    "val_split",
    "columns",
    "dataset_mix",
];

/// Another data class leaves the rows of the file's behind.
fn leave_rows_behind(key: &str, node: &Node, read: &mut Values) {
    let class = match (&node.value, key) {
        (Value::Scalar { text, .. }, "data.class_path") => Some(text.as_str()),
        (Value::Map(items), "data") => items.iter().find_map(|(k, v)| match &v.value {
            Value::Scalar { text, .. } if k.name == "class_path" => Some(text.as_str()),
            _ => None,
        }),
        _ => None,
    };
    let short = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let before = read.text("data.class_path");
    if let (Some(class), Some(before)) = (class, before)
        && short(class) != short(&before)
    {
        for place in PLACES {
            let place = format!("data.init_args.{place}");
            if !read.is_argument(&place) {
                read.leave_out(&place, key);
            }
        }
    }
}
