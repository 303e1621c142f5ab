//! Keys that contradict each other. Written in the same place they are an error; a key on the command line takes the place of the file's, and
//! a note says so.

use super::scalar;
use super::values::{MIX, Values};
use crate::error::Problem;

/// Two keys that cannot both be meant.
struct Rule {
    /// The key that wins if it stands on the command line and the other in the file.
    a: &'static str,
    /// The key that then gives way, and that a problem is told of.
    b: &'static str,
    /// Whether `a` gives way to `b` in turn.
    mutual: bool,
    /// Whether the two as they are written contradict each other.
    clash: Clash,
    /// What to say where both stand in the same place; empty where they then go together.
    why: &'static str,
}

/// Whether two keys, by their full names, contradict each other.
type Clash = fn(&Values, &str, &str) -> bool;

const fn mutual(a: &'static str, b: &'static str, clash: Clash, why: &'static str) -> Rule {
    Rule { a, b, mutual: true, clash, why }
}

const fn one_way(a: &'static str, b: &'static str, clash: Clash, why: &'static str) -> Rule {
    Rule { a, b, mutual: false, clash, why }
}

const ONE_OF_TWO: &str = "write one of the two";
const ONLY_BY_PATH: &str = "it says where a class finds its rows, and `path` says it too";
const NO_SWITCHES: &str =
    "it names the modules; name this one there, or write `lora_target_modules: null`";

/// Rules of the whole run.
const RUN: &[Rule] = &[
    mutual(
        "train.lr_warmup_fraction",
        "train.lr_warmup_steps",
        steps_beside_a_fraction,
        ONE_OF_TWO,
    ),
    one_way(
        "train.lr_scheduler",
        "train.lr_decay_fraction",
        no_decay,
        "it belongs to `lr_scheduler: wsd`",
    ),
    one_way(
        "train.lr_scheduler",
        "train.min_lr",
        constant,
        "a constant learning rate has no end to reach",
    ),
    mutual(
        "train.gradient_checkpointing",
        "train.max_memory",
        no_choice,
        "it is what `gradient_checkpointing: auto` plans with",
    ),
    one_way(
        "save_merged",
        "merge.base",
        not_merged,
        "it is for `save_merged: true`; `vft merge` has options of its own",
    ),
    one_way(
        "save_merged",
        "merge.tied_head",
        not_merged,
        "it is for `save_merged: true`; `vft merge` has options of its own",
    ),
    one_way(
        "quantize",
        "merge.base",
        not_quantised,
        "`dequant` is the base that a quantised run trained on",
    ),
    one_way("lora_target_modules", "lora_query", first_is_set, NO_SWITCHES),
    one_way("lora_target_modules", "lora_key", first_is_set, NO_SWITCHES),
    one_way("lora_target_modules", "lora_value", first_is_set, NO_SWITCHES),
    one_way("lora_target_modules", "lora_projection", first_is_set, NO_SWITCHES),
    one_way("lora_target_modules", "lora_mlp", first_is_set, NO_SWITCHES),
    one_way("lora_target_modules", "lora_head", first_is_set, NO_SWITCHES),
];

/// Rules of a set of rows, under `data.init_args` or in an item of a mix.
const SET: &[Rule] = &[
    mutual("prompt_template", "prompt_style", both_are_set, ONE_OF_TWO),
    mutual(
        "prompt_template",
        "prompt_style.init_args.system_message",
        both_are_set,
        "write `{system}` into the template instead",
    ),
    one_way("prompt_style", "prompt_style.init_args.system_message", always, ""),
    mutual("path", "repo_id", both_are_set, "`path` takes the id of a data set on the Hub too"),
    mutual("path", "file_name", both_are_set, ONLY_BY_PATH),
    mutual("path", "file_url", both_are_set, ONLY_BY_PATH),
    mutual("path", "url", both_are_set, ONLY_BY_PATH),
    mutual("path", "subsets", both_are_set, ONLY_BY_PATH),
    mutual("path", "download_dir", both_are_set, ONLY_BY_PATH),
    mutual("val_path", "val_split", both_are_set_together, ONE_OF_TWO),
    mutual("val_path", "val_split_fraction", both_are_set_together, ONE_OF_TWO),
    mutual("val_split", "val_split_fraction", both_are_set_together, ONE_OF_TWO),
    mutual("train_on", "mask_prompt", masks_differ, ONE_OF_TWO),
    mutual("multi_turn", "include_multiturn_conversations", turns_differ, ONE_OF_TWO),
];

