//! Where a text may be cut so that its tokens are those of its parts.
//!
//! It holds for byte-level BPE that splits as GPT-2, Llama 3 or Qwen 2 do. In their patterns space only ever begins a match, but for
//! the line breaks that follow signs, and a match that ends before space is found without a look at what comes after. So a text may be cut
//!
//! - before a space that follows a letter, a digit or an ASCII sign,
//! - before a line break that follows a letter,
//! - before and after an added token: those are found first, and each piece between them is split by itself.
//!
//! Added tokens must neither hold space nor take in what is around them, a normalizer must not look beyond a character and its accents,
//! and offsets must not depend on a place in the text. All that is not known to be so is taken as not.

use serde::Serialize;
use serde_json::Value;
use std::collections::HashSet;
use tokenizers::{ModelWrapper, Tokenizer};

/// GPT-2's pattern, and Llama 3's and Qwen 2's, which differ in their digits.
const PATTERNS: [&str; 3] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// Where texts may be cut.
pub(super) struct Cuts {
    /// The added tokens, if each is `<…>` with no such bracket inside: then none can overlap another.
    added: HashSet<String>,
    /// Bytes of the longest of them.
    longest: usize,
}

impl Cuts {
    /// Where the texts of a tokenizer may be cut; `None` if that is not known.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        separable(tokenizer).then(|| {
            let added = tokenizer.get_added_tokens_decoder();
            let mut added: HashSet<String> = added.into_values().map(|t| t.content).collect();
            if !added.iter().all(|t| is_framed(t)) {
                added.clear();
            }
            Self { longest: added.iter().map(String::len).max().unwrap_or(0), added }
        })
    }

    /// The parts of a text.
    pub(super) fn parts<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (part, after) = rest.split_at(self.cut(rest));
            rest = after;
            Some(part)
        })
    }

    /// The end of a text's first part.
    fn cut(&self, text: &str) -> usize {
        if let Some(end) = self.added_token(text) {
            return end;
        }
        let cuts = |(at, byte): &(usize, u8)| match byte {
            b' ' => ends_word(&text[..*at]),
            b'\n' => ends_with_letter(&text[..*at]),
            b'<' => self.added_token(&text[*at..]).is_some(),
            _ => false,
        };
        text.bytes().enumerate().skip(1).find(cuts).map_or(text.len(), |(at, _)| at)
    }

    /// The end of the added token that a text starts with.
    fn added_token(&self, text: &str) -> Option<usize> {
        if self.longest == 0 || !text.starts_with('<') {
            return None;
        }
        let end = text.bytes().take(self.longest).position(|b| b == b'>')? + 1;
        // An accent after it would make another character of its bracket.
        let alone = text[end..].chars().next().is_none_or(|c| c.is_ascii());
        (alone && self.added.contains(&text[..end])).then_some(end)
    }
}

/// Whether a token is `<…>` without such brackets inside.
fn is_framed(token: &str) -> bool {
    let inner = token.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
    inner.is_some_and(|t| !t.contains(['<', '>']))
}

fn ends_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(|c| c.is_ascii_punctuation() || c.is_alphanumeric())
}

/// Whether a text ends with a Latin letter: of those it is certain that every pattern takes them as letters.
fn ends_with_letter(text: &str) -> bool {
    text.chars().next_back().is_some_and(|c| {
        c.is_ascii_alphabetic()
            || matches!(c, '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}')
                && !matches!(c, '×' | '÷')
    })
}

/// Whether the ids of a text are those of its parts.
fn separable(tokenizer: &Tokenizer) -> bool {
    let model = match tokenizer.get_model() {
        ModelWrapper::BPE(bpe) => bpe.dropout.is_none_or(|p| p == 0.0),
        _ => false,
    };
    let added = tokenizer.get_added_tokens_decoder();
    let plain = added.values().all(|t| {
        !t.lstrip && !t.rstrip && !t.single_word && !t.content.contains(char::is_whitespace)
    });
    model
        && plain
        && normalizer(&json(tokenizer.get_normalizer()))
        && pre_tokenizer(&json(tokenizer.get_pre_tokenizer()))
        && keeps_offsets(&json(tokenizer.get_post_processor()))
}

fn json<T: Serialize>(part: Option<&T>) -> Value {
    part.and_then(|p| serde_json::to_value(p).ok()).unwrap_or_default()
}

fn normalizer(json: &Value) -> bool {
    json.is_null() || json["type"] == "NFC"
}

/// `ByteLevel` with GPT-2's pattern, or a known pattern and `ByteLevel` without; digits may be split before.
fn pre_tokenizer(json: &Value) -> bool {
    let alone = std::slice::from_ref(json);
    let steps = if json["type"] == "Sequence" {
        json["pretokenizers"].as_array().map_or(alone, Vec::as_slice)
    } else {
        alone
    };
    let Some((last, before)) = steps.split_last() else { return false };
    let mut splits = last["use_regex"] == true;
    let known = before.iter().all(|step| match step["type"].as_str() {
        Some("Digits") => true,
        Some("Split") => {
            splits = true;
            PATTERNS.iter().any(|p| step["pattern"]["Regex"] == *p)
                && step["behavior"] == "Isolated"
                && step["invert"] == false
        }
        _ => false,
    });
    known && splits && last["type"] == "ByteLevel" && last["add_prefix_space"] == false
}

/// Whether offsets are left alone, or trimmed for every token alike: with `add_prefix_space` the first token is another.
fn keeps_offsets(json: &Value) -> bool {
    let here = json["trim_offsets"] != true || json["add_prefix_space"] == false;
    here && json["processors"].as_array().is_none_or(|list| list.iter().all(keeps_offsets))
}
