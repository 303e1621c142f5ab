//! Which files of a directory or repository are which split; rules and order are those of `datasets`.
//!
//! 1. README.md's `configs` (`super::readme`): the one asked for, the only one, the default one.
//! 2. `data/<split>-00000-of-00003<…>.<ext>`: any split.
//! 3. Directories with a word for a split in their name, then files: train, training · validation, valid, dev, val · test,
//!    testing, eval, evaluation, set off by `-._ 0-9`. Where two words fit, the first of train, validation, test counts. Files that
//!    begin with the word come before those that hold it elsewhere: their order decides what a seeded split of rows takes.
//! 4. Everything is `train`.
//!
//! Of several kinds of files in a split the one with most files counts, Parquet when they are as many; text files count only when there
//! is nothing else, since a LICENSE.txt is no data. Each split has its own kind, where `datasets` refuses several. What is passed over for
//! its kind, or because its name tells no split beside names that do, is noted. Names that begin with `.` or `__`, and a
//! repository's own JSON files, are none.
//! LitGPT's `train.json` + `val.json` and mlx-lm's `train/valid/test.jsonl` are cases of rule 3.

mod configs;
mod names;
#[cfg(test)]
mod tests;

use super::open::{Format, KNOWN, format_of};
use super::readme;
use crate::error::{Problem, Result};
use crate::small_file;
use configs::{choose, inside, of_config};
use names::by_names;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Files of each split, by the split's name.
pub type Splits<F = PathBuf> = BTreeMap<String, Vec<F>>;

/// What a directory or repository holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout<F = PathBuf> {
    /// The files that are read.
    pub splits: Splits<F>,
    /// Which files are not, and why; without place.
    pub notes: Vec<String>,
}

/// JSON of a repository that is no data.
const IGNORED: &[&str] =
    &["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// Directories inside each other, and files, that a data set may have.
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 1_000_000;
/// Bytes of a README, as many as are fetched of one on the Hub.
const README_BYTES: u64 = 8 << 20;

/// The splits of `path`: a file is `train`, a directory is searched; `config_name` picks one of its configs.
///
/// # Errors
/// When there is no data, or no such config.
pub fn discover(path: &Path, config_name: Option<&str>) -> Result<Layout> {
    if !path.is_dir() {
        let splits = Splits::from([("train".into(), vec![path.into()])]);
        return Ok(Layout { splits, notes: Vec::new() });
    }
    let mut names = Vec::new();
    walk(path, "", &mut BTreeSet::new(), &mut names)?;
    let readme = path.join("README.md");
    let readme = match small_file::bytes(&readme, README_BYTES) {
        Err(e) if e.kind() == ErrorKind::FileTooLarge => {
            return Err(Problem::in_file(&readme, format!("cannot be read: {e}")).into());
        }
        read => read.ok(),
    };
    let readme = readme.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let Layout { splits, notes } = split_files(&names, readme.as_deref(), config_name)
        .map_err(|message| Problem::in_file(path, message))?;
    let full = |names: Vec<String>| names.into_iter().map(|n| path.join(n)).collect();
    let splits = splits.into_iter().map(|(split, names)| (split, full(names))).collect();
    Ok(Layout { splits, notes })
}

/// Collects the files below `relative` by their names relative to `root`; links are followed, as the Hub's cache needs, but no
/// directory is `seen` twice.
fn walk(
    root: &Path,
    relative: &str,
    seen: &mut BTreeSet<PathBuf>,
    names: &mut Vec<String>,
) -> Result<()> {
    let dir = root.join(relative);
    let failed = |e: std::io::Error| Problem::in_file(&dir, format!("cannot be read: {e}"));
    let deep = relative.matches('/').count() >= MAX_DEPTH;
    if deep || !seen.insert(fs::canonicalize(&dir).map_err(failed)?) {
        return Ok(());
    }
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = if relative.is_empty() { name } else { format!("{relative}/{name}") };
        let path = entry.path();
        if path.is_dir() {
            if !hidden(&name) {
                walk(root, &name, seen, names)?;
            }
        } else if path.is_file() {
            names.push(name);
        }
        if names.len() > MAX_FILES {
            return Err(Problem::in_file(root, format!("holds more than {MAX_FILES} files")).into());
        }
    }
    Ok(())
}

/// The splits among files `names`, relative to the repository with `/` between their parts.
///
/// # Errors
/// A message without place, when there is no data or no such config.
pub fn split_files(
    names: &[String],
    readme: Option<&str>,
    config_name: Option<&str>,
) -> Result<Layout<String>, String> {
    let mut data: Vec<&str> = names.iter().map(String::as_str).filter(|n| is_data(n)).collect();
    data.sort_unstable();
    let configs = readme.map_or(Ok(Vec::new()), readme::configs)?;
    let mut notes = Vec::new();
    let mut splits = if configs.is_empty() {
        by_names(&inside(&data, config_name)?, &mut notes)
    } else {
        of_config(choose(&configs, config_name)?, names, &data, &mut notes)?
    };
    for (split, files) in &mut splits {
        notes.extend(one_format(split, files));
    }
    if splits.is_empty() {
        return Err(nothing(names));
    }
    Ok(Layout { splits, notes })
}

fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Whether a part of the name says that it is not meant to be read.
fn hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.') || part.starts_with("__"))
}

fn is_data(name: &str) -> bool {
    format_of(base(name)).is_some() && !hidden(name) && !IGNORED.contains(&base(name))
}

/// The first of names, and how many more there are.
fn first_of(names: &[&str]) -> String {
    const MOST: usize = 5;
    let shown = names[..names.len().min(MOST)].join(", ");
    match names.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Leaves of several kinds of files the one with most; a note names the others.
fn one_format(split: &str, files: &mut Vec<String>) -> Option<String> {
    // JSON and JSON lines are read alike.
    let kind = |name: &str| match format_of(base(name)) {
        Some(Format::Lines) => Some(Format::Json),
        other => other,
    };
    let mut counts: BTreeMap<Format, usize> = BTreeMap::new();
    for format in files.iter().filter_map(|n| kind(n)) {
        *counts.entry(format).or_default() += 1;
    }
    let best = counts.iter().max_by_key(|(format, count)| {
        (**format != Format::Text, **count, std::cmp::Reverse(**format))
    });
    let best = best.map(|(format, _)| *format);
    let (kept, others): (Vec<String>, Vec<String>) =
        std::mem::take(files).into_iter().partition(|n| kind(n) == best);
    *files = kept;
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let first = files.first().filter(|_| !others.is_empty())?;
    Some(format!(
        "passed over, as a split is read in one format and `{split}` in that of {first}: {}",
        first_of(&others)
    ))
}

fn nothing(names: &[String]) -> String {
    if names.iter().any(|n| n.ends_with(".arrow")) {
        return "holds Arrow files; write them as Parquet: `load_from_disk(DIR).to_parquet(FILE)`"
            .into();
    }
    if names.iter().any(|n| n.ends_with(".py")) {
        return "holds no data, only a loading script, and no code of a data set is run; look for a Parquet version of it".into();
    }
    format!("holds no data files; known are {KNOWN}")
}
