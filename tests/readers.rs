//! Every reader against `datasets` on the same files, and files that are broken. Cases: `scripts/fixtures/readers.py`.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use vft::data::source::slice::SplitSlice;
use vft::data::source::splits::{discover, split_files};
use vft::data::source::{Line, Options, known_rows, rows, rows_with};
use vft::error::UserError;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/readers")
}

fn expected(kind: &str) -> Value {
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("expected.json")).unwrap()).unwrap();
    json[kind].take()
}

fn read(path: &Path) -> Vec<Line> {
    rows(path).unwrap().map(|row| row.unwrap()).collect()
}

/// Whether two values are the same to a reader of rows: a null member is an absent one, since `datasets` gives every row every column.
fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let null = &Value::Null;
            let keys = a.keys().chain(b.keys());
            keys.into_iter().all(|k| same(a.get(k).unwrap_or(null), b.get(k).unwrap_or(null)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Number(a), Value::Number(b)) => a == b,
        _ => ours == theirs,
    }
}

#[test]
fn rows_are_those_of_datasets() {
    for (name, theirs) in expected("files").as_object().unwrap() {
        let ours = read(&fixtures().join("files").join(name));
        let theirs = theirs.as_array().unwrap();
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!(same(&ours.value, theirs), "{name}:{}\n{}\n{theirs}", ours.line, ours.value);
        }
    }
}

#[test]
fn splits_are_those_of_datasets() {
    for (dir, configs) in expected("dirs").as_object().unwrap() {
        for (config, theirs) in configs.as_object().unwrap() {
            let config_name = Some(config.as_str()).filter(|c| !c.is_empty());
            let ours = discover(&fixtures().join("dirs").join(dir), config_name).unwrap().splits;
            let names: Vec<_> = ours.keys().collect();
            let mut expected: Vec<_> = theirs.as_object().unwrap().keys().collect();
            expected.sort();
            assert_eq!(names, expected, "{dir} {config}");
            for (split, files) in &ours {
                let texts: Vec<Value> = files
                    .iter()
                    .flat_map(|f| read(f))
                    .map(|row| row.value["text"].clone())
                    .collect();
                assert_eq!(Value::Array(texts), theirs[split], "{dir} {config} {split}");
            }
        }
    }
}

#[test]
fn slices_are_those_of_datasets() {
    for case in expected("slices").as_array().unwrap() {
        let (spec, n) = (case[0].as_str().unwrap(), case[1].as_u64().unwrap() as usize);
        let (from, to) = (case[2].as_u64().unwrap() as usize, case[3].as_u64().unwrap() as usize);
        let ours = SplitSlice::parse(spec).unwrap().range(n);
        // Where `datasets` ends a part before its start, both are empty.
        assert_eq!(ours, from..to.max(from), "{spec} of {n}");
    }
}

#[test]
fn a_repositorys_names_are_split_like_its_directory() {
    let names = ["main/train-0.jsonl", "main/held1.jsonl", "main/heldx.jsonl"].map(str::to_owned);
    let readme = std::fs::read_to_string(fixtures().join("dirs/readme/README.md")).unwrap();
    let splits = split_files(&names, Some(&readme), Some("main")).unwrap().splits;
    assert_eq!(splits["test"], ["main/held1.jsonl"]);
}

#[test]
fn a_parquet_file_knows_its_rows() {
    let known = known_rows(&fixtures().join("files/groups.parquet")).unwrap();
    assert_eq!(known, Some(12));
}

#[test]
fn parquet_rows_are_numbered_across_row_groups() {
    let rows = read(&fixtures().join("files/groups.parquet"));
    assert_eq!(rows.iter().map(|r| r.line).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
}

#[test]
fn only_named_columns_of_parquet_are_read() {
    let options = Options { columns: Some(vec!["n".into(), "x".into()]), ..Options::default() };
    let path = fixtures().join("files/snappy.parquet");
    let first = rows_with(&path, &options).unwrap().next().unwrap().unwrap();
    assert_eq!(first.value, serde_json::json!({"n": 1}));
}

/// The rows before the first error of a file with these bytes, and the error.
fn broken(name: &str, bytes: &[u8], max_row_bytes: usize) -> (usize, UserError) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let mut rows = match rows_with(&path, &Options { max_row_bytes, ..Options::default() }) {
        Ok(rows) => rows,
        Err(e) => return (0, e),
    };
    let mut read = 0;
    loop {
        match rows.next().unwrap() {
            Ok(_) => read += 1,
            Err(e) => {
                assert!(rows.lost(), "{e}");
                return (read, e);
            }
        }
    }
}

