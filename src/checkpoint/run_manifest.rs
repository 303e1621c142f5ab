//! What a finished run was made from and what came of it: the part `run` of the `manifest.json` beside the final adapter.
//!
//! One file, two readers. While a run is under way each checkpoint has a [`super::manifest`], which says what its own files are and
//! is written with them. When the run has ended, that of the final adapter gets two members more: `run`, and in `run_sha256` the SHA-256 of each
//! part of `run` (its JSON without white space between words). They come later because they tell of the end, of losses on rows that are validated after the
//! adapter is safe; the file is replaced whole, and its member `files` stays as it was. A second file would be one to lose: who copies the adapter copies this.
//!
//! The sums tell of slips of the hand and of disks, not of an enemy, who could write sums of their own.

use super::atomic::io_problem;
use super::manifest::{MAX_BYTES, NAME};
use crate::error::{Problem, Result, UserError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Counted up when the meaning of a field changes.
const FORMAT: u32 = 1;
const RUN: &str = "run";
const SUMS: &str = "run_sha256";

/// A run, from what it read to what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunManifest {
    /// Version of this record.
    pub format: u32,
    /// The program.
    pub vft: Program,
    /// Where it computed.
    pub machine: Machine,
    /// `config.json` and the weights.
    pub base: Inputs,
    /// The tokenizer's files.
    pub tokenizer: Inputs,
    /// The adapter that the run started from; empty without one.
    pub adapter: Inputs,
    /// The rows' files, set by set.
    pub data: Vec<SetFiles>,
    /// How each set's prompts are written.
    pub prompts: Vec<Prompt>,
    /// What the rows became.
    pub rows: Rows,
    /// The seeds.
    pub seeds: Seeds,
    /// The values of all keys, as YAML that can be run again.
    pub config: String,
    /// What the user was told at the start.
    pub notes: Vec<String>,
    /// What came of it.
    pub result: Outcome,
}

/// The binary that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// The features that it was built with.
    pub features: Vec<String>,
    /// The commit of its sources, if they came from a repository.
    pub commit: Option<String>,
    /// Whether they differed from that commit.
    pub modified: Option<bool>,
    /// The compiler.
    pub rustc: String,
    /// The target's triple.
    pub target: String,
    /// The SHA-256 of the binary itself, if it could be read.
    pub sha256: Option<String>,
}

/// Where a run computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The device, in words.
    pub device: String,
    /// The instruction set, in the words of `VFT_CPU`.
    pub instruction_set: String,
    /// The processor's name.
    pub processor: String,
    /// Threads; no result depends on them.
    pub threads: usize,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Where it lay.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its contents.
    pub sha256: String,
}

/// Files that belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The repository that they are of, if they came from the Hub.
    pub hub: Option<HubRepo>,
    /// The files.
    pub files: Vec<FileSum>,
}

/// A repository on the Hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubRepo {
    /// Its id.
    pub id: String,
    /// The commit.
    pub commit: String,
}

/// The files of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetFiles {
    /// Those that are trained on; of them rows may be held out.
    pub train: Inputs,
    /// Those that are validated on.
    pub validation: Inputs,
}

/// How prompts are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// The style's name.
    pub style: String,
    /// The SHA-256 of the chat template with its tokens, or of what the style writes.
    pub sha256: String,
}

/// What the rows became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Samples to train on.
    pub train: usize,
    /// Samples to validate on.
    pub validation: usize,
    /// Samples of an epoch.
    pub per_epoch: usize,
    /// The BLAKE3 hash of all samples that were kept, in the order of the split.
    pub blake3: String,
    /// The BLAKE3 hash of the first epoch's order.
    pub order_blake3: String,
}

/// The seeds of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeds {
    /// Of initial values, dropout and samples.
    pub run: u64,
    /// Of split and order.
    pub data: u64,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Steps done.
    pub steps: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// The SHA-256 of `adapter_model.safetensors`.
    pub adapter_sha256: String,
    /// The losses; `None` where `metrics.jsonl` could not be read.
    pub losses: Option<Losses>,
}

/// The losses of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// The first step's that was recorded.
    pub first: f64,
    /// The last step's.
    pub last: f64,
    /// The last on validation rows.
    pub validation: Option<f64>,
    /// Steps that were recorded.
    pub steps: usize,
    /// The SHA-256 of all losses, rates and norms, digit by digit.
    pub sha256: String,
}

impl RunManifest {
    /// The version that this program writes.
    pub const FORMAT: u32 = FORMAT;

