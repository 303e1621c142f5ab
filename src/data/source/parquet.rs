//! Parquet, a row group and a page of each column at a time; `Line::line` is the row's number from 1.
//!
//! Lists, structs and maps become JSON's; null stays null. Times and decimals become text. Bytes without a text annotation are text
//! where they are UTF-8 (old writers left it out), else they are left out: images are nothing to read.
//!
//! Codecs: snappy, gzip, zstd, brotli, lz4, which are all that pyarrow writes. <https://parquet.apache.org/docs/file-format/>

use super::{Fault, Line, Options, Reader, nesting};
use parquet::basic::Compression;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Number, Value};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A reader of Parquet.
pub(super) struct Parquet {
    rows: RowIter<'static>,
    number: usize,
    max: usize,
}

/// The crate panics on some broken files instead of refusing them.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "its parts contradict each other".into()))
    })
}

fn said(error: &parquet::errors::ParquetError) -> String {
    let text = error.to_string();
    text.strip_prefix("Parquet error: ").unwrap_or(&text).to_owned()
}

/// Levels of lists and structs inside each other.
const MAX_LEVELS: usize = 128;

fn open(mut file: File) -> Result<SerializedFileReader<File>, Fault> {
    let whole = |e: String| {
        let fault = Fault::file(0, 0, format!("is no whole Parquet file: {e}"));
        fault.hint("a Parquet file's index is at its end; was it downloaded whole?")
    };
    let levels = nesting::levels(&mut file, MAX_LEVELS).map_err(|e| whole(e.to_string()))?;
    if levels > MAX_LEVELS {
        let message = format!("has a schema that nests deeper than {MAX_LEVELS} levels");
        return Err(Fault::file(0, 0, message));
    }
    let reader =
        guarded(|| SerializedFileReader::new(file).map_err(|e| said(&e))).map_err(whole)?;
    let columns = reader.metadata().row_groups().iter().flat_map(|group| group.columns());
    if columns.into_iter().any(|column| column.compression() == Compression::LZO) {
        let fault = Fault::file(0, 0, "is compressed with LZO, which is not read");
        return Err(fault.hint("write it with another codec, such as zstd"));
    }
    Ok(reader)
}

/// The number of rows that the file says it has.
pub(super) fn count(file: File) -> Result<usize, Fault> {
    let rows = open(file)?.metadata().file_metadata().num_rows();
    Ok(usize::try_from(rows).unwrap_or(0))
}

impl Parquet {
    pub(super) fn open(file: File, options: &Options) -> Result<Self, Fault> {
        let reader = open(file)?;
        let schema = reader.metadata().file_metadata().schema();
        let wanted = options.columns.as_ref().map(|columns| {
            let fields = schema.get_fields().iter();
            fields.filter(|f| columns.iter().any(|c| c == f.name())).cloned().collect::<Vec<_>>()
        });
        // A projection on nothing would read nothing, and no error could name the columns that there are.
        let wanted = wanted.filter(|w| !w.is_empty());
        let projection =
            wanted.map(|w| Type::group_type_builder(schema.name()).with_fields(w).build());
        let rows = guarded(|| {
            let projection = projection.transpose().map_err(|e| said(&e))?;
            RowIter::from_file_into(Box::new(reader)).project(projection).map_err(|e| said(&e))
        });
        let rows =
            rows.map_err(|e| Fault::file(0, 0, format!("has a schema that cannot be read: {e}")))?;
        Ok(Self { rows, number: 0, max: options.max_row_bytes })
    }
}

impl Reader for Parquet {
    fn next(&mut self) -> Option<Result<Line, Fault>> {
        self.number += 1;
        let line = self.number;
        let row = guarded(|| self.rows.next().transpose().map_err(|e| said(&e)));
        match row {
            Err(e) => Some(Err(Fault::file(line, 0, format!("this row cannot be read: {e}")))),
            Ok(None) => None,
            Ok(Some(row)) => {
                let mut left = self.max;
                let value = guarded(|| Ok(object(&row, &mut left)));
                Some(match value {
                    Err(e) => Err(Fault::row(line, 0, format!("this row has no meaning: {e}"))),
                    Ok(None) => {
                        let message = format!("this row is longer than {} bytes", self.max);
                        Err(Fault::row(line, 0, message))
                    }
                    Ok(Some(value)) => Ok(Line { line, value }),
                })
            }
        }
    }
}

/// A row as an object; `None` when it has more bytes than `left`.
fn object(row: &Row, left: &mut usize) -> Option<Value> {
    let mut map = Map::new();
    for (name, field) in row.get_column_iter() {
        if !binary(field) {
            map.insert(name.clone(), value(field, left)?);
        }
    }
    Some(Value::Object(map))
}

/// Whether a field holds bytes that are no text.
fn binary(field: &Field) -> bool {
    matches!(field, Field::Bytes(bytes) if std::str::from_utf8(bytes.data()).is_err())
}

fn value(field: &Field, left: &mut usize) -> Option<Value> {
    let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    let value = match field {
        Field::Null => Value::Null,
        Field::Bool(b) => (*b).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float16(x) => float(x.to_f64()),
        Field::Float(x) => float((*x).into()),
        Field::Double(x) => float(*x),
        Field::Str(text) => text.clone().into(),
        Field::Bytes(bytes) => {
            String::from_utf8(bytes.data().to_vec()).map_or(Value::Null, Value::String)
        }
        Field::Group(row) => return object(row, left),
        Field::ListInternal(list) => {
            list.elements().iter().map(|f| self::value(f, left)).collect::<Option<Vec<_>>>()?.into()
        }
        Field::MapInternal(map) => {
            let mut members = Map::new();
            for (key, field) in map.entries().iter().filter(|(_, f)| !binary(f)) {
                let key = if let Field::Str(text) = key { text.clone() } else { key.to_string() };
                members.insert(key, self::value(field, left)?);
            }
            members.into()
        }
        other => Value::String(other.to_string()),
    };
    *left = left.checked_sub(value.as_str().map_or(8, str::len))?;
    Some(value)
}
