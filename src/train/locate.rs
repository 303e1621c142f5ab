//! Where the rows of a set are: on this machine, in what its class keeps, or on the Hub; and which of its files are trained and which
//! validated.

use super::remote::{Remote, RemoteSet, nor_here};
use crate::config::class::{DataClass, Home};
use crate::config::{RunConfig, SetSection};
use crate::data::dataset::Files;
use crate::data::source::slice::SplitSlice;
use crate::data::source::splits::{Layout, Splits, discover};
use crate::error::{Problem, Result, UserError};
use crate::hub::remote::is_repo_id;
use std::path::{Path, PathBuf};

/// The files of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetPaths {
    /// Those that are trained on.
    pub train: Vec<PathBuf>,
    /// Those that are validated on; none where rows are held out.
    pub validation: Vec<PathBuf>,
}

impl SetPaths {
    pub(super) fn of(train: &Files, validation: Option<&Files>) -> Self {
        let paths = |files: &Files| files.paths.clone();
        Self { train: paths(train), validation: validation.map(paths).unwrap_or_default() }
    }
}

/// Finds the files of every set, and fetches those that are not on this machine.
///
/// # Errors
/// When they are not where they should be.
pub(super) fn all(config: &RunConfig) -> Result<Vec<SetPaths>> {
    let remote = Remote::of_data(config);
    let of = |set| {
        let (train, validation) = locate(config, set, &remote, &mut Vec::new())?;
        Ok(SetPaths::of(&train, validation.as_ref()))
    };
    config.data.sets.iter().map(of).collect()
}

/// The training and validation files of a set, on this machine; `notes` tell which files are passed over.
///
/// # Errors
/// When rows are not where they should be, or a split that is named is not there.
pub(super) fn locate(
    config: &RunConfig,
    set: &SetSection,
    remote: &Remote,
    notes: &mut Vec<String>,
) -> Result<(Files, Option<Files>)> {
    let found = find(config, set, remote)?;
    notes.extend(found.layout.notes.iter().map(|note| format!("{}: {note}", found.place)));
    chosen(config, set, found, remote, notes)
}