/// Bytes that do not compress well, as rows.
fn noise() -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state
    };
    (0..20_000).flat_map(|_| format!("{{\"a\":{}}}\n", next()).into_bytes()).collect()
}

#[test]
fn texts_cut_off_anywhere_give_their_first_rows() {
    let home = tempfile::tempdir().unwrap();
    for name in
        ["list.json", "wrapped.json", "lines.json", "lines.jsonl", "crlf.jsonl", "quoted.csv"]
    {
        let whole = read(&fixtures().join("files").join(name));
        let bytes = std::fs::read(fixtures().join("files").join(name)).unwrap();
        let path = home.path().join(name);
        for end in (0..bytes.len()).step_by(5) {
            std::fs::write(&path, &bytes[..end]).unwrap();
            let Ok(cut) = rows(&path) else { continue };
            let mut cut: Vec<Line> = cut.map_while(|row| row.ok()).collect();
            // A record whose last field is not quoted ends wherever its file does.
            if name.ends_with(".csv") {
                cut.pop();
            }
            assert_eq!(cut, whole[..cut.len()], "{name} {end}");
        }
    }
}

#[test]
fn a_gzip_file_that_is_cut_off_says_so() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&noise()).unwrap();
    let bytes = gzip.finish().unwrap();
    let (read, error) = broken("a.jsonl.gz", &bytes[..bytes.len() / 2], 1 << 20);
    assert!(read > 1000);
    assert!(error.to_string().contains("the compressed file is cut off here"), "{error}");
    let line = error.problems[0].place.as_ref().unwrap().line;
    assert_eq!(line, read + 1);
}

#[test]
fn a_zstd_file_that_is_cut_off_says_so() {
    let bytes = zstd::encode_all(noise().as_slice(), 3).unwrap();
    let (_, error) = broken("a.jsonl.zst", &bytes[..bytes.len() / 2], 1 << 20);
    assert!(error.to_string().contains("the compressed file is cut off here"), "{error}");
}

#[test]
fn a_gzip_file_under_a_plain_name_is_read() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.jsonl");
    std::fs::copy(fixtures().join("files/lines.jsonl.gz"), &path).unwrap();
    assert_eq!(read(&path).len(), 7);
}

#[test]
fn a_parquet_file_that_is_cut_off_says_so() {
    let bytes = std::fs::read(fixtures().join("files/snappy.parquet")).unwrap();
    let (_, error) = broken("a.parquet", &bytes[..bytes.len() - 100], 1 << 20);
    assert!(error.to_string().contains("a.parquet: is no whole Parquet file"), "{error}");
}

#[test]
fn damaged_parquet_files_end_in_errors_or_rows() {
    let bytes = std::fs::read(fixtures().join("files/none.parquet")).unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.parquet");
    let mut refused = 0;
    for at in (4..bytes.len()).step_by(3) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&path, damaged).unwrap();
        let wrong = rows(&path).map_or(true, |mut rows| rows.any(|row| row.is_err()));
        refused += usize::from(wrong);
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_codec_that_is_not_read_is_named_before_any_row() {
    // A column's path and its codec in Thrift's compact protocol: snappy is 1, LZO 3, and zigzag doubles them.
    const PLACE: &[u8] = b"\x19\x18\x04text\x15\x02";
    let mut bytes = std::fs::read(fixtures().join("dirs/kinds/one.parquet")).unwrap();
    let at = bytes.windows(PLACE.len()).position(|part| part == PLACE).unwrap();
    bytes[at + PLACE.len() - 1] = 6;
    let (rows, error) = broken("a.parquet", &bytes, 1 << 20);
    assert_eq!(rows, 0);
    let error = error.to_string();
    assert!(error.contains("a.parquet: is compressed with LZO"), "{error}");
}

