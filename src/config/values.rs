//! The values of keys with their places: flattened from a YAML tree or set one by one, names checked, read as types on demand.

use super::foreign::{ALIASES, FOREIGN, Foreign};
use super::keys::{KEYS, KeyInfo};
use super::near::{alike, edits};
use super::scalar;
use super::yaml::{Key, Node, Value};
use crate::error::{Place, Problem};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Problems after which a file is read no further.
const TOLD: usize = 500;
/// Problems that are looked for what was meant.
const HINTED: usize = 20;

/// The key of a list of data sets.
pub(super) const MIX: &str = "data.init_args.dataset_mix";

/// Keys of `data.init_args` that belong to all sets of a mix together.
const OF_THE_WHOLE: &[&str] =
    &["dataset_mix", "on_bad_row", "ignore_index", "num_workers", "seed", "access_token"];

/// The name of a key in the table: that of `data.init_args` for an item of a mix.
pub(super) fn plain(name: &str) -> String {
    let item = name.strip_prefix(MIX).and_then(|rest| rest.strip_prefix('[')?.split_once("]."));
    match item {
        Some((_, "class_path")) => "data.class_path".into(),
        Some((_, rest)) => format!("data.init_args.{rest}"),
        None => name.to_owned(),
    }
}

/// The table's entry for a key; keys of all sets together are none of an item's.
pub(super) fn key_of(name: &str) -> Option<&'static KeyInfo> {
    let plain = plain(name);
    let of_the_whole =
        plain.strip_prefix("data.init_args.").is_some_and(|k| OF_THE_WHOLE.contains(&k));
    if plain != name && of_the_whole {
        return None;
    }
    KEYS.iter().find(|k| k.name == plain)
}

/// The name under which a key is kept: aliases are resolved, in items of a mix too.
fn real_name(name: &str) -> String {
    let plain = plain(name);
    match ALIASES.iter().find(|(alias, _)| *alias == plain) {
        Some((alias, real)) => {
            let ends = |text: &str| text.strip_prefix("data.init_args.").map(str::to_owned);
            match (ends(alias), ends(real)) {
                (Some(alias), Some(real)) => format!("{}{real}", &name[..name.len() - alias.len()]),
                _ => (*real).to_owned(),
            }
        }
        None => name.to_owned(),
    }
}

/// Keys read so far, with their places, and the problems found on the way.
#[derive(Default)]
pub(super) struct Values {
    pub(super) values: BTreeMap<String, (Node, Option<Place>)>,
    pub(super) problems: Vec<Problem>,
    /// The file, for what is missing in it.
    pub(super) path: Option<PathBuf>,
    /// What the reader of the config should know.
    pub(super) notes: Vec<String>,
    /// The number of sets in `dataset_mix`.
    pub(super) mix: usize,
}

impl Values {
    /// All keys of a file.
    pub(super) fn file(path: &Path, root: &Node) -> Self {
        let mut read = Self { path: Some(path.into()), ..Self::default() };
        match &root.value {
            Value::Map(_) => {
                read.flatten(path, "", root);
                if read.problems.len() >= TOLD {
                    let message = format!(
                        "these are the first {TOLD} problems; keys after them are not read"
                    );
                    read.problems.push(Problem::in_file(path, message));
                }
            }
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
            self.take(&name, value, Some(place));
        }
    }

    /// A key or a block of keys, from the file (with its place) or from the command line.
    pub(super) fn take(&mut self, name: &str, value: &Node, place: Option<Place>) {
        if self.problems.len() >= TOLD {
            return;
        }
        let is_key = key_of(name).is_some();
        let prefix = format!("{}.", plain(name));
        let is_block = KEYS.iter().any(|k| k.name.starts_with(&prefix))
            || FOREIGN.iter().any(|f| f.name.starts_with(&prefix));
        match &value.value {
            Value::Seq(items) if name == MIX => self.take_mix(items, place),
            Value::Map(_) if is_block => match place {
                Some(place) => self.flatten(&place.path, name, value),
                None => self.flatten_unplaced(name, value),
            },
            Value::Scalar { .. } if is_block && matches!(name, "optimizer" | "data") => {
                self.set(&format!("{name}.class_path"), value.clone(), place);
            }
            Value::Scalar { text, quoted } if is_block && !is_key => {
                if !scalar::is_null(text, *quoted) {
                    self.problems.push(Problem {
                        place,
                        message: format!("`{name}` is a block of keys, not `{text}`"),
                        hint: None,
                    });
                }
            }
            Value::Seq(_) if is_block => self.problems.push(Problem {
                place,
                message: format!("`{name}` is a block of keys, not a list"),
                hint: None,
            }),
            _ => self.set(name, value.clone(), place),
        }
    }

