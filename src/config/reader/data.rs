//! The `data` block: one set of rows, or several mixed.

use super::super::choices::{MultiTurn, OnBadRow, TrainOn};
use super::super::class::{DataClass, FLAN_SUBSETS, Home};
use super::super::near::nearest;
use super::super::run_config::{DataSection, SetSection};
use super::super::scalar;
use super::super::values::{MIX, Values, plain};
use super::super::yaml::{Node, Value};
use super::seed;
use crate::error::Problem;
use crate::secret::Secret;
use std::collections::BTreeMap;

const ARGS: &str = "data.init_args";

/// Reads the block.
pub(super) fn data(r: &mut Values) -> DataSection {
    let mixed = r.mix > 0;
    if r.is_written(MIX) {
        r.problem(MIX, "is a list of data sets, each with at least a `path` or a `class_path`");
    }
    let sets = if mixed {
        (0..r.mix).map(|i| set(r, &format!("{MIX}[{i}]"))).collect()
    } else {
        vec![set(r, ARGS)]
    };
    let key = |name: &str| format!("{ARGS}.{name}");
    if !mixed && r.is_written(&key("weight")) {
        r.problem(&key("weight"), "belongs to the items of `dataset_mix`");
    }
    DataSection {
        sets,
        mixed,
        on_bad_row: r.choice(&key("on_bad_row"), OnBadRow::Error),
        ignore_index: r.read(&key("ignore_index"), -100, scalar::integer),
        num_workers: r.read(&key("num_workers"), None, |text| {
            let n = scalar::integer(text)?;
            let n = usize::try_from(n).map_err(|_| format!("{text} is negative"))?;
            // LitGPT's 0 means that the main process does the work.
            Ok(Some(n.clamp(1, 1024)))
        }),
        access_token: r.text(&key("access_token")).map(|t| Secret::new(&t)),
        seed: r.read(&key("seed"), 42, seed),
    }
}

/// A key of the set at `prefix`, or the whole block's if the set does not say it.
struct Keys<'a>(&'a str);

impl Keys<'_> {
    fn of(&self, r: &Values, name: &str) -> String {
        let own = format!("{}.{name}", self.0);
        if r.is_written(&own) { own } else { format!("{ARGS}.{name}") }
    }

    fn text(&self, r: &mut Values, name: &str) -> Option<String> {
        let key = self.of(r, name);
        let text = r.text(&key);
        if text.as_deref() == Some("") {
            r.problem(&key, "is empty; remove it or write a value");
        }
        text.filter(|t| !t.is_empty())
    }
}

fn set(r: &mut Values, prefix: &str) -> SetSection {
    let keys = Keys(prefix);
    let problems = r.problems.len();
    let class = class(r, prefix, &keys);
    let known = r.problems.len() == problems;
    refuse_strangers(r, prefix, class);
    let text = |r: &mut Values, name| keys.text(r, name);
    let path = text(r, "path");
    if known && class.home == Home::Path && path.is_none() && !r.is_written(&keys.of(r, "repo_id"))
    {
        let hint = "give a file, a directory or a data set of the Hub";
        r.missing(Problem::new(format!("`{}` is missing", keys.of(r, "path"))).hint(hint));
    }
    let fraction = keys.of(r, "val_split_fraction");
    let weight = keys.of(r, "weight");
    let max_samples = keys.of(r, "max_samples");
    let set = SetSection {
        prefix: prefix.to_owned(),
        class,
        path: path.map(Into::into),
        val_path: text(r, "val_path").map(Into::into),
        download_dir: text(r, "download_dir").unwrap_or_else(|| class.download_dir.into()).into(),
        file_name: text(r, "file_name"),
        file_url: text(r, "file_url"),
        url: text(r, "url"),
        subsets: subsets(r, &keys),
        repo_id: text(r, "repo_id"),
        revision: text(r, "revision"),
        subset: text(r, "subset"),
        split: text(r, "split"),
        val_split: text(r, "val_split"),
        val_split_fraction: r.text(&fraction).map(|_| r.number(&fraction, 0.0, 0.0..1.0)),
        columns: columns(r, &keys),
        prompt_style: text(r, "prompt_style"),
        system_message: text(r, "prompt_style.init_args.system_message"),
        prompt_template: text(r, "prompt_template"),
        train_on: train_on(r, &keys),
        multi_turn: multi_turn(r, &keys),
        max_samples: r.count_or_null(&max_samples, None),
        weight: r.number(&weight, 1.0, 1e-6..1e6),
    };
    for (name, url) in [("file_url", &set.file_url), ("url", &set.url)] {
        let host = url.as_deref().and_then(|u| u.split("://").nth(1)?.split('/').next());
        if host.is_some_and(|h| h.contains('@')) {
            let key = keys.of(r, name);
            r.problem(&key, "holds a user or password; addresses are written to files, so keep secrets out of them");
        }
    }
    if set.system_message.is_some() && set.prompt_style.is_none() {
        let key = keys.of(r, "prompt_style.init_args.system_message");
        r.problem(&key, "belongs to a `prompt_style` of the ChatML kind");
    }
    set
}

