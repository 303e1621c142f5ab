//! CSV and TSV: a header, then records; RFC 4180's quoting, with line breaks inside quotes.
//!
//! Values stay text: `007` is `007`, and an empty field is empty text, where pandas would make numbers and NaN of them. A column without
//! a name is called as pandas calls it (`Unnamed: 0`: the index that `to_csv` writes).

use super::open::{Text, cut_off};
use super::{Fault, Line, Reader};
use serde_json::{Map, Value};
use std::collections::{HashSet, VecDeque};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known about the bytes that the parser has taken.
#[derive(Default)]
struct Seen {
    /// Bytes that may still be read before a record must end.
    left: usize,
    /// The line of the next byte.
    line: usize,
    /// Whether the next byte that ends no line starts a record, and the lines of records that the parser has not given yet.
    between: bool,
    starts: VecDeque<usize>,
    ended: bool,
    /// The line in which the open quote stands.
    open: Option<usize>,
    state: Quote,
    failed: Option<io::Error>,
}

/// Where the next byte lies.
#[derive(Default, PartialEq)]
enum Quote {
    #[default]
    FieldStart,
    Plain,
    Quoted,
    /// Behind a quote that closes the field, unless another one follows.
    Closing,
}

impl Seen {
    fn pass(&mut self, byte: u8, delimiter: u8) {
        let breaks = matches!(byte, b'\n' | b'\r');
        if self.between && !breaks {
            self.starts.push_back(self.line);
            self.between = false;
        }
        self.state = match (&self.state, byte) {
            (Quote::FieldStart, b'"') => {
                self.open = Some(self.line);
                Quote::Quoted
            }
            (Quote::Quoted, b'"') => Quote::Closing,
            (Quote::Closing, b'"') | (Quote::Quoted, _) => Quote::Quoted,
            (_, b) if b == delimiter || breaks => Quote::FieldStart,
            _ => Quote::Plain,
        };
        self.between |= breaks && self.state == Quote::FieldStart;
        self.line += usize::from(byte == b'\n');
    }
}

/// The bytes of a text on their way to the parser, which holds a record as long as none of its quotes is closed.
struct Watched {
    text: Text,
    delimiter: u8,
    seen: Arc<Mutex<Seen>>,
}

impl Read for Watched {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.left == 0 {
            return Err(io::Error::other("too long"));
        }
        let most = out.len().min(seen.left);
        match self.text.read(&mut out[..most]) {
            Ok(n) => {
                seen.left -= n;
                seen.ended = n == 0;
                out[..n].iter().for_each(|b| seen.pass(*b, self.delimiter));
                Ok(n)
            }
            Err(e) => {
                let kind = e.kind();
                seen.failed = Some(e);
                Err(kind.into())
            }
        }
    }
}

/// Bytes that the parser reads ahead of a record.
const AHEAD: usize = 64 << 10;

/// Columns of a table, and bytes of their names: each row repeats them.
const MAX_COLUMNS: usize = 10_000;
const MAX_HEADER: usize = 1 << 20;

/// A reader of CSV.
pub(super) struct Csv {
    records: csv::Reader<Watched>,
    seen: Arc<Mutex<Seen>>,
    header: Vec<String>,
    record: csv::ByteRecord,
    max: usize,
}

