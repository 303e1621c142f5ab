//! The resolved config as YAML: every key with the value that the run uses, readable by [`RunConfig::load`] again. Tokens are left out, and
//! addresses have neither users nor keys in them: what they led to is kept in a file, which is not fetched again.

use super::choices::*;
use super::keys::KEYS;
use super::run_config::*;
use super::yaml::{Node, Value};
use crate::secret::public_url;
use std::fmt::Write;
use std::path::Path;

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

fn path(path: &Path) -> String {
    url(&path.to_string_lossy())
}

/// An address, or what may be one.
fn url(text: &str) -> String {
    quote(&public_url(text))
}

/// The value of a set's key; `None` where it is another's or stands for nothing.
fn set_value(set: &SetSection, key: &str) -> Option<String> {
    if !set.class.takes(key) {
        return None;
    }
    let text = |t: &Option<String>| t.as_deref().map(quote);
    match key {
        "class_path" => Some(format!("{}.{}", set.class.module, set.class.name)),
        "path" => set.path.as_deref().map(path),
        "val_path" => set.val_path.as_deref().map(path),
        "download_dir" if set.path.is_some() => None,
        "download_dir" => Some(path(&set.download_dir)),
        "file_name" => text(&set.file_name),
        "file_url" => set.file_url.as_deref().map(url),
        "url" => set.url.as_deref().map(url),
        "subsets" if set.subsets.is_empty() => None,
        "subsets" => Some(format!("[{}]", set.subsets.join(", "))),
        "repo_id" => set.repo_id.as_deref().map(url),
        "revision" => text(&set.revision),
        "subset" => text(&set.subset),
        "split" => text(&set.split),
        "val_split" => text(&set.val_split),
        "val_split_fraction" => set.val_split_fraction.map(|f| f.to_string()),
        "columns" if set.columns.is_empty() => None,
        "columns" => {
            let pairs = set.columns.iter().map(|(k, v)| format!("{k}: {}", quote(v)));
            Some(format!("{{{}}}", pairs.collect::<Vec<_>>().join(", ")))
        }
        // The class path is a key of its own where the style has arguments.
        "prompt_style" => match (&set.prompt_style, &set.system_message) {
            (Some(style), Some(system)) => Some(format!(
                "{{class_path: {}, init_args: {{system_message: {}}}}}",
                quote(style),
                quote(system)
            )),
            (style, _) => text(style),
        },
        "prompt_template" => text(&set.prompt_template),
        "train_on" => Some(set.train_on.to_string()),
        "multi_turn" => Some(set.multi_turn.to_string()),
        "max_samples" => set.max_samples.map(|n| n.to_string()),
        _ => None,
    }
}

impl RunConfig {
    /// The items of a mix, in YAML's flow style.
    fn mix(&self) -> String {
        let item = |set: &SetSection| {
            let names = KEYS.iter().filter_map(|k| k.name.strip_prefix("data.init_args."));
            let pairs = ["class_path"].into_iter().chain(names);
            let mut parts: Vec<String> =
                pairs.filter_map(|k| Some(format!("{k}: {}", set_value(set, k)?))).collect();
            parts.push(format!("weight: {}", set.weight));
            format!("{{{}}}", parts.join(", "))
        };
        format!("[{}]", self.data.sets.iter().map(item).collect::<Vec<_>>().join(", "))
    }

    /// The value of a key as YAML; `None` where another key says it.
    pub fn value(&self, key: &str) -> Option<String> {
        let (t, e, o) = (&self.train, &self.eval, &self.optimizer);
        let sgd = o.kind == OptimizerKind::Sgd;
        Some(match key {
            "checkpoint_dir" => path(&self.checkpoint_dir),
            "revision" => or_null(self.revision.as_deref().map(quote)),
            "out_dir" => path(&self.out_dir),
            "resume" => match &self.resume {
                Resume::From(dir) => path(dir),
                other => other.to_string(),
            },
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
            "data.init_args.dataset_mix" if self.data.mixed => self.mix(),
            "data.init_args.on_bad_row" => self.data.on_bad_row.to_string(),
            "data.init_args.ignore_index" => self.data.ignore_index.to_string(),
            "data.init_args.num_workers" => or_null(self.data.num_workers),
            "data.init_args.seed" => self.data.seed.to_string(),
            _ if key.starts_with("data.") => {
                let set = self.data.sets.first().filter(|_| !self.data.mixed)?;
                return set_value(set, key.strip_prefix("data.init_args.").unwrap_or("class_path"));
            }
            "train.global_batch_size" => t.global_batch_size.to_string(),
            "train.micro_batch_size" => t.micro_batch_size.to_string(),
            "train.lr_scheduler" => t.lr_scheduler.to_string(),
            "train.lr_warmup_fraction" => or_null(t.lr_warmup_fraction),
            "train.lr_decay_fraction" if t.lr_scheduler != Scheduler::Wsd => return None,
            "train.lr_decay_fraction" => t.lr_decay_fraction.to_string(),
            "train.max_tokens" => or_null(t.max_tokens),
            "train.max_time" => or_null(t.max_time),
            "train.preemption" => or_null(t.preemption.as_ref().map(|p| quote(&p.to_string()))),
            "train.save_total_limit" => or_null(t.save_total_limit),
            "train.save_best" => t.save_best.to_string(),
            "train.early_stopping_patience" => or_null(t.early_stopping_patience),
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
            "eval.max_new_tokens" => e.max_new_tokens.to_string(),
            "eval.evaluate_example" => e.evaluate_example.to_string(),
            "eval.initial_validation" => e.initial_validation.to_string(),
            "eval.final_validation" => e.final_validation.to_string(),
            "optimizer.class_path" => o.kind.to_string(),
            "optimizer.init_args.lr" => o.lr.to_string(),
            "optimizer.init_args.weight_decay" => o.weight_decay.to_string(),
            "optimizer.init_args.betas" | "optimizer.init_args.eps" if sgd => return None,
            "optimizer.init_args.momentum" if sgd => o.momentum.to_string(),
            "optimizer.init_args.dampening" if sgd => o.dampening.to_string(),
            "optimizer.init_args.nesterov" if sgd => o.nesterov.to_string(),
            "optimizer.init_args.betas" => format!("[{}, {}]", o.betas[0], o.betas[1]),
            "optimizer.init_args.eps" => o.eps.to_string(),
            "logger_name" => self.logger_name.to_string(),
            "log.project" => or_null(self.log.project.as_deref().map(quote)),
            "log.run" => or_null(self.log.run.as_deref().map(quote)),
            "log.group" => or_null(self.log.group.as_deref().map(quote)),
            "save_merged" => self.save_merged.to_string(),
            "merge.base" if self.save_merged && self.quantize.is_some() => {
                self.merge.base.to_string()
            }
            "merge.tied_head" if self.save_merged => self.merge.tied_head.to_string(),
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
