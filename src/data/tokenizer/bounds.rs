//! How much longer a tokenizer may make a text, judged from its file before it is given any.
//!
//! A tokenizer's file puts texts of its own into what it reads: replacements, prefixes, tables of characters, tokens around a text. With a
//! replacement of 100 kB for each letter, or with ten steps that double a text, a row of a few kB takes all memory. So each step is
//! counted at its worst, as letters that may come of one letter, and the steps of a chain multiply:
//!
//! | step | letters of one |
//! |---|---|
//! | `Replace` | those of its content by those of its pattern; one more than its content for a regular expression, which may match nothing |
//! | `Prepend` | one more than its text: a text between special tokens may be one letter |
//! | `Precompiled` | the longest entry of its table |
//! | `NFC`, `NFD`, `NFKC`, `NFKD`; `Lowercase` | 3, 4, 18, 18; 3; of several in a row the widest |
//! | `BertNormalizer` | 18, each time: it puts spaces round Chinese letters |
//! | `ByteLevel` | 4, the bytes of a letter |
//! | `Metaspace`; decoders that put spaces in | 2; 3 |
//!
//! (<https://unicode.org/faq/normalization.html>, "maximum expansion factors", here in letters: U+FB2C, U+1F82, U+FDFA.)
//!
//! The longest chains in use are ALBERT's and XLNet's: NFKD, a table of 18, a regular expression and `Metaspace` make 1296. Llama's
//! `Prepend` and `Replace` make 2.

