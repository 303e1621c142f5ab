//! One row in one of the shapes that people have.
//!
//! [`Columns`] rename what the user says; [`Shape`] is found by the row's keys; the shape's reader makes a [`Row`] of it and notes
//! what it mended. A key whose value is null counts as absent: Parquet has every column in every row.
//!
//! | row | shapes |
//! |---|---|
//! | [`Row::Conversation`] | `messages`, ShareGPT, LIMA, UltraChat, hh-rlhf and other `chosen`, TRL's `prompt` and `completion` as messages |
//! | [`Row::Instruction`] | Alpaca, Dolly, questions and answers, `input` and `output`, FLAN |
//! | [`Row::Completion`] | TRL's `prompt` and `completion` as text |
//! | [`Row::Text`], [`Row::Tokens`] | `text`; `input_ids` and `labels` |

mod columns;
mod completion;
mod conversation;
mod instruction;
mod messages;
mod notes;
mod preference;
mod shape;
mod tokens;
mod turn;

pub use columns::Columns;
pub use conversation::{Exchange, exchanges, first_exchange};
pub use notes::Notes;
pub use shape::Shape;
pub use turn::{Role, Turn};

use serde_json::{Map, Value};

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// A whole conversation: it ends with an answer.
    Conversation {
        /// Its messages.
        turns: Vec<Turn>,
        /// The tools that the assistant may call, a list as chat templates take it.
        tools: Option<Value>,
    },
    /// An instruction with its answer, for a prompt style to write.
    Instruction {
        /// The row's own system prompt.
        system: Option<String>,
        /// Earlier questions with their answers.
        history: Vec<(String, String)>,
        /// What is asked.
        instruction: String,
        /// What it is about; may be empty.
        input: String,
        /// The answer.
        output: String,
        /// All columns that hold one value, for templates that name them.
        columns: Map<String, Value>,
    },
    /// A text and how it goes on, both taken verbatim.
    Completion {
        /// What is given.
        prompt: String,
        /// How it goes on; a space between the two stands in one of them.
        completion: String,
    },
    /// A text, trained whole.
    Text(String),
    /// Tokens with their labels, taken verbatim: labels are unshifted, -100 is ignored.
    Tokens {
        /// Token ids.
        ids: Vec<u32>,
        /// Labels.
        labels: Vec<i32>,
    },
}

/// A row and what was mended to read it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The row.
    pub row: Row,
    /// What was mended.
    pub notes: Notes,
    /// The shape that it was read as.
    pub shape: Shape,
}

impl Row {
    /// Reads a row by the keys that it has, after `columns` are renamed.
    ///
    /// # Errors
    /// A message without place: what is wrong with the row.
    pub fn parse(value: &Value, columns: &Columns) -> Result<Parsed, String> {
        let Value::Object(row) = value else {
            return Err(format!("a row is an object, this one is {}", kind(value)));
        };
        let fields = columns.fields(row)?;
        let shape = Shape::of(&fields)?;
        let mut notes = Notes::default();
        let row = shape.read(&fields, &mut notes)?;
        Ok(Parsed { row, notes, shape })
    }

    /// The conversation that a row is or can be written as: an instruction's question is what `question` makes of instruction and
    /// input. `None` for text and tokens.
    pub fn into_turns(self, question: impl FnOnce(&str, &str) -> String) -> Option<Vec<Turn>> {
        match self {
            Self::Conversation { turns, .. } => Some(turns),
            Self::Instruction { system, history, instruction, input, output, .. } => {
                let system = system.map(|s| Turn::new(Role::System, s));
                let earlier = history
                    .into_iter()
                    .flat_map(|(q, a)| [Turn::new(Role::User, q), Turn::new(Role::Assistant, a)]);
                let asked = Turn::new(Role::User, question(&instruction, &input));
                let answered = Turn::new(Role::Assistant, output);
                Some(system.into_iter().chain(earlier).chain([asked, answered]).collect())
            }
            Self::Completion { .. } | Self::Text(_) | Self::Tokens { .. } => None,
        }
    }
}

/// What a value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
