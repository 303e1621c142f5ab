//! The same 32 samples as one micro-batch of 32, as two of 16, … as 32 of one: the gradient and the training are the same.
//!
//! Rows of a micro-batch lie end to end without padding, each attending to itself alone: what other trainers call packed is how vft computes, and
//! micro-batches of one row are what they call not packed.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::sync::atomic::AtomicBool;
use vft::config::RunConfig;
use vft::optim::Optimizer;
use vft::train::guard::Watch;
use vft::train::loss_scale::LossScale;
use vft::train::prepare::{Run, prepare};
use vft::train::step::Stepper;

const SAMPLES: usize = 32;
const STEPS: usize = 10;
/// Of each tensor's gradient, relative in the L2 norm.
const GRADIENT: f64 = 1e-6;
/// Of the adapter, relative to its movement.
const ADAPTER: f64 = 1e-5;

/// The bundled run, cut into micro-batches of `size` samples.
fn config(size: usize) -> RunConfig {
    let size = size.to_string();
    let arguments = [
        ["--train.global_batch_size", "32"],
        ["--train.micro_batch_size", &size],
        ["--train.lr_warmup_steps", "2"],
        ["--device", "cpu"],
        ["--precision", "32-true"],
        ["--lora_dropout", "0.0"],
    ];
    let arguments: Vec<String> = arguments.iter().flatten().map(|a| (*a).to_owned()).collect();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke.yml");
    RunConfig::load(Some(&file), &arguments).unwrap()
}

struct Trained {
    /// The first step's gradient of each tensor.
    gradients: Vec<(String, Vec<f32>)>,
    before: Vec<f32>,
    after: Vec<f32>,
}

/// `STEPS` steps on the first samples, 32 a step.
fn train(size: usize) -> Trained {
    let config = config(size);
    let mut run: Run = prepare(&config, 2, None).unwrap();
    // B starts at zero: gradients of A would be too.
    run.arena.params.iter_mut().enumerate().for_each(|(i, p)| *p += (i % 13) as f32 * 1e-3 - 6e-3);
    let mut stepper = Stepper {
        optimizer: Optimizer::new(run.optimizer, &run.cx, &run.arena).unwrap(),
        scale: LossScale::new(false),
        watch: Watch::new(&run.arena),
        rope: run.decoder.rope_table(&run.cx, run.plan.positions).unwrap(),
    };
    run.cx.set_token_capacity(run.plan.tokens);
    let before = run.arena.params.clone();
    let mut gradients = Vec::new();
    for step in 0..STEPS {
        let rows = run.data.train_len();
        let window: Vec<usize> = (0..SAMPLES).map(|i| (step * SAMPLES + i) % rows).collect();
        let stop = AtomicBool::new(false);
        stepper.step(&config, &mut run, &window, step, &stop).unwrap().unwrap();
        if step == 0 {
            let of = |s: &vft::optim::arena::Slice| (s.name.clone(), run.arena.grad(s).to_vec());
            gradients = run.arena.slices().iter().map(of).collect();
        }
    }
    Trained { gradients, before, after: run.arena.params }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    norm(a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)))
}

#[test]
fn a_step_does_not_depend_on_its_micro_batches() {
    let whole = train(SAMPLES);
    let moved = distance(&whole.after, &whole.before);
    for size in [16, 8, 4, 2, 1] {
        let parts = train(size);
        let mut worst = 0f64;
        for ((name, ours), (_, theirs)) in parts.gradients.iter().zip(&whole.gradients) {
            let error = distance(ours, theirs) / norm(theirs.iter().map(|g| f64::from(*g)));
            assert!(error < GRADIENT, "{size} at a time, gradient of {name}: {error:e}");
            worst = worst.max(error);
        }
        let error = distance(&parts.after, &whole.after) / moved;
        assert!(error < ADAPTER, "{size} at a time, adapter: {error:e} of the movement");
        println!("{size} at a time: gradients {worst:.1e}, adapter {error:.1e} of the movement");
    }
}
