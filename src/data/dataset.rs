//! A data set ready to train on, and the census of what became of its rows.

use super::example::{Encoder, Example};
use super::row::{Columns, Row};
use super::sampler::random_split;
use super::source::{Line, rows, splits};
use super::style::Style;
use super::tokenizer::Tokenizer;
use crate::error::{Problem, Result, UserError};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Problems that are listed before the rest is only counted.
const LISTED: usize = 20;

/// What decides how rows become examples.
#[derive(Debug, Clone)]
pub struct Options {
    /// How instruction rows become text; `None`: the chat template if there is one, else alpaca.
    pub style: Option<Style>,
    /// Whether only answers are labels.
    pub mask_prompt: bool,
    /// Share of rows for validation; `None`: 0.05 of a file, the val file of a directory.
    pub val_split_fraction: Option<f64>,
    /// Whether rows are trained in the order of the split (and shuffled) rather than of the file.
    pub shuffle: bool,
    /// Seed of the split.
    pub seed: u64,
    /// Longer rows are cut to this many tokens.
    pub max_seq_length: Option<usize>,
    /// Tokens that the model can see.
    pub context: usize,
    /// Vocabulary of the model.
    pub vocab: usize,
}

/// What became of the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Rows read.
    pub rows: usize,
    /// Lines of rows that were cut.
    pub cut: Vec<usize>,
    /// Lines of rows left out because nothing in them is trained.
    pub empty: Vec<usize>,
    /// Tokens of all examples.
    pub tokens: usize,
    /// Trained tokens of all examples.
    pub targets: usize,
    /// Tokens of the longest example.
    pub longest: usize,
}

/// Training and validation examples.
pub struct DataSet {
    /// Training examples, in the order of the split, or of the file if nothing is shuffled.
    pub train: Vec<Example>,
    /// Validation examples; may be empty.
    pub val: Vec<Example>,
    /// What became of the rows.
    pub census: Census,
    /// The style that instruction rows were rendered with.
    pub style: Style,
}

impl DataSet {
    /// Reads, splits and encodes the rows of `path`.
    ///
    /// # Errors
    /// When the file is broken, rows have no known shape, are too long, or nothing is trained anywhere.
    pub fn load(path: &Path, tokenizer: &Tokenizer, options: &Options) -> Result<Self> {
        let mut splits = splits::discover(path, None)?;
        let train = splits.remove("train").ok_or_else(|| {
            Problem::in_file(path, "holds no training data").hint("name a file `train.jsonl`")
        })?;
        let source = read(&train)?;
        let validation = splits.remove("validation").map(|files| read(&files)).transpose()?;
        let has_template = tokenizer.template.is_some();
        let style = match &options.style {
            Some(style) => style.clone(),
            None if has_template => Style::chat_template(),
            None => Style::named("alpaca", None)?,
        };
        let encoder = Encoder { tokenizer, style: style.clone(), mask_prompt: options.mask_prompt };
        let mut census = Census::default();
        let mut run = |files: &[(PathBuf, Vec<Line>)]| -> Result<Vec<Option<Example>>> {
            let one = |(path, rows): &(PathBuf, Vec<Line>)| {
                encode(path, rows, &encoder, options, &mut census)
            };
            Ok(files.iter().map(one).collect::<Result<Vec<_>>>()?.concat())
        };
        let (train, val) = match (&validation, options.val_split_fraction) {
            (Some(_), Some(_)) => {
                let message = "has a val file, and `data.init_args.val_split_fraction` is set too";
                return Err(Problem::in_file(path, message).hint("remove one of the two").into());
            }
            (Some(val), None) => (run(&source)?, run(val)?),
            (None, fraction) => {
                let all = run(&source)?;
                let fraction = if path.is_dir() { 0.0 } else { fraction.unwrap_or(0.05) };
                let (mut train, val) = random_split(all.len(), fraction, options.seed);
                if !options.shuffle {
                    train.sort_unstable();
                }
                let pick = |order: Vec<usize>| order.into_iter().map(|i| all[i].clone()).collect();
                (pick(train), pick(val))
            }
        };
        let train: Vec<Example> = train.into_iter().flatten().collect();
        let val: Vec<Example> = val.into_iter().flatten().collect();
        if train.is_empty() {
            let problem = Problem::in_file(&source[0].0, "no row has a token to train on");
            let hint = "answers are empty, all labels are -100, or `train.max_seq_length` cuts every answer off";
            return Err(problem.hint(hint).into());
        }
        Ok(Self { train, val, census, style })
    }
}

/// The rows of files, which together have some.
fn read(files: &[PathBuf]) -> Result<Vec<(PathBuf, Vec<Line>)>> {
    let one = |path: &PathBuf| Ok((path.clone(), rows(path)?.collect::<Result<Vec<_>>>()?));
    let read = files.iter().map(one).collect::<Result<Vec<_>>>()?;
    if read.iter().all(|(_, rows)| rows.is_empty()) {
        return Err(Problem::in_file(&files[0], "holds no rows").into());
    }
    Ok(read)
}

/// Examples in the order of the rows; `None` for a row that trains nothing.
fn encode(
    path: &Path,
    rows: &[Line],
    encoder: &Encoder<'_>,
    options: &Options,
    census: &mut Census,
) -> Result<Vec<Option<Example>>> {
    let work = |row: &Line| -> Result<(Example, bool), Problem> {
        let problem = |message: String| Problem::at(path, row.line, 0, message);
        let parsed = Row::parse(&row.value, &Columns::default()).map_err(problem)?.row;
        let mut example = encoder.encode(parsed, row.line).map_err(problem)?;
        let too_big = |id: &u32| *id as usize >= options.vocab;
        let label = example.labels.iter().filter(|l| **l >= 0).map(|l| *l as u32);
        if let Some(id) = example.ids.iter().copied().chain(label).find(too_big) {
            let message =
                format!("token id {id} lies outside the model's vocabulary of {}", options.vocab);
            return Err(problem(message).hint(
                "the tokenizer, or the program that made these ids, belongs to another model",
            ));
        }
        let limit = options.max_seq_length.unwrap_or(usize::MAX);
        let cut = example.ids.len() > limit;
        if cut {
            example.ids.truncate(limit);
            example.labels.truncate(limit);
        } else if example.ids.len() > options.context {
            let (n, context) = (example.ids.len(), options.context);
            let message = format!("the row has {n} tokens; the model sees at most {context}");
            return Err(problem(message)
                .hint(format!("set `train.max_seq_length: {context}` to cut such rows")));
        }
        Ok((example, cut))
    };
    let done: Vec<_> = rows.par_iter().map(work).collect();
    let mut problems: Vec<Problem> =
        done.iter().filter_map(|d| d.as_ref().err().cloned()).collect();
    if problems.len() > LISTED {
        let more = problems.len() - LISTED;
        problems.truncate(LISTED);
        problems.push(Problem::in_file(path, format!("and {more} more rows like these")));
    }
    UserError::check(problems)?;
    census.rows += rows.len();
    let keep = |(example, cut): (Example, bool)| {
        if cut {
            census.cut.push(example.line);
        }
        if example.targets() == 0 {
            census.empty.push(example.line);
            return None;
        }
        census.tokens += example.ids.len();
        census.targets += example.targets();
        census.longest = census.longest.max(example.ids.len());
        Some(example)
    };
    Ok(done.into_iter().flatten().map(keep).collect())
}
