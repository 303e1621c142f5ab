//! What rows become and what of them is trained, shown as text: `⟦…⟧` are the tokens with labels. Rows of several exchanges in prompt
//! styles and by the chat template, rows that are too long, texts, tables of any columns, mixes, containers, the cache.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use flate2::{Compression, write::GzEncoder};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vft::config::RunConfig;
use vft::data::dataset::DataSet;
use vft::data::store::Example;
use vft::data::style::Style;
use vft::data::tokenizer::Tokenizer;
use vft::error::UserError;
use vft::hub::config::HfConfig;
use vft::model::families;
use vft::train::sources;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke/model")
}

fn tokenizer() -> Tokenizer {
    Tokenizer::load(&model()).unwrap()
}

/// What a file becomes; `text` holds more arguments, split at white space.
fn read(file: &Path, text: &str, more: &[&str]) -> Result<DataSet, UserError> {
    let (model, file) = (model().to_string_lossy().into_owned(), file.to_string_lossy());
    let fixed = [
        "--checkpoint_dir",
        &model,
        "--data",
        "JSON",
        "--data.path",
        &file,
        "--data.val_split_fraction",
        "0",
    ];
    let arguments = fixed.into_iter().chain(text.split_whitespace()).chain(more.iter().copied());
    let config = RunConfig::load(None, &arguments.map(str::to_owned).collect::<Vec<_>>())?;
    let mut spec = families::spec(&HfConfig::load(Path::new(&model))?)?;
    // The bundled model sees 256 tokens; the preambles of some styles have more bytes.
    spec.context = 4096;
    Ok(sources::load(&config, &tokenizer(), &spec)?.data)
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// What rows become, in their order.
fn load(rows: &[Value], text: &str) -> Result<DataSet, UserError> {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("rows.jsonl");
    fs::write(&file, lines(rows)).unwrap();
    read(&file, text, &["--train.shuffle", "false"])
}

/// The text of a sample, trained tokens in brackets.
fn shown(example: Example<'_>) -> String {
    let (tokenizer, mut text, mut at) = (tokenizer(), String::new(), 0);
    let trained: Vec<bool> = example.labels.iter().map(|l| *l != -100).collect();
    for run in trained.chunk_by(|a, b| a == b) {
        let part = tokenizer.decode(&example.ids[at..at + run.len()], false).unwrap();
        at += run.len();
        text += &if run[0] { format!("⟦{part}⟧") } else { part };
    }
    let targets = example.ids.iter().zip(example.labels).filter(|(_, l)| **l != -100);
    assert!(targets.into_iter().all(|(id, label)| *id as i32 == *label), "{text}");
    text
}

fn all(data: &DataSet) -> Vec<String> {
    (0..data.train_len()).map(|i| shown(data.train(i))).collect()
}

/// The only sample of a row.
fn one(row: Value, text: &str) -> String {
    let data = load(&[row], text).unwrap();
    assert_eq!(data.train_len(), 1);
    shown(data.train(0))
}

fn said(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// Two exchanges.
fn talk() -> Value {
    json!({"messages": [said("user", "một?"), said("assistant", "1"), said("user", "hai?"), said("assistant", "2")]})
}

const NO_SYS: &str = "--data.prompt_style ChatMLNoSys";

/// ChatML without a system text.
fn chatml(question: &str, answer: &str) -> String {
    format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}")
}

#[test]
fn chatml_trains_every_answer_and_its_end() {
    let text = one(talk(), &format!("{NO_SYS} --data.train_on assistant"));
    let [first, second] = [chatml("một?", "⟦1<|im_end|>⟧"), chatml("hai?", "⟦2<|im_end|>⟧")];
    assert_eq!(text, format!("{first}\n{second}"));
}

#[test]
fn alpaca_trains_every_answer_and_its_end() {
    let text = one(talk(), "--data.prompt_style alpaca --data.train_on assistant");
    let expected = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
                    ### Instruction:\nmột?\n\n### Response:\n⟦1<|im_end|>⟧\n\n### Instruction:\nhai?\n\n### Response:\n⟦2<|im_end|>⟧";
    assert_eq!(text, expected);
}

#[test]
fn llama3_trains_every_answer_and_its_end() {
    let text = one(talk(), "--data.prompt_style llama3 --data.train_on assistant");
    let turn = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
    let (user, assistant) = (turn("user"), turn("assistant"));
    let expected = format!(
        "<|begin_of_text|>{}You are a helpful assistant.<|eot_id|>{user}một?<|eot_id|>{assistant}⟦1<|im_end|>⟧{user}hai?<|eot_id|>{assistant}⟦2<|im_end|>⟧",
        turn("system")
    );
    assert_eq!(text, expected);
}

#[test]
fn the_chat_template_trains_every_answer_and_its_end() {
    let text = one(talk(), "--data.train_on assistant");
    let [first, second] = [chatml("một?", "⟦1<|im_end|>⟧"), chatml("hai?", "⟦2<|im_end|>⟧")];
    assert_eq!(text, format!("{first}\n{second}\n"));
}

#[test]
fn last_trains_the_last_answer() {
    let text = one(talk(), &format!("{NO_SYS} --data.train_on last"));
    let [first, second] = [chatml("một?", "1<|im_end|>"), chatml("hai?", "⟦2<|im_end|>⟧")];
    assert_eq!(text, format!("{first}\n{second}"));
}

#[test]
fn last_leaves_out_a_history() {
    let row = json!({"history": [["một?", "1"]], "instruction": "hai?", "output": "2"});
    let text = one(row, &format!("{NO_SYS} --data.train_on last"));
    assert_eq!(text, one(talk(), &format!("{NO_SYS} --data.train_on last")));
}

#[test]
fn all_trains_every_token() {
    let text = one(talk(), &format!("{NO_SYS} --data.train_on all"));
    let [first, second] = [chatml("một?", "1<|im_end|>"), chatml("hai?", "2<|im_end|>")];
    assert_eq!(text, format!("⟦{first}\n{second}⟧"));
}

#[test]
fn an_answer_of_weight_0_is_not_trained() {
    let mut row = talk();
    row["messages"][1]["weight"] = 0.into();
    for style in [NO_SYS, "--data.prompt_style chat_template"] {
        let text = one(row.clone(), &format!("{style} --data.train_on assistant"));
        let [first, second] = [chatml("một?", "1<|im_end|>"), chatml("hai?", "⟦2<|im_end|>⟧")];
        assert_eq!(text.trim_end(), format!("{first}\n{second}"), "{style}");
    }
}

#[test]
fn all_but_an_answer_of_weight_0() {
    let mut row = talk();
    row["messages"][1]["weight"] = 0.into();
    let [first, second] = [chatml("một?", "⟧1<|im_end|>⟦"), chatml("hai?", "2<|im_end|>")];
    let styled = one(row.clone(), &format!("{NO_SYS} --data.train_on all"));
    assert_eq!(styled, format!("⟦{first}\n{second}⟧"));
    let rendered = one(row, "--data.prompt_style chat_template --data.train_on all");
    assert_eq!(rendered, format!("⟦{first}\n{second}\n⟧"));
}

/// An answer whose first line is not trained.
fn in_part() -> Value {
    let parts = json!([{"type": "text", "text": "nhà\n", "train": false}, {"type": "text", "text": "nước"}]);
    json!({"messages": [said("user", "một?"), {"role": "assistant", "content": parts}]})
}

#[test]
fn a_style_trains_an_answer_in_part() {
    let text = one(in_part(), &format!("{NO_SYS} --data.train_on assistant"));
    assert_eq!(text, chatml("một?", "nhà\n⟦nước<|im_end|>⟧"));
}

#[test]
fn the_chat_template_trains_an_answer_in_part() {
    let text = one(in_part(), "--data.train_on assistant");
    assert_eq!(text, format!("{}\n", chatml("một?", "nhà\n⟦nước<|im_end|>⟧")));
}

#[test]
fn all_but_a_part_of_an_answer() {
    let text = one(in_part(), "--data.train_on all");
    assert_eq!(text, format!("⟦{}⟧nhà\n⟦nước<|im_end|>\n⟧", chatml("một?", "")));
}

#[test]
fn an_exchange_taken_out_keeps_its_untrained_parts() {
    for style in [NO_SYS, "--data.prompt_style chat_template"] {
        let settings = format!("{style} --data.train_on assistant");
        let apart = one(in_part(), &format!("{settings} --data.multi_turn pairs"));
        assert_eq!(apart, one(in_part(), &settings));
    }
}

#[test]
fn an_exchange_without_a_trained_answer_is_counted() {
    let mut row = talk();
    row["messages"][1]["weight"] = 0.into();
    for (multi_turn, kept) in [("pairs", 2), ("first", 1)] {
        let settings = format!("{NO_SYS} --data.multi_turn {multi_turn} --data.mask_prompt yes");
        let data = load(&[talk(), row.clone()], &settings).unwrap();
        let empty = data.census().empty;
        assert_eq!((empty.count, &*empty.first), (1, &[2][..]), "{multi_turn}");
        assert_eq!(data.train_len(), 2 * kept - 1, "{multi_turn}");
    }
}

#[test]
fn tools_that_nothing_writes_are_counted() {
    let mut row = talk();
    row["tools"] = json!([{"type": "function", "function": {"name": "weather"}}]);
    for how in [NO_SYS, "--data.prompt_style chat_template", "--data.multi_turn first"] {
        let data = load(&[talk(), row.clone()], how).unwrap();
        assert_eq!(data.census().tools_lost.first, [2], "{how}");
    }
}

#[test]
fn pairs_are_samples_without_history() {
    let data = load(&[talk()], &format!("{NO_SYS} --data.multi_turn pairs --data.mask_prompt yes"))
        .unwrap();
    assert_eq!(all(&data), [chatml("một?", "⟦1<|im_end|>⟧"), chatml("hai?", "⟦2<|im_end|>⟧")]);
}

#[test]
fn every_answer_ends_with_a_trained_eos_in_every_style() {
    let eos = tokenizer().eos_id.unwrap();
    for style in Style::names() {
        let data = load(&[talk()], &format!("--data.prompt_style {style} --data.mask_prompt true"))
            .unwrap();
        let trained = data.train(0).labels.iter().filter(|l| **l == eos as i32).count();
        assert_eq!(trained, 2, "{style}: {}", shown(data.train(0)));
    }
}

#[test]
fn an_answer_that_ends_with_eos_gets_no_second_one() {
    let row = json!({"instruction": "q", "output": "a<|im_end|>"});
    assert_eq!(
        one(row, &format!("{NO_SYS} --data.mask_prompt true")),
        chatml("q", "⟦a<|im_end|>⟧")
    );
}

/// `exchanges` questions and answers of some length.
fn long(exchanges: usize) -> Value {
    let turn = |i: usize| {
        [said("user", &format!("câu hỏi thứ {i}?")), said("assistant", &format!("câu trả lời {i}"))]
    };
    json!({"messages": (0..exchanges).flat_map(turn).collect::<Vec<_>>()})
}

#[test]
fn too_long_a_conversation_loses_its_last_exchanges_and_is_counted() {
    for style in [NO_SYS, "--data.prompt_style chat_template"] {
        let settings = format!("{style} --data.mask_prompt true");
        let whole = load(&[long(3)], &settings).unwrap().train(0).ids.len();
        let limited = format!("{settings} --train.max_seq_length {}", whole - 1);
        let data = load(&[long(1), long(3)], &limited).unwrap();
        assert_eq!(all(&data), [one(long(1), &settings), one(long(2), &settings)], "{style}");
        let census = data.census();
        assert_eq!((census.shortened.count, &*census.shortened.first), (1, &[2][..]), "{style}");
    }
}

#[test]
fn as_many_exchanges_are_kept_as_fill_the_limit_exactly() {
    let settings = format!("{NO_SYS} --data.mask_prompt true");
    for kept in 1..6 {
        let most = load(&[long(kept)], &settings).unwrap().train(0).ids.len();
        let data = load(&[long(6)], &format!("{settings} --train.max_seq_length {most}")).unwrap();
        assert_eq!(shown(data.train(0)), one(long(kept), &settings));
    }
}

#[test]
fn a_cut_answer_is_counted_and_gets_no_eos() {
    let row = json!({"instruction": "q", "output": "một hai ba bốn năm sáu bảy tám chín mười"});
    let settings = format!("{NO_SYS} --data.mask_prompt true");
    let whole = one(row.clone(), &settings);
    let n = load(std::slice::from_ref(&row), &settings).unwrap().train(0).ids.len();
    let data = load(&[row], &format!("{settings} --train.max_seq_length {}", n - 1)).unwrap();
    assert_eq!(shown(data.train(0)), whole.replace("<|im_end|>⟧", "⟧"));
    assert_eq!((data.census().cut.count, data.census().cut.first), (1, vec![1]));
}

#[test]
fn a_row_whose_prompt_fills_the_limit_is_left_out_and_counted() {
    let row = |question: String| json!({"instruction": question, "output": "a"});
    let rows = [row("q".into()), row("dài ".repeat(40)), row("r".into())];
    let data = load(&rows, &format!("{NO_SYS} --data.mask_prompt true --train.max_seq_length 40"))
        .unwrap();
    assert_eq!(all(&data), ["q", "r"].map(|q| chatml(q, "⟦a<|im_end|>⟧")));
    assert_eq!((data.census().empty.count, data.census().empty.first), (1, vec![2]));
}

#[test]
fn rows_of_which_nothing_is_trained_are_an_error() {
    let row = json!({"instruction": "dài ".repeat(40), "output": "a"});
    let error =
        load(&[row], &format!("{NO_SYS} --data.mask_prompt true --train.max_seq_length 40"));
    assert!(error.err().unwrap().to_string().contains("no row has a token to train on"));
}

/// The ids of a text and EOS.
fn ids_of(text: &str) -> Vec<u32> {
    let tokenizer = tokenizer();
    [tokenizer.encode(text, false).unwrap(), vec![tokenizer.eos_id.unwrap()]].concat()
}

#[test]
fn a_text_goes_on_in_the_next_sample_and_ends_with_eos() {
    let text = "Trăm năm trong cõi người ta, chữ tài chữ mệnh khéo là ghét nhau.";
    let ids = ids_of(text);
    // With the last of these EOS would be left alone in the last sample, where nothing predicts it.
    for limit in [16, ids.len(), ids.len() - 1] {
        let data =
            load(&[json!({"text": text})], &format!("--train.max_seq_length {limit}")).unwrap();
        let samples: Vec<_> = (0..data.train_len()).map(|i| data.train(i)).collect();
        assert_eq!(samples.iter().flat_map(|s| s.ids).copied().collect::<Vec<_>>(), ids, "{limit}");
        assert_eq!(samples.len(), ids.len().div_ceil(limit));
        assert_eq!(data.census().targets, ids.len() - samples.len());
    }
}

#[test]
fn prompt_and_completion_are_verbatim() {
    let row = json!({"prompt": "2 + 2 =", "completion": " 4"});
    assert_eq!(one(row, "--data.mask_prompt true"), "2 + 2 =⟦ 4<|im_end|>⟧");
}

#[test]
fn prompt_and_completion_are_written_in_a_style_that_is_asked_for() {
    let row = json!({"prompt": "2 + 2 =", "completion": "4"});
    let text = one(row, &format!("{NO_SYS} --data.mask_prompt true"));
    assert_eq!(text, chatml("2 + 2 =", "⟦4<|im_end|>⟧"));
}

#[test]
fn any_table_is_read_by_columns_and_a_template() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("rows.jsonl");
    let row = json!({"title": "Thủ đô?", "post": {"text": "Hà Nội"}, "lang": "vi", "id": 7});
    fs::write(&file, lines(&[row])).unwrap();
    let template = "### Câu hỏi ({lang}): {instruction}\n### Trả lời:";
    let columns = "{instruction: title, output: post.text}";
    let more = ["--data.prompt_template", template, "--data.columns", columns];
    let data = read(&file, "--data.mask_prompt true", &more).unwrap();
    assert_eq!(shown(data.train(0)), "### Câu hỏi (vi): Thủ đô?\n### Trả lời:⟦Hà Nội<|im_end|>⟧");
}

