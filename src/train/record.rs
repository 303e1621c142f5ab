//! What a run was made from, written down when it has ended: [`RunManifest`].
//!
//! The files are hashed while the run trains ([`super::sums`]); the rest is known at its start or its end.

use super::device;
use super::fit::Outcome;
use super::locate::SetPaths;
use super::prepare::Run;
use super::save::resolved;
use super::sums::{self, Sums};
use crate::checkpoint::disk::Real;
use crate::checkpoint::peft::WEIGHTS;
use crate::checkpoint::room::with_room;
use crate::checkpoint::run_manifest::{
    self, FileSum, HubRepo, Inputs, Losses, Machine, Program, Prompt, Rows, RunManifest, Seeds,
    SetFiles,
};
use crate::checkpoint::run_state::Surroundings;
use crate::config::RunConfig;
use crate::data::dataset::DataSet;
use crate::data::style::{Exchange, Style};
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::hex::hex;
use crate::hub::safetensors::Checkpoint;
use crate::ops::{Cx, isa};
use crate::report::print_note;
use crate::secret::scrub;
use serde::Deserialize;
use serde_json::Map;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// What decides tokens, prompts and where an answer ends.
const TOKENIZER: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];
const INDEX: &str = "model.safetensors.index.json";

/// The files that a run reads, in groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    base: Vec<PathBuf>,
    tokenizer: Vec<PathBuf>,
    adapter: Vec<PathBuf>,
    data: Vec<SetPaths>,
}

impl Reads {
    /// Those of a model's directory, of an adapter to start from, of sets.
    ///
    /// # Errors
    /// When the model's weights cannot be opened.
    pub fn new(model: &Path, adapter: Option<&Path>, data: &[SetPaths]) -> Result<Self> {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
        let all = |paths: &[PathBuf]| paths.iter().map(|p| absolute(p)).collect();
        let set = |s: &SetPaths| SetPaths { train: all(&s.train), validation: all(&s.validation) };
        let model = &absolute(model);
        let weights = Checkpoint::open(model)?;
        let files = weights.names().filter_map(|n| Some(weights.tensor(n)?.file.clone()));
        let shards: BTreeSet<PathBuf> = files.collect();
        let there = |dir: &Path, names: &[&str]| -> Vec<PathBuf> {
            names.iter().map(|n| dir.join(n)).filter(|p| p.is_file()).collect()
        };
        let mut base = there(model, &["config.json", INDEX]);
        base.extend(shards);
        let adapter = adapter.map(|dir| there(&absolute(dir), &["adapter_config.json", WEIGHTS]));
        let tokenizer = there(model, TOKENIZER);
        let data = data.iter().map(set).collect();
        Ok(Self { base, tokenizer, adapter: adapter.unwrap_or_default(), data })
    }

    /// All of them, group after group.
    fn all(&self) -> Vec<PathBuf> {
        let sets = self.data.iter().flat_map(|set| [&set.train, &set.validation]);
        let groups = [&self.base, &self.tokenizer, &self.adapter].into_iter().chain(sets);
        groups.flatten().cloned().collect()
    }

    /// The groups with their sums, which lie in the order of [`Self::all`].
    fn with(&self, sums: Vec<FileSum>) -> Sources {
        let mut sums = sums.into_iter();
        let mut group = |paths: &Vec<PathBuf>| Inputs {
            hub: paths.first().and_then(|p| hub_repo(p)),
            files: sums.by_ref().take(paths.len()).collect(),
        };
        let [base, tokenizer, adapter] =
            [&self.base, &self.tokenizer, &self.adapter].map(&mut group);
        let mut set = |set: &SetPaths| SetFiles {
            train: group(&set.train),
            validation: group(&set.validation),
        };
        let data = self.data.iter().map(&mut set).collect();
        Sources { base, tokenizer, adapter, data }
    }

    /// Hashes them now.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn sums(&self) -> Result<Sources> {
        let go = AtomicBool::new(false);
        let sums = self.all().iter().map(|path| sums::sum(path, &go)).collect::<Result<_>>()?;
        Ok(self.with(sums))
    }
}

/// The files of a run with their sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// `config.json` and the weights.
    pub base: Inputs,
    /// The tokenizer's files.
    pub tokenizer: Inputs,
    /// The adapter that the run started from.
    pub adapter: Inputs,
    /// The rows.
    pub data: Vec<SetFiles>,
}

/// A record that is being made.
pub struct Recording {
    reads: Reads,
    sums: Sums,
}