/// Ends of names that no data set on the Hub has.
const FILE_ENDS: &[&str] =
    &[".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".zst"];

/// The id of a data set on the Hub that a path may be.
fn hub_id(path: &Path) -> Option<&str> {
    let is_file_name = |text: &&str| FILE_ENDS.iter().any(|end| text.ends_with(end));
    path.to_str().filter(|text| is_repo_id(text)).filter(|text| !is_file_name(text))
}

/// What was found: the files of each split, and where.
struct Found {
    place: String,
    layout: Layout,
    /// The repository and commit that the files are still to be fetched from.
    remote: Option<(String, String)>,
}

impl Found {
    fn here(place: &Path, layout: Layout) -> Self {
        Self { place: place.display().to_string(), layout, remote: None }
    }

    fn of(place: &Path, splits: Splits) -> Self {
        Self::here(place, Layout { splits, notes: Vec::new() })
    }

    fn pair(place: &Path, train: Vec<PathBuf>, val: Vec<PathBuf>) -> Self {
        Self::of(place, Splits::from([("train".into(), train), ("validation".into(), val)]))
    }
}

/// The files of a set: where the config says, else where the class keeps them, else from where the class comes.
fn find(config: &RunConfig, set: &SetSection, remote: &Remote) -> Result<Found> {
    let (dir, revision) = (&set.download_dir, set.revision.as_deref());
    let from_hub = |repo: &str, name: Option<&str>| -> Result<Found> {
        let RemoteSet { repo, commit, layout } = remote.set(repo, revision, name)?;
        let paths = |names: Vec<String>| names.into_iter().map(PathBuf::from).collect();
        let splits = layout.splits.into_iter().map(|(split, names)| (split, paths(names)));
        let layout = Layout { splits: splits.collect(), notes: layout.notes };
        let place = format!("data set `{repo}`");
        Ok(Found { place, layout, remote: Some((repo, commit)) })
    };
    let named = [("path", set.path.as_deref()), ("repo_id", set.repo_id.as_deref().map(Path::new))];
    for (key, path) in named {
        let Some(path) = path else { continue };
        if let Some(found) = local(path, set)? {
            if set.revision.is_some() {
                let message = "is for data sets on the Hub; the rows are on this machine";
                return Err(config.problem(&set.key("revision"), message).into());
            }
            if set.subset.is_some() && path.is_file() {
                let message = format!("names a part of a data set; `{}` is a file", path.display());
                return Err(config.problem(&set.key("subset"), message).into());
            }
            return Ok(found);
        }
        return match hub_id(path) {
            Some(repo) => {
                // The class reads its own configuration of whatever repository it is given.
                let name = match set.class.home {
                    Home::Hub(_, name, ..) if key == "repo_id" => name,
                    _ => None,
                };
                from_hub(repo, set.subset.as_deref().or(name)).map_err(|e| {
                    let e = nor_here(&format!("`{repo}` is no file or directory here"), e);
                    let at_key = |p: Problem| Problem {
                        hint: p.hint,
                        ..config.problem(&set.key(key), p.message)
                    };
                    UserError { problems: e.problems.into_iter().map(at_key).collect() }
                })
            }
            None => {
                let message = format!(
                    "`{}` is no file, no directory and no data set of the Hub",
                    path.display()
                );
                Err(config.problem(&set.key(key), message).into())
            }
        };
    }
    let fetched = |name: &str, url: &str| -> Result<PathBuf> {
        let path = dir.join(name);
        if !path.metadata().is_ok_and(|m| m.len() > 0) {
            remote.file(url, &path).map_err(|e| or_put_it(e, &path, set))?;
        }
        Ok(path)
    };
    match set.class.home {
        Home::File(name, url) => {
            let name = set.file_name.as_deref().unwrap_or(name);
            let path = fetched(name, set.file_url.as_deref().unwrap_or(url))?;
            Ok(Found::of(&path, Splits::from([("train".into(), vec![path.clone()])])))
        }
        Home::Pair([train, val], url) => {
            let of = |name: &str| fetched(name, &format!("{url}/{name}"));
            Ok(Found::pair(dir, vec![of(train)?], vec![of(val)?]))
        }
        Home::Subsets(url) => {
            let url = set.url.as_deref().unwrap_or(url).trim_end_matches('/');
            let names = subset_names(set);
            let of = |split: &str| {
                let file = |s: &String| {
                    let name = format!("{s}_{split}.jsonl");
                    fetched(&name, &format!("{url}/{split}/{name}"))
                };
                names.iter().map(file).collect::<Result<Vec<_>>>()
            };
            Ok(Found::pair(dir, of("train")?, of("test")?))
        }
        Home::Hub(repo, name, ..) => {
            let holds_files = dir.read_dir().is_ok_and(|mut d| d.next().is_some());
            if holds_files && let Some(found) = local(dir, set)? {
                return Ok(found);
            }
            from_hub(repo, set.subset.as_deref().or(name)).map_err(|e| or_put_it(e, dir, set))
        }
        Home::Path => {
            let key = set.key("path");
            Err(config.problem(&key, "is missing").into())
        }
    }
}

/// An error of a download with the other way out: rows that are put where the class looks.
fn or_put_it(error: UserError, path: &Path, set: &SetSection) -> UserError {
    let way = format!(
        "without a network put the rows at {}, or name them with `{}`",
        path.display(),
        set.key("path")
    );
    let more = |p: Problem| {
        let hint = p.hint.map_or_else(|| way.clone(), |h| format!("{h}; {way}"));
        Problem { hint: Some(hint), ..p }
    };
    UserError { problems: error.problems.into_iter().map(more).collect() }
}

/// The subsets that are asked for, else all in the order of their names.
fn subset_names(set: &SetSection) -> Vec<String> {
    if set.subsets.is_empty() {
        crate::config::class::FLAN_SUBSETS.iter().map(|s| (*s).to_owned()).collect()
    } else {
        set.subsets.clone()
    }
}

/// The files of a path that exists.
fn local(path: &Path, set: &SetSection) -> Result<Option<Found>> {
    if !path.exists() {
        return Ok(None);
    }
    let config_name = set.subset.as_deref().or(match set.class.home {
        Home::Hub(_, name, ..) if path.is_dir() && path.join(name.unwrap_or("\0")).is_dir() => name,
        _ => None,
    });
    Ok(Some(Found::here(path, discover(path, config_name)?)))
}

/// The training and validation files among the splits.
fn chosen(
    config: &RunConfig,
    set: &SetSection,
    found: Found,
    remote: &Remote,
    notes: &mut Vec<String>,
) -> Result<(Files, Option<Files>)> {
    let Found { place, layout: Layout { splits, .. }, remote: far } = found;
    let (class_train, class_val) = class_splits(set.class);
    let known = || splits.keys().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ");
    let written = |key: &str, text: &str| -> Result<Files> {
        let slice = SplitSlice::parse(text).map_err(|e| config.problem(&set.key(key), e))?;
        let paths = splits.get(&slice.split).cloned().ok_or_else(|| {
            let message = format!("{} has no split `{}`; it has {}", place, slice.split, known());
            config.problem(&set.key(key), message)
        })?;
        Ok(Files { paths, slice: Some(slice).filter(|s| !s.is_whole()) })
    };
    let whole = |name: &str| splits.get(name).map(|p| Files { paths: p.clone(), slice: None });
    // A file test_sft.jsonl is of the split `test` by its name; only sharded files keep theirs whole.
    let of_class = |name: &str| whole(name).or_else(|| whole(name.split('_').next()?));
    let train = match &set.split {
        Some(text) => written("split", text)?,
        None => class_train.and_then(of_class).or_else(|| whole("train")).ok_or_else(|| {
            let problem =
                Problem::in_file(&place, format!("has no training split; it has {}", known()));
            problem.hint(format!("name one with `{}`", set.key("split")))
        })?,
    };
    let mut val = match (&set.val_path, &set.val_split) {
        (Some(path), _) => {
            if !path.exists() {
                let message = format!("`{}` is no file and no directory here", path.display());
                let hint = match hub_id(path) {
                    Some(_) => "a split of the data set on the Hub is named with `val_split`",
                    None => {
                        "a relative path starts at the working directory or beside the config file"
                    }
                };
                return Err(config.problem(&set.key("val_path"), message).hint(hint).into());
            }
            let Layout { mut splits, notes: passed_over } = discover(path, None)?;
            notes.extend(passed_over.iter().map(|note| format!("{}: {note}", path.display())));
            let names = ["validation", "train"];
            let paths = names.iter().find_map(|n| splits.remove(*n)).ok_or_else(|| {
                Problem::in_file(path, "holds neither validation nor training rows")
            })?;
            Some(Files { paths, slice: None })
        }
        (None, Some(text)) => Some(written("val_split", text)?),
        (None, None) => class_val.and_then(of_class).or_else(|| whole("validation")),
    };
    if set.val_split_fraction.is_some() && val.is_some() {
        let [path, split] = [set.val_path.is_some(), set.val_split.is_some()];
        // A path on the command line wins over what the file says of the rows that it replaces.
        let [from_file, path_from_file] =
            ["val_split_fraction", "path"].map(|name| config.places.contains_key(&set.key(name)));
        if !path && !split && set.split.is_some() {
            val = None;
        } else if !path && !split && from_file && !path_from_file {
            let key = set.key("val_split_fraction");
            notes.push(format!("`{key}` is left out: {place} has validation rows of its own"));
        } else {
            let problem = |message| config.problem(&set.key("val_split_fraction"), message);
            let split = set.key("split");
            let hint = format!("remove it, or hold out rows of one split: `{split}: train`");
            let message = format!("{place} has validation rows of its own");
            return Err(problem(message).hint(hint).into());
        }
    }
    let Some((repo, commit)) = far else { return Ok((train, val)) };
    let fetch = |files: Files| -> Result<Files> {
        let names: Vec<String> =
            files.paths.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        Ok(Files { paths: remote.files(&repo, &commit, &names)?, ..files })
    };
    let own_val = set.val_path.is_some();
    let val = val.map(|v| if own_val { Ok(v) } else { fetch(v) }).transpose()?;
    Ok((fetch(train)?, val))
}

fn class_splits(class: &DataClass) -> (Option<&'static str>, Option<&'static str>) {
    match class.home {
        Home::Hub(_, _, train, val) => (Some(train), val),
        _ => (None, None),
    }
}
