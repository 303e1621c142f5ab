//! What a merge will write, known before it begins: every tensor of the base, and what is folded into which.

use super::{BaseWeights, TiedHead};
use crate::checkpoint::peft::AdapterFile;
use crate::error::{Problem, Result};
use crate::hub::config::HfConfig;
use crate::hub::safetensors::{Checkpoint, MappedTensor};
use crate::model::load::Nf4;
use crate::model::{DecoderSpec, families};
use candle_core::DType;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head";

/// The factors of one module: s·B·A is added to its weight.
pub(super) struct LowRank {
    /// A (R, in).
    pub(super) a: Vec<f32>,
    /// B (out, R).
    pub(super) b: Vec<f32>,
    /// s = alpha / R.
    pub(super) scale: f32,
}

/// A tensor to write, in the dtype and shape of its source.
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) source: MappedTensor,
    /// The NF4 round trip and the dtype that its values are rounded to.
    pub(super) nf4: Option<(Nf4, DType)>,
    pub(super) low_rank: Option<LowRank>,
}

/// All tensors of a merged model.
pub(super) struct Plan {
    pub(super) pieces: Vec<Piece>,
    /// Whether the head became a tensor of its own.
    pub(super) untied: bool,
    pub(super) notes: Vec<String>,
}

impl Plan {
    /// Checks that base and adapter belong together.
    pub(super) fn new(
        base: &Path,
        adapter_dir: &Path,
        adapter: AdapterFile,
        base_weights: BaseWeights,
        tied_head: TiedHead,
    ) -> Result<Self> {
        let spec = families::spec(&HfConfig::load(base)?)?;
        let checkpoint = Checkpoint::open(base)?;
        let mut plan = Self { pieces: Vec::new(), untied: false, notes: Vec::new() };
        let mut low_rank = plan.factors(&spec, adapter_dir, adapter, tied_head)?;
        let round_trip = match base_weights {
            BaseWeights::Original => None,
            BaseWeights::Dequant { nf4, compute } => Some((nf4, compute)),
        };
        for path in spec.linear_paths() {
            let is_head = path == HEAD;
            if is_head && spec.tied_head && !plan.untied {
                continue;
            }
            let name = format!("{path}.weight");
            let stored = if is_head && plan.untied { EMBEDDING } else { &name };
            let source = checkpoint.expect(stored, &spec.linear_shape(&path))?.clone();
            let low_rank = low_rank.remove(&path);
            let nf4 = round_trip.filter(|_| !is_head);
            plan.pieces.push(Piece { name, source, nf4, low_rank });
        }
        let linears: HashSet<String> = plan.pieces.iter().map(|p| p.name.clone()).collect();
        for name in checkpoint.names().filter(|n| !linears.contains(*n)) {
            if let Some(source) = checkpoint.tensor(name).cloned() {
                plan.pieces.push(Piece { name: name.into(), source, nf4: None, low_rank: None });
            }
        }
        plan.pieces.sort_by_cached_key(|p| (Reverse(p.source.dtype.bitsize()), in_order(&p.name)));
        Ok(plan)
    }

    /// The factors to fold in, by module path.
    fn factors(
        &mut self,
        spec: &DecoderSpec,
        dir: &Path,
        adapter: AdapterFile,
        tied_head: TiedHead,
    ) -> Result<BTreeMap<String, LowRank>> {
        let problem = |message: String| {
            Problem::in_file(dir, message).hint("the adapter belongs to another base model")
        };
        let (r, scale) = (adapter.lora.r, adapter.lora.scale() as f32);
        let paths: HashSet<String> = spec.linear_paths().into_iter().collect();
        let mut factors = BTreeMap::new();
        for (path, (a, b)) in adapter.tensors {
            if !paths.contains(&path) {
                return Err(
                    problem(format!("adapts `{path}`, which the base does not have")).into()
                );
            }
            let [out, inp] = spec.linear_shape(&path);
            if a.len() != r * inp || b.len() != out * r {
                let message = format!(
                    "the factors of `{path}` do not have the shapes ({r}, {inp}) and ({out}, {r})"
                );
                return Err(problem(message).into());
            }
            if path != HEAD || !spec.tied_head || self.keep_head(dir, tied_head)? {
                factors.insert(path, LowRank { a, b, scale });
            }
        }
        if factors.is_empty() {
            let message = "adapts the tied head alone, and that is left out: nothing to merge";
            let hint = "`--tied-head untie` gives the head weights of its own";
            return Err(Problem::in_file(dir, message).hint(hint).into());
        }
        Ok(factors)
    }

    /// Whether the tied head's adapter is merged.
    fn keep_head(&mut self, adapter_dir: &Path, rule: TiedHead) -> Result<bool> {
        match rule {
            TiedHead::Untie => {
                self.untied = true;
                self.notes.push(
                    "the head was the embedding and has an adapter: the merged model has a `lm_head.weight` of its own and `tie_word_embeddings: false`".into(),
                );
                Ok(true)
            }
            TiedHead::Drop => {
                self.notes.push(
                    "the head is the embedding: its adapter is left out, the merged model answers differently from the adapter".into(),
                );
                Ok(false)
            }
            TiedHead::Error => {
                let message = "adapts `lm_head`, which is the embedding in this model";
                let hint = "`--tied-head untie` gives the head weights of its own, `--tied-head drop` leaves its adapter out";
                Err(Problem::in_file(adapter_dir, message).hint(hint).into())
            }
        }
    }

    /// Bytes of all tensors.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|p| p.source.bytes().len() as u64).sum()
    }
}

/// Layers by number: `layers.10` comes after `layers.9`.
fn in_order(name: &str) -> Vec<(u64, String)> {
    name.split('.').map(|part| (part.parse().unwrap_or(0), part.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_ordered_by_number() {
        assert!(in_order("model.layers.9.mlp") < in_order("model.layers.10.mlp"));
    }
}
