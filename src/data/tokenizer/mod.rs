//! A model directory's tokenizer: `tokenizer.json`, its special tokens, its chat template.

mod bounds;
mod parts;
mod words;

use super::template::ChatTemplate;
use crate::error::{Problem, Result, UserError};
use crate::small_file::{self, DESCRIPTION, TOKENIZER};
use parts::Cuts;
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use words::{Token, Words};

/// The tokenizer of a model directory.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    special: HashSet<u32>,
    /// What the tokenizer puts before and after a text; `None` if that is not the same for every text.
    around: Option<(Vec<u32>, Vec<u32>)>,
    /// Words met before, if texts are made of them.
    words: Option<Words>,
    /// Id that ends a text.
    pub eos_id: Option<u32>,
    /// Id that begins a text.
    pub bos_id: Option<u32>,
    /// Ids that end generation: EOS and those of `generation_config.json`.
    pub stop_ids: Vec<u32>,
    /// The chat template, if there is one.
    pub template: Option<ChatTemplate>,
}

fn json_file(path: &Path) -> Result<Value> {
    match small_file::text(path, DESCRIPTION) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Value::Null),
        Err(e) => Err(Problem::in_file(path, format!("cannot be read: {e}")).into()),
        Ok(text) => serde_json::from_str(&text).map_err(|e| {
            Problem::at(path, e.line(), e.column(), format!("is no valid JSON: {e}")).into()
        }),
    }
}

impl Tokenizer {
    /// Reads the tokenizer of `dir`.
    ///
    /// # Errors
    /// When tokenizer.json is missing or damaged, or the chat template does not parse.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            let problem = Problem::in_file(&path, "is missing");
            let hint = if dir.join("tokenizer.model").is_file() {
                "tokenizer.model alone is not read; save the tokenizer once with transformers' `AutoTokenizer(...).save_pretrained`"
            } else {
                "a model directory holds tokenizer.json beside config.json"
            };
            return Err(problem.hint(hint).into());
        }
        let text = small_file::bytes(&path, TOKENIZER)
            .map_err(|e| Problem::in_file(&path, format!("cannot be read: {e}")))?;
        bounds::check(&path, &text)?;
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(&text))
            .map_err(|e| Problem::in_file(&path, format!("is no tokenizer: {e}")))?;
        drop(text);
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| Problem::in_file(&path, format!("cannot be set up: {e}")))?;
        let config = json_file(&dir.join("tokenizer_config.json"))?;
        let map = json_file(&dir.join("special_tokens_map.json"))?;
        let special = |name: &str| token(&config, name).or_else(|| token(&map, name));
        let id = |name: &str| special(name).and_then(|t| inner.token_to_id(&t));
        let generation = json_file(&dir.join("generation_config.json"))?;
        let model = json_file(&dir.join("config.json"))?;
        let (bos_id, mut eos_id) = (id("bos_token"), id("eos_token"));
        let listed = |json: &Value| ids(json.get("eos_token_id"));
        let mut stop_ids: Vec<u32> = eos_id.into_iter().chain(listed(&generation)).collect();
        if eos_id.is_none() {
            eos_id = listed(&generation).first().or(listed(&model).first()).copied();
            stop_ids.extend(eos_id);
        }
        stop_ids.sort_unstable();
        stop_ids.dedup();
        let template = compiled(dir, &config, special)?;
        let added = inner.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, t)| t.special).map(|(id, ..)| id).collect();
        let around = around(&inner);
        let words = Cuts::of(&inner).map(Words::new);
        Ok(Self { inner, path, special, around, words, eos_id, bos_id, stop_ids, template })
    }

    /// The chat template of a directory, which need not hold a tokenizer.
    ///
    /// # Errors
    /// When a file is no JSON, or the template does not parse.
    pub fn template_of(dir: &Path) -> Result<Option<ChatTemplate>> {
        let config = json_file(&dir.join("tokenizer_config.json"))?;
        let map = json_file(&dir.join("special_tokens_map.json"))?;
        compiled(dir, &config, |name| token(&config, name).or_else(|| token(&map, name)))
    }

    /// What the tokenizer puts before and after a text; `None` if that is not the same for every text.
    pub fn around(&self) -> Option<(&[u32], &[u32])> {
        self.around.as_ref().map(|(before, after)| (before.as_slice(), after.as_slice()))
    }

    /// What decides the ids of a text: the tokenizer's file, and special tokens with the chat template.
    pub fn identity(&self) -> [Vec<u8>; 2] {
        let file = fs::read(&self.path).unwrap_or_default();
        let template = self.template.as_ref().map(ChatTemplate::identity).unwrap_or_default();
        [file, format!("{:?} {:?} {template}", self.bos_id, self.eos_id).into_bytes()]
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1)
    }

    /// Token ids of a text; `special` lets the tokenizer add what it adds, such as BOS.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        if self.words.is_none() || special && self.around.is_none() {
            let encoding = guarded(|| self.inner.encode_fast(text, special));
            let encoding = encoding.map_err(|e| self.failed(e))?;
            return Ok(encoding.get_ids().to_vec());
        }
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.tokens(text, |(id, ..)| ids.push(id))?;
        if special { self.with_special(text, ids) } else { Ok(ids) }
    }

    /// The ids of a text with what the tokenizer adds, from those without it.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn with_special(&self, text: &str, plain: Vec<u32>) -> Result<Vec<u32>> {
        match &self.around {
            Some((before, after)) if before.is_empty() && after.is_empty() => Ok(plain),
            Some((before, after)) => Ok([before.as_slice(), &plain, after].concat()),
            None => self.encode(text, true),
        }
    }

    /// Token ids of a text and the bytes that each stands for, nothing added.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode_with_bytes(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let (mut ids, mut bytes) = (Vec::new(), Vec::new());
        self.tokens(text, |(id, start, end)| {
            ids.push(id);
            bytes.push(start as usize..end as usize);
        })?;
        Ok((ids, bytes))
    }

    /// Gives each token of a text to `token`, nothing added.
    fn tokens(&self, text: &str, mut token: impl FnMut(Token)) -> Result<()> {
        let encode = |text: &str| -> Result<Vec<Token>> {
            let encoding = guarded(|| self.inner.encode(text, false));
            let encoding = encoding.map_err(|e| self.failed(e))?;
            let bytes = encoding.get_offsets().iter();
            let token =
                |(id, (start, end)): (&u32, &(usize, usize))| (*id, *start as u32, *end as u32);
            Ok(encoding.get_ids().iter().zip(bytes).map(token).collect())
        };
        match &self.words {
            Some(words) => words.tokens(text, encode, token),
            None => {
                encode(text)?.into_iter().for_each(&mut token);
                Ok(())
            }
        }
    }

    fn failed(&self, error: tokenizers::Error) -> UserError {
        Problem::in_file(&self.path, format!("cannot encode a text: {error}")).into()
    }

    /// Forgets the words met before: they are of use where many texts are encoded.
    pub fn forget_words(&self) {
        if let Some(words) = &self.words {
            words.forget();
        }
    }

    /// The text of ids; `skip_special` leaves special tokens out.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let failed = |e| Problem::in_file(&self.path, format!("cannot decode ids: {e}")).into();
        guarded(|| self.inner.decode(ids, skip_special)).map_err(failed)
    }

    /// Whether an id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The token that an id stands for, as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}

