//! What layers compute again changes no bit of a step, and the memory that a pass takes is what the plan says.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use candle_core::DType;
use std::collections::BTreeMap;
use std::path::PathBuf;
use vft::adapters::LoraConfig;
use vft::gpu::Gpu;
use vft::model::decoder::{Labels, Training};
use vft::model::footprint::{Shape, activations};
use vft::model::layer::{Keep, Keeping};
use vft::model::linear::Draw;
use vft::model::load::{Nf4, attach, load, sizes};
use vft::model::{Decoder, Tokens};
use vft::ops::{Cx, bf16_gemm, head};
use vft::optim::Arena;

const LENGTHS: [usize; 3] = [41, 17, 62];
const RANK: usize = 4;
/// Of the bundled model.
const LAYERS: usize = 3;

struct Model {
    cx: Cx,
    decoder: Decoder,
    arena: Arena,
    paths: Vec<String>,
}

/// In the repository: `VFT_TEST_ROOT` where the tests run elsewhere than they were built.
fn directory() -> PathBuf {
    let root =
        std::env::var_os("VFT_TEST_ROOT").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    root.join("configs/smoke/model")
}

/// Not every module: the plan has to look at each.
fn most(path: &str) -> bool {
    !path.ends_with("k_proj") && path != "lm_head"
}

fn model([compute, products]: [DType; 2], quantize: Option<Nf4>, dropout: f64) -> Model {
    model_with([compute, products], quantize, dropout, most)
}

fn model_with(
    [compute, products]: [DType; 2],
    quantize: Option<Nf4>,
    dropout: f64,
    adapted: fn(&str) -> bool,
) -> Model {
    let cx = match std::env::var("VFT_TEST_DEVICE").as_deref() {
        Ok("cuda") => Cx::on_gpu(compute, Gpu::open(0).unwrap()).unwrap(),
        _ => Cx::cpu(compute, 2).unwrap(),
    };
    let cx = if products == compute { cx } else { cx.with_products(products).unwrap() };
    let mut decoder = load(&cx, &directory(), quantize).unwrap();
    let paths = decoder.spec.linear_paths();
    let paths: Vec<String> = paths.into_iter().filter(|p| adapted(p)).collect();
    let mut arena = Arena::default();
    let lora = LoraConfig { r: RANK, alpha: 8.0, dropout };
    attach(&mut decoder, &mut arena, &lora, &paths, 7, None).unwrap();
    // B starts at zero: gradients of A would be too.
    arena.params.iter_mut().enumerate().for_each(|(i, p)| *p += (i % 13) as f32 * 1e-3 - 6e-3);
    arena.to_device(&cx).unwrap();
    Model { cx, decoder, arena, paths }
}

/// Losses and gradients of one pass.
fn pass(m: &mut Model, keep: Keeping) -> (Vec<f32>, Vec<f32>) {
    let ids = |n: usize, seed: usize| -> Vec<u32> {
        (0..n).map(|i| ((i * 31 + seed * 7) % 90 + 5) as u32).collect()
    };
    let sequences: Vec<_> = LENGTHS.iter().enumerate().map(|(s, n)| ids(*n, s)).collect();
    let tokens = Tokens::new(sequences.iter().enumerate().map(|(i, s)| (&s[..], i as u32)));
    let mut labels = Labels::default();
    let all: usize = LENGTHS.iter().sum();
    for row in 0..all - 1 {
        labels.rows.push(row as u32);
        labels.targets.push((row * 17 % 90 + 5) as u32);
        labels.coefficients.push(1.0 / all as f32);
    }
    let how = Training { draw: Some(Draw { seed: 3, step: 5 }), keep };
    let rope = m.decoder.rope_table(&m.cx, 64).unwrap();
    let Model { cx, decoder, arena, .. } = m;
    cx.set_token_capacity(all);
    arena.zero_grads().unwrap();
    let pass = || decoder.train_pass(cx, arena, &rope, &tokens, &labels, how);
    let nll = cx.install(pass).unwrap();
    arena.fetch_grads().unwrap();
    (nll, arena.grads.clone())
}

/// The dtypes of values and of products, and how the base is packed.
const KINDS: [([DType; 2], Option<Nf4>); 4] = [
    ([DType::F32, DType::F32], None),
    ([DType::BF16, DType::BF16], None),
    ([DType::BF16, DType::BF16], Some(Nf4::Double)),
    ([DType::F32, DType::BF16], None),
];

