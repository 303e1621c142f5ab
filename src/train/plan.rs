//! What a run will need, known before weights load: steps, the largest micro-batch, memory; and what layers keep so that it fits.

use super::device;
use crate::config::{Checkpointing, RunConfig};
use crate::data::dataset::DataSet;
use crate::model::DecoderSpec;
use crate::model::footprint::{self, Shape};
use crate::model::layer::{Keep, Keeping};
use crate::model::load::{self, Sizes};
use crate::ops::{Cx, head};
use crate::optim::OptimizerConfig;
use crate::optim::arena::ALIGN;
use crate::report::memory;
use anyhow::Result;
use candle_core::DType;
use std::path::Path;

/// Scratch of a thread: panels of products and of attention.
const THREAD: u64 = 3 << 20;
/// Rows that are looked at, one by one, for the largest micro-batch.
const MOST_ROWS: usize = 5_000_000;

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What the process holds before weights load: program, tokenizer, data. 0 on a device.
    pub base: u64,
    /// The frozen weights.
    pub weights: u64,
    /// What they need for a moment while they load: memory of the host.
    pub loading: u64,
    /// Adapters, gradients, moments.
    pub trainable: u64,
    /// Activations and scratch.
    pub activations: u64,
}

impl Memory {
    /// The most at a time.
    pub fn peak(&self) -> u64 {
        self.base + self.weights + (self.trainable + self.activations).max(self.loading)
    }
}

/// A run's needs and the choice that follows from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPlan {
    /// Tokens of the largest micro-batch.
    pub tokens: usize,
    /// Tokens of the longest sample.
    pub longest: usize,
    /// Positions that samples and sample answers reach.
    pub positions: usize,
    /// Layers from the first with an adapter on.
    pub layers: usize,
    /// What they keep.
    pub keep: Keeping,
    /// The memory that it takes.
    pub memory: Memory,
    /// What there is, as far as it is known.
    pub limit: Option<u64>,
}

/// What a plan looks at.
pub struct Ask<'a> {
    /// The config.
    pub config: &'a RunConfig,
    /// The model's directory.
    pub model: &'a Path,
    /// The context.
    pub cx: &'a Cx,
    /// The model's shape.
    pub spec: &'a DecoderSpec,
    /// The encoded rows.
    pub data: &'a DataSet,
    /// Tokens of the longest sample.
    pub longest: usize,
    /// Positions that samples and answers reach.
    pub positions: usize,
    /// What updates the adapter.
    pub optimizer: OptimizerConfig,
    /// Optimizer steps.
    pub steps: usize,
    /// Rank of the adapters.
    pub rank: usize,
    /// Whether adapters drop some of their input.
    pub dropout: bool,
    /// The adapted modules.
    pub paths: &'a [String],
}

impl RunPlan {
    /// The plan for a run.
    ///
    /// # Errors
    /// When the weights' headers cannot be read.
    pub fn new(ask: &Ask<'_>) -> Result<Self> {
        let (config, cx) = (ask.config, ask.cx);
        let nf4 = config.quantize.map(device::nf4);
        let sizes = load::sizes(cx, ask.model, nf4)?;
        let tokens = largest_micro_batch(ask);
        let free = match cx.gpu() {
            // The rest is for cuBLAS' workspace and what lies between blocks.
            Some(gpu) => gpu.available_bytes().map(|free| free / 100 * 95),
            None => memory::available_bytes().map(|free| free + memory::resident_bytes()),
        };
        let limit = config.train.max_memory.map(|m| m.0).or(free);
        let positions = ask.positions;
        let adapted = |path: &str| ask.paths.iter().any(|p| p == path);
        let layers = ask.spec.layers - ask.spec.first_adapted(&adapted);
        let plan = |keep| Self {
            tokens,
            longest: ask.longest,
            positions,
            layers,
            keep,
            memory: needs(ask, &sizes, tokens, keep),
            limit,
        };
        Ok(plan(match config.train.gradient_checkpointing {
            Checkpointing::None => Keeping::all(Keep::All),
            Checkpointing::Mlp => Keeping::all(Keep::Attention),
            Checkpointing::Full => Keeping::all(Keep::Residual),
            Checkpointing::Auto => fastest(layers, |keep| plan(keep).fits()),
        }))
    }

    /// Whether the run fits into what there is.
    pub fn fits(&self) -> bool {
        self.limit.is_none_or(|limit| self.memory.peak() <= limit)
    }

    /// What to tell when a run took clearly more than was planned, in bytes: by a tenth and by 64 MiB.
    pub fn overrun(&self, used: u64) -> Option<String> {
        let planned = self.memory.peak();
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        (used > planned / 10 * 11 && used > planned + (64 << 20))
            .then(|| format!("memory: {:.2} GiB were used, {:.2} planned", gib(used), gib(planned)))
    }

    /// The plan in a line.
    pub fn describe(&self) -> String {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let m = &self.memory;
        format!(
            "memory: {:.2} GiB planned (process {:.2}, weights {:.2}, adapters {:.2}, activations {:.2} for up to {} tokens), gradient checkpointing {}",
            gib(m.peak()),
            gib(m.base),
            gib(m.weights),
            gib(m.trainable),
            gib(m.activations),
            self.tokens,
            self.keep.describe(self.layers)
        )
    }
}

