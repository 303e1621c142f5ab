//! The shapes that rows have, and which one a row has.
//!
//! The first line of [`TABLE`] that fits counts, so that what carries more comes first: `messages` beside the `prompt` that they
//! were made from, an instruction beside the `text` it was rendered to. Two lines that are each a whole sample of their own kind
//! (`alone`) are an error, because only the user knows which is meant; `columns: {KEY: KEY}` says so.

use super::columns::{Fields, names};
use super::{Notes, Row, completion, instruction, messages, preference, tokens};
use serde_json::Value;

/// The shape of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`Shape::describe` has the words")]
pub enum Shape {
    Messages,
    ShareGpt,
    Lima,
    Tokens,
    Alpaca,
    Dolly,
    PromptCompletion,
    PromptResponse,
    Preference,
    Question,
    UltraChat,
    InputOutput,
    Flan,
    Text,
}

type Read = fn(&Fields<'_>, &mut Notes) -> Result<Row, String>;

struct Rule {
    shape: Shape,
    words: &'static str,
    /// Whether no other shape's columns stand beside it by nature.
    alone: bool,
    /// All keys that the reader reads.
    keys: &'static [&'static str],
    fits: fn(&Fields<'_>) -> bool,
    read: Read,
}

/// The shapes, first come first served.
const TABLE: &[Rule] = &[
    Rule {
        shape: Shape::Messages,
        words: "messages: `messages`, a list of role and content",
        alone: true,
        keys: &["messages", "tools", "system", "system_prompt", "chosen", "rejected"],
        fits: |f| f.has("messages"),
        read: |f, n| messages::read(f, "messages", n),
    },
    Rule {
        shape: Shape::ShareGpt,
        words: "ShareGPT: `conversations`, a list of from and value",
        alone: true,
        keys: &["conversations", "tools", "system", "system_prompt", "chosen", "rejected"],
        fits: |f| f.has("conversations") && !strings(f, "conversations"),
        read: |f, n| messages::read(f, "conversations", n),
    },
    Rule {
        shape: Shape::Lima,
        words: "LIMA: `conversations`, a list of texts in turns",
        alone: true,
        keys: &["conversations", "system", "system_prompt"],
        fits: |f| strings(f, "conversations"),
        read: |f, n| messages::read_texts(f, "conversations", n),
    },
    Rule {
        shape: Shape::Tokens,
        words: "tokens: `input_ids` and `labels`",
        alone: true,
        keys: &["input_ids", "labels"],
        fits: |f| f.has("input_ids"),
        read: |f, _| tokens::read(f),
    },
    Rule {
        shape: Shape::Alpaca,
        words: "Alpaca: `instruction` and `output` (`input`, `system`, `history` optional)",
        alone: true,
        keys: &["instruction", "input", "output", "system", "system_prompt", "history"],
        fits: |f| f.has("instruction") && !f.has("response"),
        read: |f, n| instruction::read(f, ["instruction", "input", "output"], n),
    },
    Rule {
        shape: Shape::Dolly,
        words: "Dolly: `instruction` and `response` (`context`, `system`, `history` optional)",
        alone: true,
        keys: &["instruction", "context", "response", "system", "system_prompt", "history"],
        fits: |f| f.has("instruction") && f.has("response"),
        read: |f, n| instruction::read(f, ["instruction", "context", "response"], n),
    },
    Rule {
        shape: Shape::PromptCompletion,
        words: "completion: `prompt` and `completion`, texts taken verbatim or lists of messages",
        alone: true,
        keys: &["prompt", "completion", "tools", "label"],
        fits: |f| f.has("prompt") && f.has("completion"),
        read: completion::read,
    },
    Rule {
        shape: Shape::PromptResponse,
        words: "`prompt` and `response`, a question and its answer",
        alone: false,
        keys: &["prompt", "context", "response", "system", "system_prompt", "history"],
        fits: |f| f.has("prompt") && f.has("response"),
        read: |f, n| instruction::read(f, ["prompt", "context", "response"], n),
    },
    Rule {
        shape: Shape::Preference,
        words: "preference: `chosen`, a conversation or the answer to `prompt` or `question`",
        alone: false,
        keys: &["prompt", "question", "chosen", "rejected", "tools", "system", "system_prompt"],
        fits: |f| f.has("chosen"),
        read: preference::read,
    },
    Rule {
        shape: Shape::Question,
        words: "`question` and `answer` or `response` (`context`, `system` optional)",
        alone: false,
        keys: &["question", "context", "answer", "response", "system", "system_prompt", "history"],
        fits: |f| f.has("question") && (f.has("answer") || f.has("response")),
        read: |f, n| {
            let answer = if f.has("answer") { "answer" } else { "response" };
            instruction::read(f, ["question", "context", answer], n)
        },
    },
    Rule {
        shape: Shape::UltraChat,
        words: "UltraChat: `data`, a list of texts in turns",
        alone: false,
        keys: &["data", "system", "system_prompt"],
        fits: |f| strings(f, "data"),
        read: |f, n| messages::read_texts(f, "data", n),
    },
    Rule {
        shape: Shape::InputOutput,
        words: "`input` and `output`, an instruction and its answer",
        alone: false,
        keys: &["input", "output", "system", "system_prompt", "history"],
        fits: |f| f.has("input") && f.has("output"),
        read: |f, n| instruction::read(f, ["input", "", "output"], n),
    },
    Rule {
        shape: Shape::Flan,
        words: "FLAN: `inputs` and `targets`",
        alone: false,
        keys: &["inputs", "targets", "system", "system_prompt"],
        fits: |f| f.has("inputs") && f.has("targets"),
        read: |f, n| instruction::read(f, ["inputs", "", "targets"], n),
    },
    Rule {
        shape: Shape::Text,
        words: "`text`, trained whole",
        alone: false,
        keys: &["text"],
        fits: |f| f.has("text"),
        read: |f, _| f.text("text").map(Row::Text),
    },
];

/// Whether a key holds a list of texts.
fn strings(fields: &Fields<'_>, key: &str) -> bool {
    match fields.get(key) {
        Some(Value::Array(list)) => !list.is_empty() && list.iter().all(Value::is_string),
        _ => false,
    }
}

impl Shape {
    fn rule(self) -> &'static Rule {
        // Every shape has its line; the first stands in for the proof.
        TABLE.iter().find(|r| r.shape == self).unwrap_or(&TABLE[0])
    }

    /// The shape in words, for the start of a run.
    pub fn describe(self) -> &'static str {
        self.rule().words
    }

    /// All shapes in words, for documentation and messages.
    pub fn all() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|rule| rule.words)
    }

    /// The shape of a row.
    pub(super) fn of(fields: &Fields<'_>) -> Result<Self, String> {
        let named: Vec<_> = fields.targets().collect();
        let knows = |rule: &&Rule| named.iter().all(|key| rule.keys.contains(key));
        let fitting: Vec<&Rule> = TABLE.iter().filter(knows).filter(|r| (r.fits)(fields)).collect();
        let Some(first) = fitting.first() else { return Err(unknown(fields, &named)) };
        let alone: Vec<&Rule> = fitting.iter().copied().filter(|r| r.alone).collect();
        if first.alone && alone.len() > 1 {
            let keys: Vec<_> = alone.iter().map(|r| format!("`{}`", r.keys[0])).collect();
            let key = alone[0].keys[0];
            return Err(format!(
                "has more than one of {}; name the one to read, as in `columns: {{{key}: {key}}}`",
                keys.join(" and ")
            ));
        }
        Ok(first.shape)
    }

    pub(super) fn read(self, fields: &Fields<'_>, notes: &mut Notes) -> Result<Row, String> {
        (self.rule().read)(fields, notes)
    }
}

fn unknown(fields: &Fields<'_>, named: &[&str]) -> String {
    let has = names(fields.row);
    if !named.is_empty() {
        return format!(
            "`columns` names {}, which no shape of row is made of; this row has {has}",
            named.join(" and ")
        );
    }
    if fields.has("message_id") && fields.has("parent_id") {
        return "is one message of a tree (oasst1), no row to train on; take a version of the set with one conversation a row".into();
    }
    format!(
        "has no known shape; this row has {has}; name its columns, as in `columns: {{instruction: …, output: …}}`; known are {}",
        Shape::all().collect::<Vec<_>>().join("; ")
    )
}
