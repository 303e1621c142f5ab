//! The sets of a config as files and encoders: what `data` means once the model and its tokenizer are known.

use super::remote::{Remote, RemoteSet};
use crate::config::class::{DataClass, Holdout, Home};
use crate::config::{MultiTurn, RunConfig, SetSection, TrainOn};
use crate::data::dataset::{Ask, DataSet, Files, Options};
use crate::data::encode::Encoder;
use crate::data::row::Columns;
use crate::data::source::slice::SplitSlice;
use crate::data::source::splits::{Splits, discover};
use crate::data::style::{Exchange, Style};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Problem, Result, UserError};
use crate::hub::remote::is_repo_id;
use crate::model::spec::DecoderSpec;
use serde_json::Map;
use std::path::{Path, PathBuf};
use tracing::debug;

/// All rows of a run, encoded.
pub struct Sources {
    /// The rows.
    pub data: DataSet,
    /// The style of each set.
    pub styles: Vec<Style>,
    /// The files of each set.
    pub files: Vec<SetPaths>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// The files of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetPaths {
    /// Those that are trained on.
    pub train: Vec<PathBuf>,
    /// Those that are validated on; none where rows are held out.
    pub validation: Vec<PathBuf>,
}

impl SetPaths {
    fn of(train: &Files, validation: Option<&Files>) -> Self {
        let paths = |files: &Files| files.paths.clone();
        Self { train: paths(train), validation: validation.map(paths).unwrap_or_default() }
    }
}

/// Finds the files of every set, and fetches those that are not on this machine.
///
/// # Errors
/// When they are not where they should be.
pub fn locate(config: &RunConfig) -> Result<Vec<SetPaths>> {
    let remote = Remote::of_data(config);
    let of = |set| {
        let (train, validation) = chosen(config, set, find(config, set, &remote)?, &remote)?;
        Ok(SetPaths::of(&train, validation.as_ref()))
    };
    config.data.sets.iter().map(of).collect()
}

