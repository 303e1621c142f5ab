//! The sets of a config as files and encoders: what `data` means once the model and its tokenizer are known.

use crate::config::class::{DataClass, Holdout, Home};
use crate::config::{MultiTurn, RunConfig, SetSection};
use crate::data::dataset::{Ask, DataSet, Files, Options};
use crate::data::encode::Encoder;
use crate::data::row::Columns;
use crate::data::source::slice::SplitSlice;
use crate::data::source::splits::{Splits, discover};
use crate::data::style::Style;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Problem, Result, UserError};
use crate::model::spec::DecoderSpec;
use std::path::{Path, PathBuf};

/// All rows of a run, encoded.
pub struct Sources {
    /// The rows.
    pub data: DataSet,
    /// The style of each set.
    pub styles: Vec<Style>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Finds, reads and encodes the rows of every set.
///
/// # Errors
/// When rows are not where they should be, or are not what they should be.
pub fn load(config: &RunConfig, tokenizer: &Tokenizer, spec: &DecoderSpec) -> Result<Sources> {
    let (mut asks, mut styles, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for set in &config.data.sets {
        let style = style(config, set, tokenizer, &mut notes)?;
        styles.push(style.clone());
        let found = find(config, set)?;
        let (train, val) = chosen(config, set, found)?;
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
    let data = on_threads(config.data.num_workers, || DataSet::load(&asks, options))?;
    Ok(Sources { data, styles, notes })
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

/// What was found: the files of each split, and where.
struct Found {
    place: PathBuf,
    splits: Splits,
}

fn find(config: &RunConfig, set: &SetSection) -> Result<Found> {
    if let Some(path) = &set.path {
        return local(path, set)?.ok_or_else(|| {
            let message =
                format!("`{}` is no file, directory or data set of the Hub", path.display());
            config.problem(&set.key("path"), message).into()
        });
    }
    if let Some(repo) = &set.repo_id
        && let Some(found) = local(Path::new(repo), set)?
    {
        return Ok(found);
    }
    let dir = &set.download_dir;
    let file =
        |name: &str| Some(dir.join(name)).filter(|p| p.metadata().is_ok_and(|m| m.len() > 0));
    match set.class.home {
        Home::File(name, _) => {
            if let Some(path) = file(set.file_name.as_deref().unwrap_or(name)) {
                return Ok(Found {
                    splits: Splits::from([("train".into(), vec![path.clone()])]),
                    place: path,
                });
            }
        }
        Home::Pair([train, val], _) => {
            if let (Some(train), Some(val)) = (file(train), file(val)) {
                let splits =
                    Splits::from([("train".into(), vec![train]), ("validation".into(), vec![val])]);
                return Ok(Found { splits, place: dir.clone() });
            }
        }
        Home::Subsets(_) => {
            if let Some(splits) = subsets(set, &file) {
                return Ok(Found { splits, place: dir.clone() });
            }
        }
        Home::Hub(..) | Home::Path => {
            if dir.is_dir()
                && let Some(found) = local(dir, set)?
            {
                return Ok(found);
            }
        }
    }
    Err(not_here(config, set))
}

/// FLAN's files, if all are there.
fn subsets(set: &SetSection, file: &dyn Fn(&str) -> Option<PathBuf>) -> Option<Splits> {
    let names = subset_names(set);
    let of = |split: &str| {
        names.iter().map(|s| file(&format!("{s}_{split}.jsonl"))).collect::<Option<Vec<_>>>()
    };
    Some(Splits::from([("train".into(), of("train")?), ("validation".into(), of("test")?)]))
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
    Ok(Some(Found { place: path.into(), splits: discover(path, config_name)? }))
}

/// The training and validation files among the splits.
fn chosen(config: &RunConfig, set: &SetSection, found: Found) -> Result<(Files, Option<Files>)> {
    let Found { place, splits } = found;
    let (class_train, class_val) = class_splits(set.class);
    let known = || splits.keys().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ");
    let written = |key: &str, text: &str| -> Result<Files> {
        let slice = SplitSlice::parse(text).map_err(|e| config.problem(&set.key(key), e))?;
        let paths = splits.get(&slice.split).cloned().ok_or_else(|| {
            let message =
                format!("{} has no split `{}`; it has {}", place.display(), slice.split, known());
            config.problem(&set.key(key), message)
        })?;
        Ok(Files { paths, slice: Some(slice).filter(|s| !s.is_whole()) })
    };
    let whole = |name: &str| splits.get(name).map(|p| Files { paths: p.clone(), slice: None });
    let train = match &set.split {
        Some(text) => written("split", text)?,
        None => class_train.and_then(whole).or_else(|| whole("train")).ok_or_else(|| {
            let problem =
                Problem::in_file(&place, format!("has no training split; it has {}", known()));
            problem.hint(format!("name one with `{}`", set.key("split")))
        })?,
    };
    let mut val = match (&set.val_path, &set.val_split) {
        (Some(path), _) => {
            let mut splits = discover(path, None)?;
            let names = ["validation", "train"];
            let paths = names.iter().find_map(|n| splits.remove(*n)).unwrap_or_default();
            Some(Files { paths, slice: None })
        }
        (None, Some(text)) => Some(written("val_split", text)?),
        (None, None) => class_val.and_then(whole).or_else(|| whole("validation")),
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
    Ok((train, val))
}

fn class_splits(class: &DataClass) -> (Option<&'static str>, Option<&'static str>) {
    match class.home {
        Home::Hub(_, _, train, val) => (Some(train), val),
        _ => (None, None),
    }
}

/// The rows are nowhere on this machine: which file to put where.
fn not_here(config: &RunConfig, set: &SetSection) -> UserError {
    let dir = set.download_dir.display();
    let place = match set.class.home {
        Home::File(name, url) => {
            let name = set.file_name.as_deref().unwrap_or(name);
            format!("{dir}/{name} (from {})", set.file_url.as_deref().unwrap_or(url))
        }
        Home::Pair([train, val], url) => format!("{dir}/{train} and {dir}/{val} (from {url})"),
        Home::Subsets(url) => format!(
            "{dir}/<subset>_train.jsonl and _test.jsonl (from {})",
            set.url.as_deref().unwrap_or(url)
        ),
        Home::Hub(repo, ..) => format!("{dir} (from {})", set.repo_id.as_deref().unwrap_or(repo)),
        Home::Path => set.repo_id.clone().unwrap_or_default(),
    };
    let message = format!("the rows of {} are not on this machine", set.class.name);
    let problem = config.problem("data.class_path", message);
    problem.hint(format!("put them at {place}, or name them with `{}`", set.key("path"))).into()
}
