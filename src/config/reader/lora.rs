//! The `lora_*` keys.

use super::super::run_config::{LoraSection, TargetModules};
use super::super::scalar;
use super::super::values::{Values, whole};
use super::super::yaml::Value;
use super::POSITIVE;
use crate::error::Problem;

/// Highest rank.
const MOST: usize = 65_536;

/// Rank, scale, dropout and modules.
pub(super) fn lora(r: &mut Values) -> LoraSection {
    LoraSection {
        r: r.read("lora_r", 8, |t| {
            let n = whole(t, 1)?;
            if n <= MOST { Ok(n) } else { Err(format!("{t} lies outside 1 .. {MOST}")) }
        }),
        alpha: r.number("lora_alpha", 16.0, POSITIVE),
        dropout: r.number("lora_dropout", 0.05, 0.0..1.0),
        targets: targets(r),
    }
}

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
    match node {
        None => by_flags(r),
        Some(Value::Scalar { text, quoted }) if scalar::is_null(&text, quoted) => by_flags(r),
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
    }
}
