//! The values of keys with their places: flattened from a YAML tree or set one by one, names checked, read as types on demand.

use super::keys::{ALIASES, FOREIGN, KEYS};
use super::scalar;
use super::yaml::{Node, Value};
use crate::error::{Place, Problem};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Keys read so far, with their places, and the problems found on the way.
#[derive(Default)]
pub(super) struct Values {
    pub(super) values: BTreeMap<String, (Node, Option<Place>)>,
    pub(super) problems: Vec<Problem>,
    /// The file, for what is missing in it.
    pub(super) path: Option<PathBuf>,
}

impl Values {
    /// All keys of a file.
    pub(super) fn file(path: &Path, root: &Node) -> Self {
        let mut read = Self { path: Some(path.into()), ..Self::default() };
        match &root.value {
            Value::Map(_) => read.flatten(path, "", root),
            _ => read.problems.push(Problem::at(
                path,
                root.line,
                root.column,
                "a run config is a mapping of keys",
            )),
        }
        read
    }

    fn flatten(&mut self, path: &Path, prefix: &str, node: &Node) {
        let Value::Map(items) = &node.value else { return };
        for (key, value) in items {
            let name =
                if prefix.is_empty() { key.name.clone() } else { format!("{prefix}.{}", key.name) };
            let place = Place { path: path.into(), line: key.line, column: key.column };
            let is_block = KEYS.iter().any(|k| k.name.starts_with(&format!("{name}.")));
            match &value.value {
                Value::Map(_) if name == "data.init_args.prompt_style" => {
                    self.flatten(path, &name, value);
                    if let Some((style, place)) =
                        self.values.remove("data.init_args.prompt_style.class_path")
                    {
                        self.set(&name, style, place);
                    }
                }
                Value::Map(_) if is_block => self.flatten(path, &name, value),
                Value::Scalar { text, .. } if name == "optimizer" => {
                    self.set("optimizer.class_path", Node::text(text), Some(place));
                }
                Value::Scalar { text, .. } if name == "data" => {
                    self.set("data.class_path", Node::text(text), Some(place));
                }
                Value::Seq(_) if is_block => self.problems.push(Problem {
                    place: Some(place),
                    message: format!("`{name}` is a block of keys, not a list"),
                    hint: None,
                }),
                Value::Scalar { text, quoted } if is_block => {
                    if !scalar::is_null(text, *quoted) {
                        self.problems.push(Problem {
                            place: Some(place),
                            message: format!("`{name}` is a block of keys, not `{text}`"),
                            hint: None,
                        });
                    }
                }
                _ => self.set(&name, value.clone(), Some(place)),
            }
        }
    }

    /// Sets a key; an unknown one becomes a problem with a hint.
    pub(super) fn set(&mut self, name: &str, node: Node, place: Option<Place>) {
        let name = ALIASES.iter().find(|(a, _)| *a == name).map_or(name, |(_, real)| real);
        let null =
            matches!(&node.value, Value::Scalar { text, quoted } if scalar::is_null(text, *quoted));
        let known =
            KEYS.iter().any(|k| k.name == name) || name == "data.init_args.prompt_style.class_path";
        if known && place.is_some() && self.is_written(name) {
            let message = format!("`{name}` is written twice, under two names");
            self.problems.push(Problem { place, message, hint: None });
        } else if known {
            self.values.insert(name.to_owned(), (node, place));
        } else if let Some((_, way)) =
            FOREIGN.iter().find(|(k, _)| *k == name || name.starts_with(&format!("{k}.")))
        {
            let harmless = matches!(&node.value, Value::Scalar { text, .. }
                if (name == "devices" && matches!(text.as_str(), "1" | "auto")) || (name == "num_nodes" && text == "1"));
            if !null && !harmless {
                let message = format!("`{name}` does not work here");
                self.problems.push(Problem { place, message, hint: Some((*way).to_owned()) });
            }
        } else {
            let message = format!("unknown key `{name}`");
            self.problems.push(Problem { place, message, hint: nearest(name) });
        }
    }

