//! From the values of keys to a [`RunConfig`]: read each, check them against each other.

use super::keys::KEYS;
use super::run_config::*;
use super::scalar;
use super::values::{Values, whole};
use super::yaml::{Node, Value};
use crate::error::{Problem, Result, UserError};
use std::collections::BTreeMap;
use std::path::PathBuf;

const FLAGS: [(&str, bool, &[&str]); 6] = [
    ("lora_query", true, &["q_proj"]),
    ("lora_key", false, &["k_proj"]),
    ("lora_value", true, &["v_proj"]),
    ("lora_projection", false, &["o_proj"]),
    ("lora_mlp", false, &["gate_proj", "up_proj", "down_proj"]),
    ("lora_head", false, &["lm_head"]),
];

fn targets(r: &mut Values) -> TargetModules {
    const KEY: &str = "lora_target_modules";
    let node = r.values.get(KEY).map(|(n, _)| n.value.clone());
    let by_flags = |r: &mut Values| {
        let names: Vec<String> = FLAGS
            .iter()
            .filter(|(key, default, _)| r.flag(key, *default))
            .flat_map(|(_, _, names)| names.iter().map(|n| (*n).to_owned()))
            .collect();
        if names.is_empty() {
            r.missing(
                Problem::new("no module would be adapted")
                    .hint("set one of the lora_* switches or `lora_target_modules`"),
            );
        }
        TargetModules::Names(names)
    };
    let targets = match node {
        None => return by_flags(r),
        Some(Value::Scalar { text, quoted }) if scalar::is_null(&text, quoted) => {
            return by_flags(r);
        }
        Some(Value::Scalar { text, .. }) if text == "all-linear" => TargetModules::AllLinear,
        Some(Value::Scalar { text, .. }) => {
            if let Err(e) = fancy_regex::Regex::new(&format!("^(?:{text})$")) {
                r.problem(KEY, &format!("is no regular expression: {e}"));
            }
            TargetModules::Regex(text)
        }
        Some(Value::Seq(items)) => {
            let names: Vec<String> = items
                .iter()
                .filter_map(|n| match &n.value {
                    Value::Scalar { text, .. } => Some(text.clone()),
                    _ => None,
                })
                .collect();
            if names.len() != items.len() || names.is_empty() {
                r.problem(KEY, "expected a list of module names");
            }
            TargetModules::Names(names)
        }
        Some(Value::Map(_)) => {
            r.problem(KEY, "expected a list of names, a regular expression or `all-linear`");
            TargetModules::AllLinear
        }
    };
    for (key, ..) in FLAGS {
        if r.is_written(key) {
            r.problem(key, "contradicts `lora_target_modules`; write one or the other");
        }
    }
    targets
}

fn betas(r: &mut Values) -> [f64; 2] {
    const KEY: &str = "optimizer.init_args.betas";
    let default = [0.9, 0.999];
    let Some((node, _)) = r.values.get(KEY).cloned() else { return default };
    let beta = |n: &Node| match &n.value {
        Value::Scalar { text, .. } => scalar::number(text).ok().filter(|b| (0.0..1.0).contains(b)),
        _ => None,
    };
    let pair = match &node.value {
        Value::Seq(items) if items.len() == 2 => beta(&items[0]).zip(beta(&items[1])),
        _ => None,
    };
    match pair {
        Some((a, b)) => [a, b],
        None => {
            r.problem(KEY, "expected two numbers in 0 .. 1, such as [0.9, 0.95]");
            default
        }
    }
}

/// A directory that is named; an empty name would be the working directory without a word.
fn directory(r: &mut Values, key: &str, default: &str) -> PathBuf {
    let text = r.text(key).unwrap_or_else(|| default.into());
    if text.is_empty() {
        r.problem(key, "is empty; write a directory");
    }
    text.into()
}

