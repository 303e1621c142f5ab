//! Optimizers against torch and bitsandbytes. Fixture: `scripts/fixtures/optim.py`, from where start values and gradients are.
//! With `VFT_TEST_DEVICE=cuda` on a CUDA device; `VFT_TEST_ROOT` is the repository where the tests run elsewhere than they were built.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use candle_core::DType;
use std::borrow::Cow;
use std::path::PathBuf;
use vft::gpu::Gpu;
use vft::hub::safetensors::Checkpoint;
use vft::ops::Cx;
use vft::optim::adamw::AdamWConfig;
use vft::optim::sgd::SgdConfig;
use vft::optim::state::Values;
use vft::optim::{Arena, Optimizer, OptimizerConfig, Slice};

const STEPS: u64 = 20;
const LR: f64 = 1e-2;
const ADAM: AdamWConfig = AdamWConfig { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1 };
const SGD: SgdConfig =
    SgdConfig { momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false };

fn noise(n: usize, seed: u64) -> impl Iterator<Item = f32> {
    let bits = move |i: u64| ((i * 2_654_435_761 + seed * 2_246_822_519) & 0xffff_ffff) >> 16;
    (0..n as u64).map(move |i| (bits(i) as f32 - 32768.0) / 32768.0)
}

fn start(n: usize) -> Vec<f32> {
    noise(n, 12345).map(|x| x / 16.0).collect()
}

fn gradient(n: usize, step: u64) -> Vec<f32> {
    let scale = |i: usize| if i.is_multiple_of(97) { 0.0 } else { (-((i % 12) as f32)).exp2() };
    noise(n, step).enumerate().map(|(i, x)| x * scale(i)).collect()
}

fn fixture() -> Checkpoint {
    let root =
        std::env::var_os("VFT_TEST_ROOT").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    Checkpoint::open_file(&root.join("tests/fixtures/optim/optim.safetensors")).unwrap()
}

fn floats(c: &Checkpoint, name: &str) -> Vec<f32> {
    c.tensor(name).unwrap().to_f32_vec()
}

/// An arena of slices of so many elements each after all steps.
fn run(cx: &Cx, config: OptimizerConfig, sizes: &[usize]) -> (Arena, Vec<Slice>, Optimizer) {
    let mut arena = Arena::default();
    let slices: Vec<_> =
        sizes.iter().map(|n| arena.push(format!("{n}"), [1, *n], &start(*n))).collect();
    arena.to_device(cx).unwrap();
    let mut optimizer = Optimizer::new(config, cx, &arena).unwrap();
    for step in 1..=STEPS {
        for slice in &slices {
            // Twice as large, and clipped to half: what the factor is for.
            let g = gradient(slice.shape[1], step);
            arena.grads[slice.range()].iter_mut().zip(g).for_each(|(to, g)| *to = 2.0 * g);
        }
        arena.send_grads().unwrap();
        let lr = LR * step as f64 / STEPS as f64;
        cx.install(|| optimizer.step(cx, &mut arena, lr, 0.5)).unwrap();
    }
    arena.fetch_params().unwrap();
    (arena, slices, optimizer)
}

/// How far parameters are from the fixture's, relative to how far these moved.
fn distance(ours: &[f32], want: &[f32]) -> f64 {
    let norm = |d: &mut dyn Iterator<Item = f32>| d.map(|d| f64::from(d).powi(2)).sum::<f64>();
    let wrong = norm(&mut ours.iter().zip(want).map(|(a, b)| a - b));
    let moved = norm(&mut start(want.len()).iter().zip(want).map(|(a, b)| a - b));
    (wrong / moved).sqrt()
}

/// On the device that `VFT_TEST_DEVICE` names: cpu or cuda.
fn device() -> Cx {
    match std::env::var("VFT_TEST_DEVICE").as_deref() {
        Ok("cuda") => Cx::on_gpu(DType::F32, Gpu::open(0).unwrap()).unwrap(),
        _ => Cx::cpu(DType::F32, 2).unwrap(),
    }
}

#[track_caller]
fn follows(name: &str, config: OptimizerConfig) {
    let (arena, slices, _) = run(&device(), config, &[301]);
    let distance = distance(arena.param(&slices[0]), &floats(&fixture(), name));
    assert!(distance < 1e-6, "{name}: {distance:e}");
}

