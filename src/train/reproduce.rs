//! A run once more: what its manifest says it was made from is compared with what is here, and what came of it with what comes now.
//!
//! Other inputs (base, tokenizer, chat template, rows, an adapter to start from) are refused before anything is computed: the result could not be the
//! same. Another program or machine is only told: whether it still computes the same is what one wants to know.

use super::locate;
use super::prepare::Run;
use super::record::{self, Reads, Record, Sources};
use super::remote::Remote;
use crate::checkpoint::run_manifest::{
    FileSum, HubRepo, Inputs, Losses, Machine, Outcome, Program, RunManifest, SetFiles,
};
use crate::config::{Device, Resume, RunConfig};
use crate::error::{Problem, Result, UserError};
use crate::hub::remote::is_repo_id;
use crate::hub::safetensors::Checkpoint;
use crate::ops::isa::{self, Isa};
use std::path::{Path, PathBuf};

/// Tensors that are listed.
const LISTED: usize = 10;

/// Where things lie that lay elsewhere when the run was made.
#[derive(Debug, Clone, Default)]
pub struct Moved {
    /// The model's directory.
    pub base: Option<PathBuf>,
    /// The rows of each set, in their order.
    pub data: Vec<PathBuf>,
    /// Any path that begins with the first, begins with the second.
    pub paths: Vec<(PathBuf, PathBuf)>,
}

/// The run's config, to be run again in `out_dir`: nothing is kept besides the final adapter.
///
/// # Errors
/// When the config cannot be read or there are other numbers of sets.
pub fn config(
    path: &Path,
    manifest: &RunManifest,
    moved: &Moved,
    out_dir: &Path,
) -> Result<RunConfig> {
    let mut config = RunConfig::from_yaml(path, &manifest.config)?;
    // The lines are those of a text inside of the manifest.
    config.places.clear();
    for path in config.input_paths() {
        for (from, to) in &moved.paths {
            if let Ok(rest) = path.strip_prefix(from) {
                *path = to.join(rest);
                break;
            }
        }
    }
    if let Some(hub) = &manifest.base.hub {
        pin(&config.checkpoint_dir, hub, &mut config.revision);
    }
    for (set, files) in config.data.sets.iter_mut().zip(&manifest.data) {
        if let Some(hub) = &files.train.hub {
            let named = set.path.as_deref().or(set.repo_id.as_deref().map(Path::new));
            pin(named.unwrap_or(Path::new(&hub.id)), hub, &mut set.revision);
        }
    }
    if let Some(base) = &moved.base {
        (config.checkpoint_dir, config.revision) = (base.clone(), None);
    }
    if moved.data.len() > config.data.sets.len() {
        let (given, sets) = (moved.data.len(), config.data.sets.len());
        let message = format!("`--data` is given {given} times, the run has {sets} sets");
        return Err(Problem::new(message).into());
    }
    for (set, path) in config.data.sets.iter_mut().zip(&moved.data) {
        (set.path, set.repo_id, set.revision) = (Some(path.clone()), None, None);
    }
    config.out_dir = out_dir.to_path_buf();
    config.resume = Resume::No;
    (config.train.max_time, config.train.save_interval) = (None, None);
    config.train.preemption = None;
    (config.train.save_best, config.save_merged) = (false, false);
    // Another machine counts its cards otherwise.
    if manifest.machine.device.starts_with("cuda") {
        config.device = Device::Cuda(0);
    }
    if manifest.machine.device == "cpu" {
        config.device = Device::Cpu;
        let word = &manifest.machine.instruction_set;
        Isa::ALL.into_iter().filter(|isa| isa.word() == word).for_each(isa::prefer);
    }
    Ok(config)
}

/// Asks for the commit that the run had, where a path is an id of the Hub.
fn pin(path: &Path, hub: &HubRepo, revision: &mut Option<String>) {
    if path.to_str().is_some_and(|p| p == hub.id && is_repo_id(p)) {
        *revision = Some(hub.commit.clone());
    }
}

/// Compares the files that the run would read with those that it read.
///
/// # Errors
/// Every difference, with the file and both sums; a file that is not there.
pub fn check_files(config: &RunConfig, manifest: &RunManifest) -> Result<()> {
    let remote = Remote::new(config.access_token.clone());
    let model = remote
        .model(&config.checkpoint_dir, config.revision.as_deref())
        .map_err(|e| elsewhere(e, "`--base DIR` names the model's directory here"))?;
    let hint = "`--data PATH` names the rows here, `--moved OLD=NEW` any other path";
    let data = locate::all(config).map_err(|e| elsewhere(e, hint))?;
    let reads = Reads::new(&model, config.adapter_path.as_deref(), &data)?;
    let Sources { base, tokenizer, adapter, data } = reads.sums()?;
    let mut problems = Vec::new();
    let mut compare = |what: &str, was: &Inputs, is: &Inputs| {
        problems.extend(differences(what, &was.files, &is.files));
    };
    compare("the base", &manifest.base, &base);
    compare("the tokenizer", &manifest.tokenizer, &tokenizer);
    compare("the adapter that the run started from", &manifest.adapter, &adapter);
    let none = SetFiles::default();
    for i in 0..manifest.data.len().max(data.len()) {
        let (was, is) = (manifest.data.get(i).unwrap_or(&none), data.get(i).unwrap_or(&none));
        compare("the rows", &was.train, &is.train);
        compare("the validation rows", &was.validation, &is.validation);
    }
    if let Some(last) = problems.pop() {
        let hint = "only the same inputs make the same adapter; `--base`, `--data` and `--moved` name others";
        problems.push(last.hint(hint));
    }
    UserError::check(problems)
}