    /// Adds the run to the manifest of the final adapter in `dir`.
    ///
    /// # Errors
    /// When the manifest cannot be read or written; it is then what it was.
    pub fn add_to(&self, dir: &Path) -> Result<()> {
        let path = dir.join(NAME);
        let failed = |e: &dyn std::fmt::Display| {
            UserError::from(Problem::in_file(&path, format!("cannot be written: {e}")))
        };
        let mut whole: serde_json::Map<String, Value> =
            serde_json::from_slice(&read(&path)?).map_err(|e| broken(&path, &e))?;
        let run = serde_json::to_value(self).map_err(|e| failed(&e))?;
        let mut sums = serde_json::Map::new();
        for (name, part) in run.as_object().into_iter().flatten() {
            let text = serde_json::to_string(part).map_err(|e| failed(&e))?;
            sums.insert(name.clone(), hex(&Sha256::digest(&text)).into());
        }
        whole.insert(RUN.into(), run);
        whole.insert(SUMS.into(), sums.into());
        let text = serde_json::to_string_pretty(&whole).map_err(|e| failed(&e))? + "\n";
        let beside = dir.join(format!(".{NAME}.new"));
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|e| {
            // The error at hand is the one to report.
            let _ = fs::remove_file(&beside);
            io_problem(&path, &e)
        })
    }

    /// Reads the run of a manifest and checks that nobody changed it.
    ///
    /// # Errors
    /// When the file is none, damaged, changed, of a newer version, or of a run that has not ended.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read(path)?;
        let whole: Whole<'_> = serde_json::from_slice(&bytes).map_err(|e| broken(path, &e))?;
        let (Some(run), Some(sums)) = (whole.run, whole.run_sha256) else {
            let problem =
                Problem::in_file(path, "is the manifest of a checkpoint, not of a whole run");
            return Err(problem
                .hint("a run that has ended leaves one in `<out_dir>/final/manifest.json`")
                .into());
        };
        let parts: BTreeMap<String, &RawValue> =
            serde_json::from_str(run.get()).map_err(|e| broken(path, &e))?;
        let number = parts.get("format").and_then(|f| f.get().parse::<u32>().ok());
        match number {
            Some(FORMAT) => {}
            Some(newer) if newer > FORMAT => return Err(later(path, newer, &parts).into()),
            _ => {
                let text = parts.get("format").map_or("none", |f| f.get());
                let message = format!("has format {text}, this vft knows {FORMAT}");
                return Err(Problem::in_file(path, message).into());
            }
        }
        let mut problems = Vec::new();
        for part in changed(run.get(), sums.get()).map_err(|e| broken(path, &e))? {
            let shown = |sum: Option<String>| sum.unwrap_or_else(|| "nothing".into());
            let message = format!(
                "`run.{}` was changed after it was written: its SHA-256 was {}, is {}",
                part.name.escape_default(),
                shown(part.was),
                shown(part.is)
            );
            problems.push(Problem::in_file(path, message));
        }
        if let Some(last) = problems.pop() {
            let hint = "a manifest tells what was; to run another config, write its text to a file and give it to `vft finetune`";
            problems.push(last.hint(hint));
            return Err(UserError { problems });
        }
        serde_json::from_str(run.get()).map_err(|e| broken(path, &e))
    }
}

#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    run: Option<&'a RawValue>,
    #[serde(borrow)]
    run_sha256: Option<&'a RawValue>,
}

/// A part of a run that is not what was written, with both sums.
pub(super) struct Changed {
    name: String,
    was: Option<String>,
    is: Option<String>,
}

/// Compares the parts of a run with their sums, both as JSON.
pub(super) fn changed(run: &str, sums: &str) -> serde_json::Result<Vec<Changed>> {
    let parts: BTreeMap<String, &RawValue> = serde_json::from_str(run)?;
    let mut sums: BTreeMap<String, String> = serde_json::from_str(sums)?;
    let mut changed = Vec::new();
    for (name, part) in parts {
        let (was, is) = (sums.remove(&name), hex(&Sha256::digest(compact(part.get()))));
        if was.as_ref() != Some(&is) {
            changed.push(Changed { name, was, is: Some(is) });
        }
    }
    let gone = |(name, was)| Changed { name, was: Some(was), is: None };
    changed.extend(sums.into_iter().map(gone));
    Ok(changed)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |e| UserError::from(Problem::in_file(path, format!("cannot be read: {e}")));
    let data = fs::metadata(path).map_err(failed)?;
    if !data.is_file() || data.len() > MAX_BYTES {
        return Err(Problem::in_file(path, "is no manifest of a run").into());
    }
    fs::read(path).map_err(failed)
}

fn broken(path: &Path, e: &serde_json::Error) -> UserError {
    let why = if e.is_eof() { "ends in the middle" } else { "is no manifest of a run" };
    let problem = Problem::at(path, e.line(), e.column(), format!("{why}: {e}"));
    problem.hint("copy it again from beside the adapter").into()
}

