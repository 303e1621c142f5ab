//! The `configs` of a data set's README: which files are which split.
//!
//! ```yaml
//! ---
//! configs:
//! - config_name: vie
//!   default: true
//!   data_dir: vie
//!   data_files:
//!   - split: train
//!     path: "data/train-*"
//! ---
//! ```
//! `data_files` may also be one path or a list of paths, all of `train`. <https://huggingface.co/docs/hub/datasets-manual-configuration>

use saphyr_parser::{Event, Parser};
use serde_json::{Map, Value};

/// Events of a README's head; one with two thousand configs has half as many.
const MAX_NODES: usize = 200_000;
const MAX_DEPTH: usize = 64;

/// One of a data set's configs.
#[derive(Debug, PartialEq)]
pub(super) struct Config {
    pub(super) name: String,
    pub(super) default: bool,
    pub(super) data_dir: Option<String>,
    /// Splits with the patterns of their files; `None` when names decide.
    pub(super) data_files: Option<Vec<(String, Vec<String>)>>,
}

/// The configs that a README names; none when it has no head or names none.
pub(super) fn configs(readme: &str) -> Result<Vec<Config>, String> {
    let readme = readme.strip_prefix('\u{feff}').unwrap_or(readme);
    let Some(head) = head(readme) else { return Ok(Vec::new()) };
    let yaml = yaml(head).map_err(|e| format!("README.md: the head is no YAML: {e}"))?;
    match yaml.get("configs") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(config).collect(),
        Some(_) => Err("README.md: `configs` is no list".into()),
    }
}

/// What stands between the first line `---` and the next.
fn head(readme: &str) -> Option<&str> {
    let (first, rest) = readme.split_once('\n')?;
    if first.trim_end() != "---" {
        return None;
    }
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some(&rest[..at]);
        }
        at += line.len();
    }
    None
}

fn config(value: &Value) -> Result<Config, String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
    let name = text("config_name").ok_or("README.md: a config has no `config_name`")?;
    let wrong = |what: &str| format!("README.md: `data_files` of the config `{name}` {what}");
    let paths = |value: &Value| -> Result<Vec<String>, String> {
        let list = if let Value::Array(list) = value {
            list.as_slice()
        } else {
            std::slice::from_ref(value)
        };
        let path = |v: &Value| v.as_str().map(str::to_owned).ok_or_else(|| wrong("names no path"));
        list.iter().map(path).collect()
    };
    let data_files = match value.get("data_files") {
        None | Some(Value::Null) => None,
        Some(Value::Array(list)) if list.iter().any(Value::is_object) => {
            let mut splits: Vec<(String, Vec<String>)> = Vec::new();
            for item in list {
                let (Some(split), Some(path)) =
                    (item.get("split").and_then(Value::as_str), item.get("path"))
                else {
                    return Err(wrong("has an item without `split` and `path`"));
                };
                if splits.iter().any(|(s, _)| s == split) {
                    return Err(wrong(&format!("names the split `{split}` twice")));
                }
                splits.push((split.into(), paths(path)?));
            }
            Some(splits)
        }
        Some(Value::Object(map)) => Some(
            map.iter().map(|(s, v)| Ok((s.clone(), paths(v)?))).collect::<Result<_, String>>()?,
        ),
        Some(list) => Some(vec![("train".into(), paths(list)?)]),
    };
    Ok(Config {
        name: name.into(),
        default: matches!(text("default"), Some("true" | "True" | "yes")),
        data_dir: text("data_dir").map(|d| d.trim_matches('/').to_owned()),
        data_files,
    })
}

/// A YAML text as JSON, every scalar as text.
fn yaml(text: &str) -> Result<Value, String> {
    let mut parser = Parser::new_from_str(text);
    let mut open: Vec<(Value, Option<String>)> = Vec::new();
    let mut nodes = 0;
    while let Some(event) = parser.next_event() {
        let (event, _) =
            event.map_err(|e| format!("line {}: {}", e.marker().line() + 1, e.info()))?;
        nodes += 1;
        if nodes > MAX_NODES || open.len() > MAX_DEPTH {
            return Err("it is too large".into());
        }
        let done = match event {
            Event::MappingStart(..) => {
                open.push((Value::Object(Map::new()), None));
                continue;
            }
            Event::SequenceStart(..) => {
                open.push((Value::Array(Vec::new()), None));
                continue;
            }
            Event::MappingEnd | Event::SequenceEnd => match open.pop() {
                Some((value, _)) => value,
                None => continue,
            },
            Event::Scalar(text, ..) => Value::String(text.into_owned()),
            Event::Alias(_) => Value::Null,
            _ => continue,
        };
        match open.last_mut() {
            None => return Ok(done),
            Some((Value::Array(list), _)) => list.push(done),
            Some((Value::Object(map), key)) => match (key.take(), done) {
                (None, Value::String(text)) => *key = Some(text),
                (None, _) => *key = Some(String::new()),
                (Some(key), done) => {
                    map.insert(key, done);
                }
            },
            Some(_) => {}
        }
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_may_be_a_path_or_a_list() {
        let readme = "---\nconfigs:\n- config_name: a\n  data_files: x.csv\n- config_name: b\n  data_files:\n  - y/*\n  - z/*\n---\n";
        let found: Vec<_> =
            configs(readme).unwrap().into_iter().map(|c| c.data_files.unwrap()).collect();
        let train = |paths: &[&str]| {
            vec![("train".to_owned(), paths.iter().map(|p| (*p).to_owned()).collect())]
        };
        assert_eq!(found, [train(&["x.csv"]), train(&["y/*", "z/*"])]);
    }

    #[test]
    fn a_readme_without_a_head_has_no_configs() {
        assert_eq!(configs("# Title\n---\nconfigs: x\n---\n").unwrap(), []);
    }

    #[test]
    fn deep_yaml_is_an_error_not_a_crash() {
        let readme = format!("---\na: {}\n---\n", "[".repeat(10_000));
        assert!(configs(&readme).unwrap_err().contains("line 2: recursion limit"));
    }
}
