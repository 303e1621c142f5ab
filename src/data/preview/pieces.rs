//! Ids as the text that each adds.
//!
//! A token may be some of the bytes of a character, and what a decoder makes of a token may depend on the one before it. So a token's
//! text is what it adds to the text of the tokens before it, back to where the last but one whole piece of text began; bytes of a character
//! that is not whole yet go to the token that completes it.

use crate::data::tokenizer::Tokenizer;
use crate::error::Result;

/// Tokens after which a character that is not whole is taken as it is: no character has more bytes.
const PENDING: usize = 4;

/// What a token adds to the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// The text; empty where the next token completes a character.
    pub(super) text: String,
    /// Whether it is a special token.
    pub(super) special: bool,
}

/// The text that each of `ids` adds.
///
/// # Errors
/// When the tokenizer cannot decode.
pub(super) fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Result<Vec<Piece>> {
    let mut pieces = Vec::with_capacity(ids.len());
    // Text up to `read` has been given out; `from` is where that text's last piece began.
    let (mut from, mut read) = (0, 0);
    for (t, id) in ids.iter().enumerate() {
        let named = tokenizer.token(*id);
        let special = named.is_none() || tokenizer.is_special(*id);
        if special {
            let text = named.unwrap_or_else(|| format!("<no token {id}>"));
            // Bytes that no token has completed are given out with it, before it.
            let before = added(tokenizer, ids, from, read, t)?;
            pieces.push(Piece { text, special });
            if !before.is_empty()
                && let Some(last) = pieces.get_mut(t.wrapping_sub(1))
            {
                last.text = before;
            }
            (from, read) = (t, t + 1);
            continue;
        }
        let text = added(tokenizer, ids, from, read, t + 1)?;
        let pending = text.ends_with('\u{fffd}') && t + 1 - read < PENDING && t + 1 < ids.len();
        if text.is_empty() || pending {
            pieces.push(Piece { text: String::new(), special });
            continue;
        }
        pieces.push(Piece { text, special });
        (from, read) = (read, t + 1);
    }
    Ok(pieces)
}

/// What the tokens from `read` to `end` add to those from `from` to `read`.
fn added(
    tokenizer: &Tokenizer,
    ids: &[u32],
    from: usize,
    read: usize,
    end: usize,
) -> Result<String> {
    let before = tokenizer.decode(&ids[from..read], false)?;
    let all = tokenizer.decode(&ids[from..end], false)?;
    match all.strip_prefix(&before) {
        Some(text) => Ok(text.to_owned()),
        // A decoder that changes earlier text as more follows.
        None => tokenizer.decode(&ids[read..end], false),
    }
}
