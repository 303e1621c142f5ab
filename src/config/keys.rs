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
    "checkpoint_dir", "path | Hub id", "(required)", "Hugging Face model directory to start from, or a model on the Hub such as HuggingFaceTB/SmolLM2-135M";
    "revision", "text", "null", "branch, tag or commit of a model on the Hub; null: main";
    "access_token", "text", "null", "token for gated and private repositories; null: $HF_TOKEN. It is never written or shown, and not taken from the command line";
    "out_dir", "path", "out/finetune/lora", "where the run writes";
    "resume", "false | auto | path", "false", "go on from the newest good checkpoint in out_dir, if there is one (auto), or from a checkpoint";
    "device", "auto | cpu | cuda | cuda:N", "auto", "where to compute; auto takes a CUDA device if there is one";
    "precision", "32-true | bf16-true | 16-true | bf16-mixed | 16-mixed", "bf16-true", "type of weights and activations; in the mixed ones the residual stream, norms, softmax and loss are f32; 16 on CUDA only, and 16-true the default on cards without bf16";
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
    "data.class_path", "class", "Alpaca", "data class: JSON, Alpaca, Alpaca2k, AlpacaGPT4, Dolly, LIMA, Deita, LongForm, FLAN, AlpacaVi, MultiTurnAlpacaVi, MuriITVi; `data: LIMA` works too";
    "data.init_args.path", "path | Hub id", "null", "file, directory with training and validation files, or data set on the Hub; null: what the class reads by itself";
    "data.init_args.val_path", "path", "null", "file or directory of the validation rows";
    "data.init_args.download_dir", "path", "null", "where downloads of the class are kept; a file that is there is not fetched again; null: the class's own";
    "data.init_args.file_name", "text", "null", "name of the class's file in download_dir";
    "data.init_args.file_url", "URL", "null", "where the class's file is fetched from";
    "data.init_args.url", "URL", "null", "where FLAN's files are fetched from";
    "data.init_args.subsets", "list", "null", "FLAN's subsets, separated by commas; null: all";
    "data.init_args.repo_id", "Hub id | path", "null", "data set on the Hub instead of the class's own";
    "data.init_args.revision", "text", "null", "branch, tag or commit of the data set on the Hub; null: main";
    "data.init_args.subset", "text", "null", "configuration of a data set that has several, such as a language";
    "data.init_args.split", "text", "null", "training split, such as train, train_sft or train[:10%]";
    "data.init_args.val_split", "text", "null", "validation split";
    "data.init_args.access_token", "text", "null", "token for the data set's repository; null: `access_token`. It is never written or shown, and not taken from the command line";
    "data.init_args.val_split_fraction", "number", "0.05", "share of rows held out for validation where the data has no validation split; null: the class's own";
    "data.init_args.columns", "map", "null", "where each part of a row is found: {instruction: title, output: text}";
    "data.init_args.prompt_style", "style", "null", "how a prompt becomes text: chat_template, or a style of docs/prompt-styles.md; null: the tokenizer's chat template, else the class's style";
    "data.init_args.prompt_style.init_args.system_message", "text", "null", "system text of a ChatML style";
    "data.init_args.prompt_template", "text", "null", "text of the prompt with columns in braces, instead of a style";
    "data.init_args.mask_prompt", "bool", "false", "train on answers only, as `train_on: assistant`";
    "data.init_args.train_on", "assistant | all | last", "null", "what is trained: every answer, every token, or the last answer; null: as mask_prompt says";
    "data.init_args.multi_turn", "conversation | pairs | first", "conversation", "keep conversations whole, train each exchange by itself, or the first one only";
    "data.init_args.include_multiturn_conversations", "bool", "null", "false: only the first exchange of each conversation, as LitGPT does";
    "data.init_args.max_samples", "integer", "null", "take this many rows at most";
    "data.init_args.weight", "number", "1", "how often the rows of a set count in an epoch of a dataset_mix";
    "data.init_args.dataset_mix", "list of sets", "null", "several data sets: each item has `class_path`, `weight` and the keys of data.init_args that speak of one set";
    "data.init_args.on_bad_row", "error | skip", "error", "what a row does that cannot be used; skipped rows are counted";
    "data.init_args.ignore_index", "integer", "-100", "label that is not trained, in rows of input_ids and labels";
    "data.init_args.num_workers", "integer", "null", "threads that read and tokenise rows; null: all cores";
    "data.init_args.seed", "integer", "42", "seed of split and shuffling";
    "train.global_batch_size", "integer", "16", "rows per optimizer step";
    "train.micro_batch_size", "integer", "1", "rows per forward pass";
    "train.lr_scheduler", "cosine | linear | constant | wsd", "cosine", "how the learning rate falls after the warm-up";
    "train.lr_warmup_steps", "integer", "100", "steps of linear warm-up";
    "train.lr_warmup_fraction", "number", "null", "warm-up as a fraction of an epoch, instead of lr_warmup_steps";
    "train.lr_decay_fraction", "number", "0.1", "share of all steps in which wsd falls";
    "train.epochs", "integer", "5", "passes over the data";
    "train.max_tokens", "integer", "null", "tokens to train on; the last step may go beyond";
    "train.max_steps", "integer", "null", "optimizer steps at most";
    "train.max_time", "number", "null", "seconds after which the program saves and ends, to be taken up again; they count from its start";
    "train.preemption", "aws | gcp | azure | file:PATH | null", "null", "where a notice appears that the machine is taken away, upon which the run saves and ends, to be taken up again: a cloud's metadata service, or a file that comes to be";
    "train.max_seq_length", "integer", "null", "longer rows are cut to this many tokens";
    "train.max_norm", "number", "null", "clip the gradient's global norm";
    "train.min_lr", "number", "0", "rate at the end of the schedule";
    "train.shuffle", "bool", "true", "shuffle rows each epoch";
    "train.save_interval", "integer", "1000", "steps between checkpoints; null for none";
    "train.save_total_limit", "integer", "null", "checkpoints that are kept; the oldest give way";
    "train.save_best", "bool", "false", "keep the adapter of the lowest validation loss in <out_dir>/best";
    "train.early_stopping_patience", "integer", "null", "validations without a lower loss after which the run ends";
    "train.gradient_checkpointing", "auto | none | mlp | full", "auto", "compute activations again in the backward pass to save memory: those of the MLPs, or all; auto: in as few layers as fits";
    "train.max_memory", "size, such as 6GiB", "null", "memory that `gradient_checkpointing: auto` may plan with, an error if the leanest takes more; null: what is free at start, on a card 95 % of it";
    "train.log_interval", "integer", "1", "steps between log lines";
    "eval.interval", "integer", "100", "steps between validations";
    "eval.max_iters", "integer", "100", "micro-batches per validation during the run";
    "eval.max_new_tokens", "integer", "100", "length of the sample answer at each validation; 0 for none";
    "eval.evaluate_example", "first | random | N", "first", "validation row whose prompt is answered";
    "eval.initial_validation", "bool", "false", "validate before the first step";
    "eval.final_validation", "bool", "true", "validate after the last step";
    "optimizer.class_path", "AdamW | PagedAdamW | AdamW8bit | PagedAdamW8bit | Adam | SGD", "AdamW", "optimizer by torch's or bitsandbytes' name; `optimizer: AdamW` works too";
    "optimizer.init_args.lr", "number", "1e-3", "highest learning rate";
    "optimizer.init_args.weight_decay", "number", "0.01", "decoupled weight decay; of Adam and SGD a part of the gradient, 0 by default";
    "optimizer.init_args.betas", "[number, number]", "[0.9, 0.999]", "decay rates of the moments";
    "optimizer.init_args.eps", "number", "1e-8", "added to the root of the second moment";
    "optimizer.init_args.momentum", "number", "0", "momentum of SGD";
    "optimizer.init_args.dampening", "number", "0", "dampening of SGD's momentum";
    "optimizer.init_args.nesterov", "bool", "false", "Nesterov's momentum in SGD";
    "logger_name", "csv | tensorboard", "csv", "metrics as a table or as TensorBoard's events, besides metrics.jsonl";
    "log.project", "text", "null", "project of the run, in its model card";
    "log.run", "text", "null", "name of the run, the title of its model card";
    "log.group", "text", "null", "group of the run, in its model card";
    "save_merged", "bool", "false", "also write the base model with the adapter folded in, to <out_dir>/merged";
    "merge.base", "dequant | original", "dequant", "what the adapter is folded into: weights as training saw them, or as they lie in the files";
    "merge.tied_head", "untie | drop | error", "untie", "what becomes of an adapter on a head that is tied to the embedding";
    "seed", "integer", "1337", "seed of initial values, dropout and samples";
}

