//! A run's manifest as it lies in its file: how it is added to the manifest of the final adapter, read, and its sums compared.

use super::RunManifest;
use crate::checkpoint::atomic::write_file;
use crate::checkpoint::disk::Disk;
use crate::checkpoint::manifest::{MAX_BYTES, NAME};
use crate::error::{Problem, Result, UserError};
use crate::hex::hex;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Counted up when the meaning of a field changes.
const FORMAT: u32 = 1;
const RUN: &str = "run";
const SUMS: &str = "run_sha256";

impl RunManifest {
    /// The version that this program writes.
    pub const FORMAT: u32 = FORMAT;

    /// Adds the run to the manifest of the final adapter in `dir`.
    ///
    /// # Errors
    /// When the manifest cannot be read or written, or would be longer than what is read; it is then what it was.
    pub fn add_to(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
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
        if text.len() as u64 > MAX_BYTES {
            let message = format!("would have {} bytes, more than {MAX_BYTES}", text.len());
            return Err(Problem::in_file(&path, message).into());
        }
        write_file(disk, &path, text.as_bytes())
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
pub(in crate::checkpoint) struct Changed {
    name: String,
    was: Option<String>,
    is: Option<String>,
}

/// Compares the parts of a run with their sums, both as JSON.
pub(in crate::checkpoint) fn changed(run: &str, sums: &str) -> serde_json::Result<Vec<Changed>> {
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
    use super::super::{Inputs, Losses, Machine, Outcome, Program, Rows, Seeds, SetFiles};
    use super::*;
    use crate::checkpoint::disk::Real;
    use crate::checkpoint::manifest;
    use std::path::PathBuf;

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
        manifest::write(&Real, home.path()).unwrap();
        example().add_to(&Real, home.path()).unwrap();
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
        assert_eq!(manifest::verify(written().0.path()).map(drop), Ok(()));
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
            assert!(manifest::verify(home.path()).is_err(), "byte {place}");
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
        manifest::write(&Real, home.path()).unwrap();
        let error = RunManifest::read(&home.path().join(NAME)).unwrap_err().to_string();
        assert!(error.contains("of a checkpoint, not of a whole run"), "{error}");
    }
}