impl Csv {
    pub(super) fn new(text: Text, delimiter: u8, max: usize) -> Result<Self, Fault> {
        let seen = Arc::new(Mutex::new(Seen {
            left: max + AHEAD,
            line: 1,
            between: true,
            ..Seen::default()
        }));
        let watched = Watched { text, delimiter, seen: Arc::clone(&seen) };
        let records = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(AHEAD)
            .from_reader(watched);
        let record = csv::ByteRecord::new();
        let mut csv = Self { records, seen, header: Vec::new(), record, max: max.min(MAX_HEADER) };
        if let Some(line) = csv.record()? {
            let fields = csv.fields(line)?;
            csv.header = header(fields, line)?;
        }
        csv.max = max;
        Ok(csv)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a record and tells the line that it starts in; `None` at the end.
    fn record(&mut self) -> Result<Option<usize>, Fault> {
        self.seen().left = self.max + AHEAD;
        let read = self.records.read_byte_record(&mut self.record);
        let mut seen = self.seen();
        let line = seen.starts.pop_front().unwrap_or(seen.line);
        match read {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(e) => {
                return Err(match (seen.failed.take(), seen.left) {
                    (Some(e), _) => cut_off(&e, seen.line),
                    (None, 0) => Fault { lost: true, ..Fault::too_long(line, self.max) },
                    _ => Fault::file(line, 0, format!("is no CSV: {e}")),
                });
            }
        }
        if seen.ended && seen.state == Quote::Quoted {
            let message = "a quote opens here that nothing closes";
            return Err(Fault::file(seen.open.unwrap_or(line), 0, message)
                .hint("a quote inside a quoted field is written twice: \"\""));
        }
        Ok(Some(line))
    }

    fn fields(&self, line: usize) -> Result<Vec<&str>, Fault> {
        let mut fields = Vec::with_capacity(self.record.len());
        for (i, field) in self.record.iter().enumerate() {
            fields.push(std::str::from_utf8(field).map_err(|_| {
                let number = (i + 1).to_string();
                let name = self.header.get(i).unwrap_or(&number);
                Fault::row(line, 0, format!("the field `{name}` is no UTF-8 text"))
            })?);
        }
        Ok(fields)
    }

    fn row(&mut self) -> Result<Option<Line>, Fault> {
        let Some(line) = self.record()? else { return Ok(None) };
        let fields = self.fields(line)?;
        if fields.len() != self.header.len() {
            let message = format!(
                "the record has {} fields; the header names {}",
                fields.len(),
                self.header.len()
            );
            return Err(Fault::row(line, 0, message)
                .hint("a field that holds the delimiter or a line break is put in double quotes"));
        }
        let cells = self.header.iter().zip(fields);
        let value: Map<String, Value> =
            cells.map(|(name, field)| (name.clone(), Value::String(field.into()))).collect();
        Ok(Some(Line { line, value: Value::Object(value) }))
    }
}

fn header(fields: Vec<&str>, line: usize) -> Result<Vec<String>, Fault> {
    if fields.len() > MAX_COLUMNS {
        let message = format!("the header names more than {MAX_COLUMNS} columns");
        return Err(Fault::file(line, 0, message));
    }
    let mut names: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    for (i, field) in fields.into_iter().enumerate() {
        let name = if field.is_empty() { format!("Unnamed: {i}") } else { field.to_owned() };
        if !seen.insert(name.clone()) {
            let fault = Fault::file(line, 0, format!("the header names the column `{name}` twice"));
            return Err(fault.hint("the first record of a CSV file is its header"));
        }
        names.push(name);
    }
    Ok(names)
}

impl Reader for Csv {
    fn next(&mut self) -> Option<Result<Line, Fault>> {
        self.row().transpose()
    }
}

#[cfg(test)]
mod tests {
    use crate::data::source::{Line, Options, rows_with};
    use crate::error::UserError;
    use serde_json::json;

    fn read(name: &str, text: impl AsRef<[u8]>) -> Vec<Result<Line, UserError>> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        let options = Options { max_row_bytes: 1000, ..Options::default() };
        match rows_with(&path, &options) {
            Ok(rows) => rows.collect(),
            Err(e) => vec![Err(e)],
        }
    }

    fn error(text: impl AsRef<[u8]>) -> String {
        let mut errors = read("a.csv", text).into_iter().filter_map(Result::err);
        let problem = errors.next().unwrap().problems.remove(0);
        assert!(errors.next().is_none());
        format!("{}: {}", problem.place.unwrap().line, problem.message)
    }

    fn lines(text: &str) -> Vec<usize> {
        read("a.csv", text).into_iter().map(|r| r.unwrap().line).collect()
    }

    #[test]
    fn records_know_their_lines() {
        assert_eq!(lines("a,b\n1,\"x\ny\"\n\n2,z\r\n3,\"\"\"\""), [2, 5, 6]);
    }

    #[test]
    fn values_stay_text() {
        let rows = read("a.tsv", "\ta\n0\t007\n");
        assert_eq!(rows[0].as_ref().unwrap().value, json!({"Unnamed: 0": "0", "a": "007"}));
    }

    #[test]
    fn a_short_record_is_placed_and_the_next_one_read() {
        let rows = read("a.csv", "a,b\n1\n2,3\n");
        assert!(
            rows[0].as_ref().unwrap_err().to_string().contains("a.csv:2: the record has 1 fields")
        );
        assert_eq!(rows[1].as_ref().unwrap().line, 3);
    }

    #[test]
    fn a_column_named_twice_is_an_error() {
        assert_eq!(error("a,b,a\n1,2,3\n"), "1: the header names the column `a` twice");
    }

    #[test]
    fn an_open_quote_is_placed() {
        assert_eq!(error("a,b\n1,2\n3,\"x\n4,5\n"), "3: a quote opens here that nothing closes");
    }

    #[test]
    fn an_inch_is_no_open_quote() {
        assert_eq!(lines("a\n5\" pipe\n\"6\"\" pipe\"\n"), [2, 3]);
    }

    #[test]
    fn invalid_utf8_names_the_column() {
        assert_eq!(error(b"a,b\n1,\xff\n"), "2: the field `b` is no UTF-8 text");
    }

    #[test]
    fn a_record_without_end_is_limited() {
        let text = format!("a\n1\n\"{}\"\n", "x".repeat(100_000));
        assert!(error(text).ends_with("longer than 1000 bytes"));
    }
}