fn class(r: &mut Values, prefix: &str, keys: &Keys<'_>) -> &'static DataClass {
    let json = &super::super::class::CLASSES[0];
    let own = format!("{prefix}.class_path");
    let key = if r.is_written(&own) { own } else { "data.class_path".to_owned() };
    if let Some(name) = r.text(&key) {
        return DataClass::named(&name).unwrap_or_else(|message| {
            r.problem(&key, &message);
            json
        });
    }
    if ["path", "repo_id", "val_path"].iter().any(|k| r.is_written(&keys.of(r, k)))
        || prefix != ARGS
    {
        return json;
    }
    r.notes.push("no `data` is written: LitGPT's default, the class Alpaca, is used".into());
    DataClass::named("Alpaca").unwrap_or(json)
}

/// Keys that the class does not read: problems, unless the command line chose another class than the file.
fn refuse_strangers(r: &mut Values, prefix: &str, class: &'static DataClass) {
    let of_the_set: Vec<String> = r
        .values
        .keys()
        .filter(|k| k.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')))
        .cloned()
        .collect();
    for key in of_the_set {
        let plain = plain(&key);
        let arg = plain.strip_prefix("data.init_args.").unwrap_or(&plain);
        let (chosen, placed) =
            (r.values.get("data.class_path"), r.values.get(&key).is_some_and(|(_, p)| p.is_some()));
        let replaced = chosen.is_some_and(|(_, place)| place.is_none()) && placed;
        // MuriITVi has the key from Deita and takes `false` alone: a row of it is one exchange.
        let inherited = class.name == "MuriITVi"
            && arg == "include_multiturn_conversations"
            && !r.flag(&key, true);
        if class.takes(arg) || inherited {
        } else if replaced {
            r.values.remove(&key);
            r.notes
                .push(format!("`{key}` of the file is left out: {} does not read it", class.name));
        } else if r.is_set(&key) {
            r.problem(&key, &format!("is not read by the class {}; remove it", class.name));
        }
    }
}

fn subsets(r: &mut Values, keys: &Keys<'_>) -> Vec<String> {
    let key = keys.of(r, "subsets");
    let names: Vec<String> = match r.values.get(&key).map(|(n, _)| n.value.clone()) {
        Some(Value::Seq(items)) => items.iter().filter_map(text_of).collect(),
        _ => r
            .text(&key)
            .map(|t| t.split(',').map(|s| s.trim().to_owned()).collect())
            .unwrap_or_default(),
    };
    for name in &names {
        if !FLAN_SUBSETS.contains(&name.as_str()) {
            let meant = nearest(name, FLAN_SUBSETS.iter().copied());
            let meant = meant.map(|m| format!("; did you mean `{m}`?")).unwrap_or_default();
            let message = format!("`{name}` is no subset of FLAN{meant}");
            r.problem(&key, &message);
        }
    }
    names
}

fn text_of(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text.clone()),
        _ => None,
    }
}

fn columns(r: &mut Values, keys: &Keys<'_>) -> BTreeMap<String, String> {
    let key = keys.of(r, "columns");
    let items = match r.values.get(&key).map(|(n, _)| n.value.clone()) {
        None => return BTreeMap::new(),
        Some(Value::Map(items)) => items,
        Some(Value::Scalar { text, quoted }) if scalar::is_null(&text, quoted) => {
            return BTreeMap::new();
        }
        Some(_) => {
            r.problem(&key, "expected a map such as {instruction: title, output: text}");
            return BTreeMap::new();
        }
    };
    let mut map = BTreeMap::new();
    for (part, column) in &items {
        match text_of(column).filter(|t| !t.is_empty()) {
            Some(column) => {
                map.insert(part.name.clone(), column);
            }
            None => r.problem(&key, &format!("`{}` needs the name of a column", part.name)),
        }
    }
    map
}

fn train_on(r: &mut Values, keys: &Keys<'_>) -> TrainOn {
    let (mask, on) = (keys.of(r, "mask_prompt"), keys.of(r, "train_on"));
    let by_mask = if r.flag(&mask, false) { TrainOn::Assistant } else { TrainOn::All };
    r.choice(&on, by_mask)
}

fn multi_turn(r: &mut Values, keys: &Keys<'_>) -> MultiTurn {
    let (flag, key) = (keys.of(r, "include_multiturn_conversations"), keys.of(r, "multi_turn"));
    let by_flag = match r.text(&flag) {
        Some(_) if !r.flag(&flag, true) => MultiTurn::First,
        _ => MultiTurn::Conversation,
    };
    r.choice(&key, by_flag)
}
