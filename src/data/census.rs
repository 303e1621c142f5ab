//! What became of the rows of a data set.

use super::encode::{Cut, Sample};
use super::row::{Notes, Shape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Lines that are named before the rest is only counted.
const NAMED: usize = 5;

/// Rows of which something is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// How many.
    pub count: usize,
    /// The lines of the first.
    pub first: Vec<usize>,
}

impl Lines {
    fn add(&mut self, line: usize) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(line);
        }
    }

    fn join(&mut self, other: &Self) {
        self.count += other.count;
        let room = NAMED.saturating_sub(self.first.len());
        self.first.extend(other.first.iter().take(room));
    }

    fn describe(&self) -> String {
        let first: Vec<String> = self.first.iter().map(ToString::to_string).collect();
        let more = if self.count > self.first.len() { ", …" } else { "" };
        let lines = if self.count == 1 { "line" } else { "lines" };
        format!("{lines} {}{more}", first.join(", "))
    }
}

/// What became of the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Rows read.
    pub rows: usize,
    /// Samples made of them that train something.
    pub samples: usize,
    /// Tokens of all samples.
    pub tokens: usize,
    /// Trained tokens of all samples.
    pub targets: usize,
    /// Tokens of the longest sample.
    pub longest: usize,
    /// Rows by their shape.
    pub shapes: BTreeMap<String, usize>,
    /// Rows that lost their last tokens.
    pub cut: Lines,
    /// Conversations that lost their last exchanges.
    pub shortened: Lines,
    /// Samples left out because nothing in them is trained.
    pub empty: Lines,
    /// Rows passed over because they could not be used.
    pub bad: Lines,
    /// The first of the reasons.
    pub why_bad: Option<String>,
    /// Rows whose `input` the style leaves out.
    pub input_lost: Lines,
    /// Rows whose `tools` the chat template or style leaves out.
    pub tools_lost: Lines,
    /// What was mended in rows.
    pub notes: BTreeMap<String, Lines>,
}

impl Census {
    /// Counts a row that was read.
    pub(super) fn row(&mut self, line: usize, shape: Shape, notes: Notes) {
        self.rows += 1;
        *self.shapes.entry(shape.describe().to_owned()).or_default() += 1;
        for note in notes.iter() {
            self.notes.entry(note.describe().to_owned()).or_default().add(line);
        }
    }

    /// Counts a row that could not be used.
    pub(super) fn bad(&mut self, line: usize, why: &str) {
        self.rows += 1;
        self.bad.add(line);
        self.why_bad.get_or_insert_with(|| why.to_owned());
    }

    /// Counts a sample; false if nothing in it is trained.
    pub(super) fn sample(&mut self, line: usize, sample: &Sample) -> bool {
        match sample.cut {
            Cut::Whole => {}
            Cut::Exchanges => self.shortened.add(line),
            Cut::Tokens => self.cut.add(line),
        }
        if sample.input_lost {
            self.input_lost.add(line);
        }
        if sample.tools_lost {
            self.tools_lost.add(line);
        }
        let targets = sample.targets();
        if targets == 0 {
            self.empty.add(line);
            return false;
        }
        self.samples += 1;
        self.tokens += sample.ids.len();
        self.targets += targets;
        self.longest = self.longest.max(sample.ids.len());
        true
    }

    /// Adds another set's counts.
    pub fn join(&mut self, other: &Self) {
        self.rows += other.rows;
        self.samples += other.samples;
        self.tokens += other.tokens;
        self.targets += other.targets;
        self.longest = self.longest.max(other.longest);
        for (shape, count) in &other.shapes {
            *self.shapes.entry(shape.clone()).or_default() += count;
        }
        self.cut.join(&other.cut);
        self.shortened.join(&other.shortened);
        self.empty.join(&other.empty);
        self.bad.join(&other.bad);
        self.why_bad = self.why_bad.take().or_else(|| other.why_bad.clone());
        self.input_lost.join(&other.input_lost);
        self.tools_lost.join(&other.tools_lost);
        for (note, lines) in &other.notes {
            self.notes.entry(note.clone()).or_default().join(lines);
        }
    }

    /// The share of tokens that is trained, in percent.
    pub fn trained_share(&self) -> f64 {
        100.0 * self.targets as f64 / self.tokens.max(1) as f64
    }

    /// What should be told beside the numbers: a line for each thing that happened to rows.
    pub fn tell(&self) -> Vec<String> {
        let noun = |n: usize| if n == 1 { "row" } else { "rows" };
        let shape = |(shape, n): (&String, &usize)| format!("{n} {} read as {shape}", noun(*n));
        let mut lines: Vec<String> = self.shapes.iter().map(shape).collect();
        let mut told = |rows: &Lines, what: &str| {
            if rows.count > 0 {
                let noun = noun(rows.count);
                lines.push(format!("note: {} {noun} {what} ({})", rows.count, rows.describe()));
            }
        };
        told(&self.shortened, "longer than train.max_seq_length lost their last exchanges");
        told(&self.cut, "cut to train.max_seq_length");
        told(&self.empty, "left out, nothing in them is trained");
        told(&self.input_lost, "have an `input` that the prompt style leaves out");
        told(&self.tools_lost, "have `tools` that the chat template or prompt style leaves out");
        let why = self.why_bad.as_deref().unwrap_or_default();
        told(&self.bad, &format!("passed over; the first because {why}"));
        for (note, rows) in &self.notes {
            told(rows, &format!(": {note}"));
        }
        for line in &mut lines {
            *line = line.replace(" : ", ": ");
        }
        lines
    }
}
