use super::*;
use serde_json::json;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What texts are made of: words, accents apart, digits, signs, every kind of space, special tokens, contractions, emoji.
const BITS: &[&str] = &[
    "a",
    "mèo",
    " chó",
    "từ",
    " đầu",
    "e\u{301}",
    "\u{301}",
    "Ω",
    "日本",
    "ﬁ",
    "½",
    "7",
    "42",
    "1234",
    ".",
    ",",
    "'s",
    "'S",
    "'ll",
    "'",
    "(",
    ")",
    "“",
    "…",
    "-",
    "_",
    "\\",
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "\u{85}",
    "\u{200b}",
    "<|im_end|>",
    "<|im_start|>",
    "<|im_",
    "</s>",
    "🐉",
    "👩‍👧",
    "\u{0}",
    "\u{fffd}",
];

fn split(pattern: &str) -> Value {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, byte_level]})
}

/// The bundled tokenizer with other parts.
fn tokenizer(changes: &[(&str, Value)]) -> Tokenizer {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke/model");
    let home = tempfile::tempdir().unwrap();
    let mut json = json_file(&from.join("tokenizer.json")).unwrap();
    for (key, value) in changes {
        json[*key] = value.clone();
    }
    fs::write(home.path().join("tokenizer.json"), json.to_string()).unwrap();
    fs::copy(from.join("tokenizer_config.json"), home.path().join("tokenizer_config.json"))
        .unwrap();
    Tokenizer::load(home.path()).unwrap()
}

fn patterns() -> [Vec<(&'static str, Value)>; 4] {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let smollm2 = json!({"type": "Sequence", "pretokenizers": [digits, byte_level]});
    let trimmed = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let bos = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    [
        vec![],
        vec![("pre_tokenizer", smollm2), ("post_processor", trimmed)],
        vec![("pre_tokenizer", split(LLAMA3)), ("post_processor", bos)],
        vec![("pre_tokenizer", split(QWEN2)), ("normalizer", json!({"type": "NFC"}))],
    ]
}

#[test]
fn texts_made_of_words_have_the_tokens_of_the_whole() {
    for changes in patterns() {
        let tokenizer = tokenizer(&changes);
        assert!(tokenizer.words.is_some(), "{changes:?}");
        let mut state = 1u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % n
        };
        for _ in 0..3000 {
            let text: String = (0..next(24)).map(|_| BITS[next(BITS.len())]).collect();
            let whole = tokenizer.inner.encode(text.as_str(), false).unwrap();
            let bytes: Vec<_> = whole.get_offsets().iter().map(|o| o.0..o.1).collect();
            let want = (whole.get_ids().to_vec(), bytes);
            assert_eq!(tokenizer.encode_with_bytes(&text).unwrap(), want, "{text:?} {changes:?}");
            let with = tokenizer.inner.encode(text.as_str(), true).unwrap();
            assert_eq!(tokenizer.encode(&text, true).unwrap(), with.get_ids(), "{text:?}");
        }
    }
}

#[test]
fn words_are_remembered_beyond_what_there_is_room_for() {
    let tokenizer = tokenizer(&[]);
    for text in 0..100 {
        let number = |i| (text * 1000 + i) % 70_000;
        let text: String = (0..1000).map(|i| format!(" a{} chó", number(i))).collect();
        let whole = tokenizer.inner.encode_fast(text.as_str(), false).unwrap();
        assert_eq!(tokenizer.encode(&text, false).unwrap(), whole.get_ids());
    }
}

#[test]
fn texts_whose_words_never_come_again_have_their_tokens() {
    let tokenizer = tokenizer(&[]);
    for text in 0..200 {
        let text: String = (0..200).map(|i| format!(" a{}", text * 1000 + i)).collect();
        let whole = tokenizer.inner.encode_fast(text.as_str(), false).unwrap();
        assert_eq!(tokenizer.encode(&text, false).unwrap(), whole.get_ids());
    }
}

#[test]
fn tokenizers_whose_tokens_may_reach_over_spaces_are_left_to_themselves() {
    let own = |changes: &[(&str, Value)]| tokenizer(changes).words.is_none();
    let added = |change: &str, value: Value| {
        let mut token = json!({"id": 384, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        token[change] = value;
        [("added_tokens", json!([token]))]
    };
    let byte_level = |space| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true});
    assert!(!own(&added("special", json!(true))));
    assert!(own(&added("lstrip", json!(true))));
    assert!(own(&added("rstrip", json!(true))));
    assert!(own(&added("single_word", json!(true))));
    assert!(own(&added("content", json!("a b"))));
    assert!(own(&[("pre_tokenizer", byte_level(true))]));
    assert!(own(&[("post_processor", byte_level(true))]));
    assert!(own(&[("pre_tokenizer", split(r"\w+ \w+|\s+"))]));
    assert!(own(&[("pre_tokenizer", Value::Null)]));
    assert!(own(&[("normalizer", json!({"type": "Prepend", "prepend": "_"}))]));
}
