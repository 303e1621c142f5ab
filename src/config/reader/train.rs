//! The blocks `train` and `eval`.

use super::super::choices::{Checkpointing, EvaluateExample, Scheduler};
use super::super::run_config::{EvalSection, TrainSection};
use super::super::scalar;
use super::super::values::Values;
use super::POSITIVE;

/// The loop's keys.
pub(super) fn train(r: &mut Values) -> TrainSection {
    let number = |r: &mut Values, key: &str| r.text(key).map(|_| r.number(key, 1.0, POSITIVE));
    TrainSection {
        global_batch_size: r.count("train.global_batch_size", 16, 1),
        micro_batch_size: r.count("train.micro_batch_size", 1, 1),
        lr_scheduler: r.choice("train.lr_scheduler", Scheduler::Cosine),
        lr_warmup_fraction: r
            .text("train.lr_warmup_fraction")
            .map(|_| r.number("train.lr_warmup_fraction", 0.0, 0.0..1e6)),
        lr_warmup_steps: match r.scalar("train.lr_warmup_steps") {
            Some(None) => 0,
            None if r.text("train.lr_warmup_fraction").is_some() => 0,
            _ => r.count("train.lr_warmup_steps", 100, 0),
        },
        lr_decay_fraction: r.number("train.lr_decay_fraction", 0.1, 0.0..1.0 + f64::EPSILON),
        epochs: r.count_or_null("train.epochs", Some(5)),
        max_tokens: r.read("train.max_tokens", None, |text| {
            let n = scalar::integer(text)?;
            usize::try_from(n)
                .ok()
                .filter(|n| *n > 0)
                .map(Some)
                .ok_or(format!("{text} is no number of tokens"))
        }),
        max_steps: r.count_or_null("train.max_steps", None),
        max_time: number(r, "train.max_time"),
        preemption: r.read("train.preemption", None, |text| text.parse().map(Some)),
        max_seq_length: r.count_or_null("train.max_seq_length", None),
        max_norm: number(r, "train.max_norm"),
        min_lr: r.number("train.min_lr", 0.0, 0.0..1e9),
        shuffle: r.flag("train.shuffle", true),
        save_interval: r.count_or_null("train.save_interval", Some(1000)),
        save_total_limit: r.count_or_null("train.save_total_limit", None),
        save_best: r.flag("train.save_best", false),
        early_stopping_patience: r.count_or_null("train.early_stopping_patience", None),
        gradient_checkpointing: r.choice("train.gradient_checkpointing", Checkpointing::Auto),
        max_memory: r.read("train.max_memory", None, |text| text.parse().map(Some)),
        log_interval: r.count("train.log_interval", 1, 1),
    }
}

/// The validation's keys.
pub(super) fn eval(r: &mut Values) -> EvalSection {
    EvalSection {
        interval: r.count("eval.interval", 100, 1),
        max_iters: r.count("eval.max_iters", 100, 1),
        max_new_tokens: r.count("eval.max_new_tokens", 100, 0),
        evaluate_example: r.choice("eval.evaluate_example", EvaluateExample::First),
        initial_validation: r.flag("eval.initial_validation", false),
        final_validation: r.flag("eval.final_validation", true),
    }
}

/// Checks the keys against each other.
pub(super) fn check(r: &mut Values, t: &mut TrainSection, lr: f64) {
    if !t.global_batch_size.is_multiple_of(t.micro_batch_size) {
        let message = format!(
            "{} is no multiple of `train.micro_batch_size` {}",
            t.global_batch_size, t.micro_batch_size
        );
        r.problem("train.global_batch_size", &message);
    }
    if t.epochs.is_none() && t.max_steps.is_none() && t.max_tokens.is_none() {
        r.problem(
            "train.epochs",
            "null, and `train.max_steps` and `train.max_tokens` are null too: the run would never end",
        );
    }
    if t.min_lr > lr {
        r.notes.push(format!(
            "train.min_lr {} lies above the learning rate {lr}, which stays as it is to the end",
            t.min_lr
        ));
        t.min_lr = lr;
    }
    if t.max_seq_length == Some(1) {
        r.problem("train.max_seq_length", "1 leaves nothing to predict; at least 2");
    }
}
