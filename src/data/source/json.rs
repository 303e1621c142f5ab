//! JSON and JSON lines.
//!
//! The text's first object decides. In a `.json` file one with a member `data` or `rows` that is a list of objects is a wrapper, and
//! its items are the rows; what the data-sets server calls `row` is taken out of its item. Otherwise the object is a row: of JSON
//! lines when it ends its line, of objects one after another when it runs over several lines.

use super::scan::{self, Scan};
use super::{Fault, Line, Reader};
use serde_json::{Map, Value};

enum State {
    Start { lines: bool },
    List { wrapper: bool, first: bool },
    Lines,
    Objects,
    End,
}

/// A reader of JSON in any of its arrangements.
pub(super) struct Json {
    scan: Scan,
    state: State,
    buffer: Vec<u8>,
}

impl Json {
    /// Reads `scan`; `lines` when its name says JSON lines.
    pub(super) fn new(scan: Scan, lines: bool) -> Self {
        Self { scan, state: State::Start { lines }, buffer: Vec::new() }
    }

    fn start(&mut self, lines: bool) -> Result<Option<Line>, Fault> {
        self.buffer.clear();
        match self.scan.skip_space()? {
            None => {
                self.state = State::End;
                Ok(None)
            }
            Some(b'[') => {
                self.scan.bump();
                self.state = State::List { wrapper: false, first: true };
                self.item(false, true)
            }
            Some(b'{') if lines => self.first_line(),
            Some(b'{') => self.first_object(),
            Some(_) if lines => {
                self.state = State::Lines;
                self.line()
            }
            Some(_) => {
                let fault = self.scan.fault("is no JSON: it starts with neither `[` nor `{`");
                Err(fault.hint("a .json file holds a list of objects"))
            }
        }
    }

    /// The first line of JSON lines, or, when it is an opening bracket alone, of objects over several lines.
    fn first_line(&mut self) -> Result<Option<Line>, Fault> {
        let (line, column) = (self.scan.line, self.scan.column);
        self.scan.bump();
        self.buffer.push(b'{');
        if self.scan.ends_line()? {
            self.state = State::Objects;
            self.buffer.push(b'\n');
            self.scan.extent(1, Some(&mut self.buffer))?;
            return scan::parse(&self.buffer, line, column).map(Some);
        }
        self.state = State::Lines;
        let mut rest = Vec::new();
        if let Some(read) = self.scan.line(&mut rest) {
            read?;
        }
        self.buffer.append(&mut rest);
        scan::parse(&self.buffer, line, column).map(Some)
    }

    fn first_object(&mut self) -> Result<Option<Line>, Fault> {
        let (line, column) = (self.scan.line, self.scan.column);
        self.take();
        loop {
            match self.space()? {
                Some(b'"') => {}
                // An empty object, or no JSON, which the parser will say.
                _ => {
                    self.scan.extent(1, Some(&mut self.buffer))?;
                    break;
                }
            }
            let key = self.buffer.len();
            self.scan.value(Some(&mut self.buffer))?;
            let wraps = matches!(&self.buffer[key..], b"\"data\"" | b"\"rows\"");
            if self.space()? != Some(b':') {
                return Err(self.scan.fault("`:` is expected after a key"));
            }
            self.take();
            if self.space()? == Some(b'[') && wraps {
                self.take();
                if self.space()? == Some(b'{') {
                    self.state = State::List { wrapper: true, first: true };
                    return self.item(true, true);
                }
                self.scan.extent(1, Some(&mut self.buffer))?;
            } else {
                self.scan.value(Some(&mut self.buffer))?;
            }
            match self.space()? {
                Some(b',') => self.take(),
                Some(b'}') => {
                    self.take();
                    break;
                }
                _ => return Err(self.scan.fault("`,` or `}` is expected here")),
            }
        }
        let one_line = self.scan.line == line;
        self.state = if one_line && self.scan.ends_line()? { State::Lines } else { State::Objects };
        scan::parse(&self.buffer, line, column).map(Some)
    }

    /// Moves the next byte into the buffer.
    fn take(&mut self) {
        if let Ok(Some(byte)) = self.scan.peek() {
            self.buffer.push(byte);
            self.scan.bump();
        }
    }

    /// Moves space into the buffer, so that places stay right; the next byte after it.
    fn space(&mut self) -> Result<Option<u8>, Fault> {
        loop {
            match self.scan.peek()? {
                Some(b' ' | b'\t' | b'\r' | b'\n') if self.buffer.len() < self.scan.max => {
                    self.take()
                }
                Some(b' ' | b'\t' | b'\r' | b'\n') => {
                    let fault = Fault::too_long(self.scan.line, self.scan.max);
                    return Err(Fault { lost: true, ..fault });
                }
                other => return Ok(other),
            }
        }
    }