#[test]
fn computing_again_changes_no_bit() {
    for (dtypes, quantize) in KINDS {
        // Without dropout adapters that share an input go together.
        for dropout in [0.0, 0.1] {
            let mut m = model(dtypes, quantize, dropout);
            let kept = pass(&mut m, Keeping::all(Keep::All));
            assert!(kept.1.iter().any(|g| *g != 0.0));
            for keep in Keeping::choices(LAYERS).skip(1) {
                assert!(
                    pass(&mut m, keep) == kept,
                    "{dtypes:?}, {quantize:?}, {dropout}, {keep:?}"
                );
            }
        }
    }
}

/// Gives the adapters of what is `trained` values that depend on their names, and those of everything else zeros.
fn fill(m: &mut Model, trained: fn(&str) -> bool) {
    for slice in m.arena.slices().to_vec() {
        let factor = if trained(&slice.name) { 1e-3 } else { 0.0 };
        for (i, p) in m.arena.params[slice.range()].iter_mut().enumerate() {
            *p = ((i * 7 + slice.name.len()) % 17) as f32 * factor - 8.0 * factor;
        }
    }
    m.arena.to_device(&m.cx).unwrap();
}

fn by_name(m: &Model, grads: &[f32], trained: fn(&str) -> bool) -> BTreeMap<String, Vec<f32>> {
    let slices = m.arena.slices().iter().filter(|s| trained(&s.name));
    slices.map(|s| (s.name.clone(), grads[s.range()].to_vec())).collect()
}

#[test]
fn gradients_end_where_no_adapter_is_left_and_are_the_same() {
    // Adapters of zeros in all other places make nothing else of a step, and gradients go through all of it.
    let parts: [fn(&str) -> bool; 6] = [
        |p| p.contains("layers.2."),
        |p| p.contains("mlp.") && !p.contains("layers.0."),
        |p| p.contains("down_proj"),
        |p| p.contains("o_proj"),
        |p| p.contains("layers.1.self_attn.q_proj"),
        |p| p.contains("up_proj") && p.contains("layers.0."),
    ];
    for (dtypes, quantize) in KINDS {
        for (i, trained) in parts.into_iter().enumerate() {
            let mut all = model_with(dtypes, quantize, 0.1, |p| p != "lm_head");
            fill(&mut all, trained);
            let (nll, grads) = pass(&mut all, Keeping::all(Keep::All));
            let wanted = by_name(&all, &grads, trained);
            assert!(wanted.values().flatten().any(|g| *g != 0.0), "{i}");
            let mut m = model_with(dtypes, quantize, 0.1, trained);
            fill(&mut m, trained);
            let layers = LAYERS - m.decoder.spec.first_adapted(&|p| m.paths.iter().any(|q| q == p));
            for keep in Keeping::choices(layers) {
                let (own, grads) = pass(&mut m, keep);
                let same = own == nll && by_name(&m, &grads, trained) == wanted;
                assert!(same, "{dtypes:?}, {quantize:?}, {i}, {keep:?}");
            }
        }
    }
}

/// Nothing in the first layer: it keeps nothing.
fn upper(path: &str) -> bool {
    most(path) && !path.contains("layers.0.")
}

#[test]
fn a_pass_takes_what_the_plan_says() {
    // The pool is the CPU's, and what is planned to the byte are products in bf16.
    if !bf16_gemm::available().unwrap() || std::env::var_os("VFT_TEST_DEVICE").is_some() {
        return;
    }
    for (dtypes, quantize) in KINDS {
        for (dropout, adapted, layers) in
            [(0.0, most as fn(&str) -> bool, LAYERS), (0.1, most, LAYERS), (0.0, upper, LAYERS - 1)]
        {
            for keep in Keeping::choices(layers) {
                let mut m = model_with(dtypes, quantize, dropout, adapted);
                pass(&mut m, keep);
                let shape = Shape {
                    spec: &m.decoder.spec,
                    tokens: LENGTHS.iter().sum(),
                    longest: 62,
                    size: dtypes[0].size_in_bytes(),
                    operand: dtypes[1].size_in_bytes(),
                    rank: RANK,
                    dropout: dropout > 0.0,
                    adapted: &|path| m.paths.iter().any(|p| p == path),
                    keep,
                    plain_head: head::has_pass(&m.cx),
                    segment_width: m.decoder.spec.attention().segment_width(&m.cx),
                    widened: false,
                };
                let scratch = sizes(&m.cx, &directory(), quantize).unwrap().scratch;
                let planned = activations(&shape).pooled as f64 + scratch as f64;
                let taken = m.cx.pooled_bytes() as f64;
                let what = format!("{dtypes:?}, {quantize:?}, {dropout}, {layers}, {keep:?}");
                assert!((taken / planned - 1.0).abs() < 0.01, "{what}: {taken} of {planned}");
            }
        }
    }
}
