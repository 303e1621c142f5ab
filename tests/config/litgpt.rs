//! LitGPT's schema: its scalars, its command line, its class paths, its mistakes.
use super::{LEAST, errors, load};
use vft::config::{MultiTurn, OptimizerKind, TrainOn};

fn lines(more: &str) -> String {
    format!("{LEAST}{more}")
}

#[test]
fn a_partial_block_keeps_the_finetuning_defaults() {
    let config = load(&lines("train:\n  epochs: 1\n"), &[]).unwrap();
    assert_eq!((config.train.epochs, config.train.lr_warmup_steps), (Some(1), 100));
}

#[test]
fn a_class_is_named_short_or_with_its_module() {
    let name = |text: &str| {
        load(&format!("checkpoint_dir: m\ndata: {text}\n"), &[]).unwrap().data.sets[0].class.name
    };
    assert_eq!(
        [name("Alpaca2k"), name("litgpt.data.LIMA"), name("vinasmol_datamodule.MuriITVi")],
        ["Alpaca2k", "LIMA", "MuriITVi"]
    );
}

#[test]
fn a_class_of_another_module_is_unknown() {
    let text = errors("checkpoint_dir: m\ndata: my_package.LIMAA\n", &[]);
    assert!(text.contains("did you mean `LIMA`?"), "{text}");
}

#[test]
fn a_pretraining_class_is_refused() {
    assert!(
        errors("checkpoint_dir: m\ndata: litgpt.data.TinyStories\n", &[])
            .contains("is for pretraining")
    );
}

#[test]
fn the_command_line_wins_over_an_optimizer_block() {
    let text = lines("optimizer:\n  class_path: torch.optim.AdamW\n  init_args:\n    lr: 3e-4\n");
    let lr = |arguments: &[&str]| load(&text, arguments).unwrap().optimizer.lr;
    assert_eq!(
        [lr(&[]), lr(&["--optimizer.lr", "1e-5"]), lr(&["--optimizer.init_args.lr=2e-5"])],
        [3e-4, 1e-5, 2e-5]
    );
}

