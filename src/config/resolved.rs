//! The resolved config as YAML: every key with the value that the run uses, readable by [`RunConfig::load`] again.

use super::keys::KEYS;
use super::run_config::*;
use super::yaml::{Node, Value};
use std::fmt::Write;

/// A node in YAML's flow style.
pub(super) fn flow(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, quoted } => {
            if *quoted {
                quote(text)
            } else {
                text.clone()
            }
        }
        Value::Seq(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Map(items) => {
            let pairs: Vec<_> =
                items.iter().map(|(k, v)| format!("{}: {}", k.name, flow(v))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn or_null<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "null".into(), |v| v.to_string())
}

impl RunConfig {
    /// The value of a key as YAML; `None` where another key says it.
    fn value(&self, key: &str) -> Option<String> {
        let (t, e, o) = (&self.train, &self.eval, &self.optimizer);
        let path = |p: &std::path::Path| quote(&p.to_string_lossy());
        Some(match key {
            "checkpoint_dir" => path(&self.checkpoint_dir),
            "out_dir" => path(&self.out_dir),
            "device" => self.device.to_string(),
            "precision" => self.precision.to_string(),
            "quantize" => or_null(self.quantize),
            "lora_r" => self.lora.r.to_string(),
            "lora_alpha" => self.lora.alpha.to_string(),
            "lora_dropout" => self.lora.dropout.to_string(),
            "lora_target_modules" if self.adapter_path.is_some() => return None,
            "lora_target_modules" => match &self.lora.targets {
                TargetModules::AllLinear => "all-linear".into(),
                TargetModules::Regex(r) => quote(r),
                TargetModules::Names(names) => {
                    format!("[{}]", names.iter().map(|n| quote(n)).collect::<Vec<_>>().join(", "))
                }
            },
            "adapter_path" => or_null(self.adapter_path.as_deref().map(path)),
            "data.class_path" => "JSON".into(),
            "data.init_args.path" => path(&self.data.path),
            "data.init_args.val_split_fraction" => or_null(self.data.val_split_fraction),
            "data.init_args.mask_prompt" => self.data.mask_prompt.to_string(),
            "data.init_args.prompt_style" => or_null(self.data.prompt_style.as_deref().map(quote)),
            "data.init_args.seed" => self.data.seed.to_string(),
            "train.global_batch_size" => t.global_batch_size.to_string(),
            "train.micro_batch_size" => t.micro_batch_size.to_string(),
            "train.lr_warmup_steps" => t.lr_warmup_steps.to_string(),
            "train.epochs" => or_null(t.epochs),
            "train.max_steps" => or_null(t.max_steps),
            "train.max_seq_length" => or_null(t.max_seq_length),
            "train.max_norm" => or_null(t.max_norm),
            "train.min_lr" => t.min_lr.to_string(),
            "train.shuffle" => t.shuffle.to_string(),
            "train.save_interval" => or_null(t.save_interval),
            "train.gradient_checkpointing" => t.gradient_checkpointing.to_string(),
            "train.max_memory" => or_null(t.max_memory),
            "train.log_interval" => t.log_interval.to_string(),
            "eval.interval" => e.interval.to_string(),
            "eval.max_iters" => e.max_iters.to_string(),
            "eval.initial_validation" => e.initial_validation.to_string(),
            "eval.final_validation" => e.final_validation.to_string(),
            "optimizer.class_path" => match o.kind {
                OptimizerKind::AdamW => "AdamW".into(),
                OptimizerKind::PagedAdamW => "PagedAdamW".into(),
            },
            "optimizer.init_args.lr" => o.lr.to_string(),
            "optimizer.init_args.weight_decay" => o.weight_decay.to_string(),
            "optimizer.init_args.betas" => format!("[{}, {}]", o.betas[0], o.betas[1]),
            "optimizer.init_args.eps" => o.eps.to_string(),
            "seed" => self.seed.to_string(),
            _ => return None,
        })
    }

    /// The whole run as YAML text.
    pub fn to_yaml(&self) -> String {
        let mut text = String::new();
        let mut open: Vec<&str> = Vec::new();
        for key in KEYS {
            let Some(value) = self.value(key.name) else { continue };
            let parts: Vec<&str> = key.name.split('.').collect();
            let (leaf, blocks) = (parts[parts.len() - 1], &parts[..parts.len() - 1]);
            let shared = open.iter().zip(blocks).take_while(|(a, b)| a == b).count();
            for (depth, block) in blocks.iter().enumerate().skip(shared) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{}{block}:", "  ".repeat(depth));
            }
            open = blocks.to_vec();
            let _ = writeln!(text, "{}{leaf}: {value}", "  ".repeat(blocks.len()));
        }
        text
    }
}