    /// The next item of a list.
    fn item(&mut self, wrapper: bool, first: bool) -> Result<Option<Line>, Fault> {
        self.state = State::List { wrapper, first: false };
        let mut next = self.scan.skip_space()?;
        if next == Some(b']') {
            self.scan.bump();
            return self.close(wrapper).map(|()| None);
        }
        if !first {
            if next != Some(b',') {
                return Err(self.scan.fault(if next.is_none() {
                    "the text ends inside its list"
                } else {
                    "`,` or `]` is expected between the rows of a list"
                }));
            }
            self.scan.bump();
            next = self.scan.skip_space()?;
        }
        if next.is_none() {
            return Err(self.scan.fault("the text ends inside its list"));
        }
        let (line, column) = (self.scan.line, self.scan.column);
        self.buffer.clear();
        self.scan.value(Some(&mut self.buffer))?;
        let mut row = scan::parse(&self.buffer, line, column)?;
        if wrapper {
            unwrap(&mut row)?;
        }
        Ok(Some(row))
    }

    /// What follows a list: the rest of its wrapper, then nothing.
    fn close(&mut self, wrapper: bool) -> Result<(), Fault> {
        self.state = State::End;
        if wrapper {
            self.scan.extent(1, None)?;
        }
        match self.scan.skip_space()? {
            None => Ok(()),
            Some(_) => Err(self.scan.fault("there is more text after the end of the list")),
        }
    }

    fn line(&mut self) -> Result<Option<Line>, Fault> {
        loop {
            let Some(number) = self.scan.line(&mut self.buffer) else { return Ok(None) };
            let number = number?;
            if !self.buffer.trim_ascii().is_empty() {
                return scan::parse(&self.buffer, number, 1).map(Some);
            }
        }
    }

    fn object(&mut self) -> Result<Option<Line>, Fault> {
        if self.scan.skip_space()?.is_none() {
            return Ok(None);
        }
        let (line, column) = (self.scan.line, self.scan.column);
        self.buffer.clear();
        self.scan.value(Some(&mut self.buffer))?;
        scan::parse(&self.buffer, line, column).map(Some)
    }
}

impl Reader for Json {
    fn next(&mut self) -> Option<Result<Line, Fault>> {
        let row = match self.state {
            State::Start { lines } => self.start(lines),
            State::List { wrapper, first } => self.item(wrapper, first),
            State::Lines => self.line(),
            State::Objects => self.object(),
            State::End => Ok(None),
        };
        row.transpose()
    }
}