/// The crate panics on some broken tokenizers instead of refusing them, when they are read or only when they are used.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("a part of it is broken".into()))
}

/// What the tokenizer puts around any text: post-processors add the same to each.
fn around(inner: &tokenizers::Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
    let encode = |special| guarded(|| inner.encode_fast("a", special));
    let ids = |special| encode(special).map(|e| e.get_ids().to_vec()).ok();
    let (plain, whole) = (ids(false)?, ids(true)?);
    let mut places = whole.windows(plain.len().max(1)).enumerate().filter(|(_, w)| **w == *plain);
    let (at, _) = places.next()?;
    let once = places.next().is_none();
    once.then(|| (whole[..at].to_vec(), whole[at + plain.len()..].to_vec()))
}

fn token(json: &Value, name: &str) -> Option<String> {
    let value = json.get(name)?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

fn ids(value: Option<&Value>) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(v) => one(v).into_iter().collect(),
        None => Vec::new(),
    }
}

/// The chat template of a directory; `special` knows its special tokens by their names.
fn compiled(
    dir: &Path,
    config: &Value,
    special: impl Fn(&str) -> Option<String>,
) -> Result<Option<ChatTemplate>> {
    let Some((from, text)) = chat_template(dir, config)? else { return Ok(None) };
    let names = ["bos_token", "eos_token", "unk_token", "pad_token"];
    let tokens = names.iter().filter_map(|n| Some(((*n).to_owned(), special(n)?))).collect();
    ChatTemplate::new(&from, &text, tokens).map(Some)
}

/// The file and text of the chat template.
fn chat_template(dir: &Path, config: &Value) -> Result<Option<(PathBuf, String)>> {
    let file = dir.join("chat_template.jinja");
    if file.exists() {
        let text = small_file::text(&file, DESCRIPTION)
            .map_err(|e| Problem::in_file(&file, format!("cannot be read: {e}")))?;
        return Ok(Some((file, text)));
    }
    let from = dir.join("tokenizer_config.json");
    Ok(match config.get("chat_template") {
        Some(Value::String(text)) => Some((from, text.clone())),
        Some(Value::Array(list)) => {
            let named = |v: &&Value| v.get("name").and_then(Value::as_str) == Some("default");
            let default = list.iter().find(named).and_then(|v| v.get("template")?.as_str());
            default.map(|text| (from, text.to_owned()))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests;