#[test]
fn a_state_on_the_host_is_no_copy() {
    let cx = Cx::cpu(DType::F32, 1).unwrap();
    for config in [OptimizerConfig::AdamW(ADAM), OptimizerConfig::AdamW8bit(ADAM)] {
        let mut optimizer = run(&cx, config, &[5000, 64]).2;
        let state = optimizer.state().unwrap();
        assert!(!state.arrays.is_empty());
        for (name, values) in &state.arrays {
            let borrowed = match values {
                Values::F32(v) => matches!(v, Cow::Borrowed(_)),
                Values::U8(v) => matches!(v, Cow::Borrowed(_)),
            };
            assert!(borrowed, "{name}");
        }
    }
}

#[test]
fn adamw_is_torchs() {
    follows("adamw", OptimizerConfig::AdamW(ADAM));
}

#[test]
fn adam_is_torchs() {
    follows("adam", OptimizerConfig::Adam(ADAM));
}

#[test]
fn sgd_is_torchs() {
    follows("sgd", OptimizerConfig::Sgd(SGD));
}

#[test]
fn sgd_with_decay_is_torchs() {
    follows("sgd_decay", OptimizerConfig::Sgd(SgdConfig { weight_decay: 0.1, ..SGD }));
}

#[test]
fn sgd_with_momentum_is_torchs() {
    let config = SgdConfig { momentum: 0.9, dampening: 0.5, weight_decay: 0.1, ..SGD };
    follows("sgd_momentum", OptimizerConfig::Sgd(config));
}

#[test]
fn sgd_of_nesterov_is_torchs() {
    follows(
        "sgd_nesterov",
        OptimizerConfig::Sgd(SgdConfig { momentum: 0.9, nesterov: true, ..SGD }),
    );
}

/// In one arena: 32-bit and 8-bit moments side by side.
const SIZES: [usize; 4] = [300, 5003, 4095, 4096];

#[test]
fn parameters_with_8_bit_moments_are_bitsandbytes() {
    let (arena, slices, _) = run(&device(), OptimizerConfig::AdamW8bit(ADAM), &SIZES);
    for slice in &slices {
        let want = floats(&fixture(), &format!("adamw8bit_{}", slice.name));
        let distance = distance(arena.param(slice), &want);
        assert!(distance < 1e-6, "{}: {distance:e}", slice.name);
    }
}

#[test]
fn codes_of_8_bit_moments_are_bitsandbytes() {
    let (arena, slices, optimizer) = run(&device(), OptimizerConfig::AdamW8bit(ADAM), &SIZES);
    let Optimizer::AdamW8bit(optimizer) = optimizer else { panic!() };
    let c = fixture();
    for slice in [&slices[1], &slices[3]] {
        for ((codes, absmax), moment) in
            optimizer.codes(&arena, slice).unwrap().unwrap().iter().zip(["m", "v"])
        {
            let name = format!("adamw8bit_{}.{moment}", slice.name);
            let theirs = c.tensor(&name).unwrap().bytes();
            let differ = codes.iter().zip(theirs).filter(|(a, b)| a != b).count();
            assert_eq!((codes.len(), differ), (theirs.len(), 0), "{name}");
            let scales = floats(&c, &format!("{name}_absmax"));
            let worst =
                absmax.iter().zip(&scales).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-6, "{name}: {worst:e}");
        }
    }
}

#[test]
fn a_slice_below_4096_elements_keeps_32_bit_moments() {
    let (arena, slices, optimizer) = run(&device(), OptimizerConfig::AdamW8bit(ADAM), &SIZES);
    let Optimizer::AdamW8bit(optimizer) = optimizer else { panic!() };
    assert!(optimizer.codes(&arena, &slices[2]).unwrap().is_none());
}

#[test]
fn the_states_sizes_are_known_in_advance() {
    let bytes = |config: OptimizerConfig| config.state_bytes([300, 4096]);
    // 512 and 4096 elements with what pads blocks; 16 blocks with two scales each.
    let eight = 8 * 512 + 2 * 4096 + 16 * 8;
    let momentum = SgdConfig { momentum: 0.9, ..SGD };
    let all = [
        OptimizerConfig::AdamW(ADAM),
        OptimizerConfig::AdamW8bit(ADAM),
        OptimizerConfig::Sgd(SGD),
        OptimizerConfig::Sgd(momentum),
    ];
    assert_eq!(all.map(bytes), [8 * 4608, eight, 0, 4 * 4608]);
}
