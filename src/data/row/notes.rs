//! What was mended in a row, for the census.

use std::ops::BitOrAssign;

/// A set of things that were mended or noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notes(u16);

impl Notes {
    /// A question or tool result at the end, which nothing answers, was dropped.
    pub const TRAILING_DROPPED: Self = Self(1);
    /// An answer before the first question was dropped.
    pub const LEADING_DROPPED: Self = Self(1 << 1);
    /// Turns of the same role that followed each other were joined by a blank line.
    pub const JOINED: Self = Self(1 << 2);
    /// Earlier exchanges of `history` are part of the row.
    pub const HISTORY: Self = Self(1 << 3);
    /// An answer is empty: all that could be trained is the end of the text.
    pub const EMPTY_ANSWER: Self = Self(1 << 4);
    /// `rejected` was not used.
    pub const REJECTED_IGNORED: Self = Self(1 << 5);
    /// The row's `system` stands before the conversation.
    pub const SYSTEM_ADDED: Self = Self(1 << 6);

    /// Every note with its words, as in `12 rows: …`.
    pub const ALL: &[(Self, &str)] = &[
        (Self::TRAILING_DROPPED, "a trailing question without answer was dropped"),
        (Self::LEADING_DROPPED, "a leading answer without question was dropped"),
        (Self::JOINED, "turns of the same role in a row were joined by a blank line"),
        (Self::HISTORY, "`history` became earlier turns, whose answers are trained"),
        (Self::EMPTY_ANSWER, "an answer is empty"),
        (Self::REJECTED_IGNORED, "`rejected` is not used in supervised finetuning"),
        (Self::SYSTEM_ADDED, "the column `system` became the system turn"),
    ];

    /// Whether all of `other` are in the set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The notes in the set, one by one.
    pub fn iter(self) -> impl Iterator<Item = Self> {
        Self::ALL.iter().map(|(note, _)| *note).filter(move |note| self.contains(*note))
    }

    /// What a single note says.
    pub fn describe(self) -> &'static str {
        Self::ALL.iter().find(|(note, _)| *note == self).map_or("", |(_, words)| words)
    }
}

impl BitOrAssign for Notes {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