/// The row inside an item of the data-sets server's export.
fn unwrap(line: &mut Line) -> Result<(), Fault> {
    let Value::Object(item) = &mut line.value else { return Ok(()) };
    if !matches!(item.get("row"), Some(Value::Object(_))) || !item.contains_key("row_idx") {
        return Ok(());
    }
    if let Some(Value::Array(cells)) = item.get("truncated_cells")
        && !cells.is_empty()
    {
        let names: Vec<String> =
            cells.iter().map(|c| format!("`{}`", c.as_str().unwrap_or("?"))).collect();
        let message = format!("the export has cut this row's {}", names.join(", "));
        return Err(
            Fault::row(line.line, 0, message).hint("take the data set's Parquet files instead")
        );
    }
    line.value = item.remove("row").unwrap_or(Value::Object(Map::new()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::data::source::{Line, Options, rows_with};
    use crate::error::UserError;

    /// The rows of a file `name`, up to 1000 bytes each, and the errors among them.
    fn read(name: &str, text: impl AsRef<[u8]>) -> Vec<Result<Line, UserError>> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        let options = Options { max_row_bytes: 1000, ..Options::default() };
        rows_with(&path, &options).unwrap().collect()
    }

    fn lines(name: &str, text: &str) -> Vec<usize> {
        read(name, text).into_iter().map(|r| r.unwrap().line).collect()
    }

    /// Line, column and message of the only error.
    fn error(name: &str, text: impl AsRef<[u8]>) -> (usize, usize, String) {
        let mut errors = read(name, text).into_iter().filter_map(Result::err);
        let problem = errors.next().unwrap().problems.remove(0);
        assert!(errors.next().is_none());
        let place = problem.place.unwrap();
        (place.line, place.column, problem.message)
    }

    #[test]
    fn jsonl_skips_blank_lines_and_takes_crlf_and_bom() {
        assert_eq!(lines("a.jsonl", "\u{feff}{\"a\":1}\r\n\r\n{\"a\":2}"), [1, 3]);
    }

    #[test]
    fn rows_of_a_list_know_their_lines() {
        assert_eq!(lines("a.json", "[\n {\"a\":1},\n {\"a\":\n 2}, {\"a\":3}]"), [2, 3, 4]);
    }

    #[test]
    fn a_list_may_be_wrapped_in_data() {
        let text = "{\"version\": [{}],\n\"data\": [{\"a\":1},\n{\"a\":2}], \"end\": {\"]\": 1}}\n";
        assert_eq!(lines("a.json", text), [2, 3]);
    }

    #[test]
    fn a_data_list_of_strings_is_a_row() {
        let rows = read(
            "a.json",
            "{\"id\":\"0\",\"data\":[\"q\",\"a\"]}\n{\"id\":\"1\",\"data\":[\"q\",\"a\"]}",
        );
        assert_eq!(rows[1].as_ref().unwrap().value["id"], "1");
    }

    #[test]
    fn the_servers_rows_are_taken_out_of_their_items() {
        let text = r#"{"features":[{"name":"a"}],"rows":[{"row_idx":0,"row":{"a":7},"truncated_cells":[]}]}"#;
        assert_eq!(read("a.json", text)[0].as_ref().unwrap().value, serde_json::json!({"a": 7}));
    }

    #[test]
    fn a_cut_cell_of_the_server_is_an_error() {
        let text = r#"{"rows":[{"row_idx":0,"row":{"a":7},"truncated_cells":["a"]}]}"#;
        assert_eq!(error("a.json", text).2, "the export has cut this row's `a`");
    }

    #[test]
    fn json_lines_under_a_json_name_are_read() {
        assert_eq!(lines("a.json", "{\"a\":1}\n\n{\"a\":2}\n"), [1, 3]);
    }

    #[test]
    fn objects_over_several_lines_are_read() {
        assert_eq!(lines("a.jsonl", "{\n\"a\":1\n}\n{\n\"a\":2\n}\n"), [1, 4]);
    }

    #[test]
    fn a_list_under_a_jsonl_name_is_read() {
        assert_eq!(lines("a.jsonl", "[\n{\"a\":1}]"), [2]);
    }

    #[test]
    fn json_without_an_extension_is_read() {
        assert_eq!(lines("rows", " [{}]"), [1]);
    }

    #[test]
    fn a_broken_line_is_placed_and_the_next_one_read() {
        let rows = read("a.jsonl", "{\"a\":1}\n{\"â\": nope}\n{\"a\":3}\n");
        assert_eq!(rows[2].as_ref().unwrap().line, 3);
        let error = rows[1].as_ref().unwrap_err().to_string();
        assert!(error.ends_with("a.jsonl:2:8: is no valid JSON: expected ident"), "{error}");
    }

    #[test]
    fn a_key_that_comes_twice_is_placed_and_the_next_row_read() {
        let rows = read("a.jsonl", "{\"a\":1,\"b\":{\"ế\":1,\"ế\":2}}\n{\"a\":3}\n");
        let told = rows[0].as_ref().unwrap_err().to_string();
        assert!(told.ends_with("a.jsonl:1:21: `ế` is written twice"), "{told}");
        assert_eq!(rows[1].as_ref().unwrap().value["a"], 3);
        assert_eq!(error("a.json", "[{\"a\":1,\n\"a\":1}]").0, 2);
    }

    #[test]
    fn a_line_that_ends_too_early_is_placed_at_its_end() {
        assert_eq!(
            error("a.jsonl", "{\"a\":1}\r\n{\"a\":\r\n"),
            (2, 5, "is no valid JSON: EOF while parsing a value".into())
        );
    }

    #[test]
    fn a_broken_item_is_placed() {
        let (line, column, message) = error("a.json", "[{\"a\":1},\n  {\"a\": tru}]");
        assert_eq!((line, column), (2, 12), "{message}");
    }

    #[test]
    fn invalid_utf8_is_placed_in_characters() {
        let (line, column, _) = error("a.jsonl", b"{}\n{\"\xc3\xa9\xff\":1}");
        assert_eq!((line, column), (2, 4));
    }

    #[test]
    fn a_list_that_is_cut_off_is_placed() {
        let (line, column, message) = error("a.json", "[{\"a\":1},\n{\"a\":2},\n{\"a\":");
        assert_eq!((line, column), (3, 6));
        assert!(message.contains("starts in line 3, column 1"), "{message}");
    }

    #[test]
    fn text_after_a_list_is_an_error() {
        assert_eq!(error("a.json", "[{}]\n x").0, 2);
    }

    #[test]
    fn an_unclosed_string_does_not_swallow_the_file() {
        let text = format!("[{{\"a\":\"1}},\n{}]", "{\"a\":\"2\"},\n".repeat(50));
        assert_eq!(error("a.json", text).2, "a string is not closed in its line");
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_crash() {
        let deep = format!("[{}{}]", "[".repeat(400), "]".repeat(400));
        assert!(error("a.json", deep).2.contains("recursion limit"));
    }

    #[test]
    fn a_long_line_is_passed_over() {
        let text = format!("{{\"a\":\"{}\"}}\n{{\"a\":1}}\n", "x".repeat(2000));
        let rows = read("a.jsonl", text);
        assert!(
            rows[0]
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("a.jsonl:1: the row that starts here is longer than 1000")
        );
        assert_eq!(rows[1].as_ref().unwrap().line, 2);
    }

    #[test]
    fn a_long_item_ends_the_reading() {
        let text = format!("[{{\"a\":1}},\n{{\"a\":\"{}\"}}, {{}}]", "x".repeat(2000));
        assert_eq!(error("a.json", text).0, 2);
    }

    #[test]
    fn a_file_of_blank_lines_has_no_rows() {
        assert_eq!(lines("a.jsonl", "\n\n"), [0; 0]);
    }
}