#[test]
fn a_mix_shows_its_sets_by_their_weights() {
    let home = tempfile::tempdir().unwrap();
    let set = |name: &str, rows: usize| {
        let row = |i: usize| json!({"prompt": format!("{name}{i}"), "completion": ""});
        let file = home.path().join(name);
        fs::write(&file, lines(&(0..rows).map(row).collect::<Vec<_>>())).unwrap();
        file
    };
    let [a, b] = [set("a.jsonl", 6), set("b.jsonl", 3)].map(|p| p.to_string_lossy().into_owned());
    let mix =
        format!("[{{path: '{a}', weight: 0.5}}, {{path: '{b}', weight: 2, mask_prompt: true}}]");
    let data = read(Path::new(&a), "", &["--data.dataset_mix", &mix]).unwrap();
    let mut counts = vec![0; data.train_len()];
    for epoch in data.epochs().take(2) {
        assert_eq!(epoch.len(), 3 + 6);
        epoch.into_iter().for_each(|i| counts[i] += 1);
    }
    assert_eq!(counts, [1, 1, 1, 1, 1, 1, 4, 4, 4]);
    let trained: Vec<bool> = all(&data).iter().map(|text| text.starts_with('⟦')).collect();
    assert_eq!(trained, [[true; 6].as_slice(), &[false; 3]].concat());
}

