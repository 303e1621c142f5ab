//! Every documented key changes the run; the documentation and the resolved config hold every key.
use super::{errors, load};
use vft::config::RunConfig;
use vft::config::keys::{KEYS, document};

/// For each key: arguments that make room for it, and a value that is not its default.
fn sample(key: &str) -> (&'static [&'static str], &'static str) {
    const JSON: &[&str] = &["--data.path", "rows.jsonl"];
    const LIMA: &[&str] = &["--data", "LIMA"];
    const ALPACA: &[&str] = &["--data", "Alpaca"];
    const FLAN: &[&str] = &["--data", "FLAN"];
    const SGD: &[&str] = &["--optimizer", "SGD", "--optimizer.momentum", "0.9"];
    let value = match key.strip_prefix("data.init_args.").unwrap_or(key) {
        "checkpoint_dir" | "revision" | "out_dir" | "val_path" | "download_dir" | "file_name" => {
            "other"
        }
        "access_token" => "hf_x",
        "device" => "cpu",
        "resume" => "auto",
        "precision" => "32-true",
        "quantize" => "bnb.nf4-dq",
        "lora_r" | "lora_alpha" | "max_samples" | "num_workers" | "seed" | "ignore_index" => "3",
        "lora_dropout" | "val_split_fraction" => "0.25",
        "lora_query" | "lora_value" | "train.shuffle" | "eval.final_validation" => "no",
        "lora_key"
        | "lora_projection"
        | "lora_mlp"
        | "lora_head"
        | "mask_prompt"
        | "save_merged"
        | "train.save_best"
        | "eval.initial_validation"
        | "optimizer.init_args.nesterov" => "yes",
        "lora_target_modules" => "all-linear",
        "adapter_path" => "adapter",
        "data.class_path" => "LIMA",
        "path" => "other.jsonl",
        "file_url" | "url" => "https://example.org/x.json",
        "subsets" => "bool_q_10templates",
        "repo_id" => return (&["--data", "Alpaca2k"], "org/name"),
        "subset" => "vie",
        "split" | "val_split" => "test",
        "columns" => "{instruction: title}",
        "prompt_style" => "alpaca",
        "prompt_style.init_args.system_message" => {
            return (&["--data.path", "rows.jsonl", "--data.prompt_style", "chatml"], "Be kind.");
        }
        "prompt_template" => "{title}:",
        "train_on" => "last",
        "multi_turn" => "pairs",
        "include_multiturn_conversations" => "false",
        "weight" => return (&["--data.dataset_mix", "[{path: a}]"], "2"),
        "dataset_mix" => {
            return (&["--data", "LIMA"], "[{path: a, weight: 2}, {class_path: LIMA}]");
        }
        "on_bad_row" => "skip",
        "train.global_batch_size" => "32",
        "train.micro_batch_size" => "4",
        "train.lr_scheduler" => "wsd",
        "train.lr_warmup_steps" => "7",
        "train.lr_warmup_fraction" => "0.5",
        "train.lr_decay_fraction" => {
            return (&["--data.path", "rows.jsonl", "--train.lr_scheduler", "wsd"], "0.2");
        }
        "train.max_memory" => "2GiB",
        "train.gradient_checkpointing" => "mlp",
        "train.min_lr" => "1e-5",
        "train.preemption" => "file:/run/notice",
        "optimizer.class_path" => "AdamW8bit",
        "optimizer.init_args.betas" => "[0.8, 0.9]",
        "optimizer.init_args.lr" | "optimizer.init_args.eps" => "1e-6",
        "optimizer.init_args.weight_decay" => "0.1",
        "optimizer.init_args.momentum" => "0.8",
        "optimizer.init_args.dampening" => "0.1",
        "logger_name" => "tensorboard",
        "log.project" | "log.run" | "log.group" => "name",
        "merge.base" => {
            let quantised =
                &["--data.path", "rows.jsonl", "--save_merged", "true", "--quantize", "bnb.nf4"];
            return (quantised, "original");
        }
        "merge.tied_head" => {
            return (&["--data.path", "rows.jsonl", "--save_merged", "true"], "drop");
        }
        "eval.evaluate_example" => "random",
        name if name.starts_with("train.") || name.starts_with("eval.") => "9",
        _ => panic!("a new key needs a sample value here: {key}"),
    };
    let setup = match key.strip_prefix("data.init_args.").unwrap_or(key) {
        "download_dir" | "file_name" | "file_url" => ALPACA,
        "url" | "subsets" => FLAN,
        "include_multiturn_conversations" => LIMA,
        "optimizer.init_args.dampening"
        | "optimizer.init_args.nesterov"
        | "optimizer.init_args.momentum" => SGD,
        _ => JSON,
    };
    (setup, value)
}

