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
    Foreign {
        name: "trust_remote_code",
        harmless: &["false", "False"],
        way: "no code of a model's repository is ever run; remove it",
    },
    Foreign {
        name: "devices",
        harmless: &["1", "auto"],
        way: "one device is used; remove it, or write 1",
    },
    Foreign {
        name: "num_nodes",
        harmless: &["1"],
        way: "one machine is used; remove it, or write 1",
    },
    Foreign {
        name: "optimizer.init_args.fused",
        harmless: &["true", "True"],
        way: "updates are one fused pass; remove it",
    },
    Foreign {
        name: "optimizer.init_args.foreach",
        harmless: &["true", "True", "false", "False"],
        way: "updates are one fused pass; remove it",
    },
    Foreign {
        name: "optimizer.init_args.capturable",
        harmless: &["false", "False"],
        way: "there are no CUDA graphs to capture; remove it",
    },
    Foreign {
        name: "optimizer.init_args.differentiable",
        harmless: &["false", "False"],
        way: "updates are not differentiated; remove it",
    },
    Foreign {
        name: "optimizer.init_args.is_paged",
        harmless: &["false", "False"],
        way: "write `class_path: PagedAdamW`",
    },
    Foreign {
        name: "optimizer.init_args.optim_bits",
        harmless: &["32"],
        way: "write `class_path: AdamW8bit`",
    },
    Foreign {
        name: "optimizer.init_args.min_8bit_size",
        harmless: &["4096"],
        way: "slices of fewer than 4096 elements keep 32-bit states; remove it",
    },
    Foreign {
        name: "optimizer.init_args.percentile_clipping",
        harmless: &["100"],
        way: "write `train.max_norm`",
    },
    Foreign {
        name: "optimizer.init_args.block_wise",
        harmless: &["true", "True"],
        way: "8-bit states are block-wise; remove it",
    },
    Foreign {
        name: "optimizer.init_args.amsgrad",
        harmless: &["false", "False"],
        way: "AMSGrad is not supported; remove it",
    },
    Foreign {
        name: "optimizer.init_args.maximize",
        harmless: &["false", "False"],
        way: "the loss is minimised; remove it",
    },
    Foreign {
        name: "log.log_model",
        harmless: &["false", "False"],
        way: "nothing is uploaded; remove it",
    },
    Foreign {
        name: "log.save_logs",
        harmless: &["true", "True"],
        way: "logs are always saved; remove it",
    },
    key("log.teamspace", "it belongs to LitLogger, which is not supported; remove it"),
    key("log.metadata", "it belongs to LitLogger, which is not supported; remove it"),
    key("log.checkpoint_name", "it belongs to LitLogger, which is not supported; remove it"),
];

/// Other spellings of a key.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("data.init_args.json_path", "data.init_args.path"),
    ("data.init_args.prompt_style.class_path", "data.init_args.prompt_style"),
];
