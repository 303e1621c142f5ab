//! Rows as token ids and labels.
//!
//! A row becomes a conversation written by the tokenizer's chat template (`chat`) or prompts and answers in a prompt style
//! (`styled`); a text is trained whole. Every answer ends with EOS or the template's own closing token, and that is trained. What is
//! longer than the limit loses its last exchanges, then its last tokens; a text goes on in the next sample.

mod answers;
mod chat;
mod styled;

use super::row::{Columns, Exchange, Parsed, Role, Row, Turn, exchanges, first_exchange};
use super::source::slice::SplitSlice;
use super::style::{Style, joined};
use super::tokenizer::Tokenizer;
use crate::config::{MultiTurn, OnBadRow, TrainOn};
use serde_json::Map;

/// The label that is not trained.
pub const IGNORED: i32 = -100;

/// Token ids with their labels, unshifted; -100 is ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Labels.
    pub labels: Vec<i32>,
    /// Tokens before the first answer; 0 where nobody is asked.
    pub prompt: usize,
    /// What was taken away to make it fit.
    pub cut: Cut,
    /// Whether the row's `input` does not appear, as the style has no place for it.
    pub input_lost: bool,
    /// Whether the row's `tools` do not appear, as the template or style does not write them.
    pub tools_lost: bool,
}

/// What was taken away from a sample that was too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    #[default]
    Whole,
    /// Its last exchanges.
    Exchanges,
    /// Its last tokens.
    Tokens,
}

impl Sample {
    /// The number of tokens that are predicted and trained.
    pub fn targets(&self) -> usize {
        self.labels.iter().skip(1).filter(|l| **l != IGNORED).count()
    }
}

/// Turns rows of one set into samples.
pub struct Encoder<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How prompts become text.
    pub style: Style,
    /// Whether the style was asked for: prompts of `prompt` and `completion` are verbatim otherwise.
    pub chosen: bool,
    /// What is trained.
    pub train_on: TrainOn,
    /// What becomes of conversations.
    pub multi_turn: MultiTurn,
    /// Longer samples are cut to this many tokens.
    pub limit: Option<usize>,
    /// Tokens that the model sees.
    pub context: usize,
    /// Vocabulary of the model.
    pub vocab: usize,
    /// The label that is not trained in rows of tokens.
    pub ignore_index: i64,
}

/// Token ids, their labels, and the number of tokens before the first answer.
type Tokens = (Vec<u32>, Vec<i32>, usize);

