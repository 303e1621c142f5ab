//! The table of config keys: parser, hints, `vft finetune --help` and the documentation read it.

/// One key.
pub struct KeyInfo {
    /// Dotted path in the file and on the command line.
    pub name: &'static str,
    /// What a value looks like.
    pub kind: &'static str,
    /// What stands when it is not written.
    pub default: &'static str,
    /// One line of help.
    pub help: &'static str,
}

macro_rules! keys {
    ($($name:literal, $kind:literal, $default:literal, $help:literal;)*) => {
        /// Every key of a run config.
        pub const KEYS: &[KeyInfo] =
            &[$(KeyInfo { name: $name, kind: $kind, default: $default, help: $help }),*];
    };
}

keys! {
    "checkpoint_dir", "path", "(required)", "Hugging Face model directory to start from";
    "out_dir", "path", "out/finetune/lora", "where the run writes";
    "device", "auto | cpu | cuda | cuda:N", "auto", "where to compute; auto takes a CUDA device if there is one";
    "precision", "32-true | bf16-true | 16-true", "bf16-true", "type of weights and activations; 16-true on CUDA only, and the default on cards without bf16";
    "quantize", "bnb.nf4 | bnb.nf4-dq | null", "null", "4-bit base weights (QLoRA); -dq quantises the scales too";
    "lora_r", "integer", "8", "rank of the adapters";
    "lora_alpha", "number", "16", "adapters are scaled by lora_alpha / lora_r";
    "lora_dropout", "number", "0.05", "dropout on the adapters' input";
    "lora_query", "bool", "true", "adapt q_proj";
    "lora_key", "bool", "false", "adapt k_proj";
    "lora_value", "bool", "true", "adapt v_proj";
    "lora_projection", "bool", "false", "adapt o_proj";
    "lora_mlp", "bool", "false", "adapt gate_proj, up_proj and down_proj";
    "lora_head", "bool", "false", "adapt lm_head";
    "lora_target_modules", "list | regex | all-linear", "null", "modules to adapt, as in PEFT; instead of the six switches";
    "adapter_path", "path", "null", "PEFT adapter directory to start from";
    "data.class_path", "JSON", "(required)", "kind of data set";
    "data.init_args.path", "path", "(required)", "JSON or JSONL file, or a directory with train and val files";
    "data.init_args.val_split_fraction", "number", "0.05", "share of rows held out for validation";
    "data.init_args.mask_prompt", "bool", "false", "train on answers only";
    "data.init_args.prompt_style", "chat_template | alpaca | chatml | default", "null", "how instruction rows become text; null: the tokenizer's chat template, else alpaca";
    "data.init_args.seed", "integer", "42", "seed of split and shuffling";
    "train.global_batch_size", "integer", "16", "rows per optimizer step";
    "train.micro_batch_size", "integer", "1", "rows per forward pass";
    "train.lr_warmup_steps", "integer", "100", "steps of linear warm-up";
    "train.epochs", "integer", "5", "passes over the data";
    "train.max_steps", "integer", "null", "optimizer steps at most";
    "train.max_seq_length", "integer", "null", "longer rows are cut to this many tokens";
    "train.max_norm", "number", "null", "clip the gradient's global norm";
    "train.min_lr", "number", "0", "rate at the end of the cosine";
    "train.shuffle", "bool", "true", "shuffle rows each epoch";
    "train.save_interval", "integer", "1000", "steps between checkpoints; null for none";
    "train.gradient_checkpointing", "auto | none | mlp | full", "auto", "compute activations again in the backward pass to save memory; auto: as little as fits";
    "train.max_memory", "size, such as 6GiB", "null", "memory that auto may plan with; null: what is free at start, on a card 95 % of its memory";
    "train.log_interval", "integer", "1", "steps between log lines";
    "eval.interval", "integer", "100", "steps between validations";
    "eval.max_iters", "integer", "100", "micro-batches per validation during the run";
    "eval.initial_validation", "bool", "false", "validate before the first step";
    "eval.final_validation", "bool", "true", "validate after the last step";
    "optimizer.class_path", "AdamW | PagedAdamW", "AdamW", "optimizer; `optimizer: AdamW` works too";
    "optimizer.init_args.lr", "number", "1e-3", "highest learning rate";
    "optimizer.init_args.weight_decay", "number", "0.01", "decoupled weight decay";
    "optimizer.init_args.betas", "[number, number]", "[0.9, 0.999]", "decay rates of the moments";
    "optimizer.init_args.eps", "number", "1e-8", "added to the root of the second moment";
    "seed", "integer", "1337", "seed of initial values and dropout";
}

/// Keys of LitGPT and its older versions that are written otherwise here, or not at all yet.
pub(super) const FOREIGN: &[(&str, &str)] = &[
    ("train.learning_rate", "write `optimizer.init_args.lr`"),
    ("train.weight_decay", "write `optimizer.init_args.weight_decay`"),
    ("train.beta1", "write `optimizer.init_args.betas`"),
    ("train.beta2", "write `optimizer.init_args.betas`"),
    ("io.checkpoint_dir", "write `checkpoint_dir`"),
    ("io.out_dir", "write `out_dir`"),
    ("data.init_args.mask_inputs", "write `data.init_args.mask_prompt`"),
    ("data.init_args.test_split_fraction", "write `data.init_args.val_split_fraction`"),
    ("train.tie_embeddings", "it is read from the model's config.json; remove it"),
    ("train.max_tokens", "not supported yet; use `train.max_steps`"),
    ("train.max_time", "not supported yet; remove it"),
    ("train.lr_warmup_fraction", "not supported yet; use `train.lr_warmup_steps`"),
    (
        "eval.max_new_tokens",
        "no samples are generated during training yet; remove it and use `vft generate`",
    ),
    (
        "eval.evaluate_example",
        "no samples are generated during training yet; remove it and use `vft generate`",
    ),
    ("data.init_args.ignore_index", "-100 is always the ignored label; remove it"),
    ("data.init_args.num_workers", "rows are tokenised on all cores; remove it"),
    (
        "logger_name",
        "`metrics.jsonl` is always written and no other logger is supported yet; remove it",
    ),
    ("log", "`metrics.jsonl` is always written and no other logger is supported yet; remove it"),
    ("access_token", "models are read from disk; remove it and keep tokens out of files"),
    ("devices", "one device is used; remove it"),
    ("num_nodes", "one machine is used; remove it"),
];

/// Other spellings of a key.
pub(super) const ALIASES: &[(&str, &str)] = &[("data.init_args.json_path", "data.init_args.path")];

/// Help for every key, one line each.
pub fn help() -> String {
    let width = KEYS.iter().map(|k| k.name.len()).max().unwrap_or(0);
    let line = |k: &KeyInfo| {
        format!("  --{:width$}  {} [{}; default {}]\n", k.name, k.help, k.kind, k.default)
    };
    KEYS.iter().map(line).collect()
}
