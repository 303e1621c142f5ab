//! Small files that would be large, or deep, or endless: refused before they are.
//!
//! `VFT_BOMB_FIGURES=1` measures each in a process of its own: the processor's time to the error and the peak of resident memory beyond that of an idle process.
use crate::alone;
use crate::targets::memory;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use vft::checkpoint::{find, peft};
use vft::config::RunConfig;
use vft::data::source::splits::discover;
use vft::data::source::{known_rows, rows};
use vft::data::tokenizer::Tokenizer;
use vft::hub::config::HfConfig;
use vft::hub::safetensors::Checkpoint;
use vft::report::memory::peak_bytes;

/// Bytes that may live at a time until a bomb is refused.
const MOST: usize = 64 << 20;

/// A bomb's name, what writes it into a directory, what reads it: the error, and the words that it must have.
struct Bomb {
    name: &'static str,
    write: fn(&Path),
    read: fn(&Path) -> Result<(), String>,
    says: &'static str,
}

fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).unwrap();
}

fn deep(before: &str, after: &str) -> String {
    const DEPTH: usize = 100_000;
    format!("{before}{}{}{after}", "[".repeat(DEPTH), "]".repeat(DEPTH))
}

fn config(dir: &Path) -> Result<(), String> {
    RunConfig::load(Some(&dir.join("run.yml")), &[]).map(drop).map_err(|e| e.to_string())
}

/// The first row of the only file `rows.…`.
fn first_row(dir: &Path) -> Result<(), String> {
    let file = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let mut rows = rows(&file).map_err(|e| e.to_string())?;
    rows.next().map_or(Ok(()), |row| row.map(drop).map_err(|e| e.to_string()))
}

fn data_set(dir: &Path) -> Result<(), String> {
    discover(dir, None).map(drop).map_err(|e| e.to_string())
}

fn index(dir: &Path) -> Result<(), String> {
    Checkpoint::open(dir).map(drop).map_err(|e| e.to_string())
}

fn model(dir: &Path) -> Result<(), String> {
    HfConfig::load(dir).map(drop).map_err(|e| e.to_string())
}

fn tokenizer(dir: &Path) -> Result<(), String> {
    Tokenizer::load(dir).map(drop).map_err(|e| e.to_string())
}

fn adapter(dir: &Path) -> Result<(), String> {
    peft::read(dir).map(drop).map_err(|e| e.to_string())
}

fn checkpoint(dir: &Path) -> Result<(), String> {
    find::check(dir).map(drop).map_err(|e| e.to_string())
}

/// A small tokenizer with a part of its own.
fn tokenizer_with(dir: &Path, part: &str, step: &serde_json::Value) {
    let whole = include_str!("../../fuzz/seeds/tokenizer/bpe.json");
    let mut whole: serde_json::Value = serde_json::from_str(whole).unwrap();
    whole[part] = step.clone();
    put(&dir.join("tokenizer.json"), whole.to_string());
}

/// A step that puts `content` in the place of each letter.
fn replace(content: String) -> serde_json::Value {
    serde_json::json!({"type": "Replace", "pattern": {"Regex": "."}, "content": content})
}

/// `text` over and over, as many bytes as that, packed.
fn gzip(text: &[u8], bytes: usize) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..bytes / text.len() {
        gzip.write_all(text).unwrap();
    }
    gzip.finish().unwrap()
}

fn zstd(text: &[u8], bytes: usize) -> Vec<u8> {
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    for _ in 0..bytes / text.len() {
        zstd.write_all(text).unwrap();
    }
    zstd.finish().unwrap()
}

/// Thrift's way of writing a number.
fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A Parquet file of one column that says it has so many rows.
fn parquet(rows: u64) -> Vec<u8> {
    // FileMetaData in Thrift's compact protocol: version, schema of one optional INT64, rows, no row groups.
    let mut footer =
        b"\x15\x04\x19\x2c\x48\x04root\x15\x02\x00\x15\x04\x25\x02\x18\x01a\x00\x16".to_vec();
    varint(rows << 1, &mut footer);
    footer.extend(b"\x19\x0c\x00");
    let length = (footer.len() as u32).to_le_bytes();
    [b"PAR1", &footer[..], &length, b"PAR1"].concat()
}

const LONG: usize = 100 << 20;

