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

use super::open::{Format, KNOWN, format_of};
use super::readme::{self, Config};
use crate::error::{Problem, Result};
use crate::small_file;
use glob::{MatchOptions, Pattern};
use std::collections::{BTreeMap, BTreeSet, HashSet};
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

/// Words that name a split; `datasets` 5.2 `data_files.py`.
const WORDS: &[(&str, &[&str])] = &[
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

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

/// Without configs, a config is a directory.
fn inside<'a>(data: &[&'a str], config_name: Option<&str>) -> Result<Vec<&'a str>, String> {
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

fn choose<'a>(configs: &'a [Config], name: Option<&str>) -> Result<&'a Config, String> {
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

fn of_config(
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

/// The split in `data/<split>-00000-of-00003<…>.<ext>`.
fn sharded(name: &str) -> Option<&str> {
    let file = name.strip_prefix("data/").filter(|f| !f.contains('/'))?;
    let digits = |t: &str| t.len() >= 5 && t.as_bytes()[..5].iter().all(u8::is_ascii_digit);
    file.match_indices('-').find_map(|(at, _)| {
        let rest = &file[at + 1..];
        let of = digits(rest).then(|| &rest[5..])?.strip_prefix("-of-")?;
        (at > 0 && digits(of)).then(|| &file[..at])
    })
}

/// How `part` holds `word`, set off by characters that are no letters: alone 0, first 1, last 2, in between 3.
fn has_word(part: &str, word: &str) -> Option<usize> {
    let off = |c: char| "-._ ".contains(c) || c.is_ascii_digit();
    let place = |(at, _): (usize, &str)| {
        let before = part[..at].chars().next_back();
        let after = part[at + word.len()..].chars().next();
        let apart = before.is_none_or(off) && after.is_none_or(off);
        apart.then(|| 2 * usize::from(before.is_some()) + usize::from(after.is_some()))
    };
    part.match_indices(word).filter_map(place).min()
}

/// The split that one of `parts` names, and the place among its files that this way of naming has.
fn named<'a>(parts: impl Iterator<Item = &'a str> + Clone) -> Option<(String, usize)> {
    let how = |word: &str| parts.clone().filter_map(|p| has_word(&p.to_lowercase(), word)).min();
    let place = |words: &[&str]| {
        words.iter().enumerate().find_map(|(i, word)| how(word).map(|how| 4 * i + how))
    };
    WORDS.iter().find_map(|(split, words)| Some(((*split).to_owned(), place(words)?)))
}