    fn flatten_unplaced(&mut self, prefix: &str, node: &Node) {
        let Value::Map(items) = &node.value else { return };
        for (key, value) in items {
            self.take(&format!("{prefix}.{}", key.name), value, None);
        }
    }

    /// The items of a mix: blocks whose keys are those of `data.init_args`, with or without `init_args` round them.
    fn take_mix(&mut self, items: &[Node], place: Option<Place>) {
        self.values.retain(|k, _| !k.starts_with(MIX));
        self.mix = items.len();
        if items.is_empty() {
            let message = format!("`{MIX}` is empty; list at least one data set");
            self.problems.push(Problem { place: place.clone(), message, hint: None });
        }
        for (i, item) in items.iter().enumerate() {
            let Value::Map(keys) = &item.value else {
                let message = format!("`{MIX}[{i}]` is no block of keys");
                self.problems.push(Problem { place: place.clone(), message, hint: None });
                continue;
            };
            let at = |key: &Key| {
                let (line, column) = (key.line, key.column);
                place.as_ref().map(|p| Place { line, column, ..p.clone() })
            };
            for (key, value) in keys {
                match &value.value {
                    Value::Map(inner) if key.name == "init_args" => {
                        for (key, value) in inner {
                            self.take(&format!("{MIX}[{i}].{}", key.name), value, at(key));
                        }
                    }
                    _ => self.take(&format!("{MIX}[{i}].{}", key.name), value, at(key)),
                }
            }
        }
    }

    /// Sets a key; an unknown one becomes a problem with a hint.
    pub(super) fn set(&mut self, name: &str, node: Node, place: Option<Place>) {
        let name = &real_name(name);
        let text = match &node.value {
            Value::Scalar { text, quoted } if scalar::is_null(text, *quoted) => None,
            Value::Scalar { text, .. } => Some(text.as_str()),
            _ => Some(""),
        };
        if key_of(name).is_some() {
            if place.is_some() && self.is_written(name) {
                let message = format!("`{name}` is written twice, under two names");
                self.problems.push(Problem { place, message, hint: None });
            } else {
                self.values.insert(name.clone(), (node, place));
            }
            return;
        }
        if let Some((map, part)) = name.rsplit_once('.')
            && map.ends_with(".columns")
            && key_of(map).is_some()
        {
            return self.set_column(map, part, node, place);
        }
        let plain = plain(name);
        let foreign = |f: &&Foreign| plain == f.name || plain.starts_with(&format!("{}.", f.name));
        if let Some(foreign) = FOREIGN.iter().find(foreign) {
            if text.is_some_and(|t| !foreign.harmless.contains(&t)) {
                let message = format!("`{name}` does not work here");
                self.problems.push(Problem { place, message, hint: Some(foreign.way.to_owned()) });
            }
        } else {
            let message = format!("unknown key `{}`", word_of(name));
            // A file of which nothing is known is no run config with slips of the hand.
            let hint = if self.problems.len() < HINTED { nearest(&plain) } else { None };
            self.problems.push(Problem { place, message, hint });
        }
    }

    /// Leaves a key of the file out, because `by` on the command line takes its place.
    pub(super) fn leave_out(&mut self, name: &str, by: &str) {
        if self.is_mix(name) {
            self.values.retain(|k, _| !k.starts_with(MIX));
            self.mix = 0;
        } else if self.values.remove(name).is_none() {
            return;
        }
        self.notes.push(format!("`{name}` is left out: `--{by}` takes its place"));
    }

    /// Whether this names the sets of a mix that is there.
    pub(super) fn is_mix(&self, name: &str) -> bool {
        name == MIX && self.mix > 0
    }

    /// Whether a key stands on the command line.
    pub(super) fn is_argument(&self, name: &str) -> bool {
        let argument = |(_, place): &(Node, Option<Place>)| place.is_none();
        if self.is_mix(name) {
            return self.values.iter().any(|(k, v)| k.starts_with(MIX) && argument(v));
        }
        self.values.get(name).is_some_and(argument)
    }

