//! A YAML tree in which every key and value knows its line and column.
//!
//! serde_yaml is archived. `saphyr-parser` is the living parser beneath its successors (saphyr, serde-saphyr); its events carry
//! what a serde front-end hides and the rules here need: the place of each key, and whether a scalar was quoted.

use crate::error::{Problem, Result};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

/// Nodes that a file may have after aliases are resolved; a mix of hundreds of data sets has some thousands.
const MAX_NODES: usize = 10_000;
/// Levels of nesting.
const MAX_DEPTH: usize = 64;
/// Bytes of a key.
const MAX_KEY: usize = 200;
/// Bytes of a file.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// A value with its place (line and column from 1).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) line: usize,
    pub(super) column: usize,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Scalar { text: String, quoted: bool },
    Seq(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A mapping's key with its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Node {
    /// A scalar without a place, as from the command line.
    pub(super) fn text(text: &str) -> Self {
        let value = Value::Scalar { text: text.into(), quoted: false };
        Self { value, line: 0, column: 0 }
    }

    pub(super) fn size(&self) -> usize {
        1 + match &self.value {
            Value::Scalar { .. } => 0,
            Value::Seq(items) => items.iter().map(Self::size).sum(),
            Value::Map(items) => items.iter().map(|(_, n)| n.size()).sum(),
        }
    }
}

/// Parses one document.
pub(super) fn parse(path: &Path, text: &str) -> Result<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_BYTES {
        let message = format!("is {} bytes long; a run config has at most {MAX_BYTES}", text.len());
        return Err(Problem::in_file(path, message).into());
    }
    let mut builder = Builder { path, anchors: HashMap::new(), nodes: 0 };
    let mut events = Parser::new_from_str(text);
    let root = builder.document(&mut events)?;
    root.ok_or_else(|| {
        Problem::in_file(path, "is empty")
            .hint("a run config needs at least `checkpoint_dir` and `data`")
            .into()
    })
}

struct Builder<'a> {
    path: &'a Path,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

type Events<'a> = Parser<'a, saphyr_parser::StrInput<'a>>;

impl Builder<'_> {
    fn at(&self, span: Span, message: impl Into<String>) -> Problem {
        Problem::at(self.path, span.start.line(), span.start.col() + 1, message)
    }

    fn next<'e>(&self, events: &mut Events<'e>) -> Result<(Event<'e>, Span)> {
        match events.next_event() {
            Some(Ok((event, span))) => match tag(&event) {
                None => Ok((event, span)),
                Some(tag) => {
                    let problem = self.at(span, format!("the tag `{tag}` is not read"));
                    let hint = "leave it out: a key's meaning says of what type its value is; quotes make a text";
                    Err(problem.hint(hint).into())
                }
            },
            Some(Err(e)) => {
                let at = e.marker();
                Err(Problem::at(self.path, at.line(), at.col() + 1, e.info().to_owned()).into())
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self, events: &mut Events<'_>) -> Result<Option<Node>> {
        let mut root = None;
        loop {
            let (event, span) = self.next(events)?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(self
                        .at(span, "a second document starts here; one file is one run")
                        .into());
                }
                Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Nothing => {}
                event => {
                    let node = self.node(events, event, span, 0)?;
                    let blank = matches!(&node.value, Value::Scalar { text, quoted: false } if text.is_empty() || text == "~");
                    root = if blank { None } else { Some(node) };
                }
            }
        }
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<()> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(self
                .at(span, format!("more than {MAX_NODES} values after aliases are resolved"))
                .into());
        }
        Ok(())
    }

    fn node(
        &mut self,
        events: &mut Events<'_>,
        event: Event<'_>,
        span: Span,
        depth: usize,
    ) -> Result<Node> {
        if depth > MAX_DEPTH {
            return Err(self.at(span, format!("nested deeper than {MAX_DEPTH} levels")).into());
        }
        self.count(1, span)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let quoted = style != ScalarStyle::Plain;
                (Value::Scalar { text: text.into_owned(), quoted }, anchor)
            }
            Event::SequenceStart(anchor, _) => (Value::Seq(self.sequence(events, depth)?), anchor),
            Event::MappingStart(anchor, _) => (Value::Map(self.mapping(events, depth)?), anchor),
            Event::Alias(id) => {
                let (node, size) = self.anchors.get(&id).cloned().ok_or_else(|| {
                    self.at(span, "an alias names an anchor that is not complete here")
                })?;
                self.count(size, span)?;
                (node.value, 0)
            }
            other => return Err(self.at(span, format!("unexpected {other:?}")).into()),
        };
        let node = Node { value, line: span.start.line(), column: span.start.col() + 1 };
        if anchor != 0 {
            let size = node.size();
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn sequence(&mut self, events: &mut Events<'_>, depth: usize) -> Result<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            match self.next(events)? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(events, event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, events: &mut Events<'_>, depth: usize) -> Result<Vec<(Key, Node)>> {
        let mut items: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<(Key, Node)> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next(events)?;
            if event == Event::MappingEnd {
                // What is written here wins over what is merged, and of several merged mappings the first.
                for (key, node) in merged {
                    if let Entry::Vacant(place) = lines.entry(key.name.clone()) {
                        place.insert(key.line);
                        items.push((key, node));
                    }
                }
                return Ok(items);
            }
            let Event::Scalar(name, style, ..) = event else {
                return Err(self.at(span, "a key must be a plain word").into());
            };
            if name == "<<" && style == ScalarStyle::Plain {
                let (event, span) = self.next(events)?;
                let node = self.node(events, event, span, depth + 1)?;
                self.merge(node, &mut merged)?;
                continue;
            }
            if name.len() > MAX_KEY {
                let message = format!("a key has at most {MAX_KEY} bytes, this one {}", name.len());
                return Err(self.at(span, message).into());
            }
            let key = Key {
                name: name.into_owned(),
                line: span.start.line(),
                column: span.start.col() + 1,
            };
            if let Some(first) = lines.insert(key.name.clone(), key.line) {
                let message = format!("`{}` is written twice; first in line {first}", key.name);
                return Err(self.at(span, message).into());
            }
            let (event, span) = self.next(events)?;
            let node = self.node(events, event, span, depth + 1)?;
            items.push((key, node));
        }
    }

    /// The mappings that `<<` brings in (<https://yaml.org/type/merge.html>): one, or a list of them.
    fn merge(&self, node: Node, into: &mut Vec<(Key, Node)>) -> Result<()> {
        match node.value {
            Value::Map(items) => into.extend(items),
            Value::Seq(list) if list.iter().all(|n| matches!(n.value, Value::Map(_))) => {
                list.into_iter().try_for_each(|n| self.merge(n, into))?;
            }
            _ => {
                let message = "`<<` merges a mapping, or a list of them";
                return Err(Problem::at(self.path, node.line, node.column, message).into());
            }
        }
        Ok(())
    }
}

