//! `manifest.json`: what a checkpoint consists of, with the SHA-256 of each file. It is written last; a checkpoint without it, or that
//! differs from it in a byte, is none. That of a finished run tells of the run too ([`super::run_manifest`]).

use super::atomic::io_problem;
use super::disk::Disk;
use super::run_manifest;
use crate::error::{Problem, Result};
use crate::hex::hex;
use crate::small_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// The manifest's own name.
pub const NAME: &str = "manifest.json";
/// Counted up when the meaning of a field changes, and that of `run_state.json` with it: one that differs alone is a damaged one.
const VERSION: u32 = 1;
/// Files that a manifest may name.
const MOST: usize = 1000;
/// Bytes that a manifest may have; that of a final adapter names all files of the run ([`super::run_manifest`]).
pub const MAX_BYTES: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
struct Manifest {
    version: u32,
    files: BTreeMap<String, Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run_sha256: Option<Box<RawValue>>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// The SHA-256 of a file in hexadecimal digits, and its size.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> io::Result<(String, u64)> {
    let (mut file, mut hash, mut bytes) = (File::open(path)?, Sha256::new(), 0);
    let mut block = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut block)?;
        if n == 0 {
            break;
        }
        hash.update(&block[..n]);
        bytes += n as u64;
    }
    Ok((hex(&hash.finalize()), bytes))
}

/// Writes the manifest of all files in `dir`.
///
/// # Errors
/// When a file cannot be read or the manifest not written.
pub fn write(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|e| io_problem(dir, &e))? {
        let path = entry.map_err(|e| io_problem(dir, &e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != NAME {
            let (sha256, bytes) = sha256(&path).map_err(|e| io_problem(&path, &e))?;
            files.insert(name, Entry { bytes, sha256 });
        }
    }
    let path = dir.join(NAME);
    let text = serde_json::to_string_pretty(&Manifest {
        version: VERSION,
        files,
        run: None,
        run_sha256: None,
    });
    let text = text.map_err(|e| Problem::in_file(&path, format!("cannot be written: {e}")))?;
    disk.write(&path, (text + "\n").as_bytes()).map_err(|e| io_problem(&path, &e))
}

/// Why a directory is no checkpoint to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is not what was written: an older one takes its place.
    Damaged(String),
    /// It may be whole, but cannot be read here, or not by this version: nothing may take its place.
    Unknown(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Damaged(why) | Self::Unknown(why)) = self;
        f.write_str(why)
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Damaged(why)
    }
}

/// A file that cannot be read: who may not read it, whose server has gone or who has no memory for it does not know what it holds.
fn unreadable(what: &str, error: &io::Error) -> Fault {
    use io::ErrorKind::{
        FileTooLarge, InvalidData, InvalidInput, IsADirectory, NotADirectory, NotFound,
        UnexpectedEof,
    };
    /// Of a disk that has lost the bytes.
    const EIO: i32 = 5;
    let why = format!("{what} cannot be read: {error}");
    match error.kind() {
        NotFound | NotADirectory | IsADirectory | InvalidInput | InvalidData | FileTooLarge
        | UnexpectedEof => Fault::Damaged(why),
        _ if error.raw_os_error() == Some(EIO) => Fault::Damaged(why),
        _ => Fault::Unknown(why),
    }
}