impl Recording {
    /// Begins to hash what the run has read.
    ///
    /// # Errors
    /// When the model's weights are not there any more.
    pub fn start(config: &RunConfig, run: &Run) -> Result<Self> {
        let reads = Reads::new(&run.model, config.adapter_path.as_deref(), &run.files)?;
        let mut paths = reads.all();
        paths.extend(binary());
        Ok(Self { sums: Sums::start(paths), reads })
    }

    /// Whether files are still being hashed.
    pub fn is_busy(&self) -> bool {
        self.sums.is_busy()
    }

    /// Adds the record to the manifest of the final adapter; what the user should know. Where the disk is full, older checkpoints give way.
    ///
    /// # Errors
    /// When a file cannot be read or the manifest not written, or `stop` came while files were hashed.
    pub fn finish(
        self,
        config: &RunConfig,
        run: &Run,
        outcome: &Outcome,
        stop: &AtomicBool,
    ) -> anyhow::Result<Vec<String>> {
        let mut sums = self.sums.finish(stop)?;
        let binary = if binary().is_some() { sums.pop() } else { None };
        let notes = sums.iter().filter_map(sums::misnamed).collect();
        let Sources { base, tokenizer, adapter, data } = self.reads.with(sums);
        let dir = config.out_dir.join("final");
        let manifest = RunManifest {
            format: RunManifest::FORMAT,
            vft: program(binary),
            machine: machine(run),
            base,
            tokenizer,
            adapter,
            data,
            prompts: prompts(&run.styles, &run.tokenizer),
            rows: rows(&run.data, &run.digest),
            seeds: Seeds { run: config.seed, data: config.data.seed },
            config: resolved(config, run).to_yaml(),
            notes: config.notes.iter().chain(&run.notes).map(|n| scrub(n)).collect(),
            result: run_manifest::Outcome {
                steps: outcome.step,
                tokens: outcome.tokens,
                adapter_sha256: sums::sum(&dir.join(WEIGHTS), &AtomicBool::new(false))?.sha256,
                losses: losses(&config.out_dir.join("metrics.jsonl")),
            },
        };
        with_room(&Real, &config.out_dir, &|line| print_note(line), || {
            Ok(manifest.add_to(&Real, &dir)?)
        })?;
        Ok(notes)
    }
}

/// The binary that runs, even if another lies in its place by now.
fn binary() -> Option<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() { Some(running.into()) } else { std::env::current_exe().ok() }
}

/// This program.
pub fn program(binary: Option<FileSum>) -> Program {
    let known = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    Program {
        version: env!("CARGO_PKG_VERSION").into(),
        features: if cfg!(feature = "cuda") { vec!["cuda".into()] } else { Vec::new() },
        commit: known(env!("VFT_COMMIT")),
        modified: known(env!("VFT_MODIFIED")).map(|m| m == "true"),
        rustc: env!("VFT_RUSTC").into(),
        target: env!("VFT_TARGET").into(),
        sha256: binary.map(|b| b.sha256),
    }
}

/// This program with the sum of its binary.
pub fn this_program() -> Program {
    program(binary().and_then(|path| sums::sum(&path, &AtomicBool::new(false)).ok()))
}

/// What a run's bytes depend on besides its settings, rows and base.
pub fn surroundings(cx: &Cx) -> Surroundings {
    let program = program(None);
    let commit = program.commit.map(|c| format!(" ({c})")).unwrap_or_default();
    Surroundings {
        device: cx.gpu().map_or_else(|| "cpu".into(), |gpu| gpu.info().name.clone()),
        instruction_set: match cx.gpu() {
            Some(_) => String::new(),
            None => isa::chosen().map_or("", isa::Isa::word).into(),
        },
        vft: program.version + &commit,
    }
}

/// Where a run computes.
pub fn machine(run: &Run) -> Machine {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    Machine {
        device: device::describe(&run.cx),
        instruction_set: isa::chosen().map_or("", isa::Isa::word).into(),
        processor: name.map_or_else(|| std::env::consts::ARCH.into(), |(_, n)| n.trim().into()),
        threads: run.cx.install(rayon::current_num_threads),
    }
}

/// How the prompts of each set are written.
pub fn prompts(styles: &[Style], tokenizer: &Tokenizer) -> Vec<Prompt> {
    let of = |style: &Style| {
        let text = match &tokenizer.template {
            Some(template) if style.is_chat_template() => template.identity(),
            _ => written(style),
        };
        Prompt { style: style.name().into(), sha256: hex(&Sha256::digest(text)) }
    };
    styles.iter().map(of).collect()
}

