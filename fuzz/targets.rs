//! What each fuzz target does with its bytes: it gives them to a reader of vft as the file that the reader reads.
//!
//! An error is a fine answer. A panic, an abort, memory beyond [`memory::CAP`] and a reader that does not come back are not. `tests/hostile`
//! runs the same functions on the seeds and on all inputs that were ever found, without a fuzzer.

#[path = "memory.rs"]
pub(crate) mod memory;

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use vft::checkpoint::run_manifest::RunManifest;
use vft::checkpoint::{find, peft, run_state::RunState};
use vft::config::{MultiTurn, RunConfig, TrainOn};
use vft::data::encode::Encoder;
use vft::data::row::{Columns, Row};
use vft::data::source::{Options, known_rows, rows_with, slice::SplitSlice, splits::split_files};
use vft::data::style::Style;
use vft::data::template::ChatTemplate;
use vft::data::tokenizer::Tokenizer;
use vft::hex::hex;
use vft::hub::config::HfConfig;
use vft::hub::remote::{Hub, Patience};
use vft::hub::safetensors::Checkpoint;
use vft::model::families;
use vft::train::reproduce::{self, Moved};

/// A reader's name, and what reads the bytes; the directory is there to be filled.
pub(crate) type Target = (&'static str, fn(&Path, &[u8]));

/// All targets; each has a file in `fuzz_targets` and seeds in `seeds`.
pub(crate) const TARGETS: &[Target] = &[
    ("config", config),
    ("rows", rows),
    ("row", row),
    ("parquet", parquet),
    ("safetensors", safetensors),
    ("index", index),
    ("tokenizer", tokenizer),
    ("tokenizer_config", tokenizer_config),
    ("template", template),
    ("adapter_config", adapter_config),
    ("manifest", manifest),
    ("run_manifest", run_manifest),
    ("model_config", model_config),
    ("readme", readme),
];

/// Rows that are read of one file.
const ROWS: usize = 10_000;
/// Bytes that one row may have here.
const ROW_BYTES: usize = 1 << 20;

/// The repository.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    if here.join("configs").is_dir() { here } else { here.parent().unwrap_or(here) }
}

/// Fills a file; a disk that is full is no finding.
fn write(path: &Path, bytes: &[u8]) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("a place for the input");
    }
    fs::write(path, bytes).expect("a place for the input");
}

/// One of `names` by the first byte (`0` is the first), and what follows it.
fn choose<'a, 'n>(names: &[&'n str], data: &'a [u8]) -> Option<(&'n str, &'a [u8])> {
    let (first, rest) = data.split_first()?;
    Some((names[usize::from(first.wrapping_sub(b'0')) % names.len()], rest))
}

/// A run config, or with a first line `--` the arguments of a command line, one a line.
fn config(dir: &Path, data: &[u8]) {
    let read = if data.starts_with(b"--") {
        let text = String::from_utf8_lossy(data);
        let arguments: Vec<String> = text.lines().map(str::to_owned).collect();
        RunConfig::load(None, &arguments)
    } else {
        let file = dir.join("run.yml");
        write(&file, data);
        RunConfig::load(Some(&file), &[])
    };
    match read {
        Ok(config) => drop(config.to_yaml()),
        Err(e) => drop(e.to_string()),
    }
}

/// Rows in any container but Parquet.
fn rows(dir: &Path, data: &[u8]) {
    const NAMES: &[&str] = &["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a", "a.jsonl.gz"];
    let Some((name, text)) = choose(NAMES, data) else { return };
    let file = dir.join(name);
    write(&file, text);
    let options = Options { max_row_bytes: ROW_BYTES, ..Options::default() };
    let Ok(rows) = rows_with(&file, &options) else { return };
    for row in rows.take(ROWS).flatten() {
        drop(Row::parse(&row.value, &Columns::default()));
    }
}

fn bundled() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        Tokenizer::load(&root().join("configs/smoke/model")).expect("the bundled tokenizer")
    })
}

/// A row of any shape, after a line that renames its columns if it has a `=`; encoded in a prompt style and by the chat template.
fn row(_: &Path, data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (columns, text) = match text.split_once('\n').filter(|(first, _)| first.contains('=')) {
        Some((first, rest)) => (first.parse().unwrap_or_default(), rest),
        None => (Columns::default(), text),
    };
    let Ok(value) = serde_json::from_str(text) else { return };
    let chat = Style::chat_template();
    let alpaca = Style::named("alpaca", None).expect("a style that is known");
    for (style, chosen, multi_turn, train_on, limit) in [
        (chat, false, MultiTurn::Conversation, TrainOn::Assistant, Some(24)),
        (alpaca, true, MultiTurn::Pairs, TrainOn::All, None),
    ] {
        let Ok(parsed) = Row::parse(&value, &columns) else { return };
        let encoder = Encoder {
            tokenizer: bundled(),
            style,
            chosen,
            train_on,
            multi_turn,
            limit,
            context: 256,
            vocab: 379,
            ignore_index: -100,
        };
        for sample in encoder.samples(parsed).into_iter().flatten() {
            assert_eq!(sample.ids.len(), sample.labels.len());
        }
    }
}