#[test]
fn a_parquet_schema_nested_without_end_is_refused() {
    // FileMetaData in Thrift's compact protocol: version, schema, no rows, no row groups.
    const LEVELS: u32 = 100_000;
    let mut footer = b"\x15\x04\x19\xfc".to_vec();
    let mut n = LEVELS + 1;
    while n >= 0x80 {
        footer.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    footer.push(n as u8);
    for _ in 0..LEVELS {
        footer.extend(b"\x35\x00\x18\x01a\x15\x02\x00");
    }
    footer.extend(b"\x15\x02\x25\x00\x18\x01a\x00\x16\x00\x19\x0c\x00");
    let mut bytes = b"PAR1".to_vec();
    let length = footer.len() as u32;
    bytes.extend(footer);
    bytes.extend(length.to_le_bytes());
    bytes.extend(b"PAR1");
    let (_, error) = broken("a.parquet", &bytes, 1 << 20);
    assert!(error.to_string().contains("nests deeper than"), "{error}");
}

#[test]
fn rows_that_are_too_long_are_refused() {
    let bytes = std::fs::read(fixtures().join("files/snappy.parquet")).unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.parquet");
    std::fs::write(&path, bytes).unwrap();
    let options = Options { max_row_bytes: 200, ..Options::default() };
    let found: Vec<bool> = rows_with(&path, &options).unwrap().map(|r| r.is_ok()).take(4).collect();
    assert_eq!(found, [true, true, false, true]);
}

#[test]
fn json_nested_without_end_is_an_error() {
    let deep = format!("[{}", "[".repeat(100_000));
    let (_, error) = broken("a.json", deep.as_bytes(), 1 << 20);
    assert!(error.to_string().contains("a.json:1:100002: the text ends inside"), "{error}");
}

#[test]
fn json_nested_deeply_is_an_error() {
    let deep = format!("{{\"a\":{}{}}}\n", "[".repeat(100_000), "]".repeat(100_000));
    let home = tempfile::tempdir().unwrap();
    for name in ["a.jsonl", "a.json"] {
        let path = home.path().join(name);
        std::fs::write(&path, &deep).unwrap();
        let error = rows(&path).unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("is no valid JSON: recursion limit exceeded"), "{error}");
    }
}

#[test]
fn a_line_of_many_megabytes_is_read() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.jsonl");
    let long = "x".repeat(12 << 20);
    std::fs::write(&path, format!("{{\"a\":\"{long}\"}}\n{{}}\n")).unwrap();
    assert_eq!(read(&path).len(), 2);
}

#[test]
fn what_is_no_data_is_told_apart() {
    let cases: [(&str, &[u8], &str); 6] = [
        ("a.jsonl", b"PK\x03\x04rest", "is a zip archive"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("a.json", b"<!DOCTYPE html>", "is a web page"),
        ("a.jsonl", b"\xff\xfe{\0", "is UTF-16 text"),
        ("a.parquet", b"{}", "is no Parquet file"),
        ("a.rows", b"\x01\x02", "is no data file by its name"),
    ];
    for (name, bytes, message) in cases {
        let (_, error) = broken(name, bytes, 1 << 20);
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn a_directory_without_data_says_what_is_known() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("notes.md"), "x").unwrap();
    let error = discover(home.path(), None).unwrap_err().to_string();
    assert!(error.contains("holds no data files; known are .json, .jsonl"), "{error}");
}

#[test]
fn the_documentation_lists_every_shape() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/data.md"));
    let text = text.unwrap();
    let listed: Vec<_> =
        text.lines().filter_map(|l| l.strip_prefix("| ")?.strip_suffix(" |")).collect();
    let from = listed.iter().position(|l| *l == "shape").unwrap() + 1;
    let shapes: Vec<_> = vft::data::row::Shape::all().collect();
    assert_eq!(listed[from..from + shapes.len()], shapes);
}