/// Finds, reads and encodes the rows of every set.
///
/// # Errors
/// When rows are not where they should be, or are not what they should be.
pub fn load(config: &RunConfig, tokenizer: &Tokenizer, spec: &DecoderSpec) -> Result<Sources> {
    let remote = Remote::of_data(config);
    let (mut asks, mut styles, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut paths = Vec::new();
    for set in &config.data.sets {
        let style = style(config, set, tokenizer, &mut notes)?;
        if keeps_bos(config, &style, tokenizer) {
            notes.push(format!(
                "prompts in the style `{}` keep the BOS that they begin with; LitGPT strips it",
                style.name()
            ));
        }
        styles.push(style.clone());
        let found = find(config, set, &remote)?;
        let (train, val) = chosen(config, set, found, &remote)?;
        paths.push(SetPaths::of(&train, val.as_ref()));
        tell_of_rows(set, val.is_some(), &mut notes);
        let holdout = match (set.val_split_fraction, set.class.holdout) {
            (None, holdout) => holdout,
            (Some(fraction), Holdout::Random(_)) => Holdout::Random(fraction),
            (Some(fraction), Holdout::TrainTest(_)) => Holdout::TrainTest(fraction),
        };
        let pairs = set.columns.iter().map(|(part, column)| (part.as_str(), column.clone()));
        let columns = Columns::new(pairs).map_err(|e| config.problem(&set.key("columns"), e))?;
        asks.push(Ask {
            train,
            val,
            holdout,
            by_sample: set.multi_turn != MultiTurn::Conversation
                && matches!(holdout, Holdout::Random(_)),
            most: set.max_samples,
            encoder: Encoder {
                tokenizer,
                style,
                chosen: set.prompt_style.is_some() || set.prompt_template.is_some(),
                train_on: set.train_on,
                multi_turn: set.multi_turn,
                limit: config.train.max_seq_length,
                context: spec.context,
                vocab: spec.vocab,
                ignore_index: config.data.ignore_index,
            },
            columns,
            weight: set.weight,
        });
    }
    let options = Options {
        seed: config.data.seed,
        shuffle: config.train.shuffle,
        on_bad_row: config.data.on_bad_row,
    };
    if config.data.sets.iter().any(|s| s.train_on == TrainOn::All) {
        notes.push(
            "prompts are trained like answers, as in LitGPT; mask_prompt: true trains answers only"
                .into(),
        );
    }
    debug!(sets = asks.len(), "reads rows");
    let data = on_threads(config.data.num_workers, || DataSet::load(&asks, options))?;
    tokenizer.forget_words();
    notes.dedup();
    Ok(Sources { data, styles, files: paths, notes })
}

/// Does `work` on as many threads as the config says, or on all cores.
fn on_threads<T: Send>(
    threads: Option<usize>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let Some(threads) = threads else { return work() };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    match pool {
        Ok(pool) => pool.install(work),
        Err(e) => Err(Problem::new(format!("no {threads} threads can be started: {e}")).into()),
    }
}

/// What LitGPT does too, but not what everyone expects.
fn tell_of_rows(set: &SetSection, has_val: bool, notes: &mut Vec<String>) {
    if let (Home::Path, Holdout::Random(share), None, false) =
        (set.class.home, set.class.holdout, set.val_split_fraction, has_val)
    {
        notes.push(format!(
            "{share} of the rows are held out for validation, as in LitGPT; `{}` says otherwise",
            set.key("val_split_fraction")
        ));
    }
}

/// Whether prompts begin with a BOS that LitGPT strips: the tokenizer does not put it there, and the model is not of the kind that LitGPT
/// knows by its directory's name.
fn keeps_bos(config: &RunConfig, style: &Style, tokenizer: &Tokenizer) -> bool {
    let name = config.checkpoint_dir.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("SmolLM2") && name.ends_with("Instruct") {
        return false;
    }
    let nothing = Map::new();
    let exchange = Exchange { system: None, instruction: "a", input: "", columns: &nothing };
    let starts = |text: &str, special| {
        let ids = tokenizer.encode(text, special).unwrap_or_default();
        ids.first().is_some_and(|id| Some(*id) == tokenizer.bos_id)
    };
    style.prompt(&exchange).is_ok_and(|prompt| starts(&prompt, false)) && !starts("a", true)
}

fn style(
    config: &RunConfig,
    set: &SetSection,
    tokenizer: &Tokenizer,
    notes: &mut Vec<String>,
) -> Result<Style> {
    let at = |key: &str, e: Problem| {
        let placed = config.problem(&set.key(key), e.message);
        UserError::from(Problem { hint: e.hint, ..placed })
    };
    if let Some(text) = &set.prompt_template {
        return Style::template(text).map_err(|e| at("prompt_template", e));
    }
    if let Some(name) = &set.prompt_style {
        let style = Style::named(name, set.system_message.as_deref());
        return style.map_err(|e| at("prompt_style", e));
    }
    let of_class = set.class.style;
    if tokenizer.template.is_some() {
        notes.push(format!(
            "prompts are written by the tokenizer's chat template; LitGPT writes {} as `prompt_style: {of_class}`",
            set.class.name
        ));
        return Ok(Style::chat_template());
    }
    notes.push(format!(
        "prompts are written as `prompt_style: {of_class}`: the tokenizer has no chat template"
    ));
    Style::named(of_class, None).map_err(|e| at("prompt_style", e))
}

/// Ends of names that no data set on the Hub has.
const FILE_ENDS: &[&str] =
    &[".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".zst"];

/// What was found: the files of each split, and where.
struct Found {
    place: String,
    splits: Splits,
    /// The repository and commit that the files are still to be fetched from.
    remote: Option<(String, String)>,
}

impl Found {
    fn here(place: &Path, splits: Splits) -> Self {
        Self { place: place.display().to_string(), splits, remote: None }
    }

    fn pair(place: &Path, train: Vec<PathBuf>, val: Vec<PathBuf>) -> Self {
        Self::here(place, Splits::from([("train".into(), train), ("validation".into(), val)]))
    }
}

/// The files of a set: where the config says, else where the class keeps them, else from where the class comes.
fn find(config: &RunConfig, set: &SetSection, remote: &Remote) -> Result<Found> {
    let (dir, revision) = (&set.download_dir, set.revision.as_deref());
    let from_hub = |repo: &str, name: Option<&str>| -> Result<Found> {
        let RemoteSet { repo, commit, splits } = remote.set(repo, revision, name)?;
        let paths = |names: Vec<String>| names.into_iter().map(PathBuf::from).collect();
        let splits = splits.into_iter().map(|(split, names)| (split, paths(names))).collect();
        let place = format!("data set `{repo}`");
        Ok(Found { place, splits, remote: Some((repo, commit)) })
    };
    let named = [("path", set.path.as_deref()), ("repo_id", set.repo_id.as_deref().map(Path::new))];
    for (key, path) in named {
        let Some(path) = path else { continue };
        if let Some(found) = local(path, set)? {
            if set.revision.is_some() {
                let message = "is for data sets on the Hub; the rows are on this machine";
                return Err(config.problem(&set.key("revision"), message).into());
            }
            return Ok(found);
        }
        let is_file_name = |text: &str| FILE_ENDS.iter().any(|end| text.ends_with(end));
        return match path.to_str().filter(|text| is_repo_id(text) && !is_file_name(text)) {
            // The class reads its own configuration of whatever repository it is given.
            Some(repo) => match set.class.home {
                Home::Hub(_, name, ..) if key == "repo_id" => {
                    from_hub(repo, set.subset.as_deref().or(name))
                }
                _ => from_hub(repo, set.subset.as_deref()),
            },
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
            Ok(Found::here(&path, Splits::from([("train".into(), vec![path.clone()])])))
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
) -> Result<(Files, Option<Files>)> {
    let Found { place, splits, remote: far } = found;
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
            let mut splits = discover(path, None)?;
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
        let chosen = set.val_path.is_some() || set.val_split.is_some();
        if !chosen && set.split.is_some() {
            val = None;
        } else {
            let message = "has a val file, and `data.init_args.val_split_fraction` is set too";
            return Err(Problem::in_file(&place, message).hint("remove one of the two").into());
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