    /// The text of a scalar, without a look at what it should be.
    pub(super) fn peek(&self, name: &str) -> Option<String> {
        match &self.values.get(name)?.0.value {
            Value::Scalar { text, quoted } if !scalar::is_null(text, *quoted) => Some(text.clone()),
            _ => None,
        }
    }

    /// One column of the map `columns`, given by itself on the command line.
    fn set_column(&mut self, map: &str, part: &str, node: Node, place: Option<Place>) {
        let key = Key { name: part.to_owned(), line: node.line, column: node.column };
        let empty = Node { value: Value::Map(Vec::new()), line: 0, column: 0 };
        let (whole, _) = self.values.entry(map.to_owned()).or_insert((empty, place));
        if let Value::Map(items) = &mut whole.value {
            items.retain(|(k, _)| k.name != part);
            items.push((key, node));
        }
    }

    pub(super) fn problem(&mut self, key: &str, message: &str) {
        let place = self.values.get(key).and_then(|(_, p)| p.clone());
        self.problems.push(Problem { place, message: format!("`{key}`: {message}"), hint: None });
    }

    /// A problem of a key's value, with the way out.
    pub(super) fn problem_with(&mut self, key: &str, message: &str, hint: &str) {
        self.problem(key, message);
        if let Some(problem) = self.problems.last_mut() {
            problem.hint = Some(hint.to_owned());
        }
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

    /// Whether a key is written and not null.
    pub(super) fn is_set(&self, key: &str) -> bool {
        let null = |n: &Node| matches!(&n.value, Value::Scalar { text, quoted } if scalar::is_null(text, *quoted));
        self.values.get(key).is_some_and(|(node, _)| !null(node))
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
            if let (Some(info), Some(problem)) = (key_of(key), self.problems.last_mut()) {
                problem.hint = Some(format!("{}: {}", info.kind, info.help));
            }
            default
        })
    }

    /// One of a few words, or anything else that reads itself.
    pub(super) fn choice<T: FromStr<Err = String>>(&mut self, key: &str, default: T) -> T {
        self.read(key, default, str::parse)
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

/// The part of an unknown key that may be a name: in `access_token:hf_x`, without a space, the value has become part of it.
fn word_of(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-.[] ".contains(c);
    match name.find(|c| !plain(c)) {
        Some(end) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// "must be at least 0 and below 1", without bounds that are infinite.
fn outside(text: &str, range: &std::ops::Range<f64>) -> String {
    let below = if range.end.is_finite() && range.end < 1e300 {
        format!(" and below {}", range.end)
    } else {
        String::new()
    };
    match range.start {
        least if least > 0.0 && least < 1e-20 => format!("{text} must be above 0{below}"),
        least => format!("{text} must be at least {least}{below}"),
    }
}

pub(super) fn whole(text: &str, least: i64) -> Result<usize, String> {
    let n = scalar::integer(text)?;
    if !(least..=1_000_000_000).contains(&n) {
        return Err(format!("{text} lies outside {least} to 1000000000"));
    }
    Ok(n as usize)
}

/// "did you mean" for an unknown key: the closest key or block of the same block, else the same last word elsewhere.
fn nearest(name: &str) -> Option<String> {
    let split = |n: &str| match n.rsplit_once('.') {
        Some((block, last)) => (block.to_owned(), last.to_owned()),
        None => (String::new(), n.to_owned()),
    };
    let (block, last) = split(name);
    let edits = |k: &str| edits(&split(k).1, &last);
    let score = |k: &str| {
        let (its_block, its_last) = split(k);
        // One slip of the hand in the same block is what it most likely is, however short the word.
        let slip = if its_block == block && edits(k) == 1 { 1.0 } else { 0.0 };
        alike(k, name).max(alike(&its_last, &last) - 0.05).max(slip)
    };
    let blocks = KEYS.iter().flat_map(|k| k.name.match_indices('.').map(|(i, _)| &k.name[..i]));
    // The block that the unknown key stands in is no answer.
    let blocks = blocks.filter(|b| !name.starts_with(&format!("{b}.")));
    let names = KEYS.iter().map(|k| k.name).chain(blocks);
    let best = names.map(|k| (score(k), k)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    let all = || "`vft finetune --help` lists every key".to_owned();
    Some(if best.0 > 0.6 { format!("did you mean `{}`?", best.1) } else { all() })
}
