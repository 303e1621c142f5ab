//! The `optimizer` block.

use super::super::choices::OptimizerKind;
use super::super::run_config::OptimizerSection;
use super::super::scalar;
use super::super::values::Values;
use super::super::yaml::{Node, Value};
use super::POSITIVE;

const MOMENTS: &[&str] = &["betas", "eps"];
const SGD_ONLY: &[&str] = &["momentum", "dampening", "nesterov"];

/// The optimizer with its arguments; arguments of another optimizer are problems.
pub(super) fn optimizer(r: &mut Values) -> OptimizerSection {
    let kind = r.read("optimizer.class_path", OptimizerKind::AdamW, kind);
    let sgd = kind == OptimizerKind::Sgd;
    for name in if sgd { MOMENTS } else { SGD_ONLY } {
        let key = format!("optimizer.init_args.{name}");
        let chosen_anew = r.values.get("optimizer.class_path").is_some_and(|(_, p)| p.is_none());
        let of_the_file = r.values.get(&key).is_some_and(|(_, p)| p.is_some());
        if chosen_anew && of_the_file {
            r.values.remove(&key);
            r.notes.push(format!("`{key}` of the file is left out: {kind} has no such argument"));
        } else if r.is_set(&key) {
            r.problem(&key, &format!("is no argument of {kind}"));
        }
    }
    let decoupled = !sgd && kind != OptimizerKind::Adam;
    let section = OptimizerSection {
        kind,
        lr: r.number("optimizer.init_args.lr", 1e-3, POSITIVE),
        weight_decay: r.number(
            "optimizer.init_args.weight_decay",
            if decoupled { 0.01 } else { 0.0 },
            0.0..1e9,
        ),
        betas: betas(r),
        eps: r.number("optimizer.init_args.eps", 1e-8, POSITIVE),
        momentum: r.number("optimizer.init_args.momentum", 0.0, 0.0..1e9),
        dampening: r.number("optimizer.init_args.dampening", 0.0, -1e9..1e9),
        nesterov: r.flag("optimizer.init_args.nesterov", false),
    };
    if section.nesterov && (section.momentum == 0.0 || section.dampening != 0.0) {
        let message = "needs `momentum` above 0 and `dampening` 0, as in torch";
        r.problem("optimizer.init_args.nesterov", message);
    }
    section
}

/// An optimizer by its class path; bitsandbytes' classes also by the module that they really stand in.
fn kind(text: &str) -> Result<OptimizerKind, String> {
    let plain = match text.split('.').collect::<Vec<_>>()[..] {
        ["bnb" | "bitsandbytes", "optim", _, class] => format!("bitsandbytes.optim.{class}"),
        _ => text.to_owned(),
    };
    let of_the_trainer = match text {
        "adamw_torch" | "adamw_torch_fused" | "adamw_hf" => "AdamW",
        "adamw_bnb_8bit" | "adamw_8bit" => "AdamW8bit",
        "paged_adamw_32bit" | "paged_adamw" => "PagedAdamW",
        "paged_adamw_8bit" => "PagedAdamW8bit",
        _ => return plain.parse(),
    };
    Err(format!("`{text}` is transformers' name; write `{of_the_trainer}`"))
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