/// What so many layers keep to be as fast as what fits allows; the least where nothing fits.
fn fastest(layers: usize, fits: impl Fn(Keeping) -> bool) -> Keeping {
    let mut choices = Keeping::choices(layers);
    choices.find(|keep| fits(*keep)).unwrap_or(Keeping::all(Keep::Residual))
}

fn needs(ask: &Ask<'_>, sizes: &Sizes, tokens: usize, keep: Keeping) -> Memory {
    let Ask { cx, spec, .. } = *ask;
    let head_adapted = ask.paths.iter().any(|p| p == "lm_head");
    let shape = Shape {
        spec,
        tokens,
        longest: ask.longest,
        size: cx.compute().size_in_bytes(),
        operand: cx.products().size_in_bytes(),
        rank: ask.rank,
        dropout: ask.dropout,
        adapted: &|path| ask.paths.iter().any(|p| p == path),
        keep,
        plain_head: head::has_pass(cx) && !head_adapted,
        segment_width: spec.attention().segment_width(cx),
        widened: cx.gpu().is_none() && cx.products() == DType::BF16 && !cx.has_bf16_products(),
    };
    let activations = footprint::activations(&shape);
    let rope = 4 * ask.positions * spec.head_size;
    let slices: Vec<usize> = ask
        .paths
        .iter()
        .flat_map(|path| {
            let [out, input] = spec.linear_shape(path);
            [ask.rank * input, ask.rank * out]
        })
        .collect();
    let parameters: usize = slices.iter().map(|n| n.next_multiple_of(ALIGN)).sum();
    let state = ask.optimizer.state_bytes(slices);
    // Parameters and gradients in f32, the optimizer's state; on a device a copy as operands of products.
    let copy = if cx.gpu().is_some() && cx.products() != DType::F32 { 2 } else { 0 };
    let (base, used) = match cx.gpu() {
        Some(_) => (0, activations.live as u64 + sizes.scratch),
        None => {
            let threads = cx.install(rayon::current_num_threads) as u64 * THREAD;
            (memory::resident_bytes(), activations.pooled as u64 + sizes.scratch + threads)
        }
    };
    Memory {
        base,
        weights: sizes.resident,
        loading: if cx.gpu().is_some() { 0 } else { sizes.loading },
        trainable: (parameters * (8 + copy)) as u64 + state,
        activations: used + rope as u64,
    }
}

/// Tokens of the largest micro-batch that the run composes, in training and in validation.
fn largest_micro_batch(ask: &Ask<'_>) -> usize {
    let (t, data) = (&ask.config.train, ask.data);
    let size = t.micro_batch_size;
    let of = |lengths: &mut dyn Iterator<Item = usize>| lengths.sum::<usize>();
    let val: Vec<usize> = (0..data.val_len()).map(|i| data.val(i).ids.len()).collect();
    let validated = val.chunks(size).map(|c| of(&mut c.iter().copied())).max();
    let per_epoch = data.per_epoch().div_ceil(t.global_batch_size).max(1);
    let epochs = ask.steps.div_ceil(per_epoch);
    let trained = if epochs.saturating_mul(data.per_epoch()) <= MOST_ROWS {
        let orders = data.epochs().take(epochs);
        let largest = |order: Vec<usize>| {
            let windows = order.chunks(t.global_batch_size).flat_map(|w| w.chunks(size));
            windows.map(|rows| rows.iter().map(|r| data.train(*r).ids.len()).sum()).max()
        };
        orders.filter_map(largest).max()
    } else {
        let mut lengths: Vec<usize> =
            (0..data.train_len()).map(|i| data.train(i).ids.len()).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        Some(lengths.iter().take(size).sum())
    };
    trained.max(validated).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(weights: u64) -> RunPlan {
        let memory = Memory { base: 0, weights, loading: 0, trainable: 0, activations: 0 };
        let keep = Keeping::all(Keep::All);
        RunPlan { tokens: 1, longest: 1, positions: 1, layers: 1, keep, memory, limit: None }
    }

    #[test]
    fn auto_computes_again_in_as_few_layers_as_fits() {
        // Layers that keep everything take 5, those without gate and up 3, those with the residual stream alone 1.
        let takes = |keep: Keeping| -> usize {
            let of = |i| match keep.of(i, 5) {
                Keep::All => 5,
                Keep::Attention => 3,
                Keep::Residual => 1,
            };
            (0..5).map(of).sum()
        };
        let found = |limit| fastest(5, |keep| takes(keep) <= limit).describe(5);
        assert_eq!(found(25), "none");
        assert_eq!(found(22), "mlp in 2 of 5 layers, none in the others");
        assert_eq!(found(17), "mlp");
        assert_eq!(found(15), "full in 1 of 5 layers, mlp in the others");
        assert_eq!(found(3), "full");
    }

    #[test]
    fn a_run_within_a_tenth_of_its_plan_is_no_news() {
        assert_eq!(plan(10 << 30).overrun((11 << 30) - 1), None);
    }

    #[test]
    fn a_run_far_above_its_plan_is_told() {
        let text = plan(1 << 30).overrun(2 << 30);
        assert_eq!(text.as_deref(), Some("memory: 2.00 GiB were used, 1.00 planned"));
    }
}