/// Errors of a place that is not there, with the way to name another.
fn elsewhere(error: UserError, hint: &str) -> UserError {
    UserError { problems: error.problems.into_iter().map(|p| p.hint(hint)).collect() }
}

/// What differs between files, by their names where the directory is another.
fn differences(what: &str, was: &[FileSum], is: &[FileSum]) -> Vec<Problem> {
    let name = |file: &FileSum| file.path.file_name().unwrap_or_default().to_os_string();
    let mut problems = Vec::new();
    // Several sets may have files of one name: of two lists as long as each other the places count.
    let same_length = was.len() == is.len();
    for (i, old) in was.iter().enumerate() {
        let by_name = || is.iter().find(|f| name(f) == name(old));
        let new = if same_length { is.get(i) } else { by_name() };
        match new {
            None => problems.push(Problem::in_file(
                &old.path,
                format!("a file of {what} is missing; its SHA-256 was {}", old.sha256),
            )),
            Some(new) if new.sha256 != old.sha256 => problems.push(Problem::in_file(
                &new.path,
                format!(
                    "is not the file that the run read ({what}): its SHA-256 was {} ({} bytes), is {} ({} bytes)",
                    old.sha256, old.bytes, new.sha256, new.bytes
                ),
            )),
            Some(_) => {}
        }
    }
    if !same_length {
        let fresh = is.iter().filter(|f| !was.iter().any(|o| name(o) == name(f)));
        problems.extend(fresh.map(|f| {
            let message = format!("is a file of {what} that the run did not have");
            Problem::in_file(&f.path, message)
        }));
    }
    problems
}

/// Compares what the files became: prompts and rows.
///
/// # Errors
/// Every difference.
pub fn check_rows(manifest: &RunManifest, run: &Run) -> Result<()> {
    let mut problems = Vec::new();
    let prompts = record::prompts(&run.styles, &run.tokenizer);
    for (was, is) in manifest.prompts.iter().zip(&prompts).filter(|(a, b)| a != b) {
        problems.push(Problem::new(format!(
            "prompts were written by `{}` (SHA-256 {}), now by `{}` (SHA-256 {})",
            was.style, was.sha256, is.style, is.sha256
        )));
    }
    let rows = record::rows(&run.data, &run.digest);
    if rows != manifest.rows {
        let (was, is) = (&manifest.rows, &rows);
        problems.push(Problem::new(format!(
            "the same files became other rows: {} training and {} validation rows with the hash {}, now {} and {} with {}",
            was.train, was.validation, was.blake3, is.train, is.validation, is.blake3
        )));
    }
    if let Some(last) = problems.pop() {
        let hint = "another version of vft reads or writes them otherwise";
        problems.push(last.hint(hint));
    }
    UserError::check(problems)
}

/// What else is another than it was: program and machine.
pub fn surroundings(manifest: &RunManifest, run: &Run) -> Vec<String> {
    let (was, is) = (&manifest.vft, &record::this_program());
    let mut told = Vec::new();
    let mut tell = |what: &str, was: &str, is: &str| {
        if was != is {
            told.push(format!("{what} was {was}, is {is}"));
        }
    };
    let text = |v: &Option<String>| v.clone().unwrap_or_else(|| "unknown".into());
    let source = |p: &Program| match p.modified {
        Some(true) => format!("{} with changes", text(&p.commit)),
        _ => text(&p.commit),
    };
    tell("vft", &was.version, &is.version);
    tell("the sources' commit", &source(was), &source(is));
    tell("the features", &was.features.join(", "), &is.features.join(", "));
    tell("the compiler", &was.rustc, &is.rustc);
    tell("the target", &was.target, &is.target);
    tell("the binary's SHA-256", &text(&was.sha256), &text(&is.sha256));
    let (was, is): (&Machine, _) = (&manifest.machine, &record::machine(run));
    tell("the device", &was.device, &is.device);
    tell("the instruction set", &was.instruction_set, &is.instruction_set);
    tell("the processor", &was.processor, &is.processor);
    told
}

/// What came of a run made twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the adapter has the same bytes and the losses the same digits.
    pub same: bool,
    /// The comparison, line by line.
    pub lines: Vec<String>,
}

