//! What tells the weights of two model directories apart without reading all of them: `config.json`, and of each safetensors file its
//! name, its size, its first and last MiB (the header with all names, shapes and offsets lies in the first).

use crate::error::{Problem, Result};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

const PART: u64 = 1 << 20;

/// The fingerprint in hexadecimal digits.
///
/// # Errors
/// When a file cannot be read.
pub fn fingerprint(dir: &Path) -> Result<String> {
    let failed =
        |path: &Path, e: std::io::Error| Problem::in_file(path, format!("cannot be read: {e}"));
    let mut hash = blake3::Hasher::new();
    let config = dir.join("config.json");
    hash.update(&fs::read(&config).map_err(|e| failed(&config, e))?);
    let entries = fs::read_dir(dir).map_err(|e| failed(dir, e))?;
    let mut files: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    files.sort();
    for path in files {
        let mut read = || -> std::io::Result<()> {
            let mut file = File::open(&path)?;
            let bytes = file.metadata()?.len();
            hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update(&bytes.to_le_bytes());
            let mut part = Vec::new();
            (&file).take(PART).read_to_end(&mut part)?;
            file.seek(SeekFrom::Start(bytes.saturating_sub(PART)))?;
            (&file).take(PART).read_to_end(&mut part)?;
            hash.update(&part);
            Ok(())
        };
        read().map_err(|e| failed(&path, e))?;
    }
    Ok(hash.finalize().to_hex().to_string())
}