fn with(setup: &[&str], more: &[&str]) -> RunConfig {
    let mut config = load("checkpoint_dir: model\n", &[setup, more].concat()).unwrap();
    config.places.clear();
    config.written.clear();
    config.notes.clear();
    config
}

#[test]
fn every_documented_key_changes_something() {
    let idle = |key: &&str| {
        let (setup, value) = sample(key);
        with(setup, &[]) == with(setup, &[&format!("--{key}"), value])
    };
    let idle: Vec<&str> = KEYS.iter().map(|k| k.name).filter(idle).collect();
    assert_eq!(idle, [""; 0]);
}

/// The field of [`RunConfig`] that a key becomes.
fn field(key: &str) -> &str {
    match key {
        "data.class_path" => "class",
        "data.init_args.mask_prompt" => "train_on",
        "data.init_args.include_multiturn_conversations" => "multi_turn",
        "data.init_args.dataset_mix" => "sets",
        "optimizer.class_path" => "kind",
        "lora_r" => "lora.r",
        "lora_alpha" => "lora.alpha",
        "lora_dropout" => "lora.dropout",
        key if key.starts_with("lora_") => "targets",
        key => key.rsplit('.').next().unwrap_or(key),
    }
}

/// All code but the one that reads configs.
fn code() -> String {
    let mut text = String::new();
    let mut dirs = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("src/config") {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                text += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    text
}

#[test]
fn every_documented_key_is_read_by_what_runs() {
    let code = code();
    let read = |field: &str| {
        let field = format!(".{field}");
        let mut ends = code.match_indices(&field).map(|(at, m)| at + m.len());
        ends.any(|end| !code[end..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    // What a card tells of a run is asked for by its key.
    let told = |key: &str| key.starts_with("log.") && code.contains(&format!("\"{key}\""));
    let unread: Vec<&str> =
        KEYS.iter().map(|k| k.name).filter(|k| !read(field(k)) && !told(k)).collect();
    assert_eq!(unread, [""; 0]);
}

#[test]
fn every_key_survives_the_resolved_config() {
    let changed = |key: &&str| {
        let (setup, value) = sample(key);
        let before = with(setup, &[&format!("--{key}"), value]);
        let after = with_text(&before.to_yaml());
        // Tokens are never written.
        let secret = key.ends_with("access_token");
        (before != after) != secret
    };
    let changed: Vec<&str> = KEYS.iter().map(|k| k.name).filter(changed).collect();
    assert_eq!(changed, [""; 0]);
}

fn with_text(text: &str) -> RunConfig {
    let mut config = load(text, &[]).unwrap();
    config.places.clear();
    config.written.clear();
    config.notes.clear();
    config
}

#[test]
fn a_token_is_not_shown() {
    let config = with(&["--data.path", "a"], &["--access_token", "hf_canary"]);
    assert!(!format!("{}{config:?}", config.to_yaml()).contains("canary"));
}

#[test]
fn a_token_in_a_name_that_is_written_into_files_is_refused() {
    for (line, key) in [(4, "project"), (5, "run"), (6, "group")] {
        let text = "checkpoint_dir: m\ndata: {class_path: JSON, init_args: {path: d}}\nlog:\n  project: a\n  run: b\n  group: c\n";
        let name = text.lines().nth(line - 1).unwrap();
        let error = errors(&text.replace(name, &format!("  {key}: x-hf_CanaryCanaryCanary")), &[]);
        let says = format!(":{line}:3: `log.{key}`: it holds a token");
        assert!(error.contains(&says) && error.contains("hint: "), "{error}");
        assert!(!error.contains("Canary"), "{error}");
    }
}

#[test]
fn the_documentation_holds_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.md");
    if std::env::var_os("VFT_BLESS").is_some() {
        std::fs::write(path, document()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), document(), "VFT_BLESS=1 writes it anew");
}
