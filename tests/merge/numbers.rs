//! Values: PEFT's and bitsandbytes'.

use crate::common::*;
use candle_core::DType;
use safetensors::Dtype;
use vft::hub::safetensors::Checkpoint;
use vft::merge::BaseWeights;
use vft::model::Tokens;
use vft::model::load::{Nf4, load};
use vft::ops::Cx;
use vft::optim::Arena;

const SINGLE: BaseWeights = BaseWeights::Dequant { nf4: Nf4::Single, compute: DType::BF16 };
const DOUBLE: BaseWeights = BaseWeights::Dequant { nf4: Nf4::Double, compute: DType::BF16 };

#[test]
fn an_untied_f32_merge_is_pefts() {
    let (_home, ours) = merged("untied", "adapter", |_| ());
    let want = expected("untied", "peft");
    assert_near(&ours, &want, 1e-6);
    assert_eq!(names(&ours).len(), want.len() + 1, "and the tensor that PEFT does not know");
}

#[test]
fn a_tied_f32_merge_is_pefts() {
    let (home, ours) = merged("tied", "adapter", |_| ());
    let want = expected("tied", "peft");
    assert_near(&ours, &want, 1e-6);
    assert_eq!(names(&ours), want.keys().collect::<Vec<_>>());
    assert_eq!(config(&home.out())["tie_word_embeddings"], true);
}

#[test]
fn a_bf16_merge_is_pefts_bit_for_bit() {
    let (_home, ours) = merged("bf16", "adapter", |_| ());
    assert_near(&ours, &expected("bf16", "peft"), 0.0);
    assert!(names(&ours).iter().all(|n| ours.tensor(n).unwrap().dtype == Dtype::BF16));
}

#[test]
fn an_f16_merge_is_pefts_bit_for_bit() {
    let home = Home::new();
    let base = home.path("f16");
    write_f16_base(&base);
    merge_with(&home.out(), &base, &fixture("bf16/adapter"), |_| ()).unwrap();
    let ours = Checkpoint::open(&home.out()).unwrap();
    assert_near(&ours, &expected("bf16", "f16"), 0.0);
    assert!(names(&ours).iter().all(|n| ours.tensor(n).unwrap().dtype == Dtype::F16));
}

#[test]
fn dequant_is_bitsandbytes_round_trip_and_pefts_delta_rounded_once() {
    for (base_weights, group) in [(SINGLE, "nf4"), (DOUBLE, "nf4-dq")] {
        let (_home, ours) = merged("bf16", "adapter", |ask| ask.base_weights = base_weights);
        assert_near(&ours, &expected("bf16", group), 0.0);
    }
}

#[test]
fn dequant_of_an_f32_base_sees_what_a_bf16_run_saw() {
    let (_home, ours) = merged("tied", "adapter", |ask| ask.base_weights = SINGLE);
    assert_near(&ours, &expected("tied", "nf4-bf16"), 1e-6);
}

#[test]
fn dequant_leaves_embedding_norms_and_head_alone() {
    let (_home, ours) = merged("bf16", "adapter", |ask| ask.base_weights = SINGLE);
    let base = Checkpoint::open(&fixture("bf16")).unwrap();
    for name in base.names().filter(|n| !n.contains("_proj.")) {
        assert_eq!(
            ours.tensor(name).unwrap().bytes(),
            base.tensor(name).unwrap().bytes(),
            "{name}"
        );
    }
}

/// The merged directory as a model: its logits are those of base and adapter in PEFT.
#[test]
fn merged_models_answer_as_base_and_adapter_do() {
    let cases = [
        ("untied", "adapter", "logits"),
        ("tied", "adapter", "logits"),
        ("tied", "adapter-head", "logits-head"),
    ];
    for (base, adapter, group) in cases {
        let (home, _) = merged(base, adapter, |_| ());
        let file = Checkpoint::open_file(&fixture(base).join("expected.safetensors")).unwrap();
        let ids = file.tensor("ids").unwrap().bytes().chunks(8);
        let ids: Vec<u32> = ids.map(|c| u64::from_le_bytes(c.try_into().unwrap()) as u32).collect();
        let want = &expected(base, group)["ADAPTED"];
        let cx = Cx::cpu(DType::F32, 1).unwrap();
        let model = load(&cx, &home.out(), None).unwrap();
        let rope = model.rope_table(&cx, ids.len()).unwrap();
        let tokens = Tokens::new([(&ids[..], 0)]);
        let got = model.logits(&cx, &Arena::default(), &rope, &tokens).unwrap().to_f32().unwrap();
        let squares = |x: f32| f64::from(x).powi(2);
        let error: f64 = got.iter().zip(want).map(|(a, b)| squares(a - b)).sum();
        let error = (error / want.iter().map(|b| squares(*b)).sum::<f64>()).sqrt();
        assert!(error < 1e-6, "{base} {adapter}: {error:e}");
    }
}