/// A Parquet file.
fn parquet(dir: &Path, data: &[u8]) {
    let file = dir.join("a.parquet");
    write(&file, data);
    drop(known_rows(&file));
    let options = Options { max_row_bytes: ROW_BYTES, ..Options::default() };
    if let Ok(rows) = rows_with(&file, &options) {
        rows.take(ROWS).for_each(drop);
    }
}

/// A safetensors file.
fn safetensors(dir: &Path, data: &[u8]) {
    let file = dir.join("model.safetensors");
    write(&file, data);
    let Ok(checkpoint) = Checkpoint::open_file(&file) else { return };
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(name).expect("a tensor under its name");
        let numbers = tensor.to_f32_vec().len();
        let all: usize = tensor.shape.iter().product();
        assert!(numbers == 0 || numbers == all, "{name}: {numbers} numbers of {all}");
    }
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The Hub's cache in `dir`, nothing else.
fn hub(dir: &Path) -> &'static Hub {
    static HUB: OnceLock<Hub> = OnceLock::new();
    HUB.get_or_init(|| {
        let home = dir.to_string_lossy().into_owned();
        let var = move |name: &str| match name {
            "HF_HOME" => Some(home.clone()),
            "HF_HUB_OFFLINE" => Some("1".to_owned()),
            _ => None,
        };
        Hub::from_vars(None, &var, Patience::default()).expect("a Hub that is a directory")
    })
}

/// Nobody is told.
struct Silent;
impl vft::hub::remote::Progress for Silent {}

/// An index of shards in a directory, and in the Hub's cache.
fn index(dir: &Path, data: &[u8]) {
    const INDEX: &str = "model.safetensors.index.json";
    let snapshot = dir.join("hub/models--org--tiny/snapshots").join(COMMIT);
    if !snapshot.is_dir() {
        let shard = root().join("tests/fixtures/merge/untied/model-00002-of-00002.safetensors");
        let shard = fs::read(shard).expect("a shard");
        let refs = dir.join("hub/models--org--tiny/refs/main");
        write(&refs, COMMIT.as_bytes());
        for name in ["a.safetensors", "b"] {
            write(&snapshot.join(name), &shard);
        }
        for name in ["config.json", "tokenizer.json"] {
            write(&snapshot.join(name), b"{}");
        }
        write(&dir.join("outside.safetensors"), &shard);
    }
    write(&snapshot.join(INDEX), data);
    if let Ok(checkpoint) = Checkpoint::open(&snapshot) {
        let home = snapshot.canonicalize().expect("a directory that is there");
        for name in checkpoint.names() {
            let file = &checkpoint.tensor(name).expect("a tensor under its name").file;
            let real = file.canonicalize().expect("a file that was read");
            assert!(real.starts_with(&home), "{} lies outside", real.display());
        }
    }
    drop(hub(dir).model("org/tiny", None, &Silent, &AtomicBool::new(false)));
}

/// What a tokenizer that was read is used for.
fn use_tokenizer(dir: &Path) {
    let Ok(tokenizer) = Tokenizer::load(dir) else { return };
    tokenizer.vocab_size();
    for text in ["", "Xin chào! <s>one two</s>\n\n 12 3a\u{301}", " "] {
        for special in [true, false] {
            if let Ok(ids) = tokenizer.encode(text, special) {
                drop(tokenizer.decode(&ids, special));
            }
        }
        if let Ok((ids, bytes)) = tokenizer.encode_with_bytes(text) {
            assert_eq!(ids.len(), bytes.len());
        }
    }
    if let Some(template) = &tokenizer.template {
        drop(template.render_messages(&messages(), None, true));
    }
}

/// `tokenizer.json`.
fn tokenizer(dir: &Path, data: &[u8]) {
    write(&dir.join("tokenizer.json"), data);
    use_tokenizer(dir);
}

