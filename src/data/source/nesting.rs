//! How deep the schema of a Parquet file nests, found without recursion: the parquet crate builds its tree by recursion, and a file that
//! nests without end would overflow the stack.
//!
//! The file ends with its metadata, their length (u32) and `PAR1`. The metadata are a struct of Thrift's compact protocol whose field 2
//! is the schema: its nodes in depth-first order, each with the number of its children in field 5.
//! <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift> ·
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// Levels of values inside each other in the metadata.
const MAX_INSIDE: usize = 32;

const STOP: u8 = 0;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The levels of the schema of `file`, counted no further than `most` + 1; 0 when the file has no metadata.
pub(super) fn levels(file: &mut File, most: usize) -> io::Result<usize> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut tail = [0; 8];
    if end < 12 {
        return Ok(0);
    }
    file.seek(SeekFrom::Start(end - 8))?;
    file.read_exact(&mut tail)?;
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if tail[4..] != *b"PAR1" || length > end - 8 {
        return Ok(0);
    }
    file.seek(SeekFrom::Start(end - 8 - length))?;
    let mut thrift = Thrift(BufReader::new(file.take(length)));
    let mut id = 0;
    loop {
        let kind = thrift.field(&mut id)?;
        match (kind, id) {
            (STOP, _) => return Ok(0),
            (LIST, 2) => return thrift.schema(most),
            _ => thrift.skip(kind, false, 0)?,
        }
    }
}

struct Thrift<R>(R);

impl<R: Read> Thrift<R> {
    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(wrong("a number of its metadata is too long"))
    }

    fn signed(&mut self) -> io::Result<i64> {
        let zigzag = self.number()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    /// The kind of a struct's next field, whose number `id` becomes.
    fn field(&mut self, id: &mut i64) -> io::Result<u8> {
        let head = self.byte()?;
        if head & 15 != STOP {
            let step = i64::from(head >> 4);
            *id = if step == 0 { self.signed()? } else { id.wrapping_add(step) };
        }
        Ok(head & 15)
    }

    /// A list's kind of items and their number.
    fn list(&mut self) -> io::Result<(u8, u64)> {
        let head = self.byte()?;
        let n = if head >> 4 == 15 { self.number()? } else { u64::from(head >> 4) };
        Ok((head & 15, n))
    }

    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        let passed = io::copy(&mut (&mut self.0).take(bytes), &mut io::sink())?;
        if passed == bytes { Ok(()) } else { Err(wrong("its metadata are cut off")) }
    }

    /// Passes over a value; truth values have a byte of their own only as items.
    fn skip(&mut self, kind: u8, item: bool, inside: usize) -> io::Result<()> {
        if inside > MAX_INSIDE {
            return Err(wrong("its metadata nest too deeply"));
        }
        match kind {
            1 | 2 if !item => Ok(()),
            1..=3 => self.pass(1),
            4..=6 => self.number().map(|_| ()),
            7 => self.pass(8),
            BINARY => {
                let bytes = self.number()?;
                self.pass(bytes)
            }
            LIST | SET => {
                let (kind, n) = self.list()?;
                (0..n).try_for_each(|_| self.skip(kind, true, inside + 1))
            }
            MAP => {
                let n = self.number()?;
                let kinds = if n == 0 { 0 } else { self.byte()? };
                (0..n).try_for_each(|_| {
                    self.skip(kinds >> 4, true, inside + 1)?;
                    self.skip(kinds & 15, true, inside + 1)
                })
            }
            STRUCT => {
                let mut id = 0;
                loop {
                    match self.field(&mut id)? {
                        STOP => return Ok(()),
                        kind => self.skip(kind, false, inside + 1)?,
                    }
                }
            }
            13 => self.pass(16),
            _ => Err(wrong("its metadata are damaged")),
        }
    }

    /// The levels of the list of schema nodes that follows.
    fn schema(&mut self, most: usize) -> io::Result<usize> {
        let (_, n) = self.list()?;
        // Children still to come of each open node.
        let mut open: Vec<i64> = Vec::new();
        let mut levels = 0;
        for _ in 0..n {
            let (mut id, mut children) = (0, 0);
            loop {
                match (self.field(&mut id)?, id) {
                    (STOP, _) => break,
                    (5, 5) => children = self.signed()?,
                    (kind, _) => self.skip(kind, false, 0)?,
                }
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            open.push(children);
            levels = levels.max(open.len());
            if levels > most {
                break;
            }
            while open.last().is_some_and(|left| *left <= 0) {
                open.pop();
            }
        }
        Ok(levels)
    }
}