/// Compares the run of the manifest at `path` with the one that has just ended in `out_dir`.
///
/// # Errors
/// When what has just been written cannot be read.
pub fn compare(path: &Path, manifest: &RunManifest, out_dir: &Path) -> Result<Verdict> {
    let new_dir = out_dir.join("final");
    let new = RunManifest::read(&new_dir.join("manifest.json"))?;
    let old_dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (was, is) = (&manifest.result, &new.result);
    let mut lines = Vec::new();
    let same_adapter = was.adapter_sha256 == is.adapter_sha256;
    if same_adapter {
        lines.push(format!("adapter: the same bytes (SHA-256 {})", is.adapter_sha256));
    } else {
        lines.push(format!(
            "adapter: other bytes: its SHA-256 was {}, is {}",
            was.adapter_sha256, is.adapter_sha256
        ));
        lines.extend(tensors(old_dir, &new_dir, &was.adapter_sha256));
    }
    if was.steps != is.steps || was.tokens != is.tokens {
        lines.push(format!(
            "steps: {} on {} tokens, now {} on {}",
            was.steps, was.tokens, is.steps, is.tokens
        ));
    }
    let metrics = [old_dir.join("../metrics.jsonl"), out_dir.join("metrics.jsonl")];
    let same_losses = losses(was, is, &metrics, &mut lines);
    let same = same_adapter && same_losses && was.steps == is.steps;
    Ok(Verdict { same, lines })
}

/// Compares losses; true where there is no difference to be seen.
fn losses(was: &Outcome, is: &Outcome, metrics: &[PathBuf; 2], lines: &mut Vec<String>) -> bool {
    let (Some(a), Some(b)) = (&was.losses, &is.losses) else {
        lines.push("losses: not recorded, so not compared".into());
        return true;
    };
    let shown = |l: &Losses| {
        let validation = l.validation.map_or(String::new(), |v| format!(", validation {v}"));
        format!("first {}, last {}{validation}", l.first, l.last)
    };
    if a.sha256 == b.sha256 {
        lines.push(format!("losses: the same in all {} steps: {}", b.steps, shown(b)));
        return true;
    }
    // A run whose metrics could not be written for a while has fewer of them, from a later step on.
    let alike = a.steps != b.steps && a.last == b.last && a.validation == b.validation;
    if a.steps < was.steps && alike {
        lines.push(format!(
            "losses: {} of {} steps were recorded; the last is the same: {}",
            a.steps,
            was.steps,
            shown(b)
        ));
        return true;
    }
    lines.push(format!("losses: {}; now {}", shown(a), shown(b)));
    lines.extend(first_difference(metrics));
    false
}

/// The first record whose loss differs, if both files are there.
fn first_difference([old, new]: &[PathBuf; 2]) -> Option<String> {
    let (old, new) = (std::fs::read_to_string(old).ok()?, std::fs::read_to_string(new).ok()?);
    let value = |line: &str| {
        let r: Record<'_> = serde_json::from_str(line).ok()?;
        Some((r.step, r.loss.or(r.val_loss)?.get().to_owned()))
    };
    let mut pairs = old.lines().filter_map(value).zip(new.lines().filter_map(value));
    let ((step, was), (_, is)) = pairs.find(|(a, b)| a != b)?;
    Some(format!("  the first that differs is of step {step}: {was}, now {is}"))
}

/// The tensors that differ, and by how much.
fn tensors(old_dir: &Path, new_dir: &Path, sha256: &str) -> Vec<String> {
    const NAME: &str = "adapter_model.safetensors";
    let go = std::sync::atomic::AtomicBool::new(false);
    let file = old_dir.join(NAME);
    match super::sums::sum(&file, &go) {
        Ok(sum) if sum.sha256 == sha256 => {}
        Ok(_) => {
            return vec![format!(
                "  {} is not the adapter of the manifest, so tensors are not compared",
                file.display()
            )];
        }
        Err(_) => {
            return vec![
                "  the adapter is not beside its manifest, so tensors are not compared".into(),
            ];
        }
    }
    let (Ok(old), Ok(new)) =
        (Checkpoint::open_file(&file), Checkpoint::open_file(&new_dir.join(NAME)))
    else {
        return vec!["  the adapters cannot be read, so tensors are not compared".into()];
    };
    let mut found = Vec::new();
    for name in old.names() {
        let (Some(a), Some(b)) = (old.tensor(name), new.tensor(name)) else {
            found.push((f32::INFINITY, format!("  {name}: is not there any more")));
            continue;
        };
        if a.shape != b.shape {
            let line = format!("  {name}: its shape was {:?}, is {:?}", a.shape, b.shape);
            found.push((f32::INFINITY, line));
            continue;
        }
        let (a, b) = (a.to_f32_vec(), b.to_f32_vec());
        let most = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let scale = a.iter().map(|a| a.abs()).fold(0.0, f32::max);
        let count = a.iter().zip(&b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        if count > 0 {
            let line = format!(
                "  {name}: {count} of {} values, by at most {most:e} (its largest is {scale:e})",
                a.len()
            );
            found.push((most, line));
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let more = found.len().saturating_sub(LISTED);
    let mut lines: Vec<String> = found.into_iter().take(LISTED).map(|(_, line)| line).collect();
    if more > 0 {
        lines.push(format!("  and {more} more tensors"));
    }
    lines
}
