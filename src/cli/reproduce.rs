//! `vft reproduce`: a run once more, and whether the same came of it.

use super::stop::{self, UNFINISHED};
use crate::checkpoint::out_dir;
use crate::checkpoint::run_manifest::RunManifest;
use crate::error::UserError;
use crate::report;
use crate::scratch::Scratch;
use crate::terminal::one_line;
use crate::train::finish;
use crate::train::fit::fit;
use crate::train::prepare::prepare;
use crate::train::record::Recording;
use crate::train::reproduce::{self, Moved};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Arguments of `vft reproduce`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The manifest beside a final adapter, or the directory that it lies in.
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
    /// Where the run is made again; `reproduced` beside the directory of the adapter if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The model's directory, where it is another than it was.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The rows, where they lie elsewhere; once for each set, in their order.
    #[arg(long, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// What lay below OLD lies below NEW: any path of the run.
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    moved: Vec<(PathBuf, PathBuf)>,
    /// Compare what is here with the manifest and end.
    #[arg(long)]
    check: bool,
    /// Threads to compute with; 0 for all cores. The result does not depend on it.
    #[arg(long, default_value_t = 0, env = "VFT_THREADS")]
    threads: usize,
}

fn pair(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (from, to) = text.split_once('=').ok_or("it reads OLD=NEW")?;
    Ok((from.into(), to.into()))
}

pub(super) fn run(args: &Args) -> Result<i32> {
    // Nothing of a run that is made again is worth to be kept: a signal ends it at once.
    let stop = stop::listen()?;
    stop.release(UNFINISHED);
    let path = if args.manifest.is_dir() {
        let inside = ["manifest.json", "final/manifest.json"].map(|name| args.manifest.join(name));
        inside.iter().find(|p| p.is_file()).unwrap_or(&inside[0]).clone()
    } else {
        args.manifest.clone()
    };
    let manifest = RunManifest::read(&path)?;
    let out = args.out.clone().unwrap_or_else(|| beside(&path));
    let moved =
        Moved { base: args.base.clone(), data: args.data.clone(), paths: args.moved.clone() };
    let config = reproduce::config(&path, &manifest, &moved, &out)?;
    reproduce::check_files(&config, &manifest)?;
    report::print_note("base, tokenizer and rows are the files that the run read");
    if args.check {
        return Ok(0);
    }

    let claim = out_dir::claim(&out, &config.inputs(), false).map_err(|e| {
        let hint = "take it away, or give another directory with `--out`";
        UserError { problems: e.problems.into_iter().map(|p| p.hint(hint)).collect() }
    })?;
    let unfinished = claim.is_new().then(|| Scratch::adopt(&out));
    stop.gives_up(claim.clone());
    let mut run = prepare(&config, args.threads, None).inspect_err(|_| claim.give_up())?;
    reproduce::check_rows(&manifest, &run).inspect_err(|_| claim.give_up())?;
    for line in reproduce::surroundings(&manifest, &run) {
        report::print_note(format_args!("note: {}", one_line(&line)));
    }
    let recording = Recording::start(&config, &run)?;
    // A signal ends the process from beside: who looked at its flag might fail first, and leave something.
    let unstopped = AtomicBool::new(false);
    let outcome = fit(&config, &mut run, &unstopped)?;
    recording.finish(&config, &run, &outcome, &unstopped)?;
    for note in finish::describe(&config, &run, &outcome) {
        report::print_note(format_args!("note: {note}"));
    }
    unfinished.into_iter().for_each(Scratch::keep);
    claim.release();

    let verdict = reproduce::compare(&path, &manifest, &out)?;
    for line in &verdict.lines {
        report::print_out(&(one_line(line) + "\n"))?;
    }
    if verdict.same {
        report::print_out("verdict: reproduced\n")?;
        return Ok(0);
    }
    report::print_out("verdict: not reproduced\n")?;
    for note in &manifest.notes {
        report::print_note(format_args!("the run was told: {}", one_line(note)));
    }
    Ok(2)
}

/// `reproduced` beside the directory that the manifest lies in.
fn beside(manifest: &Path) -> PathBuf {
    let full = std::path::absolute(manifest).unwrap_or_else(|_| manifest.to_path_buf());
    let dir = full.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    dir.join("reproduced")
}