fn later(path: &Path, format: u32, parts: &BTreeMap<String, &RawValue>) -> Problem {
    let by = parts.get("vft").and_then(|v| serde_json::from_str::<Value>(v.get()).ok());
    let version = by.as_ref().and_then(|v| v["version"].as_str()).unwrap_or("a later version");
    let message = format!("has format {format}, this vft knows {FORMAT}");
    let hint = format!("it was written by vft {}: use that", version.escape_default());
    Problem::in_file(path, message).hint(hint)
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// JSON without the white space between its words.
fn compact(json: &str) -> String {
    let (mut out, mut quoted, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        if quoted || !matches!(c, ' ' | '\n' | '\r' | '\t') {
            out.push(c);
        }
        match c {
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> RunManifest {
        RunManifest {
            format: FORMAT,
            vft: Program {
                version: "0.1.0".into(),
                features: vec![],
                commit: None,
                modified: None,
                rustc: "rustc".into(),
                target: "x".into(),
                sha256: None,
            },
            machine: Machine {
                device: "cpu".into(),
                instruction_set: "avx2".into(),
                processor: "a \"b\" \\".into(),
                threads: 2,
            },
            base: Inputs::default(),
            tokenizer: Inputs::default(),
            adapter: Inputs::default(),
            data: vec![SetFiles::default()],
            prompts: vec![],
            rows: Rows {
                train: 1,
                validation: 0,
                per_epoch: 1,
                blake3: "a".into(),
                order_blake3: "b".into(),
            },
            seeds: Seeds { run: 1, data: 2 },
            config: "checkpoint_dir: \"a b\"\nseed: 1\n".into(),
            notes: vec![],
            result: Outcome {
                steps: 1,
                tokens: 2,
                adapter_sha256: "c".into(),
                losses: Some(Losses {
                    first: 0.1,
                    last: 1.0 / 3.0,
                    validation: None,
                    steps: 1,
                    sha256: "d".into(),
                }),
            },
        }
    }

    fn written() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("a"), b"abc").unwrap();
        super::super::manifest::write(&super::super::disk::Real, home.path()).unwrap();
        example().add_to(home.path()).unwrap();
        let path = home.path().join(NAME);
        (home, path)
    }

    fn changed(from: &str, to: &str) -> String {
        let (_home, path) = written();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        RunManifest::read(&path).unwrap_err().to_string()
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(RunManifest::read(&written().1).unwrap(), example());
    }

    #[test]
    fn the_checkpoint_still_verifies() {
        assert_eq!(super::super::manifest::verify(written().0.path()), Ok(()));
    }

    #[test]
    fn a_flipped_bit_in_the_run_is_no_whole_checkpoint() {
        let (home, path) = written();
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        for place in ["seed: 1", "\"run_sha256\"", "avx2"].iter().filter_map(|p| text.find(p)) {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            fs::write(&path, changed).unwrap();
            assert!(super::super::manifest::verify(home.path()).is_err(), "byte {place}");
        }
    }

    #[test]
    fn a_manifest_without_its_line_breaks_is_the_same() {
        let (_home, path) = written();
        let text = compact(&fs::read_to_string(&path).unwrap());
        fs::write(&path, text).unwrap();
        assert!(RunManifest::read(&path).is_ok());
    }

    #[test]
    fn a_changed_part_is_named() {
        let error = changed("seed: 1", "seed: 2");
        assert!(error.contains("`run.config` was changed after it was written"), "{error}");
        assert!(changed("\"run\": 1,", "\"run\": 3,").contains("`run.seeds` was changed"));
        assert!(changed("\"seeds\": {", "\"sets\": {").contains("`run.seeds` was changed"));
    }

    #[test]
    fn a_newer_format_is_told_before_all_else() {
        let error = changed("\"format\": 1", "\"format\": 2");
        assert!(error.contains("has format 2, this vft knows 1"), "{error}");
        assert!(error.contains("written by vft 0.1.0"), "{error}");
    }

    #[test]
    fn every_truncation_is_refused() {
        let (_home, path) = written();
        let text = fs::read(&path).unwrap();
        for n in 0..text.len() - 2 {
            fs::write(&path, &text[..n]).unwrap();
            assert!(RunManifest::read(&path).is_err(), "{n} bytes");
        }
    }

    #[test]
    fn the_manifest_of_a_checkpoint_is_told() {
        let home = tempfile::tempdir().unwrap();
        super::super::manifest::write(&super::super::disk::Real, home.path()).unwrap();
        let error = RunManifest::read(&home.path().join(NAME)).unwrap_err().to_string();
        assert!(error.contains("of a checkpoint, not of a whole run"), "{error}");
    }
}