impl Encoder<'_> {
    /// The samples of a row: one, or several of a text or of a conversation taken apart.
    ///
    /// # Errors
    /// A message without place, and a hint.
    pub fn samples(&self, parsed: Parsed) -> Result<Vec<Sample>, Fault> {
        let lost = |row: &Row| match row {
            Row::Instruction { input, columns, .. } if !self.style.uses_input() => {
                // A user's own template may name it as the column that it is.
                let mut named = self.style.columns().into_iter();
                !input.is_empty() && !named.any(|c| columns.get(c).is_some_and(|v| v == input))
            }
            _ => false,
        };
        let samples = match parsed.row {
            Row::Tokens { ids, labels } => vec![self.verbatim(ids, labels)?],
            Row::Text(_) if self.chosen => {
                return Err(Fault {
                    message: "is a text, which has no question for `prompt_style` or `prompt_template` to write".into(),
                    hint: Some("name its parts, as in `columns: {instruction: …, output: …}`".into()),
                });
            }
            Row::Text(text) => self.text(&text)?,
            Row::Completion { prompt, completion } if !self.chosen => {
                vec![whole(self.exchange(&prompt, &completion, true)?)]
            }
            Row::Completion { prompt, completion } => {
                vec![self.written(instruction(prompt, completion))?]
            }
            row => {
                let input_lost = lost(&row);
                let rows = self.taken_apart(row)?;
                let one = |row| {
                    let tools_lost = self.leaves_out_tools(&row);
                    Ok(Sample { input_lost, tools_lost, ..self.written(row)? })
                };
                rows.into_iter().map(one).collect::<Result<_, Fault>>()?
            }
        };
        samples.into_iter().map(|s| self.fitted(s)).collect()
    }

    /// Everything that decides what becomes of a row, for the name of a store.
    pub(super) fn settings(
        &self,
        columns: &Columns,
        slice: Option<&SplitSlice>,
        most: Option<usize>,
        on_bad_row: OnBadRow,
    ) -> [Vec<u8>; 3] {
        let Self {
            tokenizer,
            style,
            chosen,
            train_on,
            multi_turn,
            limit,
            context,
            vocab,
            ignore_index,
        } = self;
        let text = format!(
            "{style:?} {chosen} {train_on} {multi_turn} {limit:?} {context} {vocab} {ignore_index} {columns:?} {slice:?} {most:?} {on_bad_row}"
        );
        let [bytes, template] = tokenizer.identity();
        [text.into_bytes(), bytes, template]
    }

    /// Conversations as `multi_turn` says: whole, or their exchanges.
    fn taken_apart(&self, row: Row) -> Result<Vec<Row>, String> {
        let whole = match &row {
            Row::Instruction { history, .. } => history.is_empty(),
            _ => self.multi_turn == MultiTurn::Conversation,
        };
        if whole || self.multi_turn == MultiTurn::Conversation {
            return Ok(vec![row]);
        }
        // An instruction with a history: templates may name its columns. Other rows stay what they are.
        let columns = match &row {
            Row::Instruction { columns, .. } => Some(columns.clone()),
            _ => None,
        };
        let tools = match &row {
            Row::Conversation { tools, .. } => tools.clone(),
            _ => None,
        };
        let turns = row.into_turns(joined).unwrap_or_default();
        let pairs = match self.multi_turn {
            MultiTurn::First => first_exchange(&turns)?.into_iter().collect(),
            _ => exchanges(&turns)?,
        };
        let one = |e: Exchange<'_>| match &columns {
            None => Row::Conversation { turns: e.turns(), tools: tools.clone() },
            Some(columns) => Row::Instruction {
                system: e.system.map(|t| t.content.clone()),
                history: Vec::new(),
                instruction: e.question.content.clone(),
                input: String::new(),
                output: e.answer.content.clone(),
                columns: columns.clone(),
            },
        };
        Ok(pairs.into_iter().map(one).collect())
    }

    /// A conversation or instruction in the style; too long a conversation loses its last exchanges.
    fn written(&self, row: Row) -> Result<Sample, Fault> {
        let row = if self.style.is_chat_template() { conversation(row) } else { row };
        let tokens = self.tokens(&row)?;
        let Some(most) = self.limit.filter(|most| tokens.0.len() > *most) else {
            return Ok(whole(tokens));
        };
        // A single exchange, of which a prompt template may name any column, has nothing to give but tokens.
        let single = matches!(&row, Row::Instruction { history, .. } if history.is_empty());
        let Row::Conversation { turns, tools } = (if single { row } else { conversation(row) })
        else {
            return Ok(Sample { cut: Cut::Tokens, ..whole(tokens) });
        };
        // Tokens grow with exchanges, so the most of them that fit are found by halving.
        let ends = question_starts(&turns);
        let part = |n: usize| {
            let end = ends.get(n).copied().unwrap_or(turns.len());
            self.tokens(&Row::Conversation { turns: turns[..end].to_vec(), tools: tools.clone() })
        };
        let (mut fits, mut exceeds, mut kept) = (0, ends.len(), None);
        while fits + 1 < exceeds {
            let middle = fits.midpoint(exceeds);
            let shorter = part(middle)?;
            if shorter.0.len() <= most {
                (fits, kept) = (middle, Some(shorter));
            } else {
                exceeds = middle;
            }
        }
        match kept {
            Some(kept) => Ok(Sample { cut: Cut::Exchanges, ..whole(kept) }),
            None if ends.len() > 1 => Ok(Sample { cut: Cut::Exchanges, ..whole(part(1)?) }),
            None => Ok(Sample { cut: Cut::Tokens, ..whole(tokens) }),
        }
    }

    fn tokens(&self, row: &Row) -> Result<Tokens, Fault> {
        match row {
            Row::Conversation { turns, tools } if self.style.is_chat_template() => {
                self.chat(turns, tools.as_ref())
            }
            row => self.styled(row),
        }
    }

    /// Rows of tokens: the user's label for "not trained" becomes ours.
    fn verbatim(&self, ids: Vec<u32>, mut labels: Vec<i32>) -> Result<Sample, Fault> {
        if self.ignore_index != i64::from(IGNORED) {
            for label in &mut labels {
                if i64::from(*label) == self.ignore_index {
                    *label = IGNORED;
                }
            }
        }
        let too_big = |id: &u32| *id as usize >= self.vocab;
        let trained = labels.iter().filter(|l| **l >= 0).map(|l| *l as u32);
        if let Some(id) = ids.iter().copied().chain(trained).find(too_big) {
            let message =
                format!("token id {id} lies outside the model's vocabulary of {}", self.vocab);
            let hint =
                "the tokenizer, or the program that made these ids, belongs to another model";
            return Err(Fault { message, hint: Some(hint.into()) });
        }
        Ok(Sample { ids, labels, ..Sample::default() })
    }

    /// A text with its EOS, in as many samples as it takes.
    fn text(&self, text: &str) -> Result<Vec<Sample>, Fault> {
        let (ids, ..) = self.exchange("", text, true)?;
        let most = self.limit.unwrap_or(self.context).min(self.context).max(2);
        let sample = |ids: &[u32]| Sample {
            ids: ids.to_vec(),
            labels: ids.iter().map(|id| *id as i32).collect(),
            ..Sample::default()
        };
        // EOS alone in a last sample would be predicted by nothing: it takes a token with it.
        let alone = ids.len() > most && ids.len() % most == 1;
        let (ids, tail) = ids.split_at(ids.len() - if alone { 2 } else { 0 });
        let tail = Some(tail).filter(|_| alone);
        Ok(ids.chunks(most).chain(tail).map(sample).collect())
    }

    /// Cut to the limit; an error when nothing allows to cut and the model cannot see it all.
    fn fitted(&self, mut sample: Sample) -> Result<Sample, Fault> {
        let n = sample.ids.len();
        if let Some(limit) = self.limit {
            if n > limit {
                sample.ids.truncate(limit);
                sample.labels.truncate(limit);
                sample.cut = Cut::Tokens;
            }
        } else if n > self.context {
            let context = self.context;
            let message = format!("the row has {n} tokens; the model sees at most {context}");
            let hint = format!("set `train.max_seq_length: {context}` to cut such rows");
            return Err(Fault { message, hint: Some(hint) });
        }
        Ok(sample)
    }
}

fn whole((ids, labels, prompt): Tokens) -> Sample {
    Sample { ids, labels, prompt, ..Sample::default() }
}

fn instruction(prompt: String, completion: String) -> Row {
    Row::Instruction {
        system: None,
        history: Vec::new(),
        instruction: prompt,
        input: String::new(),
        output: completion,
        columns: Map::new(),
    }
}

/// The row as a conversation, where it can be one.
fn conversation(row: Row) -> Row {
    match row {
        Row::Instruction { .. } => {
            Row::Conversation { turns: row.into_turns(joined).unwrap_or_default(), tools: None }
        }
        row => row,
    }
}

/// Where each question stands.
fn question_starts(turns: &[Turn]) -> Vec<usize> {
    let asks = |(i, t): (usize, &Turn)| (t.role == Role::User).then_some(i);
    turns.iter().enumerate().filter_map(asks).collect()
}

/// What is wrong with a row, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The message, without place.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self { message, hint: None }
    }
}

impl From<&str> for Fault {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}
