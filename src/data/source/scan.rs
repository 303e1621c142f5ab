//! Text read once from front to back: lines, or the extents of JSON values, with places and a limit on what is held.
//!
//! A value's extent is found by brackets and strings alone; whether it is JSON says the parser, whose nesting is limited.

use super::open::{Text, cut_off};
use super::unique::Unique;
use super::{Fault, Line};
use std::io::{BufRead, Read};

/// A text, the place that is read next, and the bytes that may be held.
pub(super) struct Scan {
    text: Text,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) max: usize,
    /// Whether what is read next is the rest of a line that was too long.
    inside: bool,
}

/// Times the longest row that a line may have to be passed over: beyond that the file is no file of rows.
const PASSED_OVER: usize = 64;

impl Scan {
    pub(super) fn new(text: Text, max: usize) -> Self {
        Self { text, line: 1, column: 1, max, inside: false }
    }

    /// A fault here, from which there is no way on.
    pub(super) fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::file(self.line, self.column, message)
    }

    pub(super) fn peek(&mut self) -> Result<Option<u8>, Fault> {
        let line = self.line;
        self.text.fill_buf().map(|b| b.first().copied()).map_err(|e| cut_off(&e, line))
    }

    /// Passes over one byte, which was looked at.
    pub(super) fn bump(&mut self) {
        if let Ok(Some(byte)) = self.peek() {
            self.text.consume(1);
            self.pass(byte);
        }
    }

    fn pass(&mut self, byte: u8) {
        if byte == b'\n' {
            self.line += 1;
            self.column = 1;
        } else if byte & 0xc0 != 0x80 {
            self.column += 1;
        }
    }

    /// The next byte that is no space; it stays to be read.
    pub(super) fn skip_space(&mut self) -> Result<Option<u8>, Fault> {
        while let Some(byte) = self.peek()? {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Ok(Some(byte));
            }
            self.bump();
        }
        Ok(None)
    }

    /// Whether nothing but space follows in this line, which is passed over.
    pub(super) fn ends_line(&mut self) -> Result<bool, Fault> {
        while let Some(byte) = self.peek()? {
            match byte {
                b' ' | b'\t' | b'\r' => self.bump(),
                b'\n' => {
                    self.bump();
                    return Ok(true);
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next line without its end, in `out`; `None` at the end of the text.
    pub(super) fn line(&mut self, out: &mut Vec<u8>) -> Option<Result<usize, Fault>> {
        out.clear();
        if std::mem::take(&mut self.inside)
            && let Err(fault) = self.skip_line()
        {
            return Some(Err(fault));
        }
        let (number, max) = (self.line, self.max);
        let limit = max as u64 + 1;
        match (&mut self.text).take(limit).read_until(b'\n', out) {
            Err(e) => return Some(Err(cut_off(&e, number))),
            Ok(0) => return None,
            Ok(_) => {}
        }
        self.line += 1;
        self.column = 1;
        if out.last() != Some(&b'\n') && out.len() > max {
            self.inside = true;
            return Some(Err(Fault::too_long(number, max)));
        }
        while let Some(b'\n' | b'\r') = out.last() {
            out.pop();
        }
        Some(Ok(number))
    }

    fn skip_line(&mut self) -> Result<(), Fault> {
        let mut left = self.max.saturating_mul(PASSED_OVER);
        loop {
            let part = self.text.fill_buf().map_err(|e| cut_off(&e, self.line))?;
            let end = part.iter().position(|b| *b == b'\n');
            let done = part.is_empty() || end.is_some();
            let n = end.map_or(part.len(), |i| i + 1);
            self.text.consume(n);
            if done {
                return Ok(());
            }
            left = left.saturating_sub(n);
            if left == 0 {
                let line = self.line - 1;
                return Err(Fault { lost: true, ..Fault::too_long(line, self.max) });
            }
        }
    }

    /// The whole rest as text.
    pub(super) fn document(&mut self) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        let read = (&mut self.text).take(self.max as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| cut_off(&e, self.line))?;
        if bytes.len() > self.max {
            let message = format!("is one document longer than {} bytes", self.max);
            return Err(Fault::file(0, 0, message)
                .hint("cut it into a file a document, or write JSON lines of `text`"));
        }
        String::from_utf8(bytes).map_err(|e| {
            let (line, column) = place(&e.as_bytes()[..e.utf8_error().valid_up_to()], 1, 1);
            Fault::file(line, column, "is no UTF-8 text here")
        })
    }

    /// Appends the value that starts here to `out`: a string, a list or object, or what runs to the next space, comma or bracket.
    pub(super) fn value(&mut self, out: Option<&mut Vec<u8>>) -> Result<(), Fault> {
        match self.peek()? {
            Some(b'{' | b'[' | b'"') => self.extent(0, out),
            Some(_) => self.word(out),
            None => Err(self.fault("the text ends where a value is expected")),
        }
    }

    /// Appends a number, a truth value or null.
    fn word(&mut self, mut out: Option<&mut Vec<u8>>) -> Result<(), Fault> {
        let mut n = 0;
        while let Some(byte) = self.peek()? {
            if byte.is_ascii_whitespace() || b",]}:[{\"".contains(&byte) {
                break;
            }
            n += 1;
            if n > self.max {
                return Err(Fault { lost: true, ..Fault::too_long(self.line, self.max) });
            }
            if let Some(out) = &mut out {
                out.push(byte);
            }
            self.bump();
        }
        if n == 0 { Err(self.fault("a value is expected here")) } else { Ok(()) }
    }

    /// Appends what follows up to where `depth` open brackets are closed; with none open, one string or bracketed value.
    pub(super) fn extent(
        &mut self,
        mut depth: usize,
        mut out: Option<&mut Vec<u8>>,
    ) -> Result<(), Fault> {
        let (start, start_column) = (self.line, self.column);
        let (mut in_string, mut escaped) = (false, false);
        loop {
            let part = self.text.fill_buf().map_err(|e| cut_off(&e, self.line))?;
            if part.is_empty() {
                let message = format!(
                    "the text ends inside the value that starts in line {start}, column {start_column}"
                );
                return Err(self.fault(message));
            }
            let mut used = 0;
            let (mut done, mut broken) = (false, false);
            let (mut line, mut column) = (self.line, self.column);
            for &byte in part {
                if in_string && byte == b'\n' {
                    broken = true;
                    break;
                }
                used += 1;
                if byte == b'\n' {
                    line += 1;
                    column = 1;
                } else if byte & 0xc0 != 0x80 {
                    column += 1;
                }
                if in_string {
                    if escaped {
                        escaped = false;
                    } else if byte == b'\\' {
                        escaped = true;
                    } else if byte == b'"' {
                        in_string = false;
                        done = depth == 0;
                    }
                } else {
                    match byte {
                        b'"' => in_string = true,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => {
                            depth = depth.saturating_sub(1);
                            done = depth == 0;
                        }
                        _ => {}
                    }
                }
                if done {
                    break;
                }
            }
            if let Some(out) = &mut out {
                if out.len() + used > self.max {
                    return Err(Fault { lost: true, ..Fault::too_long(start, self.max) });
                }
                out.extend_from_slice(&part[..used]);
            }
            self.text.consume(used);
            (self.line, self.column) = (line, column);
            if broken {
                return Err(self.fault("a string is not closed in its line"));
            }
            if done {
                return Ok(());
            }
        }
    }
}

/// Commas of a row, and so about the values in it: each takes many times the memory that it takes in the file.
const MAX_VALUES: usize = 2 << 20;

/// The row that `bytes` are; they start at `line` and `column`.
pub(super) fn parse(bytes: &[u8], line: usize, column: usize) -> Result<Line, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let (l, c) = place(&bytes[..e.valid_up_to()], line, column);
        Fault::row(l, c, "is no UTF-8 text here")
    })?;
    let commas = bytes.iter().filter(|b| **b == b',').count();
    if commas > MAX_VALUES {
        let message = format!("the row that starts here has more than {MAX_VALUES} commas");
        return Err(Fault::row(line, column, message)
            .hint("a row is one sample; is the whole data set one row?"));
    }
    let Unique(value) = serde_json::from_str(text).map_err(|e| {
        // serde_json counts bytes; the error lies at its column's last byte.
        let from: usize =
            text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
        let upto = (from + e.column().saturating_sub(1)).min(text.len());
        let (l, c) = place(&bytes[..upto], line, column);
        let said = e.to_string();
        let what = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what);
        if e.is_data() {
            return Fault::row(l, c, what);
        }
        let fault = Fault::row(l, c, format!("is no valid JSON: {what}"));
        if bytes[upto..].starts_with(b"NaN") || bytes[upto..].starts_with(b"Infinity") {
            fault.hint("JSON has neither NaN nor Infinity; write null")
        } else {
            fault
        }
    })?;
    Ok(Line { line, value })
}

/// The place after `bytes` that start at `line` and `column`.
fn place(bytes: &[u8], line: usize, column: usize) -> (usize, usize) {
    let characters = |b: &[u8]| b.iter().filter(|b| **b & 0xc0 != 0x80).count();
    match bytes.iter().rposition(|b| *b == b'\n') {
        None => (line, column + characters(bytes)),
        Some(at) => {
            let newlines = bytes.iter().filter(|b| **b == b'\n').count();
            (line + newlines, 1 + characters(&bytes[at + 1..]))
        }
    }
}