const BOMBS: &[Bomb] = &[
    Bomb {
        name: "YAML: a billion laughs",
        write: |dir| {
            let mut text = String::from("a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n");
            for i in 1..10 {
                text += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
            }
            put(&dir.join("run.yml"), text);
        },
        read: config,
        says: "after aliases are resolved",
    },
    Bomb {
        name: "YAML: a million aliases",
        write: |dir| {
            put(&dir.join("run.yml"), format!("a: &a 1\nb: [{}]\n", "*a,".repeat(1_000_000)))
        },
        read: config,
        says: "longer than",
    },
    Bomb {
        name: "YAML: 300,000 aliases in a megabyte",
        write: |dir| {
            put(&dir.join("run.yml"), format!("a: &a 1\nb: [{}]\n", "*a,".repeat(300_000)))
        },
        read: config,
        says: "after aliases are resolved",
    },
    Bomb {
        name: "YAML: an anchor that holds itself",
        write: |dir| put(&dir.join("run.yml"), "a: &a [1, *a]\n"),
        read: config,
        says: "not complete here",
    },
    Bomb {
        name: "YAML: a scalar of 100 MB",
        write: |dir| put(&dir.join("run.yml"), format!("a: {}\n", "x".repeat(LONG))),
        read: config,
        says: "longer than",
    },
    Bomb {
        name: "YAML: a key of a megabyte",
        write: |dir| put(&dir.join("run.yml"), format!("{}: 1\n", "x".repeat(1_000_000))),
        read: config,
        says: "",
    },
    Bomb {
        name: "YAML: 9,000 unknown keys",
        write: |dir| {
            let keys = (0..9000).map(|i| format!("lora_alpho{i}: 1\n"));
            put(&dir.join("run.yml"), keys.collect::<String>());
        },
        read: config,
        says: "unknown key",
    },
    Bomb {
        name: "YAML: lists 100,000 deep",
        write: |dir| put(&dir.join("run.yml"), deep("a: ", "\n")),
        read: config,
        says: "",
    },
    Bomb {
        name: "README: lists 100,000 deep",
        write: |dir| put(&dir.join("README.md"), deep("---\nconfigs: ", "\n---\n")),
        read: data_set,
        says: "recursion limit",
    },
    Bomb {
        name: "README: a head of 100 MB",
        write: |dir| put(&dir.join("README.md"), format!("---\na: {}\n---\n", "x".repeat(LONG))),
        read: data_set,
        says: "longer than",
    },
    Bomb {
        name: "README: a list of 4 million values",
        write: |dir| {
            put(&dir.join("README.md"), format!("---\na: [{}]\n---\n", "1,".repeat(4_000_000)))
        },
        read: data_set,
        says: "too large",
    },
    Bomb {
        name: "rows: a line of 100 MB",
        write: |dir| {
            put(&dir.join("rows.jsonl"), format!("{{\"text\":\"{}\"}}\n{{}}\n", "x".repeat(LONG)))
        },
        read: first_row,
        says: "rows.jsonl:1: the row that starts here is longer than",
    },
    Bomb {
        name: "rows: an item of 100 MB",
        write: |dir| {
            put(&dir.join("rows.json"), format!("[{{\"text\":\"{}\"}}]", "x".repeat(LONG)))
        },
        read: first_row,
        says: "longer than",
    },
    Bomb {
        name: "rows: a CSV field of 100 MB",
        write: |dir| put(&dir.join("rows.csv"), format!("a\n\"{}\"\n", "x".repeat(LONG))),
        read: first_row,
        says: "longer than",
    },
    Bomb {
        name: "rows: a CSV header of a million columns",
        write: |dir| {
            put(
                &dir.join("rows.csv"),
                (0..1_000_000).map(|i| format!("c{i},")).collect::<String>() + "c0\n",
            )
        },
        read: first_row,
        says: "longer than",
    },
    Bomb {
        name: "rows: a list of 7 million numbers",
        write: |dir| {
            put(
                &dir.join("rows.jsonl"),
                format!("{{\"input_ids\":[{}0]}}\n", "0,".repeat(7_000_000)),
            )
        },
        read: first_row,
        says: "commas",
    },
    Bomb {
        name: "rows: JSON 100,000 deep",
        write: |dir| put(&dir.join("rows.jsonl"), deep("{\"a\":", "}\n")),
        read: first_row,
        says: "recursion limit",
    },
    Bomb {
        name: "rows: a gigabyte in a gzip file",
        write: |dir| put(&dir.join("rows.jsonl.gz"), gzip(&[b'x'; 1 << 20], 1 << 30)),
        read: first_row,
        says: "longer than",
    },
    Bomb {
        name: "rows: a gigabyte in a zstd file",
        write: |dir| put(&dir.join("rows.jsonl.zst"), zstd(&[b'['; 1 << 20], 1 << 30)),
        read: first_row,
        says: "longer than",
    },
    Bomb {
        name: "Parquet: 2^60 rows that are not there",
        write: |dir| put(&dir.join("rows.parquet"), parquet(1 << 60)),
        read: |dir| {
            let file = dir.join("rows.parquet");
            known_rows(&file).map_err(|e| e.to_string())?;
            let read = rows(&file).map_err(|e| e.to_string())?.count();
            Err(format!("{read} rows"))
        },
        says: "",
    },
    Bomb {
        name: "index: JSON 100,000 deep",
        write: |dir| put(&dir.join("model.safetensors.index.json"), deep("{\"weight_map\":", "}")),
        read: index,
        says: "recursion limit",
    },
    Bomb {
        name: "index: 100 MB",
        write: |dir| {
            put(
                &dir.join("model.safetensors.index.json"),
                format!("{{\"weight_map\":{{\"{}\":\"a\"}}}}", "x".repeat(LONG)),
            )
        },
        read: index,
        says: "longer than",
    },
    Bomb {
        name: "safetensors: a header that claims 2^60 bytes",
        write: |dir| {
            put(&dir.join("model.safetensors"), [&(1u64 << 60).to_le_bytes()[..], b"{}"].concat())
        },
        read: index,
        says: "no intact safetensors file",
    },
    Bomb {
        name: "config.json 100,000 deep",
        write: |dir| put(&dir.join("config.json"), deep("{\"architectures\":", "}")),
        read: model,
        says: "recursion limit",
    },
    Bomb {
        name: "config.json of 100 MB",
        write: |dir| put(&dir.join("config.json"), format!("{{\"a\":\"{}\"}}", "x".repeat(LONG))),
        read: model,
        says: "longer than",
    },
    Bomb {
        name: "tokenizer.json 100,000 deep",
        write: |dir| put(&dir.join("tokenizer.json"), deep("{\"normalizer\":", "}")),
        read: tokenizer,
        says: "recursion limit",
    },
    Bomb {
        name: "tokenizer_config.json 100,000 deep",
        write: |dir| {
            put(&dir.join("tokenizer.json"), include_bytes!("../../fuzz/seeds/tokenizer/bpe.json"));
            put(&dir.join("tokenizer_config.json"), deep("{\"a\":", "}"));
        },
        read: tokenizer,
        says: "recursion limit",
    },
    Bomb {
        name: "tokenizer.json: a letter that becomes 100 kB",
        write: |dir| tokenizer_with(dir, "normalizer", &replace("x".repeat(100_000))),
        read: tokenizer,
        says: "one letter may become 100001",
    },
    Bomb {
        name: "tokenizer.json: 30 steps that double a text",
        write: |dir| {
            let steps = vec![replace("xx".into()); 30];
            let all = serde_json::json!({"type": "Sequence", "normalizers": steps});
            tokenizer_with(dir, "normalizer", &all);
        },
        read: tokenizer,
        says: "one letter may become",
    },
    Bomb {
        name: "tokenizer.json: a decoder that makes 100 kB of a letter",
        write: |dir| tokenizer_with(dir, "decoder", &replace("x".repeat(100_000))),
        read: tokenizer,
        says: "`decoder`: with its step `Replace`",
    },
    Bomb {
        name: "adapter_config.json 100,000 deep",
        write: |dir| put(&dir.join("adapter_config.json"), deep("{\"r\":", "}")),
        read: adapter,
        says: "recursion limit",
    },
    Bomb {
        name: "manifest.json 100,000 deep",
        write: |dir| put(&dir.join("manifest.json"), deep("{\"files\":", "}")),
        read: checkpoint,
        says: "no manifest",
    },
];