const BAD: &str = "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": \"a\", \"output\n\n{\"instruction\": 3, \"output\": \"b\"}\n{\"instruction\": \"c\", \"output\": \"d\"}\n";

#[test]
fn bad_rows_are_errors_with_their_lines() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("rows.jsonl");
    fs::write(&file, BAD).unwrap();
    let error = read(&file, NO_SYS, &[]).err().unwrap().to_string();
    for part in ["rows.jsonl:2:", "rows.jsonl:4", "`instruction` is a number, not text"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
}

#[test]
fn bad_rows_are_passed_over_on_request_and_counted_with_their_lines() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("rows.jsonl");
    fs::write(&file, BAD).unwrap();
    let data = read(&file, NO_SYS, &["--data.on_bad_row", "skip"]).unwrap();
    let census = data.census();
    assert_eq!((census.rows, census.samples, census.bad.count), (4, 2, 2));
    assert_eq!(census.bad.first, [2, 4]);
}

/// Ids and labels of all training samples in the order of the split.
fn samples(data: &DataSet) -> Vec<(Vec<u32>, Vec<i32>)> {
    (0..data.train_len())
        .map(|i| (data.train(i).ids.to_vec(), data.train(i).labels.to_vec()))
        .collect()
}

/// A table of texts as Parquet.
fn write_parquet(path: &Path, names: &[&str], rows: &[Vec<String>]) {
    let columns: String = names.iter().map(|n| format!("required binary {n} (UTF8); ")).collect();
    let schema = Arc::new(parse_message_type(&format!("message rows {{ {columns} }}")).unwrap());
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut i = 0;
    while let Some(mut column) = group.next_column().unwrap() {
        let values: Vec<ByteArray> = rows.iter().map(|r| r[i].as_str().into()).collect();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        i += 1;
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn every_container_gives_the_same_samples() {
    let names = ["instruction", "input", "output"];
    let row = |i: usize| {
        let texts = [format!("Câu \"{i}\",\nhai dòng"), "x".repeat(i % 3), format!("đáp {i} 👍")];
        texts.to_vec()
    };
    let rows: Vec<Vec<String>> = (0..23).map(row).collect();
    let object = |r: &Vec<String>| {
        Value::Object(
            names.iter().zip(r).map(|(n, v)| ((*n).to_owned(), v.as_str().into())).collect(),
        )
    };
    let text = lines(&rows.iter().map(object).collect::<Vec<_>>());
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::write(at("rows.jsonl"), &text).unwrap();
    fs::write(at("rows.json"), Value::from_iter(rows.iter().map(object)).to_string()).unwrap();
    fs::write(at("rows.jsonl.zst"), zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
    let mut gz = GzEncoder::new(File::create(at("rows.jsonl.gz")).unwrap(), Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    gz.finish().unwrap();
    let mut table = csv::Writer::from_path(at("rows.csv")).unwrap();
    table.write_record(names).unwrap();
    rows.iter().for_each(|r| table.write_record(r).unwrap());
    table.flush().unwrap();
    write_parquet(&at("rows.parquet"), &names, &rows);
    let of = |name: &str| {
        let settings = "--data.prompt_style ChatMLAlpaca --data.mask_prompt true --data.val_split_fraction 0.2";
        samples(&read(&at(name), settings, &[]).unwrap())
    };
    let expected = of("rows.jsonl");
    assert_eq!(expected.len(), 19);
    for name in ["rows.json", "rows.jsonl.zst", "rows.jsonl.gz", "rows.csv", "rows.parquet"] {
        assert_eq!(of(name), expected, "{name}");
    }
}

#[test]
fn a_large_set_is_read_from_the_cache_and_a_damaged_cache_is_made_anew() {
    let home = tempfile::tempdir().unwrap();
    // SAFETY: the other threads of this test read the environment through std alone, whose lock orders that with this.
    unsafe { std::env::set_var("VFT_CACHE", home.path().join("cache")) };
    // Small samples in a large file: it is the file's size that counts.
    let row = |i: usize| json!({"instruction": format!("câu {i}"), "output": format!("đáp {i}"), "note": "x".repeat(10_000)});
    let text = lines(&(0..500).map(row).collect::<Vec<_>>());
    let [large, small] = ["rows.jsonl", "rows.jsonl.gz"].map(|name| home.path().join(name));
    fs::write(&large, &text).unwrap();
    let mut gz = GzEncoder::new(File::create(&small).unwrap(), Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    gz.finish().unwrap();
    let load = |file: &Path| {
        read(file, "--data.mask_prompt true --data.val_split_fraction 0.1", &[]).unwrap()
    };
    let from_memory = load(&small);
    let check = |cached: usize, what: &str| {
        let data = load(&large);
        assert_eq!(data.cached, cached, "{what}");
        assert_eq!(data.census(), from_memory.census(), "{what}");
        assert!(samples(&data) == samples(&from_memory), "{what}");
    };
    check(0, "made");
    check(1, "found");
    let stores: Vec<_> =
        fs::read_dir(home.path().join("cache/data")).unwrap().map(|e| e.unwrap().path()).collect();
    let [store] = stores.as_slice() else { panic!("one store, not {stores:?}") };
    for name in ["tokens.bin", "labels.bin", "index.bin", "census.json"] {
        let file = store.join(name);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        check(0, name);
        fs::remove_file(&file).unwrap();
        check(0, name);
        check(1, name);
    }
}
