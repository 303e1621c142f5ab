//! `vft data`: a config's rows as a run would see them.

use super::finetune::{self, Split, split};
use super::stop;
use crate::config::RunConfig;
use crate::data::dataset::{DataSet, Origin};
use crate::data::preview::{self, Marks};
use crate::data::store::Example;
use crate::error::{Problem, UserError};
use crate::report;
use crate::terminal::{harmless, one_note};
use crate::train::prepare::describe;
use crate::train::sources::{self, Sources};
use anyhow::Result;
use std::io;
use std::time::Instant;

/// What to do with data.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Show what becomes of the rows, and samples with their trained tokens marked.
    #[command(after_help = finetune::after_help())]
    Preview(Preview),
}

/// Arguments of `vft data preview`.
#[derive(clap::Args)]
pub(super) struct Preview {
    /// Samples to show, the first of the first epoch; 0 for the numbers alone.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    samples: usize,
    /// Show the row that starts in this line (in Parquet: this row, from 1) instead.
    #[arg(long, value_name = "LINE")]
    row: Option<usize>,
    /// Mark in colour; without it ⟦⟧ hold what is trained and ⟨⟩ special tokens.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Color::Auto)]
    color: Color,
    /// Show one token a line, with its id.
    #[arg(long)]
    tokens: bool,
    #[command(flatten)]
    run: finetune::Args,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

pub(super) fn run(verb: &Verb) -> Result<i32> {
    match verb {
        Verb::Preview(args) => show(args),
    }
}

fn show(args: &Preview) -> Result<i32> {
    stop::listen()?;
    let (shown, Split { config, overrides, print, threads }) = arguments(args)?;
    let mut config = RunConfig::load(config.as_deref(), &overrides)?;
    if print {
        report::print_out(&config.to_yaml())?;
        return Ok(0);
    }
    if threads > 0 {
        config.data.num_workers.get_or_insert(threads);
    }
    let (_, spec, tokenizer) = describe(&config)?;
    let start = Instant::now();
    let Sources { data, notes, .. } = sources::load(&config, &tokenizer, &spec)?;
    let census = data.census();
    let seconds = start.elapsed().as_secs_f64();
    let mut out = lines(data.describe());
    out += &match data.cached {
        0 => format!(
            "read: {} rows in {seconds:.2} s, {:.0} a second\n",
            census.rows,
            census.rows as f64 / seconds
        ),
        n if n == data.stores() => format!("read: from the cache in {seconds:.2} s\n"),
        n => format!("read: {n} of {} sets from the cache in {seconds:.2} s\n", data.stores()),
    };
    out += &lines(census.tell());
    out += &lines(config.notes.iter().chain(&notes).map(|n| format!("note: {n}")));
    report::print_out(&out)?;

    let marks = match shown.color {
        Color::Always => Marks::Color,
        Color::Never => Marks::Brackets,
        Color::Auto if report::takes_color(&io::stdout()) => Marks::Color,
        Color::Auto => Marks::Brackets,
    };
    for (example, origin) in chosen(&data, &shown)? {
        let body = match shown.tokens {
            _ if example.ids.is_empty() => String::new(),
            true => preview::tokens(&tokenizer, example, marks)?,
            false => preview::text(&tokenizer, example, origin.fate, marks, None)?,
        };
        report::print_out(&format!("\n{}\n{body}", preview::heading(example, &origin)))?;
    }
    Ok(0)
}

/// What to show and how.
struct Shown {
    samples: usize,
    row: Option<usize>,
    color: Color,
    tokens: bool,
}

/// The samples to show: those of a line, or the first of the first epoch.
fn chosen<'a>(data: &'a DataSet, shown: &Shown) -> Result<Vec<(Example<'a>, Origin<'a>)>> {
    let Some(line) = shown.row else {
        let first = data.epochs().next().unwrap_or_default().into_iter().take(shown.samples);
        return Ok(first.map(|i| (data.train(i), data.origin(i))).collect());
    };
    let found = data.at_line(line);
    if found.is_empty() {
        let near = match data.lines_around(line) {
            (Some(before), Some(after)) => {
                format!("the rows next to it start in lines {before} and {after}")
            }
            (Some(last), None) => format!("the last row starts in line {last}"),
            (None, Some(first)) => format!("the first row starts in line {first}"),
            (None, None) => "there are no rows".into(),
        };
        let problem = Problem::new(format!("`--row`: no row starts in line {line}"));
        return Err(UserError::from(problem.hint(near)).into());
    }
    Ok(found)
}

/// The preview's own arguments, which may stand among the keys too, and the run's.
fn arguments(args: &Preview) -> Result<(Shown, Split), UserError> {
    let mut shown =
        Shown { samples: args.samples, row: args.row, color: args.color, tokens: args.tokens };
    let mut keys = Vec::new();
    let mut rest = args.run.overrides.iter();
    while let Some(argument) = rest.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (argument.as_str(), None),
        };
        let mut value = || {
            let missing = || Problem::new(format!("`{flag}` needs a value"));
            inline.or_else(|| rest.next().map(String::as_str)).ok_or_else(missing)
        };
        let number = |text: &str| {
            let broken = |_| Problem::new(format!("`{flag}`: `{text}` is no number"));
            text.parse::<usize>().map_err(broken)
        };
        match flag {
            "--help" | "-h" => {
                let message = "`--help` stands before the keys: `vft data preview --help`";
                return Err(Problem::new(message).into());
            }
            "-n" | "--samples" => shown.samples = number(value()?)?,
            "--row" => shown.row = Some(number(value()?)?),
            "--tokens" if inline.is_none() => shown.tokens = true,
            "--color" => {
                let text = value()?;
                let broken =
                    |_| Problem::new(format!("`--color`: `{text}` is none of auto, always, never"));
                shown.color = clap::ValueEnum::from_str(text, false).map_err(broken)?;
            }
            _ => keys.push(argument.clone()),
        }
    }
    let run = &args.run;
    let split = split(&finetune::Args {
        config: run.config.clone(),
        print_config: run.print_config,
        threads: run.threads,
        overrides: keys,
    })?;
    Ok((shown, split))
}

/// Lines that name files and columns, which may hold anything.
fn lines(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| one_note(&harmless(&line)).into_owned() + "\n").collect()
}