    pub(super) fn problem(&mut self, key: &str, message: &str) {
        let place = self.values.get(key).and_then(|(_, p)| p.clone());
        self.problems.push(Problem { place, message: format!("`{key}`: {message}"), hint: None });
    }

    /// A problem of the whole file.
    pub(super) fn missing(&mut self, problem: Problem) {
        let problem = match &self.path {
            Some(path) => problem.found_in(path),
            None => problem,
        };
        self.problems.push(problem);
    }

    pub(super) fn is_written(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The scalar of a key: `None` if it is absent, `Some(None)` if null.
    pub(super) fn scalar(&mut self, key: &str) -> Option<Option<String>> {
        match self.values.get(key).map(|(n, _)| n.value.clone())? {
            Value::Scalar { text, quoted } if scalar::is_null(&text, quoted) => Some(None),
            Value::Scalar { text, .. } => Some(Some(text)),
            _ => {
                self.problem(key, "expected one value, not a list or block");
                None
            }
        }
    }

    pub(super) fn read<T>(
        &mut self,
        key: &str,
        default: T,
        f: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        let Some(Some(text)) = self.scalar(key) else { return default };
        f(&text).unwrap_or_else(|message| {
            self.problem(key, &message);
            default
        })
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        self.read(key, default, scalar::boolean)
    }

    pub(super) fn count(&mut self, key: &str, default: usize, least: i64) -> usize {
        self.read(key, default, |text| whole(text, least))
    }

    /// A count that may be null; `default` stands when the key is absent.
    pub(super) fn count_or_null(&mut self, key: &str, default: Option<usize>) -> Option<usize> {
        match self.scalar(key) {
            Some(None) => None,
            _ => self.read(key, default, |text| whole(text, 1).map(Some)),
        }
    }

    pub(super) fn number(&mut self, key: &str, default: f64, range: std::ops::Range<f64>) -> f64 {
        self.read(key, default, |text| {
            let x = scalar::number(text)?;
            let fits = range.contains(&x);
            if fits { Ok(x) } else { Err(outside(text, &range)) }
        })
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.scalar(key).flatten()
    }
}

/// "must be at least 0 and below 1", without bounds that are infinite.
fn outside(text: &str, range: &std::ops::Range<f64>) -> String {
    let below = if range.end.is_finite() && range.end < 1e300 {
        format!(" and below {}", range.end)
    } else {
        String::new()
    };
    format!("{text} must be at least {}{below}", range.start)
}

pub(super) fn whole(text: &str, least: i64) -> Result<usize, String> {
    let n = scalar::integer(text)?;
    if !(least..=1_000_000_000).contains(&n) {
        return Err(format!("{text} lies outside {least} .. 1000000000"));
    }
    Ok(n as usize)
}

/// A block given on the command line as one value: `optimizer: {class_path, init_args}`.
pub(super) fn split_block(place: Option<Place>, prefix: &str, node: &Node, read: &mut Values) {
    let Value::Map(items) = &node.value else { return read.set(prefix, node.clone(), place) };
    for (key, value) in items {
        split_block(place.clone(), &format!("{prefix}.{}", key.name), value, read);
    }
}

/// "did you mean" for an unknown key: the closest name, or the same last word elsewhere.
fn nearest(name: &str) -> Option<String> {
    let last = |n: &str| n.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |k: &str| {
        let whole = strsim::normalized_damerau_levenshtein(k, name);
        whole.max(strsim::normalized_damerau_levenshtein(&last(k), &last(name)) - 0.05)
    };
    let best = KEYS.iter().map(|k| (score(k.name), k.name)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    let all = || "`vft finetune --help` lists every key".to_owned();
    Some(if best.0 > 0.6 { format!("did you mean `{}`?", best.1) } else { all() })
}