/// Reads every key and checks them against each other.
pub(super) fn run_config(mut r: Values) -> Result<RunConfig> {
    let required = |r: &mut Values, key: &str| {
        let text = r.text(key).filter(|t| !t.is_empty());
        if text.is_none() && !r.problems.iter().any(|p| p.message.contains(&format!("`{key}`"))) {
            r.missing(Problem::new(format!("`{key}` is missing")));
        }
        text.unwrap_or_default().into()
    };
    let class = r.text("data.class_path");
    if let Some(class) = class.as_deref().filter(|c| c.rsplit('.').next() != Some("JSON")) {
        r.problem(
            "data.class_path",
            &format!("`{class}` is not supported; `JSON` is, with `init_args.path`"),
        );
    }
    let device = r.read("device", Device::Auto, str::parse);
    let precision = r.read("precision", Precision::Bf16, str::parse);
    let quantize = r.read("quantize", None, |text| text.parse().map(Some));
    let kind = r.read("optimizer.class_path", OptimizerKind::AdamW, |text| match text {
        "AdamW"
        | "torch.optim.AdamW"
        | "bitsandbytes.optim.AdamW"
        | "bitsandbytes.optim.AdamW32bit" => Ok(OptimizerKind::AdamW),
        "PagedAdamW" | "bitsandbytes.optim.PagedAdamW" | "bitsandbytes.optim.PagedAdamW32bit" => {
            Ok(OptimizerKind::PagedAdamW)
        }
        _ => Err(format!("`{text}` is not supported; `AdamW` and `PagedAdamW` are")),
    });
    let positive = 1e-30..1e9;
    let seed = |text: &str| {
        scalar::integer(text)
            .and_then(|n| u64::try_from(n).map_err(|_| format!("{text} is negative")))
    };
    let lora = LoraSection {
        r: r.read("lora_r", 8, |t| {
            whole(t, 1).and_then(|n| {
                if n <= 65_536 { Ok(n) } else { Err(format!("{t} lies outside 1 .. 65536")) }
            })
        }),
        alpha: r.number("lora_alpha", 16.0, positive.clone()),
        dropout: r.number("lora_dropout", 0.05, 0.0..1.0),
        targets: targets(&mut r),
    };
    let mut config = RunConfig {
        checkpoint_dir: required(&mut r, "checkpoint_dir"),
        out_dir: directory(&mut r, "out_dir", "out/finetune/lora"),
        device,
        precision,
        quantize,
        lora,
        adapter_path: r.text("adapter_path").map(Into::into),
        data: DataSection {
            path: required(&mut r, "data.init_args.path"),
            val_split_fraction: r
                .text("data.init_args.val_split_fraction")
                .map(|_| r.number("data.init_args.val_split_fraction", 0.05, 0.0..1.0)),
            mask_prompt: r.flag("data.init_args.mask_prompt", false),
            prompt_style: r.text("data.init_args.prompt_style"),
            seed: r.read("data.init_args.seed", 42, seed),
        },
        train: TrainSection {
            global_batch_size: r.count("train.global_batch_size", 16, 1),
            micro_batch_size: r.count("train.micro_batch_size", 1, 1),
            lr_warmup_steps: match r.scalar("train.lr_warmup_steps") {
                Some(None) => 0,
                _ => r.count("train.lr_warmup_steps", 100, 0),
            },
            epochs: r.count_or_null("train.epochs", Some(5)),
            max_steps: r.count_or_null("train.max_steps", None),
            max_seq_length: r.count_or_null("train.max_seq_length", None),
            max_norm: r
                .text("train.max_norm")
                .map(|_| r.number("train.max_norm", 1.0, positive.clone())),
            min_lr: r.number("train.min_lr", 0.0, 0.0..1e9),
            shuffle: r.flag("train.shuffle", true),
            save_interval: r.count_or_null("train.save_interval", Some(1000)),
            gradient_checkpointing: r.read(
                "train.gradient_checkpointing",
                Checkpointing::Auto,
                str::parse,
            ),
            max_memory: r.read("train.max_memory", None, |text| text.parse().map(Some)),
            log_interval: r.count("train.log_interval", 1, 1),
        },
        eval: EvalSection {
            interval: r.count("eval.interval", 100, 1),
            max_iters: r.count("eval.max_iters", 100, 1),
            initial_validation: r.flag("eval.initial_validation", false),
            final_validation: r.flag("eval.final_validation", true),
        },
        optimizer: OptimizerSection {
            kind,
            lr: r.number("optimizer.init_args.lr", 1e-3, positive.clone()),
            weight_decay: r.number("optimizer.init_args.weight_decay", 0.01, 0.0..1e9),
            betas: betas(&mut r),
            eps: r.number("optimizer.init_args.eps", 1e-8, positive),
        },
        seed: r.read("seed", 1337, seed),
        places: BTreeMap::new(),
        written: Vec::new(),
    };
    let t = &config.train;
    if !t.global_batch_size.is_multiple_of(t.micro_batch_size) {
        let message = format!(
            "{} is no multiple of `train.micro_batch_size` {}",
            t.global_batch_size, t.micro_batch_size
        );
        r.problem("train.global_batch_size", &message);
    }
    if t.epochs.is_none() && t.max_steps.is_none() {
        r.problem(
            "train.epochs",
            "null, and `train.max_steps` is null too: the run would never end",
        );
    }
    if t.min_lr > config.optimizer.lr {
        r.problem(
            "train.min_lr",
            &format!("{} is above the learning rate {}", t.min_lr, config.optimizer.lr),
        );
    }
    if t.max_seq_length == Some(1) {
        r.problem("train.max_seq_length", "1 leaves nothing to predict; at least 2");
    }
    UserError::check(r.problems)?;
    config.places =
        r.values.iter().filter_map(|(k, (_, p))| Some((k.clone(), p.clone()?))).collect();
    config.written = KEYS
        .iter()
        .filter_map(|k| Some((k.name.to_owned(), super::resolved::flow(&r.values.get(k.name)?.0))))
        .collect();
    Ok(config)
}