#[test]
fn an_optimizer_may_be_one_json_value() {
    let config = load(
        LEAST,
        &["--optimizer", r#"{"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}"#],
    )
    .unwrap();
    assert_eq!((config.optimizer.kind, config.optimizer.lr), (OptimizerKind::Sgd, 0.1));
}

#[test]
fn another_class_on_the_command_line_leaves_foreign_arguments_of_the_file_out() {
    let text = "checkpoint_dir: m\ndata:\n  class_path: LIMA\n  init_args:\n    include_multiturn_conversations: true\n    seed: 7\n";
    let config = load(text, &["--data", "Alpaca"]).unwrap();
    assert_eq!((config.data.seed, config.notes.len()), (7, 1));
}

#[test]
fn an_argument_of_another_class_is_refused_in_the_file() {
    let text = "checkpoint_dir: m\ndata:\n  class_path: Alpaca\n  init_args:\n    include_multiturn_conversations: true\n";
    assert!(errors(text, &[]).contains("run.yml:5:5: `data.init_args.include_multiturn_conversations`: is not read by the class Alpaca"));
}

#[test]
fn muri_takes_the_argument_that_it_inherits_where_it_changes_nothing() {
    let text = |flag: bool| {
        format!(
            "checkpoint_dir: m\ndata:\n  class_path: vinasmol_datamodule.MuriITVi\n  init_args:\n    include_multiturn_conversations: {flag}\n"
        )
    };
    assert!(load(&text(false), &[]).is_ok());
    assert!(errors(&text(true), &[]).contains("is not read by the class MuriITVi"));
}

#[test]
fn a_prompt_style_may_be_a_block() {
    let text = lines(
        "    prompt_style:\n      class_path: litgpt.prompts.ChatML\n      init_args:\n        system_message: Hi\n",
    );
    let set = load(&text, &[]).unwrap().data.sets.remove(0);
    assert_eq!(
        (set.prompt_style.as_deref(), set.system_message.as_deref()),
        (Some("litgpt.prompts.ChatML"), Some("Hi"))
    );
}

#[test]
fn only_the_first_exchange_is_kept_where_a_file_says_so() {
    let text = "checkpoint_dir: m\ndata:\n  class_path: LIMA\n  init_args:\n    include_multiturn_conversations: false\n";
    assert_eq!(load(text, &[]).unwrap().data.sets[0].multi_turn, MultiTurn::First);
}

#[test]
fn conversations_stay_whole_by_default() {
    assert_eq!(
        load("checkpoint_dir: m\ndata: LIMA\n", &[]).unwrap().data.sets[0].multi_turn,
        MultiTurn::Conversation
    );
}

#[test]
fn a_mix_inherits_and_overrides() {
    let text = "checkpoint_dir: m\ndata:\n  class_path: JSON\n  init_args:\n    mask_prompt: true\n    dataset_mix:\n      - path: a.jsonl\n      - {class_path: LIMA, weight: 0.5, train_on: last}\n";
    let sets = load(text, &[]).unwrap().data.sets;
    let got: Vec<_> = sets.iter().map(|s| (s.class.name, s.train_on, s.weight)).collect();
    assert_eq!(got, [("JSON", TrainOn::Assistant, 1.0), ("LIMA", TrainOn::Last, 0.5)]);
}

#[test]
fn a_typo_in_a_mix_is_placed() {
    let text = lines("    dataset_mix:\n      - path: a.jsonl\n        wieght: 2\n");
    let text = errors(&text, &[]);
    assert!(
        text.contains("run.yml:8:9: unknown key `data.init_args.dataset_mix[0].wieght`")
            && text.contains("`data.init_args.weight`"),
        "{text}"
    );
}

#[test]
fn a_column_is_mapped_on_the_command_line() {
    let config = load(LEAST, &["--data.columns.instruction", "title"]).unwrap();
    assert_eq!(config.data.sets[0].columns["instruction"], "title");
}

#[test]
fn a_template_is_text_on_the_command_line() {
    let config = load(LEAST, &["--data.prompt_template", "{title}:"]).unwrap();
    assert_eq!(config.data.sets[0].prompt_template.as_deref(), Some("{title}:"));
}

#[test]
fn old_keys_get_their_replacement() {
    let text = errors(
        &lines("train:\n  learning_rate: 1e-4\nio:\n  out_dir: x\nlora_to_query: true\n"),
        &[],
    );
    for way in ["`optimizer.init_args.lr`", "`out_dir`", "`lora_query`"] {
        assert!(text.contains(way), "{way} is not in {text}");
    }
}

#[test]
fn what_asks_for_what_is_done_anyway_is_taken() {
    assert!(load(&lines("devices: 1\nnum_nodes: 1\n"), &["--optimizer.fused", "true"]).is_ok());
}

#[test]
fn more_devices_are_refused() {
    assert!(errors(&lines("devices: 2\n"), &[]).contains("one device is used"));
}

#[test]
fn foreign_loggers_are_refused_with_a_way_out() {
    assert!(errors(&lines("logger_name: wandb\n"), &[]).contains("write `csv` or `tensorboard`"));
}

#[test]
fn mixed_precision_with_quantised_weights_is_refused() {
    assert!(
        errors(&lines("quantize: bnb.nf4\nprecision: bf16-mixed\n"), &[])
            .contains("`quantize`: does not go with")
    );
}

#[test]
fn both_warm_ups_are_refused() {
    let text = lines("train:\n  lr_warmup_steps: 5\n  lr_warmup_fraction: 0.1\n");
    assert!(
        errors(&text, &[])
            .contains("`train.lr_warmup_steps` does not go with `train.lr_warmup_fraction: 0.1`")
    );
}

#[test]
fn arguments_of_another_optimizer_are_refused() {
    let text =
        lines("optimizer:\n  class_path: torch.optim.SGD\n  init_args:\n    betas: [0.9, 0.95]\n");
    assert!(errors(&text, &[]).contains("`optimizer.init_args.betas`: is no argument of SGD"));
}

#[test]
fn differences_are_told_only_where_they_apply() {
    let told = |more: &str| load(&lines(more), &[]).unwrap().litgpt_differences();
    let of_min_lr = |lines: Vec<String>| lines.iter().any(|l| l.starts_with("train.min_lr"));
    assert_eq!([of_min_lr(told("train:\n  min_lr: 6e-5\n")), of_min_lr(told(""))], [true, false]);
}

#[test]
fn what_litgpt_does_too_is_no_difference() {
    let same =
        "precision: bf16-mixed\ntrain:\n  epochs: null\n  max_steps: 3\n  global_batch_size: 1\n";
    assert_eq!(load(&lines(same), &[]).unwrap().litgpt_differences(), [""; 0]);
}

/// What LitGPT's files always write.
const WRITTEN: &str = "checkpoint_dir: m\ndata:\n  class_path: LIMA\n  init_args:\n    path: lima.jsonl\n    mask_prompt: false\n    include_multiturn_conversations: false\n    prompt_style: alpaca\nlora_query: true\nlora_key: false\ntrain:\n  lr_warmup_steps: 10\n  min_lr: 6.0e-05\noptimizer:\n  class_path: torch.optim.AdamW\n  init_args:\n    lr: 2e-4\n    betas: [0.9, 0.95]\n";

#[test]
fn a_key_on_the_command_line_takes_the_place_of_its_rival_in_the_file() {
    for arguments in [
        ["--data.train_on", "last"],
        ["--data.multi_turn", "pairs"],
        ["--data.prompt_template", "{instruction}:"],
        ["--train.lr_warmup_fraction", "0.1"],
        ["--lora_target_modules", "all-linear"],
        ["--optimizer", "SGD"],
    ] {
        let config = load(WRITTEN, &arguments);
        assert!(config.is_ok_and(|c| !c.notes.is_empty()), "{arguments:?}");
    }
}

/// A file of keys that have rivals, for [`the_command_line_wins_over_every_rival_in_the_file`].
const RIVALS: &str = "checkpoint_dir: m\nsave_merged: true\nquantize: bnb.nf4\nlora_query: true\nmerge: {base: dequant, tied_head: drop}\ndata:\n  class_path: litgpt.data.Alpaca\n  init_args:\n    file_name: a.json\n    file_url: https://example.org/a.json\n    download_dir: here\n    val_split_fraction: 0.05\n    mask_prompt: false\n    prompt_style: {class_path: vinasmol_datamodule.ChatMLAlpaca, init_args: {system_message: S}}\ntrain:\n  lr_scheduler: wsd\n  lr_decay_fraction: 0.2\n  min_lr: 1e-5\n  lr_warmup_steps: 10\n  gradient_checkpointing: auto\n  max_memory: 2GiB\n";

#[test]
fn the_command_line_wins_over_every_rival_in_the_file() {
    for arguments in [
        &["--data.prompt_style", "alpaca"][..],
        &["--data.prompt_style", "null"],
        &["--data.prompt_template", "{instruction}:"],
        &["--data", "{init_args: {prompt_style: alpaca}}"],
        &["--data.path", "rows.json"],
        &["--data.val_path", "v.jsonl"],
        &["--data.val_split", "test"],
        &["--data.train_on", "last"],
        &["--train.lr_scheduler", "cosine"],
        &["--train.lr_scheduler", "constant"],
        &["--train.lr_warmup_fraction", "0.1"],
        &["--train.gradient_checkpointing", "mlp"],
        &["--save_merged", "false"],
        &["--quantize", "null"],
        &["--lora_target_modules", "all-linear"],
    ] {
        let notes = load(RIVALS, arguments).unwrap().notes;
        let told = notes.iter().filter(|n| n.contains("is left out: `--"));
        assert!(told.count() > 0, "{arguments:?}: {notes:?}");
    }
}

#[test]
fn keys_of_other_trainers_are_shown_the_way() {
    for (line, way) in [
        ("learning_rate: 1e-4", "`optimizer.init_args.lr`"),
        ("base_model: m", "`checkpoint_dir`"),
        ("num_epochs: 3", "`train.epochs`"),
        ("optimizer: adamw_bnb_8bit", "write `AdamW8bit`"),
        ("data: rows/a.jsonl", "write it as `data.init_args.path`"),
    ] {
        let text = errors(&format!("checkpoint_dir: m\n{line}\n"), &[]);
        assert!(text.contains(way) && !text.contains("`data.init_args.path` is missing"), "{text}");
    }
}

#[test]
fn bitsandbytes_classes_are_known_by_their_modules() {
    let text = lines("optimizer: bitsandbytes.optim.adamw.PagedAdamW8bit\n");
    assert_eq!(load(&text, &[]).unwrap().optimizer.kind, OptimizerKind::PagedAdamW8bit);
}

#[test]
fn rivals_of_one_file_are_refused() {
    for (text, key) in [
        ("    repo_id: org/rows\n", "data.init_args.repo_id"),
        ("    download_dir: here\n", "data.init_args.download_dir"),
        ("    val_path: v.jsonl\n    val_split: test\n", "data.init_args.val_split"),
        (
            "    val_path: v.jsonl\n    val_split_fraction: 0.1\n",
            "data.init_args.val_split_fraction",
        ),
        ("train: {lr_scheduler: constant, min_lr: 1e-5}\n", "train.min_lr"),
        ("train: {lr_decay_fraction: 0.1}\n", "train.lr_decay_fraction"),
        ("train: {gradient_checkpointing: none, max_memory: 2GiB}\n", "train.max_memory"),
        ("save_merged: true\nmerge: {base: dequant}\n", "merge.base"),
    ] {
        let text = errors(&lines(text), &[]);
        assert!(text.contains(&format!("`{key}` does not go with")), "{key}: {text}");
    }
}

#[test]
fn another_class_leaves_the_files_rows_behind() {
    let set = load(WRITTEN, &["--data", "Alpaca2k", "--data.repo_id", "me/x"])
        .unwrap()
        .data
        .sets
        .remove(0);
    assert_eq!((set.path, set.repo_id.as_deref()), (None, Some("me/x")));
}

#[test]
fn the_same_class_keeps_the_files_rows() {
    let set = load(WRITTEN, &["--data", "litgpt.data.LIMA"]).unwrap().data.sets.remove(0);
    assert_eq!(set.path, Some("lima.jsonl".into()));
}

#[test]
fn a_floor_above_the_rate_is_lowered_and_told() {
    let config = load(WRITTEN, &["--optimizer.lr", "1e-5"]).unwrap();
    assert_eq!((config.train.min_lr, config.notes.len()), (1e-5, 1));
}

#[test]
fn an_empty_mix_is_refused() {
    assert!(errors(&lines("    dataset_mix: []\n"), &[]).contains("is empty; list at least one"));
}

#[test]
fn rows_beside_a_mix_are_refused() {
    let text = lines("    dataset_mix:\n      - path: a.jsonl\n");
    assert!(
        errors(&text, &[])
            .contains("`data.init_args.path` does not go with `data.init_args.dataset_mix`")
    );
}

#[test]
fn a_secret_in_an_address_is_refused_and_not_repeated() {
    let text = "checkpoint_dir: m\ndata:\n  class_path: Alpaca\n  init_args:\n    file_url: https://me:canary@example.org/a.json\n";
    let text = errors(text, &[]);
    assert!(text.contains("holds a user or password") && !text.contains("canary"), "{text}");
}
