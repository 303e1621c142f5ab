//! Words that were met before: the ids of a text put together from those of its words.
//!
//! Where no token can reach over the border between a word and the space after it ([`super::parts`]), the ids of a text are those of
//! its parts " word". The same parts come again and again, so each is encoded once by the tokenizer and then remembered. Each thread
//! remembers for itself. What is remembered is bounded: two generations, of which the older is forgotten when the younger is full.
//! Where words seldom come again, as in tables of hashes, most texts are left to the tokenizer.

use super::parts::Cuts;
use std::collections::HashMap;
use std::sync::Mutex;

/// Threads that remember; more share.
const THREADS: usize = 64;
/// Parts of a generation.
const PARTS: usize = 1 << 15;
/// Longer parts, in bytes, seldom come again.
const LONGEST: usize = 64;
/// Parts after which it is weighed whether they come again.
const WINDOW: usize = 1 << 14;
/// How many times as many texts are left to the tokenizer when they do not.
const LEFT: usize = 15;

/// A token, the byte at which it starts and the one after its last.
pub(super) type Token = (u32, u32, u32);

/// What each thread remembers.
pub(super) struct Words {
    cuts: Cuts,
    memories: Vec<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    young: HashMap<Box<str>, Box<[Token]>>,
    old: HashMap<Box<str>, Box<[Token]>>,
    recent: Recent,
}

/// What was met since it was last weighed.
#[derive(Default)]
struct Recent {
    texts: usize,
    parts: usize,
    unknown: usize,
    /// Texts that are still left to the tokenizer.
    left: usize,
}

impl Words {
    /// For texts that may be cut so.
    pub(super) fn new(cuts: Cuts) -> Self {
        Self { cuts, memories: (0..THREADS).map(|_| Mutex::default()).collect() }
    }

    /// Forgets everything.
    pub(super) fn forget(&self) {
        for memory in &self.memories {
            if let Ok(mut memory) = memory.lock() {
                *memory = Memory::default();
            }
        }
    }

    /// Gives each token of `text` to `token`; a part that is not remembered is encoded by `encode`.
    pub(super) fn tokens<E>(
        &self,
        text: &str,
        encode: impl Fn(&str) -> Result<Vec<Token>, E>,
        mut token: impl FnMut(Token),
    ) -> Result<(), E> {
        let slot = rayon::current_thread_index().unwrap_or(0) % self.memories.len();
        // A thread that shares its memory with a busy one does without.
        let Ok(mut memory) = self.memories[slot].try_lock() else {
            encode(text)?.into_iter().for_each(token);
            return Ok(());
        };
        if memory.recent.leaves() {
            encode(text)?.into_iter().for_each(token);
            return Ok(());
        }
        let mut at = 0;
        for part in self.cuts.parts(text) {
            let mut give = |tokens: &[Token]| {
                for (id, start, end) in tokens {
                    token((*id, at + start, at + end));
                }
            };
            if part.len() > LONGEST {
                give(&encode(part)?);
            } else if !memory.known(part, &mut give) {
                let tokens = encode(part)?;
                give(&tokens);
                memory.learn(part.into(), tokens.into());
                memory.recent.unknown += 1;
            }
            memory.recent.parts += 1;
            at += part.len() as u32;
        }
        Ok(())
    }
}

impl Recent {
    /// Whether the next text is left to the tokenizer: remembering pays where more than a third of the parts come again.
    fn leaves(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return true;
        }
        if self.parts >= WINDOW {
            let left = if self.unknown * 3 > self.parts * 2 { LEFT * self.texts } else { 0 };
            *self = Self { left, ..Self::default() };
        }
        self.texts += 1;
        false
    }
}

impl Memory {
    /// Gives the tokens of a part to `give`; false if it is not remembered.
    fn known(&mut self, part: &str, give: &mut impl FnMut(&[Token])) -> bool {
        if let Some(tokens) = self.young.get(part) {
            give(tokens);
            return true;
        }
        let Some((part, tokens)) = self.old.remove_entry(part) else { return false };
        give(&tokens);
        self.learn(part, tokens);
        true
    }

    fn learn(&mut self, part: Box<str>, tokens: Box<[Token]>) {
        if self.young.len() >= PARTS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(part, tokens);
    }
}