/// What a style writes: a first question with and without an input and a system text, a later one.
fn written(style: &Style) -> String {
    let columns = Map::new();
    let mut text = String::new();
    for (input, system) in [("", None), ("[input]", None), ("", Some("[system]"))] {
        let exchange = Exchange { system, instruction: "[instruction]", input, columns: &columns };
        for prompt in [style.prompt(&exchange), style.next_prompt(&exchange)] {
            text += &prompt.unwrap_or_else(|why| why);
            text.push('\0');
        }
    }
    text
}

/// What the rows became.
pub fn rows(data: &DataSet, digest: &str) -> Rows {
    let mut order = blake3::Hasher::new();
    for place in data.epochs().next().unwrap_or_default() {
        order.update(&(place as u64).to_le_bytes());
    }
    Rows {
        train: data.train_len(),
        validation: data.val_len(),
        per_epoch: data.per_epoch(),
        blake3: digest.into(),
        order_blake3: order.finalize().to_hex().to_string(),
    }
}

/// The repository of a file in the Hub's cache: `{models,datasets}--org--name/snapshots/<commit>/…`.
fn hub_repo(path: &Path) -> Option<HubRepo> {
    let mut parts = path.components().filter_map(|c| c.as_os_str().to_str());
    let mut repo = "";
    while let Some(part) = parts.next() {
        if part == "snapshots" {
            let id = repo.strip_prefix("models--").or_else(|| repo.strip_prefix("datasets--"))?;
            let commit = parts.next().filter(|c| c.len() == 40)?;
            return Some(HubRepo { id: id.replacen("--", "/", 1), commit: commit.into() });
        }
        repo = part;
    }
    None
}

/// A line of `metrics.jsonl`, digit by digit.
#[derive(Deserialize)]
pub(super) struct Record<'a> {
    pub(super) step: usize,
    #[serde(borrow)]
    pub(super) loss: Option<&'a RawValue>,
    #[serde(borrow)]
    lr: Option<&'a RawValue>,
    #[serde(borrow)]
    grad_norm: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) val_loss: Option<&'a RawValue>,
}

/// The losses of a `metrics.jsonl`; `None` where there are none.
pub fn losses(path: &Path) -> Option<Losses> {
    let text = std::fs::read_to_string(Some(path).filter(|p| p.is_file())?).ok()?;
    let (mut first, mut last, mut validation, mut steps) = (None, None, None, 0);
    let mut hash = Sha256::new();
    let digits = |v: Option<&RawValue>| v.map_or("-", RawValue::get).to_owned();
    let number = |v: &RawValue| v.get().parse::<f64>().ok();
    for line in text.lines() {
        let Ok(record) = serde_json::from_str::<Record<'_>>(line) else { continue };
        let (loss, val_loss) = (record.loss, record.val_loss);
        let parts = [loss, record.lr, record.grad_norm, val_loss].map(digits).join(" ");
        hash.update(format!("{} {parts}\n", record.step));
        if let Some(loss) = loss.and_then(number) {
            first = first.or(Some(loss));
            last = Some(loss);
            steps += 1;
        }
        validation = val_loss.and_then(number).or(validation);
    }
    let sha256 = hex(&hash.finalize());
    Some(Losses { first: first?, last: last?, validation, steps, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_tells_its_repository() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let path = format!("/c/hub/datasets--org--a--b/snapshots/{commit}/data/x.jsonl");
        let repo = hub_repo(Path::new(&path)).unwrap();
        assert_eq!((repo.id.as_str(), repo.commit.as_str()), ("org/a--b", commit));
        assert_eq!(hub_repo(Path::new("/a/snapshots/b/c")), None);
    }

    #[test]
    fn losses_are_told_apart_by_a_digit() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("m");
        let of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            losses(&path)
        };
        let a = of("{\"step\":1,\"loss\":2.5,\"lr\":0.1}\n{\"step\":1,\"val_loss\":2.25}\n{\"step\":2,\"loss\":1.5}\n").unwrap();
        assert_eq!((a.first, a.last, a.validation, a.steps), (2.5, 1.5, Some(2.25), 2));
        let b = of("{\"step\":1,\"loss\":2.5,\"lr\":0.10000000000000001}\n{\"step\":1,\"val_loss\":2.25}\n{\"step\":2,\"loss\":1.5}\n").unwrap();
        assert_ne!(a.sha256, b.sha256);
        assert_eq!(of(""), None);
    }
}
