//! Files to a store: rows are read by one thread, parsed and encoded by all, appended in their order.
//!
//! Only a few chunks of rows are in memory at a time, whatever the size of the files.

use super::census::Census;
use super::encode::{Encoder, Fault, Sample};
use super::row::{Columns, Notes, Row, Shape};
use super::source::slice::SplitSlice;
use super::source::{Line, known_rows, rows};
use super::store::{self, Fate, Writer};
use crate::config::OnBadRow;
use crate::error::{Problem, Result, UserError};
use rayon::prelude::*;
use serde_json::Value;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

/// Rows that are encoded at a time.
const CHUNK: usize = 1024;
/// Bytes of rows in memory that are encoded at a time, where they are fewer.
const CHUNK_BYTES: usize = 32 << 20;
/// Chunks that wait.
const WAITING: usize = 4;
/// Problems that are listed before the rest is only counted.
const LISTED: usize = 20;
/// Problems after which reading ends.
const ENOUGH: usize = 1000;

/// The rows to encode.
pub struct Rows<'a> {
    /// The files, in order.
    pub files: &'a [PathBuf],
    /// The part of them that is meant.
    pub slice: Option<&'a SplitSlice>,
    /// Rows to take at most.
    pub most: Option<usize>,
    /// The user's names of columns.
    pub columns: &'a Columns,
    /// What a row does that cannot be used.
    pub on_bad_row: OnBadRow,
}

/// A row as it was read, or what is wrong with it.
struct Item {
    file: u32,
    line: usize,
    row: Result<Line, Problem>,
    /// Whether nothing after it can be read.
    lost: bool,
}

/// A row as it becomes samples.
struct Done {
    file: u32,
    line: usize,
    lost: bool,
    made: Result<(Shape, Notes, Vec<Sample>), Problem>,
}

/// Encodes the rows into `writer` and counts them.
///
/// # Errors
/// When a file cannot be read, rows cannot be used and are not to be skipped, or the store cannot be written.
pub fn ingest(rows: &Rows<'_>, encoder: &Encoder<'_>, writer: &mut Writer) -> Result<Census> {
    let wanted = wanted(rows)?;
    let (send, receive) = sync_channel::<Vec<Item>>(WAITING);
    let (mut census, mut problems, mut more, mut number) = (Census::default(), Vec::new(), 0, 0);
    std::thread::scope(|scope| -> Result<()> {
        // A receiver that goes away ends the reader.
        scope.spawn(|| read(rows, wanted, &send_to(send)));
        for chunk in receive {
            let done: Vec<Done> =
                chunk.into_par_iter().map(|item| encode(item, rows, encoder)).collect();
            for done in done {
                let skip = rows.on_bad_row == OnBadRow::Skip && !done.lost;
                let row = store::Row { number, file: done.file, line: done.line };
                match done.made {
                    Ok((shape, notes, samples)) => {
                        census.row(done.line, shape, notes);
                        for sample in &samples {
                            let kept = census.sample(done.line, sample);
                            writer.push(row, kept.then_some(sample).ok_or(Fate::Untrained))?;
                        }
                        if samples.is_empty() {
                            writer.push(row, Err(Fate::Untrained))?;
                        }
                    }
                    Err(problem) if skip => {
                        census.bad(done.line, &problem.message);
                        writer.push(row, Err(Fate::Bad))?;
                    }
                    Err(problem) if problems.len() < LISTED => problems.push(problem),
                    Err(_) => more += 1,
                }
                number += 1;
            }
            if more > ENOUGH {
                break;
            }
        }
        Ok(())
    })?;
    if more > 0 {
        let text = if more > ENOUGH {
            "and many more rows like these".to_owned()
        } else {
            format!("and {more} more rows like these")
        };
        let path = problems.last().and_then(|p: &Problem| p.place.clone()).map(|p| p.path);
        problems.push(Problem::in_file(path.unwrap_or_default(), text));
    }
    UserError::check(problems)?;
    Ok(census)
}

/// The numbers of the rows that are meant.
fn wanted(rows: &Rows<'_>) -> Result<Range<usize>> {
    let mut range = 0..usize::MAX;
    if let Some(slice) = rows.slice.filter(|s| !s.is_whole()) {
        let mut all: usize = 0;
        for path in rows.files {
            let here = match known_rows(path)? {
                Some(n) => n,
                None => super::source::rows(path)?.count(),
            };
            all = here.saturating_add(all);
        }
        range = slice.range(all);
    }
    if let Some(most) = rows.most {
        range.end = range.end.min(range.start.saturating_add(most));
    }
    Ok(range)
}

/// Sends chunks; false when nobody listens any more.
fn send_to(send: SyncSender<Vec<Item>>) -> impl Fn(Vec<Item>) -> bool {
    move |chunk| send.send(chunk).is_ok()
}

fn read(wanted_rows: &Rows<'_>, wanted: Range<usize>, send: &impl Fn(Vec<Item>) -> bool) {
    let (mut chunk, mut bytes, mut number) = (Vec::with_capacity(CHUNK), 0, 0);
    for (file, path) in wanted_rows.files.iter().enumerate() {
        let file = file as u32;
        let whole = |problem: Problem| Item { file, line: 0, row: Err(problem), lost: true };
        let mut reader = match rows(path) {
            Ok(reader) => reader,
            Err(e) => {
                chunk.extend(e.problems.into_iter().map(whole));
                continue;
            }
        };
        while number < wanted.end {
            let Some(next) = reader.next() else { break };
            number += 1;
            if number <= wanted.start {
                continue;
            }
            let lost = reader.lost();
            match next {
                Ok(row) => {
                    bytes += size(&row.value);
                    chunk.push(Item { file, line: row.line, row: Ok(row), lost });
                }
                Err(e) => {
                    let one = |problem: Problem| {
                        let line = problem.place.as_ref().map_or(0, |p| p.line);
                        Item { file, line, row: Err(problem), lost }
                    };
                    chunk.extend(e.problems.into_iter().map(one));
                }
            }
            if chunk.len() >= CHUNK || bytes >= CHUNK_BYTES {
                bytes = 0;
                if !send(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK))) {
                    return;
                }
            }
        }
    }
    send(chunk);
}

/// The bytes of memory that a value takes, about.
fn size(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(list) => list.iter().map(size).sum(),
            Value::Object(map) => map.iter().map(|(k, v)| 48 + k.len() + size(v)).sum(),
            _ => 0,
        }
}

fn encode(item: Item, rows: &Rows<'_>, encoder: &Encoder<'_>) -> Done {
    let path: &Path = &rows.files[item.file as usize];
    let (file, line, lost) = (item.file, item.line, item.lost);
    let placed = |fault: Fault| {
        let problem = Problem::at(path, line, 0, fault.message);
        Problem { hint: fault.hint, ..problem }
    };
    let made = item.row.and_then(|row| {
        let parsed = Row::parse(&row.value, rows.columns).map_err(|m| placed(m.into()))?;
        let (shape, notes) = (parsed.shape, parsed.notes);
        let samples = encoder.samples(parsed).map_err(placed)?;
        Ok((shape, notes, samples))
    });
    Done { file, line, lost, made }
}