/// The names of the files of `dir`, all of them as its manifest says.
///
/// # Errors
/// The first difference.
pub fn verify(dir: &Path) -> Result<BTreeSet<String>, Fault> {
    let path = dir.join(NAME);
    let size = match fs::metadata(&path) {
        Ok(data) => data.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Fault::Damaged("it has no manifest.json".into()));
        }
        Err(e) => return Err(unreadable("its manifest.json", &e)),
    };
    if size > MAX_BYTES {
        return Err(format!("its manifest.json has {size} bytes").into());
    }
    let text =
        small_file::bytes(&path, MAX_BYTES).map_err(|e| unreadable("its manifest.json", &e))?;
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|e| format!("its manifest.json is no manifest: {e}"))?;
    if manifest.version != VERSION {
        return Err(format!(
            "its manifest has version {}, this vft knows {VERSION}",
            manifest.version
        )
        .into());
    }
    if let Some(run) = &manifest.run {
        let sums = manifest.run_sha256.as_deref().map_or("{}", RawValue::get);
        let changed = run_manifest::changed(run.get(), sums);
        if !changed.is_ok_and(|parts| parts.is_empty()) {
            return Err("its manifest.json tells of the run other than was written"
                .to_owned()
                .into());
        }
    }
    if manifest.files.len() > MOST {
        return Err(format!("its manifest names {} files", manifest.files.len()).into());
    }
    // A name that comes twice, an unknown field, a blank more: none of it was written so.
    if serde_json::to_string_pretty(&manifest).is_ok_and(|t| t.as_bytes() != text.trim_ascii_end())
        || !text.ends_with(b"}\n")
    {
        return Err("its manifest.json has other bytes than were written".to_owned().into());
    }
    for (name, entry) in &manifest.files {
        let plain = Path::new(name).file_name().is_some_and(|f| f == name.as_str());
        if !plain {
            return Err(format!("its manifest names `{}`", name.escape_default()).into());
        }
        let file = dir.join(name);
        let found = fs::metadata(&file).map_err(|e| unreadable(&format!("`{name}`"), &e))?;
        if !found.is_file() {
            return Err(format!("`{name}` is no file").into());
        }
        let size = found.len();
        if size != entry.bytes {
            return Err(format!("`{name}` has {size} bytes instead of {}", entry.bytes).into());
        }
        let (digits, _) = sha256(&file).map_err(|e| unreadable(&format!("`{name}`"), &e))?;
        if digits != entry.sha256 {
            return Err(format!("`{name}` has other bytes than were written").into());
        }
    }
    Ok(manifest.files.into_keys().collect())
}

/// Whether `dir` has a manifest of a later version, which is right about the file `name`.
pub(super) fn is_later(dir: &Path, name: &str) -> bool {
    let text = small_file::bytes(&dir.join(NAME), MAX_BYTES).unwrap_or_default();
    let Ok(manifest) = serde_json::from_slice::<Value>(&text) else { return false };
    if manifest["version"].as_u64() <= Some(VERSION.into()) {
        return false;
    }
    let path = dir.join(name);
    let sum = small_file::expect_regular(&path).and_then(|()| sha256(&path)).map(|(sum, _)| sum);
    sum.is_ok_and(|sum| manifest["files"][name]["sha256"].as_str() == Some(&sum))
}

#[cfg(test)]
mod tests {
    use super::super::disk::Real;
    use super::*;

    fn checkpoint() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("a"), b"abc").unwrap();
        fs::write(home.path().join("b"), b"").unwrap();
        write(&Real, home.path()).unwrap();
        home
    }

    #[test]
    fn what_was_written_verifies() {
        assert_eq!(verify(checkpoint().path()).map(drop), Ok(()));
    }

    #[test]
    fn the_hash_is_that_of_sha256sum() {
        let home = checkpoint();
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&home.path().join("a")).unwrap(), (want.to_owned(), 3));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let home = checkpoint();
        for name in ["a", NAME] {
            let path = home.path().join(name);
            let bytes = fs::read(&path).unwrap();
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, &changed).unwrap();
                assert!(verify(home.path()).is_err(), "bit {bit} of {name}");
            }
            fs::write(&path, &bytes).unwrap();
        }
    }

    #[test]
    fn a_blank_more_in_the_manifest_is_seen() {
        let home = checkpoint();
        let path = home.path().join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        for changed in [text.clone() + "\n", text.replacen(": ", ":  ", 1), text.replace('\n', "")]
        {
            fs::write(&path, changed).unwrap();
            assert!(
                verify(home.path())
                    .unwrap_err()
                    .to_string()
                    .contains("manifest.json has other bytes")
            );
        }
    }

    #[test]
    fn a_directory_in_the_place_of_a_file_is_seen() {
        let home = checkpoint();
        fs::remove_file(home.path().join("b")).unwrap();
        fs::create_dir(home.path().join("b")).unwrap();
        assert_eq!(verify(home.path()), Err(Fault::Damaged("`b` is no file".into())));
    }

    #[test]
    fn a_missing_file_is_seen() {
        let home = checkpoint();
        fs::remove_file(home.path().join("b")).unwrap();
        assert!(verify(home.path()).unwrap_err().to_string().contains("`b`"));
    }

    #[test]
    fn a_name_that_leaves_the_directory_is_refused() {
        let home = checkpoint();
        let path = home.path().join(NAME);
        let text = fs::read_to_string(&path).unwrap().replace("\"a\"", "\"../a\"");
        fs::write(&path, text).unwrap();
        assert!(verify(home.path()).unwrap_err().to_string().contains("../a"));
    }
}