/// Help for every key, one line each.
pub fn help() -> String {
    let width = KEYS.iter().map(|k| k.name.len()).max().unwrap_or(0);
    let line = |k: &KeyInfo| {
        format!("  --{:width$}  {} [{}; default {}]\n", k.name, k.help, k.kind, k.default)
    };
    KEYS.iter().map(line).collect()
}

/// The documentation of all keys in Markdown: what `docs/config.md` holds.
pub fn document() -> String {
    let mut text = String::from(
        "# Run config\n\n\
         A run is one YAML file; `vft finetune --config run.yml`. Every key can be set on the command line too, as `--train.max_steps 10`, and the\n\
         command line always wins. `--data.path` is short for `--data.init_args.path`, `--optimizer.lr` for `--optimizer.init_args.lr`, `--data LIMA` for\n\
         `--data.class_path LIMA`. `vft finetune --config run.yml --print_config` shows what a run resolves to.\n\n\
         Keys and their meaning are LitGPT's (`litgpt finetune_lora`); a file of LitGPT works as it is. Paths are relative to the working directory, else to\n\
         the file. Numbers may be written as `1e-4`, `1_000` or `0x10`, truth values as `yes`, `no`, `on`, `off`, `true`, `false`; `null` means the default or none.\n\
         An unknown key, a value of another type and keys that contradict each other are errors.\n",
    );
    let block_of = |name: &'static str| {
        let own = name.split_once('.').map_or("", |(block, _)| block);
        if name.starts_with("data.") { "data" } else { own }
    };
    let mut blocks: Vec<&str> = Vec::new();
    for key in KEYS {
        if !blocks.contains(&block_of(key.name)) {
            blocks.push(block_of(key.name));
        }
    }
    for block in blocks {
        let title = if block.is_empty() { "The run".to_owned() } else { format!("`{block}`") };
        text +=
            &format!("\n## {title}\n\n| key | value | default | meaning |\n|---|---|---|---|\n");
        for key in KEYS.iter().filter(|k| block_of(k.name) == block) {
            let cell = |t: &str| t.replace('|', "\\|");
            let (kind, help) = (cell(key.kind), cell(key.help));
            text += &format!("| `{}` | {kind} | {} | {help} |\n", key.name, key.default);
        }
    }
    text
}