/// What a mix of sets leaves no room for beside it.
const BESIDE_A_MIX: &[&str] = &["path", "val_path", "repo_id"];

/// Applies all rules.
pub(super) fn settle(r: &mut Values) {
    for rule in RUN {
        apply(r, rule, rule.a, rule.b);
    }
    const ARGS: &str = "data.init_args";
    for name in BESIDE_A_MIX {
        let why = "write it in the items";
        let rule = Rule { a: MIX, b: "", mutual: true, clash: beside_a_mix, why };
        apply(r, &rule, MIX, &format!("{ARGS}.{name}"));
    }
    for rule in SET {
        apply(r, rule, &format!("{ARGS}.{}", rule.a), &format!("{ARGS}.{}", rule.b));
    }
    for i in 0..r.mix {
        let prefix = format!("{MIX}[{i}]");
        let name = |r: &Values, key: &str| {
            let own = format!("{prefix}.{key}");
            if r.is_written(&own) { own } else { format!("{ARGS}.{key}") }
        };
        for rule in SET {
            let (a, b) = (name(r, rule.a), name(r, rule.b));
            if a.starts_with(MIX) || b.starts_with(MIX) {
                apply(r, rule, &a, &b);
            }
        }
    }
}

fn apply(r: &mut Values, rule: &Rule, a: &str, b: &str) {
    if !r.is_written(b) && !r.is_mix(b) || !(rule.clash)(r, a, b) {
        return;
    }
    let (a_wins, b_wins) = (
        r.is_argument(a) && !r.is_argument(b),
        rule.mutual && r.is_argument(b) && !r.is_argument(a),
    );
    if a_wins {
        r.leave_out(b, a);
    } else if b_wins && (r.is_written(a) || r.is_mix(a)) {
        r.leave_out(a, b);
    } else if !rule.why.is_empty() {
        let place = r.values.get(b).and_then(|(_, place)| place.clone());
        let message = format!("`{b}` does not go with `{}`", said(r, a));
        r.problems.push(Problem { place, message, hint: Some(rule.why.to_owned()) });
    }
}

/// A key with its value, where that is short.
fn said(r: &mut Values, key: &str) -> String {
    let text = if r.is_written(key) { r.text(key).filter(|t| t.len() < 20) } else { None };
    text.map_or_else(|| key.to_owned(), |text| format!("{key}: {text}"))
}

fn always(_: &Values, _: &str, _: &str) -> bool {
    true
}

fn first_is_set(r: &Values, a: &str, _: &str) -> bool {
    r.is_set(a)
}

fn both_are_set(r: &Values, a: &str, b: &str) -> bool {
    r.is_set(a) && r.is_set(b)
}

/// As [`both_are_set`], where an item of a mix has both: one of its own takes the place of the mix'.
fn both_are_set_together(r: &Values, a: &str, b: &str) -> bool {
    both_are_set(r, a, b) && a.starts_with(MIX) == b.starts_with(MIX)
}

fn beside_a_mix(r: &Values, _: &str, b: &str) -> bool {
    r.mix > 0 && r.is_set(b)
}

fn word(r: &Values, key: &str) -> String {
    r.peek(key).unwrap_or_default()
}

fn is_true(r: &Values, key: &str) -> bool {
    scalar::boolean(&word(r, key)).unwrap_or(false)
}

fn steps_beside_a_fraction(r: &Values, a: &str, b: &str) -> bool {
    both_are_set(r, a, b) && word(r, b) != "0"
}

fn no_decay(r: &Values, a: &str, b: &str) -> bool {
    r.is_set(b) && word(r, a) != "wsd"
}

fn constant(r: &Values, a: &str, b: &str) -> bool {
    word(r, a) == "constant" && scalar::number(&word(r, b)).is_ok_and(|lr| lr > 0.0)
}

fn no_choice(r: &Values, a: &str, b: &str) -> bool {
    both_are_set(r, a, b) && word(r, a) != "auto"
}

fn not_merged(r: &Values, a: &str, b: &str) -> bool {
    r.is_set(b) && !is_true(r, a)
}

fn not_quantised(r: &Values, a: &str, b: &str) -> bool {
    word(r, b) == "dequant" && !r.is_set(a)
}

fn masks_differ(r: &Values, a: &str, b: &str) -> bool {
    both_are_set(r, a, b) && (word(r, a) == "all") == is_true(r, b)
}

fn turns_differ(r: &Values, a: &str, b: &str) -> bool {
    both_are_set(r, a, b) && (word(r, a) == "first") == is_true(r, b)
}
