//! One message of a conversation, and who speaks.

use serde_json::{Map, Value};
use std::ops::Range;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the roles of chat templates")]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

/// The names that data sets have for roles: OpenAI's, ShareGPT's and those of its relatives.
const NAMES: &[(&str, Role)] = &[
    ("system", Role::System),
    ("developer", Role::System),
    ("user", Role::User),
    ("human", Role::User),
    ("prompter", Role::User),
    ("assistant", Role::Assistant),
    ("gpt", Role::Assistant),
    ("chatgpt", Role::Assistant),
    ("bing", Role::Assistant),
    ("bard", Role::Assistant),
    ("model", Role::Assistant),
    ("bot", Role::Assistant),
    ("function_call", Role::Assistant),
    ("tool_call", Role::Assistant),
    ("tool", Role::Tool),
    ("function", Role::Tool),
    ("observation", Role::Tool),
    ("tool_response", Role::Tool),
    ("ipython", Role::Tool),
];

impl Role {
    /// The role's name in chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The role that a data set calls `name`.
    pub(super) fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, role)| *role)
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// Whether an assistant's turn is trained, in part at least.
    pub train: bool,
    /// Bytes of the content of a trained turn that are not trained.
    pub untrained: Vec<Range<usize>>,
    /// The message's other members, as chat templates read them: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`; and
    /// `content: null` beside tool calls.
    pub extra: Map<String, Value>,
}

impl Turn {
    /// A message that is text alone, and trained if it is an answer.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        let content = content.into();
        Self { role, content, train: true, untrained: Vec::new(), extra: Map::new() }
    }

    /// Adds text to the content, trained or not.
    pub(super) fn push(&mut self, text: &str, trained: bool) {
        let before = self.content.len();
        self.content.push_str(text);
        if before > 0 && self.train && !trained && !text.is_empty() {
            self.untrained.push(before..self.content.len());
        } else if before > 0 && !self.train && trained {
            self.untrained.push(0..before);
        }
        self.train = trained || self.train && before > 0;
    }

    /// Adds another turn of the same role as a paragraph of its own.
    pub(super) fn join(&mut self, other: &Self) {
        self.push("\n\n", other.train);
        let start = self.content.len();
        self.push(&other.content, other.train);
        self.untrained.extend(other.untrained.iter().map(|r| r.start + start..r.end + start));
    }

    /// The message as chat templates read it.
    pub fn message(&self) -> Value {
        let mut message = Map::new();
        message.insert("role".into(), self.role.name().into());
        message.insert("content".into(), self.content.clone().into());
        for (key, value) in &self.extra {
            if key != "content" || self.content.is_empty() {
                message.insert(key.clone(), value.clone());
            }
        }
        Value::Object(message)
    }

    /// Whether nothing is said: no text, no call.
    pub fn is_empty(&self) -> bool {
        self.content.is_empty() && !self.extra.contains_key("tool_calls")
    }
}