/// The tag of a value, as `!!str`: types are the keys' own, and a tag that asks for another would be ignored.
fn tag(event: &Event<'_>) -> Option<String> {
    let (Event::Scalar(.., tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag)) =
        event
    else {
        return None;
    };
    let tag = tag.as_ref()?;
    let core = tag.is_yaml_core_schema();
    Some(if core { format!("!!{}", tag.suffix) } else { format!("{}{}", tag.handle, tag.suffix) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("x.yml"), text).unwrap_err().to_string()
    }

    #[test]
    fn places_count_from_one() {
        let Value::Map(items) = parse(Path::new("x"), "a:\n  b: 3\n").unwrap().value else {
            panic!()
        };
        let Value::Map(inner) = &items[0].1.value else { panic!() };
        assert_eq!((inner[0].0.line, inner[0].0.column, inner[0].1.column), (2, 3, 6));
    }

    #[test]
    fn a_duplicate_key_names_both_lines() {
        assert!(
            error("a: 1\nb: 2\na: 3\n")
                .starts_with("x.yml:3:1: `a` is written twice; first in line 1")
        );
    }

    #[test]
    fn an_empty_file_is_refused() {
        assert!(error("# nothing\n").contains("is empty"));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(",");
            text += &format!("a{i}: &a{i} [{refs}]\n");
        }
        assert!(error(&text).contains("after aliases are resolved"));
    }

    /// As PyYAML 6.0.3 loads it: `b` and `c` are {'x': 1, 'y': 3}.
    #[test]
    fn merged_keys_give_way_to_written_ones() {
        let text = "a: &a {x: 1, y: 2}\nb: &b\n  <<: *a\n  y: 3\nc:\n  <<: [*b, *a]\n";
        let plain = parse(Path::new("x"), "{y: 3, x: 1}").unwrap();
        let Value::Map(items) = parse(Path::new("x"), text).unwrap().value else { panic!() };
        let shape = |node: &Node| -> Vec<(String, Value)> {
            let Value::Map(items) = &node.value else { panic!() };
            items.iter().map(|(k, n)| (k.name.clone(), n.value.clone())).collect()
        };
        assert_eq!([shape(&items[1].1), shape(&items[2].1)], [shape(&plain), shape(&plain)]);
    }

    #[test]
    fn tags_are_refused_where_they_stand() {
        for (text, tag) in [
            ("a: 1\nb: !!python/object:os.system 5\n", "!!python/object:os.system"),
            ("a: 1\nb: !!str 5\n", "!!str"),
            ("a: 1\nb: !custom x\n", "!custom"),
            ("a: 1\nb: ! x\n", "!"),
            ("a: 1\nb: !<tag:x> x\n", "tag:x"),
            ("a: 1\nb: !!seq [x]\n", "!!seq"),
            ("a: 1\nb: !!map {x: 1}\n", "!!map"),
            ("a: 1\n!!str b: 1\n", "!!str"),
            ("a: 1\nb: [!!int 1]\n", "!!int"),
        ] {
            let error = error(text);
            let said = format!("the tag `{tag}` is not read\n");
            assert!(error.starts_with("x.yml:2:") && error.contains(&said), "{error}");
        }
        assert!(error("!!map {a: 1}").contains("`!!map`"));
    }

    #[test]
    fn only_mappings_are_merged() {
        assert!(error("a: 1\n<<: 2\n").starts_with("x.yml:2:5: `<<` merges a mapping"));
    }

    #[test]
    fn a_second_document_is_refused() {
        assert!(error("a: 1\n---\nb: 2\n").contains("second document"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(error(&("[".repeat(70) + &"]".repeat(70))).contains("deeper than"));
    }

    #[test]
    fn a_byte_order_mark_and_crlf_are_no_problem() {
        assert!(parse(Path::new("x"), "\u{feff}a: 1\r\nb: 2\r\n").is_ok());
    }
}