fn by_names(data: &[&str], notes: &mut Vec<String>) -> Splits<String> {
    type Rule<'a> = &'a dyn Fn(&str) -> Option<(String, usize)>;
    let group = |rule: Rule<'_>| {
        let mut splits: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
        for name in data {
            if let Some((split, place)) = rule(name) {
                splits.entry(split).or_default().push((place, (*name).to_owned()));
            }
        }
        splits.values_mut().for_each(|files| files.sort());
        let names = |files: Vec<(usize, String)>| files.into_iter().map(|(_, name)| name).collect();
        splits.into_iter().map(|(split, files)| (split, names(files))).collect::<Splits<String>>()
    };
    let rules: [Rule<'_>; 4] = [
        &|name| sharded(name).map(|split| (split.to_owned(), 0)),
        &|name| named(name.rsplit_once('/')?.0.split('/')),
        &|name| named(std::iter::once(base(name))),
        &|_| Some(("train".into(), 0)),
    ];
    let splits =
        rules.iter().map(|rule| group(rule)).find(|splits| !splits.is_empty()).unwrap_or_default();
    let read: BTreeSet<&str> = splits.values().flatten().map(String::as_str).collect();
    let rest: Vec<&str> = data.iter().copied().filter(|name| !read.contains(name)).collect();
    if !rest.is_empty() {
        notes.push(format!(
            "passed over, as other names tell a split and these do not: {}",
            first_of(&rest)
        ));
    }
    splits
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

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(
        names: &[&str],
        readme: Option<&str>,
        config: Option<&str>,
    ) -> Result<Splits<String>, String> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        Ok(split_files(&names, readme, config)?.splits)
    }

    /// What is passed over in a directory of files.
    fn passed_over(names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        split_files(&names, None, None).unwrap().notes
    }

    /// Splits as `name: file file; …`.
    fn shown(names: &[&str]) -> String {
        let splits = splits(names, None, None).unwrap();
        splits.iter().map(|(s, f)| format!("{s}: {}", f.join(" "))).collect::<Vec<_>>().join("; ")
    }

    const TWO: &str = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n- config_name: socratic\n  data_files: socratic/*\n---\n";

    #[test]
    fn litgpts_directory_has_a_val_file() {
        assert_eq!(shown(&["val.json", "train.jsonl"]), "train: train.jsonl; validation: val.json");
    }

    #[test]
    fn capital_letters_name_a_split_too() {
        assert_eq!(shown(&["Train.csv", "Dev.csv"]), "train: Train.csv; validation: Dev.csv");
    }

    #[test]
    fn a_word_inside_a_word_names_no_split() {
        assert_eq!(shown(&["constraint.csv", "latest.csv"]), "train: constraint.csv latest.csv");
    }

    #[test]
    fn a_file_lies_in_one_split_only() {
        assert_eq!(shown(&["train_test.csv", "test.csv"]), "test: test.csv; train: train_test.csv");
    }

    #[test]
    fn a_licence_is_no_data() {
        assert_eq!(shown(&["LICENSE.txt", "NOTICE.txt", "rows.jsonl"]), "train: rows.jsonl");
    }

    #[test]
    fn each_split_has_its_own_format() {
        for names in [["train.jsonl", "val.csv"], ["train.csv", "val.jsonl"]] {
            let [train, val] = names;
            assert_eq!(shown(&names), format!("train: {train}; validation: {val}"));
            assert_eq!(passed_over(&names), [""; 0]);
        }
    }

    #[test]
    fn files_in_another_format_than_most_are_named() {
        let names = ["a.jsonl", "b.csv", "c.csv"];
        assert_eq!(shown(&names), "train: b.csv c.csv");
        let [note] = &passed_over(&names)[..] else { panic!() };
        assert!(note.ends_with("`train` in that of b.csv: a.jsonl"), "{note}");
    }

    #[test]
    fn files_that_tell_no_split_beside_others_that_do_are_named() {
        let extra: Vec<String> = (0..7).map(|i| format!("{i}.jsonl")).collect();
        let names: Vec<&str> = extra.iter().map(String::as_str).chain(["train.jsonl"]).collect();
        let [note] = &passed_over(&names)[..] else { panic!() };
        let named = "these do not: 0.jsonl, 1.jsonl, 2.jsonl, 3.jsonl, 4.jsonl and 2 more";
        assert!(note.ends_with(named), "{note}");
    }

    #[test]
    fn several_configs_must_be_named() {
        let error = splits(&["main/train-0.csv"], Some(TWO), None).unwrap_err();
        assert_eq!(error, "has several configs, of which one must be named (main, socratic)");
    }

    #[test]
    fn an_unknown_config_lists_the_known() {
        let error = splits(&["main/train-0.csv"], Some(TWO), Some("x")).unwrap_err();
        assert_eq!(error, "has no config `x` (it has main, socratic)");
    }

    #[test]
    fn a_config_without_its_files_is_an_error() {
        let error = splits(&["socratic/a.csv"], Some(TWO), Some("main")).unwrap_err();
        assert!(error.contains("`main` names the files `main/train-*`"), "{error}");
    }

    #[test]
    fn without_a_readme_a_config_is_a_directory() {
        let found = splits(&["vie/train.csv", "fra/train.csv"], None, Some("vie")).unwrap();
        assert_eq!(found["train"], ["vie/train.csv"]);
    }

    #[test]
    fn a_loading_script_is_refused() {
        assert!(splits(&["set.py"], None, None).unwrap_err().contains("loading script"));
    }

    #[test]
    fn a_link_in_a_circle_repeats_nothing() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("train.csv"), "a\n1\n").unwrap();
        std::os::unix::fs::symlink(home.path(), home.path().join("loop")).unwrap();
        assert_eq!(discover(home.path(), None).unwrap().splits["train"].len(), 1);
    }
}
