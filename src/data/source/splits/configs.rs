//! The config that is asked for, and its files: rule 1 of `super`, and directories where no README names configs.

use super::names::by_names;
use super::{Splits, base};
use crate::data::source::open::format_of;
use crate::data::source::readme::Config;
use glob::{MatchOptions, Pattern};
use std::collections::HashSet;

/// The config of that name, the only one, or the default one.
pub(super) fn choose<'a>(configs: &'a [Config], name: Option<&str>) -> Result<&'a Config, String> {
    let names: Vec<&str> = configs.iter().map(|c| c.name.as_str()).collect();
    if let Some(name) = name {
        let found = configs.iter().find(|c| c.name == name);
        return found
            .ok_or_else(|| format!("has no config `{name}`{}", listed(" (it has ", &names)));
    }
    let defaults = configs.iter().filter(|c| c.default || c.name == "default");
    match (configs, defaults.collect::<Vec<_>>().as_slice()) {
        ([only], _) => Ok(only),
        (_, [default]) => Ok(default),
        _ => {
            Err(format!("has several configs, of which one must be named{}", listed(" (", &names)))
        }
    }
}

/// Its files by split: by its patterns among `all` names, or by the names of the `data` in its directory.
pub(super) fn of_config(
    config: &Config,
    all: &[String],
    data: &[&str],
    notes: &mut Vec<String>,
) -> Result<Splits<String>, String> {
    let dir = config.data_dir.as_ref().filter(|d| !d.is_empty() && *d != ".");
    let within = |name: &str| {
        dir.is_none_or(|d| name.strip_prefix(d.as_str()).is_some_and(|n| n.starts_with('/')))
    };
    let Some(files) = &config.data_files else {
        let data: Vec<&str> = data.iter().copied().filter(|n| within(n)).collect();
        return Ok(by_names(&data, notes));
    };
    let mut splits = Splits::new();
    for (split, patterns) in files {
        let mut found: Vec<String> = Vec::new();
        let mut seen = HashSet::new();
        for written in patterns {
            let path = written.trim_start_matches("./");
            let path = dir.map_or_else(|| path.to_owned(), |d| format!("{d}/{path}"));
            let pattern = Pattern::new(&path)
                .map_err(|e| format!("README.md: `{written}` is no pattern of files: {e}"))?;
            let literal = MatchOptions {
                require_literal_separator: true,
                require_literal_leading_dot: true,
                case_sensitive: true,
            };
            let matched =
                |n: &&String| pattern.matches_with(n, literal) && format_of(base(n)).is_some();
            let mut names: Vec<String> = all.iter().filter(matched).cloned().collect();
            names.sort_unstable();
            names.retain(|n| seen.insert(n.clone()));
            found.append(&mut names);
        }
        if !found.is_empty() {
            splits.insert(split.clone(), found);
        }
    }
    if splits.is_empty() {
        let first = files.iter().find_map(|(_, p)| p.first()).map_or("nothing", String::as_str);
        return Err(format!(
            "README.md's config `{}` names the files `{first}`, and there is no such data file",
            config.name
        ));
    }
    Ok(splits)
}

/// Without configs, a config is a directory.
pub(super) fn inside<'a>(
    data: &[&'a str],
    config_name: Option<&str>,
) -> Result<Vec<&'a str>, String> {
    let Some(config) = config_name.filter(|c| *c != "default") else { return Ok(data.to_vec()) };
    let dir = format!("{}/", config.trim_matches('/'));
    let found: Vec<&str> = data.iter().copied().filter(|n| n.starts_with(&dir)).collect();
    if found.is_empty() {
        let mut dirs: Vec<&str> = data.iter().filter_map(|n| Some(n.split_once('/')?.0)).collect();
        dirs.dedup();
        return Err(format!("has no config `{config}`{}", listed(" (directories: ", &dirs)));
    }
    Ok(found)
}

fn listed(before: &str, names: &[&str]) -> String {
    const MOST: usize = 20;
    if names.is_empty() {
        return String::new();
    }
    let more = if names.len() > MOST { ", …" } else { "" };
    format!("{before}{}{more})", names[..names.len().min(MOST)].join(", "))
}
