//! Keys of LitGPT, its older versions and other trainers that are written otherwise here, mean nothing here, or are not honoured: each with
//! what to do about it.

/// A key that is no key of ours.
pub(super) struct Foreign {
    /// Its dotted path; everything below it is meant too.
    pub(super) name: &'static str,
    /// Values that ask for what is done anyway.
    pub(super) harmless: &'static [&'static str],
    /// What to write instead.
    pub(super) way: &'static str,
}

const fn key(name: &'static str, way: &'static str) -> Foreign {
    Foreign { name, harmless: &[], way }
}

const fn but(name: &'static str, harmless: &'static [&'static str], way: &'static str) -> Foreign {
    Foreign { name, harmless, way }
}

/// Every such key; `null` is harmless for all of them.
pub(super) const FOREIGN: &[Foreign] = &[
    key("train.learning_rate", "write `optimizer.init_args.lr`"),
    key("train.weight_decay", "write `optimizer.init_args.weight_decay`"),
    key("train.beta1", "write `optimizer.init_args.betas`"),
    key("train.beta2", "write `optimizer.init_args.betas`"),
    key("io.checkpoint_dir", "write `checkpoint_dir`"),
    key("io.out_dir", "write `out_dir`"),
    key("io.train_data_dir", "write `data.init_args.path`"),
    key("io.val_data_dir", "write `data.init_args.val_path`"),
    key("repo_id", "write the Hub id as `checkpoint_dir`"),
    key("override_max_seq_length", "write `train.max_seq_length`"),
    key("lora_to_query", "write `lora_query`"),
    key("lora_to_key", "write `lora_key`"),
    key("lora_to_value", "write `lora_value`"),
    key("lora_to_projection", "write `lora_projection`"),
    key("lora_to_mlp", "write `lora_mlp`"),
    key("lora_to_head", "write `lora_head`"),
    key("data.init_args.mask_inputs", "write `data.init_args.mask_prompt`"),
    key("data.init_args.test_split_fraction", "write `data.init_args.val_split_fraction`"),
    key("train.tie_embeddings", "it is read from the model's config.json; remove it"),
    key("train.lr", "write `optimizer.init_args.lr`"),
    but(
        "trust_remote_code",
        &["false", "False"],
        "no code of a model's repository is ever run; remove it",
    ),
    // Axolotl, LLaMA-Factory, TRL.
    key("base_model", "write `checkpoint_dir`"),
    key("model_name_or_path", "write `checkpoint_dir`"),
    key("output_dir", "write `out_dir`"),
    key("datasets", "write `data.init_args.dataset_mix`"),
    key("dataset", "write `data.init_args.path`"),
    key("learning_rate", "write `optimizer.init_args.lr`"),
    key("lr", "write `optimizer.init_args.lr`"),
    key("weight_decay", "write `optimizer.init_args.weight_decay`"),
    key("max_grad_norm", "write `train.max_norm`"),
    key("batch_size", "write `train.global_batch_size` and `train.micro_batch_size`"),
    key("micro_batch_size", "write `train.micro_batch_size`"),
    key("per_device_train_batch_size", "write `train.micro_batch_size`"),
    key(
        "gradient_accumulation_steps",
        "write `train.global_batch_size`: the micro-batch times this",
    ),
    key("num_epochs", "write `train.epochs`"),
    key("num_train_epochs", "write `train.epochs`"),
    key("max_steps", "write `train.max_steps`"),
    key("sequence_len", "write `train.max_seq_length`"),
    key("max_seq_length", "write `train.max_seq_length`"),
    key("cutoff_len", "write `train.max_seq_length`"),
    key("warmup_steps", "write `train.lr_warmup_steps`"),
    key("warmup_ratio", "write `train.lr_warmup_fraction`, a part of the first epoch"),
    key("lr_scheduler", "write `train.lr_scheduler`"),
    key("lr_scheduler_type", "write `train.lr_scheduler`"),
    key("logging_steps", "write `train.log_interval`"),
    key("save_steps", "write `train.save_interval`"),
    key("save_total_limit", "write `train.save_total_limit`"),
    key("eval_steps", "write `eval.interval`"),
    key("val_set_size", "write `data.init_args.val_split_fraction`"),
    key(
        "chat_template",
        "write `data.init_args.prompt_style`, or `prompt_template` for a text of your own",
    ),
    key("train_on_inputs", "write `data.init_args.mask_prompt`, which says the opposite"),
    key("load_in_4bit", "write `quantize: bnb.nf4`"),
    key("load_in_8bit", "there are no 8-bit weights; write `quantize: bnb.nf4`"),
    but(
        "adapter",
        &["lora", "qlora"],
        "LoRA is what is trained; `quantize: bnb.nf4` makes it QLoRA",
    ),
    key("lora_target_linear", "write `lora_target_modules: all-linear`"),
    key("bf16", "write `precision: bf16-true`"),
    key("fp16", "write `precision: 16-true`"),
    but(
        "sample_packing",
        &["false", "False"],
        "sequences lie end to end without padding and do not see each other; remove it",
    ),
    but(
        "packing",
        &["false", "False"],
        "sequences lie end to end without padding and do not see each other; remove it",
    ),
    key("report_to", "write `logger_name`"),
    but("push_to_hub", &["false", "False"], "nothing is uploaded; remove it"),
    key("hub_model_id", "nothing is uploaded; remove it"),
    key("galore", "GaLore is not supported; remove it"),
    but("devices", &["1", "auto"], "one device is used; remove it, or write 1"),
    but("num_nodes", &["1"], "one machine is used; remove it, or write 1"),
    but(
        "optimizer.init_args.fused",
        &["true", "True", "false", "False"],
        "updates are one fused pass; remove it",
    ),
    but(
        "optimizer.init_args.foreach",
        &["true", "True", "false", "False"],
        "updates are one fused pass; remove it",
    ),
    but(
        "optimizer.init_args.capturable",
        &["false", "False"],
        "there are no CUDA graphs to capture; remove it",
    ),
    but(
        "optimizer.init_args.differentiable",
        &["false", "False"],
        "updates are not differentiated; remove it",
    ),
    but("optimizer.init_args.is_paged", &["false", "False"], "write `class_path: PagedAdamW`"),
    but("optimizer.init_args.optim_bits", &["32"], "write `class_path: AdamW8bit`"),
    but(
        "optimizer.init_args.min_8bit_size",
        &["4096"],
        "slices of fewer than 4096 elements keep 32-bit states; remove it",
    ),
    but("optimizer.init_args.percentile_clipping", &["100"], "write `train.max_norm`"),
    but(
        "optimizer.init_args.block_wise",
        &["true", "True"],
        "8-bit states are block-wise; remove it",
    ),
    but("optimizer.init_args.amsgrad", &["false", "False"], "AMSGrad is not supported; remove it"),
    but("optimizer.init_args.maximize", &["false", "False"], "the loss is minimised; remove it"),
    but("log.log_model", &["false", "False"], "nothing is uploaded; remove it"),
    but("log.save_logs", &["true", "True"], "logs are always saved; remove it"),
    key("log.teamspace", "it belongs to LitLogger, which is not supported; remove it"),
    key("log.metadata", "it belongs to LitLogger, which is not supported; remove it"),
    key("log.checkpoint_name", "it belongs to LitLogger, which is not supported; remove it"),
];

/// Other spellings of a key.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("data.init_args.json_path", "data.init_args.path"),
    ("data.init_args.prompt_style.class_path", "data.init_args.prompt_style"),
];