use super::guarded;
use crate::error::{Problem, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

/// Letters that may come of one.
const MOST: usize = 2000;
/// Steps of a chain.
const MOST_STEPS: usize = 100;
/// Tokens that may be put around a text.
const MOST_AROUND: usize = 256;
/// Bytes that may be put before or behind each letter of a word to look it up.
const MOST_AFFIX: usize = 64;

/// The parts of a tokenizer's file that write texts.
#[derive(Deserialize)]
struct Parts {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    model: Option<Affixes>,
}

#[derive(Deserialize)]
struct Affixes {
    continuing_subword_prefix: Option<Value>,
    end_of_word_suffix: Option<Value>,
}

/// Checks the tokenizer's file `bytes`, which was read from `path`.
///
/// # Errors
/// When it is no tokenizer, or could make a text much longer.
pub(super) fn check(path: &Path, bytes: &[u8]) -> Result<()> {
    let parts: Parts = guarded(|| Ok(serde_json::from_slice(bytes)?))
        .map_err(|e| Problem::in_file(path, format!("is no tokenizer: {e}")))?;
    parts.check().map_err(|message| {
        let hint =
            "no tokenizer in use does so; the file is damaged, or was made to fill the memory";
        Problem::in_file(path, message).hint(hint).into()
    })
}

impl Parts {
    fn check(&self) -> Result<(), String> {
        let mut chain = Chain::new();
        chain.pass("normalizer", &json(self.normalizer.as_ref()))?;
        chain.pass("pre_tokenizer", &json(self.pre_tokenizer.as_ref()))?;
        Chain::new().pass("decoder", &json(self.decoder.as_ref()))?;
        around(&json(self.post_processor.as_ref()), &mut 0)?;
        let Some(model) = &self.model else { return Ok(()) };
        for (name, affix) in [
            ("continuing_subword_prefix", &model.continuing_subword_prefix),
            ("end_of_word_suffix", &model.end_of_word_suffix),
        ] {
            let bytes = affix.as_ref().and_then(Value::as_str).map_or(0, str::len);
            if bytes > MOST_AFFIX {
                return Err(format!(
                    "`model.{name}` has {bytes} bytes, which each letter would get; at most {MOST_AFFIX}"
                ));
            }
        }
        Ok(())
    }
}

fn json<T: Serialize>(part: Option<&T>) -> Value {
    part.and_then(|p| serde_json::to_value(p).ok()).unwrap_or_default()
}

/// Steps one after another.
struct Chain {
    /// Letters that may have come of one.
    growth: usize,
    steps: usize,
    /// The widest of the forms of Unicode before; several in a row make no more of a letter than that.
    form: usize,
}

impl Chain {
    fn new() -> Self {
        Self { growth: 1, steps: 0, form: 1 }
    }

    /// Adds a step, or the steps of a sequence.
    fn pass(&mut self, part: &str, step: &Value) -> Result<(), String> {
        let kind = step["type"].as_str().unwrap_or_default();
        if kind == "Sequence" {
            let inner = ["normalizers", "pretokenizers", "decoders"].map(|k| step[k].as_array());
            let mut inner = inner.into_iter().flatten().flatten();
            return inner.try_for_each(|step| self.pass(part, step));
        }
        let form = match kind {
            "Nmt" | "Strip" | "StripAccents" => Some(1),
            "NFC" | "Lowercase" => Some(3),
            "NFD" => Some(4),
            "NFKC" | "NFKD" => Some(18),
            _ => None,
        };
        let before = self.form;
        self.form = form.map_or(1, |f| f.max(before));
        let growth = match kind {
            "BertNormalizer" => 18,
            "Replace" => replaced(step),
            "Prepend" => 1 + letters(&step["prepend"]),
            "Precompiled" => longest_entry(&step["precompiled_charsmap"]),
            "ByteLevel" => 4,
            "Metaspace" => 2,
            "WordPiece" | "CTC" | "BPEDecoder" => 3,
            _ => 1,
        };
        // A form takes the place of narrower ones right before it.
        self.growth = match form {
            Some(_) => self.growth / before * self.form,
            None => self.growth.saturating_mul(growth),
        };
        self.steps += 1;
        if self.growth > MOST {
            return Err(format!(
                "`{part}`: with its step `{kind}` one letter may become {}; at most {MOST}",
                self.growth
            ));
        }
        if self.steps > MOST_STEPS {
            return Err(format!("`{part}`: it has more than {MOST_STEPS} steps"));
        }
        Ok(())
    }
}

fn letters(text: &Value) -> usize {
    text.as_str().map_or(0, |t| t.chars().count())
}

fn replaced(step: &Value) -> usize {
    let content = letters(&step["content"]);
    match letters(&step["pattern"]["String"]) {
        0 => 1 + content,
        pattern => content.div_ceil(pattern).max(1),
    }
}

/// Letters of the longest entry of a table: behind a trie (its bytes as u32, then itself) lie texts, each with a zero byte at its end.
fn longest_entry(table: &Value) -> usize {
    let bytes = STANDARD.decode(table.as_str().unwrap_or_default()).unwrap_or_default();
    let Some((size, rest)) = bytes.split_first_chunk() else { return 1 };
    let entries = rest.get(u32::from_le_bytes(*size) as usize..).unwrap_or_default();
    let longest = entries.split(|b| *b == 0).map(|e| String::from_utf8_lossy(e).chars().count());
    longest.max().unwrap_or(0).max(1)
}

/// Counts the tokens that post-processors put around a text.
fn around(step: &Value, count: &mut usize) -> Result<(), String> {
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    for step in list(&step["processors"]) {
        around(&step, count)?;
    }
    let pieces = list(&step["single"]);
    if pieces.iter().filter(|p| !p["Sequence"].is_null()).count() > 1 {
        return Err("`post_processor`: it repeats each text".into());
    }
    for piece in pieces.iter().filter_map(|p| p["SpecialToken"]["id"].as_str()) {
        *count += step["special_tokens"][piece]["ids"].as_array().map_or(0, Vec::len).max(1);
    }
    if *count > MOST_AROUND {
        return Err(format!(
            "`post_processor`: it puts {count} tokens around each text; at most {MOST_AROUND}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn checked(file: &Value) -> Result<(), String> {
        check(Path::new("t.json"), file.to_string().as_bytes()).map_err(|e| e.to_string())
    }

    fn of(part: &str, steps: &[Value]) -> Result<(), String> {
        let inner = match part {
            "normalizer" => "normalizers",
            "pre_tokenizer" => "pretokenizers",
            "decoder" => "decoders",
            _ => "processors",
        };
        checked(&json!({part: {"type": "Sequence", inner: steps}}))
    }

    fn kind(kind: &str) -> Value {
        json!({"type": kind})
    }

    fn replace(pattern: Value, content: &str) -> Value {
        json!({"type": "Replace", "pattern": pattern, "content": content})
    }

    /// A table of one unit and of an entry of so many letters.
    fn table(letters: usize) -> Value {
        let bytes = [&[4, 0, 0, 0, 0, 0, 0, 0], "ế".repeat(letters).as_bytes(), b"\0a\0"].concat();
        json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(bytes)})
    }

    /// ALBERT, as `transformers` 5.23.0 builds it, with a table as wide as SentencePiece's `nmt_nfkc_cf`.
    fn albert(wide: usize) -> Value {
        let text = |t: &str| json!({"String": t});
        json!({
            "normalizer": {"type": "Sequence", "normalizers": [
                replace(text("``"), "\""), replace(text("''"), "\""), kind("NFKD"), kind("StripAccents"),
                kind("Lowercase"), table(wide), replace(json!({"Regex": " {2,}"}), " "),
            ]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                kind("WhitespaceSplit"),
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            ]},
        })
    }

    #[test]
    fn tokenizers_in_use_pass() {
        checked(&albert(18)).unwrap();
        let llama =
            [json!({"type": "Prepend", "prepend": "▁"}), replace(json!({"String": " "}), "▁")];
        of("normalizer", &llama).unwrap();
        let clip = [kind("NFC"), replace(json!({"Regex": r"\s+"}), " "), kind("Lowercase")];
        of("normalizer", &clip).unwrap();
        let back = [replace(json!({"String": "▁"}), " "), kind("ByteFallback"), kind("Fuse")];
        of("decoder", &back).unwrap();
    }

    #[test]
    fn texts_that_multiply_are_refused_with_their_step() {
        assert!(checked(&albert(100)).unwrap_err().contains("one letter may become 3600"));
        let any = || json!({"Regex": "."});
        let error = of("normalizer", &[replace(any(), &"x".repeat(100_000))]).unwrap_err();
        let says = "t.json: `normalizer`: with its step `Replace` one letter may become 100001; at most 2000\n";
        assert!(error.starts_with(says), "{error}");
        for (part, steps) in [
            ("normalizer", vec![json!({"type": "Prepend", "prepend": "x".repeat(3000)})]),
            ("normalizer", vec![replace(json!({"String": "a"}), "aa"); 11]),
            ("normalizer", vec![replace(json!({"String": ""}), "a"); 11]),
            ("normalizer", vec![kind("ByteLevel"); 6]),
            (
                "normalizer",
                vec![
                    kind("NFKD"),
                    replace(any(), "ﷺ"),
                    kind("NFKD"),
                    replace(any(), "ﷺ"),
                    kind("NFKD"),
                ],
            ),
            ("decoder", vec![replace(any(), &"x".repeat(3000))]),
        ] {
            assert!(of(part, &steps).unwrap_err().contains("one letter may become"), "{steps:?}");
        }
        let level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false});
        assert!(of("pre_tokenizer", &vec![level; 6]).is_err());
        assert!(of("normalizer", &vec![kind("NFC"); 101]).unwrap_err().contains("100 steps"));
    }

    #[test]
    fn templates_that_multiply_are_refused() {
        let template = |single: Vec<Value>, ids: usize| {
            json!({
                "type": "TemplateProcessing", "single": single, "pair": [],
                "special_tokens": {"s": {"id": "s", "ids": vec![1; ids], "tokens": vec!["s"; ids]}},
            })
        };
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let special = json!({"SpecialToken": {"id": "s", "type_id": 0}});
        let whole = vec![special.clone(), text.clone(), special];
        of("post_processor", &[template(whole.clone(), 1)]).unwrap();
        let error = of("post_processor", &[template(vec![text.clone(), text], 1)]).unwrap_err();
        assert!(error.contains("it repeats each text"), "{error}");
        let error = of("post_processor", &[template(whole, 200)]).unwrap_err();
        assert!(error.contains("it puts 400 tokens around each text"), "{error}");
    }

    #[test]
    fn long_affixes_are_refused() {
        for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
            assert!(checked(&json!({"model": {name: "##"}})).is_ok());
            let error = checked(&json!({"model": {name: "x".repeat(65)}})).unwrap_err();
            assert!(error.contains(&format!("`model.{name}` has 65 bytes")), "{error}");
        }
    }
}