/// The files beside `tokenizer.json`.
fn tokenizer_config(dir: &Path, data: &[u8]) {
    const NAMES: &[&str] = &[
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "config.json",
        "chat_template.jinja",
    ];
    let file = dir.join("tokenizer.json");
    if !file.is_file() {
        write(&file, include_bytes!("seeds/tokenizer/bpe.json"));
    }
    let Some((name, text)) = choose(NAMES, data) else { return };
    write(&dir.join(name), text);
    use_tokenizer(dir);
    fs::remove_file(dir.join(name)).expect("a file that was written");
}

fn messages() -> Vec<serde_json::Value> {
    let call = serde_json::json!([{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]);
    vec![
        serde_json::json!({"role": "system", "content": "Be brief."}),
        serde_json::json!({"role": "user", "content": "Xin chào\n {{ x }}"}),
        serde_json::json!({"role": "assistant", "content": "", "tool_calls": call}),
        serde_json::json!({"role": "tool", "content": "7"}),
        serde_json::json!({"role": "assistant", "content": "7 <b>&"}),
    ]
}

/// A chat template.
fn template(_: &Path, data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let token = |name: &str| (name.to_owned(), "<s>".to_owned());
    let tokens = BTreeMap::from(["bos_token", "eos_token"].map(token));
    let Ok(template) = ChatTemplate::new(Path::new("chat_template.jinja"), source, tokens) else {
        return;
    };
    let messages = messages();
    let tools =
        serde_json::json!([{"type": "function", "function": {"name": "add", "parameters": {}}}]);
    drop(template.render_messages(&messages, Some(&tools), false));
    drop(template.render_messages(&messages[..2], None, true));
}

/// `adapter_config.json`.
fn adapter_config(dir: &Path, data: &[u8]) {
    let weights = dir.join("adapter_model.safetensors");
    if !weights.is_file() {
        let from = root().join("tests/fixtures/merge/tied/adapter/adapter_model.safetensors");
        write(&weights, &fs::read(from).expect("an adapter"));
    }
    write(&dir.join("adapter_config.json"), data);
    drop(peft::read(dir));
}

/// The manifest of a checkpoint, or with another first byte what it vouches for.
fn manifest(dir: &Path, data: &[u8]) {
    const NAMES: &[&str] = &["manifest.json", "run_state.json", "optimizer.safetensors"];
    for (name, bytes) in [("a", &b"abc"[..]), ("b", b"")] {
        if !dir.join(name).is_file() {
            write(&dir.join(name), bytes);
        }
    }
    let Some((name, text)) = choose(NAMES, data) else { return };
    write(&dir.join(name), text);
    if name == "manifest.json" {
        drop(find::check(dir));
    } else if name == "run_state.json" {
        drop(RunState::read(dir));
    } else {
        let state = include_bytes!("seeds/manifest/state");
        write(&dir.join("run_state.json"), &state[1..]);
        drop(RunState::read(dir).expect("a state").optimizer(dir));
    }
}

/// The run in a manifest, under sums as who forges one would write them; a text that names sums is the manifest itself.
fn run_manifest(dir: &Path, data: &[u8]) {
    let path = dir.join("manifest.json");
    write(&path, data);
    let names_sums = data.windows(10).any(|w| w == b"run_sha256");
    if let (false, Ok(Value::Object(run))) = (names_sums, serde_json::from_slice(data)) {
        let sums: BTreeMap<&str, String> = run
            .iter()
            .map(|(name, part)| (name.as_str(), hex(&Sha256::digest(part.to_string()))))
            .collect();
        let whole = serde_json::json!({"run": run, "run_sha256": sums});
        write(&path, whole.to_string().as_bytes());
    }
    if let Ok(manifest) = RunManifest::read(&path) {
        drop(reproduce::config(&path, &manifest, &Moved::default(), &dir.join("out")));
    }
}

/// `config.json` of a model.
fn model_config(dir: &Path, data: &[u8]) {
    write(&dir.join("config.json"), data);
    if let Ok(spec) = HfConfig::load(dir).and_then(|config| families::spec(&config)) {
        for path in spec.linear_paths() {
            spec.linear_shape(&path);
        }
    }
}

/// The head of a data set's README, with a split string as its first line.
fn readme(_: &Path, data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (first, rest) = text.split_once('\n').unwrap_or(("", &text));
    if let Ok(slice) = SplitSlice::parse(first) {
        for rows in [0, 1, 1000, usize::MAX] {
            let range = slice.range(rows);
            assert!(range.start <= range.end && range.end <= rows.max(range.start));
        }
    }
    let names = ["data/train-00000-of-00002.parquet", "main/test.jsonl", "val.csv", "README.md"];
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    for config in [None, Some("main")] {
        drop(split_files(&names, Some(rest), config));
    }
}
