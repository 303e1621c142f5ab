//! What a file is: by its first bytes where they tell, else by its name.

use super::csv::Csv;
use super::json::Json;
use super::parquet::{self, Parquet};
use super::scan::Scan;
use super::{Fault, Line, Options, Reader};
use serde_json::json;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

/// Bytes that are looked at to tell what a file is.
const HEAD: usize = 512;
const BUFFER: usize = 256 << 10;

pub(super) type Text = Box<dyn BufRead + Send>;

/// How rows lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Format {
    Parquet,
    Lines,
    Json,
    Csv,
    Tsv,
    Text,
}

const EXTENSIONS: &[(&str, Format)] = &[
    ("parquet", Format::Parquet),
    ("jsonl", Format::Lines),
    ("ndjson", Format::Lines),
    ("json", Format::Json),
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("txt", Format::Text),
];

/// First bytes of what is no data yet, and what to do about it.
const OTHERS: &[(&[u8], &str, &str)] = &[
    (b"PK\x03\x04", "is a zip archive", "unpack it and name the file inside"),
    (b"\xfd7zXZ\0", "is compressed with xz", "unpack it, or compress it with gzip or zstd"),
    (b"BZh", "is compressed with bzip2", "unpack it, or compress it with gzip or zstd"),
    (b"7z\xbc\xaf", "is a 7z archive", "unpack it and name the file inside"),
    (b"ARROW1", "is an Arrow file", "write it as Parquet: `load_from_disk(DIR).to_parquet(FILE)`"),
    (
        b"\xff\xff\xff\xff",
        "is an Arrow stream",
        "write it as Parquet: `load_from_disk(DIR).to_parquet(FILE)`",
    ),
    (b"\xff\xfe", "is UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "is UTF-16 text", "save it as UTF-8"),
    (
        b"version https://git-lfs",
        "is a pointer of Git LFS, not the data",
        "fetch the data itself: `git lfs pull`",
    ),
    (
        b"<!DOCTYPE",
        "is a web page, not data",
        "download the raw file (`resolve`, not `blob`, on the Hub)",
    ),
    (
        b"<!doctype",
        "is a web page, not data",
        "download the raw file (`resolve`, not `blob`, on the Hub)",
    ),
    (
        b"<html",
        "is a web page, not data",
        "download the raw file (`resolve`, not `blob`, on the Hub)",
    ),
];

/// What a name says: the format, if its extension is known, with or without one of compression.
pub(super) fn format_of(name: &str) -> Option<Format> {
    let lower = name.to_lowercase();
    let plain = [".gz", ".zst"].iter().find_map(|end| lower.strip_suffix(end));
    let (_, extension) = plain.unwrap_or(&lower).rsplit_once('.')?;
    let format = EXTENSIONS.iter().find(|(e, _)| *e == extension)?.1;
    (plain.is_none() || format != Format::Parquet).then_some(format)
}

/// The extensions that are read, for messages.
pub(super) const KNOWN: &str =
    ".json, .jsonl, .ndjson, .csv, .tsv, .parquet, .txt, and .gz or .zst of them";

fn open(path: &Path) -> Result<File, Fault> {
    let failed = |e: io::Error| Fault::file(0, 0, format!("cannot be read: {e}"));
    // A pipe or a device would keep the reader waiting.
    if path.exists() && !path.is_file() {
        let what = if path.is_dir() { "is a directory, not a file" } else { "is no regular file" };
        return Err(Fault::file(0, 0, what));
    }
    File::open(path).map_err(failed)
}

/// Up to [`HEAD`] bytes, which stay to be read.
fn head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

pub(super) fn known_rows(path: &Path) -> Result<Option<usize>, Fault> {
    let mut file = open(path)?;
    if !head(&mut file).is_ok_and(|h| h.starts_with(b"PAR1")) {
        return Ok(None);
    }
    parquet::count(file).map(Some)
}

pub(super) fn reader(path: &Path, options: &Options) -> Result<Box<dyn Reader>, Fault> {
    let failed = |e: io::Error| Fault::file(0, 0, format!("cannot be read: {e}"));
    let mut file = open(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut first = head(&mut file).map_err(failed)?;
    if first.starts_with(b"PAR1") {
        return Ok(Box::new(Parquet::open(file, options)?));
    }
    let gzip = first.starts_with(b"\x1f\x8b");
    let zstd = first.starts_with(b"\x28\xb5\x2f\xfd");
    file.rewind().map_err(failed)?;
    let file = BufReader::with_capacity(BUFFER, file);
    let text: Text = if gzip {
        Box::new(BufReader::with_capacity(BUFFER, flate2::bufread::MultiGzDecoder::new(file)))
    } else if zstd {
        let decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(failed)?;
        Box::new(BufReader::with_capacity(BUFFER, decoder))
    } else {
        Box::new(file)
    };
    let mut text = text;
    first = head(&mut text).map_err(|e| cut_off(&e, 0))?;
    if let Some((_, what, hint)) = OTHERS.iter().find(|(magic, ..)| first.starts_with(magic)) {
        return Err(Fault::file(0, 0, *what).hint(*hint));
    }
    if first.starts_with(b"PAR1") {
        let fault = Fault::file(0, 0, "is Parquet inside another compression");
        return Err(fault.hint("unpack it; Parquet is compressed in itself"));
    }
    let format = format_of(&name);
    if format == Some(Format::Parquet) && !first.is_empty() {
        let fault = Fault::file(0, 0, "is no Parquet file: it does not start with `PAR1`");
        return Err(fault.hint("was it downloaded whole?"));
    }
    let bom = if first.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let start = first[bom..].iter().copied().find(|b| !b.is_ascii_whitespace());
    let rest: Text = Box::new(Cursor::new(first.split_off(bom)).chain(text));
    let max = options.max_row_bytes;
    match format {
        Some(Format::Json | Format::Lines) => {
            let lines = format == Some(Format::Lines);
            Ok(Box::new(Json::new(Scan::new(rest, max), lines)))
        }
        Some(Format::Csv) => Ok(Box::new(Csv::new(rest, b',', max)?)),
        Some(Format::Tsv) => Ok(Box::new(Csv::new(rest, b'\t', max)?)),
        Some(Format::Text) => Ok(Box::new(Document(Some(Scan::new(rest, options.max_text_bytes))))),
        Some(Format::Parquet) => Err(Fault::file(0, 0, "is empty, so no Parquet file")),
        None if matches!(start, Some(b'{' | b'[')) => {
            Ok(Box::new(Json::new(Scan::new(rest, max), false)))
        }
        None => {
            let fault = Fault::file(0, 0, "is no data file by its name, nor by its first bytes");
            Err(fault.hint(format!("known are {KNOWN}")))
        }
    }
}

/// What went wrong in reading on after `line` lines.
pub(super) fn cut_off(error: &io::Error, line: usize) -> Fault {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            let fault = Fault::file(line, 0, "the compressed file is cut off here");
            fault.hint("it was not downloaded or copied whole")
        }
        _ => Fault::file(line, 0, format!("cannot be read further: {error}")),
    }
}

/// A text file: one row.
struct Document(Option<Scan>);

impl Reader for Document {
    fn next(&mut self) -> Option<Result<Line, Fault>> {
        let mut scan = self.0.take()?;
        let text = match scan.document() {
            Ok(text) => text,
            Err(fault) => return Some(Err(fault)),
        };
        // Python's universal newlines.
        let text =
            if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text };
        (!text.trim().is_empty()).then(|| Ok(Line { line: 1, value: json!({"text": text}) }))
    }
}