/// Nanoseconds that this thread has computed.
fn computed_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The error.
fn explode(bomb: &Bomb, dir: &Path) -> String {
    (bomb.read)(dir).expect_err(bomb.name)
}

#[test]
fn bombs_are_refused_in_little_memory() {
    let _alone = alone();
    for bomb in BOMBS {
        let home = tempfile::tempdir().unwrap();
        (bomb.write)(home.path());
        let (error, peak) = memory::peak_of(|| explode(bomb, home.path()));
        assert!(error.contains(bomb.says), "{}: {error}", bomb.name);
        assert!(error.len() < 4 << 20, "{}: an error of {} bytes", bomb.name, error.len());
        assert!(peak < MOST, "{} takes {peak} bytes", bomb.name);
    }
}

/// In a process of its own: the bomb of `VFT_BOMB`, in the directory `VFT_BOMB_DIR`.
#[test]
fn figures_of_bombs() {
    let _alone = alone();
    let name = |name: &str| std::env::var(name).ok();
    if let (Some(bomb), Some(dir)) = (name("VFT_BOMB"), name("VFT_BOMB_DIR")) {
        let bomb = BOMBS.iter().find(|b| b.name == bomb).unwrap();
        let before = (peak_bytes(), computed_ns());
        drop(explode(bomb, Path::new(&dir)));
        let ms = (computed_ns() - before.1) as f64 * 1e-6;
        let mib = (peak_bytes() - before.0) as f64 / f64::from(1 << 20);
        println!("| {} | {ms:.1} | {mib:.1} |", bomb.name);
        return;
    }
    if name("VFT_BOMB_FIGURES").is_none() {
        return;
    }
    println!("| file | ms | MiB |\n|---|---|---|");
    for bomb in BOMBS {
        let home = tempfile::tempdir().unwrap();
        (bomb.write)(home.path());
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bombs::figures_of_bombs", "--nocapture"])
            .env("VFT_BOMB", bomb.name)
            .env("VFT_BOMB_DIR", home.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let figures = text.lines().find(|l| l.starts_with("| "));
        println!("{}", figures.unwrap_or_else(|| panic!("{}: {text}", bomb.name)));
    }
}
