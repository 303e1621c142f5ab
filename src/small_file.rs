//! Files that are read whole because they are small: one that is longer than any of its kind is refused before it is in memory, and what is
//! no regular file before it is opened, because a pipe or a device would keep its reader waiting.

use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Read};
use std::path::Path;

/// Bytes of a file that people write or that describes something: a config, a manifest's neighbours.
pub const DESCRIPTION: u64 = 16 << 20;
/// Bytes of a tokenizer; the largest vocabularies take 35 MB.
pub const TOKENIZER: u64 = 256 << 20;

/// Nothing, for a regular file.
///
/// # Errors
/// When it is another thing, or none.
pub fn expect_regular(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_file() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "it is no regular file"))
}

/// The bytes of a regular file that has at most `most`.
///
/// # Errors
/// When the file cannot be read or is longer.
pub fn bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    expect_regular(path)?;
    bytes_of_any(path, most)
}

/// The same of what a user names, which may be a pipe: `--config <(…)`.
///
/// # Errors
/// As [`bytes`].
pub fn bytes_of_any(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let known = file.metadata()?.len();
    let mut bytes = Vec::new();
    // What is no regular file has no length that is known before.
    if known <= most {
        file.take(most + 1).read_to_end(&mut bytes)?;
    }
    if known > most || bytes.len() as u64 > most {
        let message = format!("it is longer than {most} bytes");
        return Err(Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// The text of a regular file that has at most `most` bytes.
///
/// # Errors
/// When the file cannot be read, is longer, or is no UTF-8 text.
pub fn text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(bytes(path, most)?).map_err(|e| Error::new(ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_refused() {
        let error = bytes_of_any(Path::new("/dev/zero"), 1000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_device_is_no_regular_file() {
        let error = bytes(Path::new("/dev/zero"), 1000).unwrap_err();
        assert_eq!(error.to_string(), "it is no regular file");
    }

    #[test]
    fn a_file_of_the_greatest_length_is_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        std::fs::write(&path, [b'a'; 10]).unwrap();
        assert_eq!(text(&path, 10).unwrap(), "aaaaaaaaaa");
    }
}
