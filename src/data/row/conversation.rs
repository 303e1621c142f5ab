//! Conversations put in order, and taken apart into exchanges.
//!
//! Order: turns of the same role that follow each other are joined by a blank line, and keep the first
//! one's other members; answers before the first question and whatever
//! follows the last answer are dropped. Each is noted. Tool calls and their results are never joined: several in a row are meant so.

use super::{Notes, Role, Turn};

/// The turns in order.
pub(super) fn mended(turns: Vec<Turn>, notes: &mut Notes) -> Result<Vec<Turn>, String> {
    let mut turns = joined(turns, notes);
    let start = turns.iter().position(|t| t.role != Role::System).unwrap_or(turns.len());
    let spoken = |t: &Turn| matches!(t.role, Role::Assistant | Role::Tool);
    let before = turns[start..].iter().take_while(|t| spoken(t)).count();
    let asks = turns.iter().any(|t| t.role == Role::User);
    if before > 0 && asks {
        turns.drain(start..start + before);
        *notes |= Notes::LEADING_DROPPED;
    }
    let answered = turns.iter().rposition(|t| t.role == Role::Assistant);
    let Some(last) = answered.filter(|_| asks) else {
        return Err(if asks { "has no assistant turn" } else { "has no user turn" }.into());
    };
    if last + 1 < turns.len() {
        turns.truncate(last + 1);
        *notes |= Notes::TRAILING_DROPPED;
    }
    if turns.iter().any(|t| t.role == Role::Assistant && t.is_empty()) {
        *notes |= Notes::EMPTY_ANSWER;
    }
    Ok(turns)
}

fn joined(turns: Vec<Turn>, notes: &mut Notes) -> Vec<Turn> {
    let mut kept: Vec<Turn> = Vec::with_capacity(turns.len());
    for turn in turns {
        let called =
            |t: &Turn| ["tool_calls", "tool_call_id"].iter().any(|k| t.extra.contains_key(*k));
        let plain = |t: &Turn| t.role != Role::Tool && !called(t);
        match kept.last_mut() {
            Some(last) if last.role == turn.role && plain(last) && plain(&turn) => {
                last.join(&turn);
                *notes |= Notes::JOINED;
            }
            _ => kept.push(turn),
        }
    }
    kept
}

/// The row's system prompt before its turns.
pub(super) fn with_system(
    mut turns: Vec<Turn>,
    system: Option<String>,
    notes: &mut Notes,
) -> Result<Vec<Turn>, String> {
    let Some(system) = system else { return Ok(turns) };
    match turns.first() {
        Some(first) if first.role == Role::System => {
            if first.content.trim() != system.trim() {
                return Err(
                    "has a column `system` and another system turn in the conversation".into()
                );
            }
        }
        _ => {
            turns.insert(0, Turn::new(Role::System, system));
            *notes |= Notes::SYSTEM_ADDED;
        }
    }
    Ok(turns)
}

/// A question and its answer out of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange<'a> {
    /// The conversation's system turn.
    pub system: Option<&'a Turn>,
    /// What is asked.
    pub question: &'a Turn,
    /// The answer, trained or not.
    pub answer: &'a Turn,
}

impl Exchange<'_> {
    /// The exchange as a conversation of its own.
    pub fn turns(&self) -> Vec<Turn> {
        self.system.into_iter().chain([self.question, self.answer]).cloned().collect()
    }
}

/// Each question with its answer, without what came before: LitGPT's flattening of conversations,
/// `for i in range(0, len(convo) - 1, 2)`.
///
/// A system prompt, which there takes the first question's place and makes the question the answer, goes with each exchange here.
///
/// # Errors
/// A message without place, when the conversation calls tools, whose exchanges mean nothing apart, or a system turn stands in its
/// middle, which belongs to none of them.
pub fn exchanges(turns: &[Turn]) -> Result<Vec<Exchange<'_>>, String> {
    let plain = |t: &Turn| t.role != Role::Tool && !t.extra.contains_key("tool_calls");
    if !turns.iter().all(plain) {
        return Err("calls tools, so its exchanges mean nothing apart; read it whole (`multi_turn: conversation`)".into());
    }
    if turns.iter().skip(1).any(|t| t.role == Role::System) {
        return Err("has a system turn in its middle, which belongs to no exchange; read it whole (`multi_turn: conversation`)".into());
    }
    let system = turns.first().filter(|t| t.role == Role::System);
    let pair = |w: &[Turn]| w[0].role == Role::User && w[1].role == Role::Assistant;
    let pairs = turns.windows(2).filter(|w| pair(w));
    Ok(pairs.map(|w| Exchange { system, question: &w[0], answer: &w[1] }).collect())
}

/// The first question with its answer: LitGPT's `include_multiturn_conversations: false`.
///
/// # Errors
/// As [`exchanges`].
pub fn first_exchange(turns: &[Turn]) -> Result<Option<Exchange<'_>>, String> {
    let end = turns.iter().position(|t| t.role == Role::Assistant).map_or(0, |i| i + 1);
    Ok(exchanges(&turns[..end])?.into_iter().next())
}
