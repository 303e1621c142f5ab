//! Merges that must not happen.

use crate::common::*;
use candle_core::DType;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use vft::merge::{BaseWeights, TiedHead};
use vft::model::load::Nf4;

fn copy(from: &Path, to: &Path, names: &[&str]) {
    fs::create_dir_all(to).unwrap();
    for name in names {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// The bf16 fixture's adapter with values so many times larger.
fn scaled(factor: f32) -> tempfile::TempDir {
    let (adapter, from) = (tempfile::tempdir().unwrap(), fixture("bf16/adapter"));
    copy(&from, adapter.path(), &["adapter_config.json"]);
    let bytes = fs::read(from.join("adapter_model.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let larger = |view: &safetensors::tensor::TensorView<'_>| -> Vec<u8> {
        assert_eq!(view.dtype(), safetensors::Dtype::F32);
        let value = |c: &[u8]| f32::from_le_bytes(c.try_into().unwrap()) * factor;
        view.data().chunks_exact(4).flat_map(|c| value(c).to_le_bytes()).collect()
    };
    let tensors: Vec<_> = read.tensors().iter().map(|(n, v)| (n.clone(), larger(v))).collect();
    let views = read.tensors().into_iter().zip(&tensors).map(|((name, view), (_, bytes))| {
        let shape = view.shape().to_vec();
        (name, safetensors::tensor::TensorView::new(view.dtype(), shape, bytes).unwrap())
    });
    let file = adapter.path().join("adapter_model.safetensors");
    fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
    adapter
}

#[test]
fn a_merge_that_overflows_is_refused_and_leaves_nothing() {
    let (home, adapter) = (Home::new(), scaled(1e20));
    let out = home.path("new/deep/merged");
    let error = merge_with(&out, &fixture("bf16"), adapter.path(), |_| ()).unwrap_err().to_string();
    assert!(error.contains("`model.layers.0.mlp.down_proj.weight` merged"), "{error}");
    assert!(error.contains("not finite in BF16"), "{error}");
    assert_eq!(home.entries(), 0);
}

/// Finite in f32, but f16 ends at 65,504.
#[test]
fn what_only_the_cast_makes_infinite_is_refused() {
    let (home, adapter, base) = (Home::new(), scaled(2e3), Home::new());
    write_f16_base(&base.path("f16"));
    let error = merge_with(&home.out(), &base.path("f16"), adapter.path(), |_| ()).unwrap_err();
    assert!(error.to_string().contains("not finite in F16"), "{error}");
    assert_eq!(home.entries(), 0);
}

/// NF4 has a code for everything: what is broken in the base must be seen before.
#[test]
fn a_broken_base_does_not_vanish_in_nf4() {
    let home = Home::new();
    let base = home.path("base");
    copy(&fixture("tied"), &base, &["config.json", "model.safetensors"]);
    let file = base.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let at = {
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor("model.layers.1.mlp.up_proj.weight").unwrap();
        tensor.data().as_ptr() as usize - bytes.as_ptr() as usize
    };
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let dequant = BaseWeights::Dequant { nf4: Nf4::Single, compute: DType::BF16 };
    let adapter = fixture("tied/adapter");
    let result = merge_with(&home.out(), &base, &adapter, |ask| ask.base_weights = dequant);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("`model.layers.1.mlp.up_proj.weight` holds values"), "{error}");
    assert!(!home.out().exists());
}

#[test]
fn a_directory_that_exists_is_refused_and_kept() {
    let home = Home::new();
    fs::create_dir(home.out()).unwrap();
    fs::write(home.out().join("mine"), "x").unwrap();
    let result = merge_with(&home.out(), &fixture("tied"), &fixture("tied/adapter"), |_| ());
    assert!(result.unwrap_err().to_string().contains("exists already"));
    assert_eq!(fs::read_dir(home.out()).unwrap().count(), 1);
}

#[test]
fn a_stopped_merge_leaves_nothing() {
    let (home, stop) = (Home::new(), AtomicBool::new(true));
    let (base, adapter, out) = (fixture("tied"), fixture("tied/adapter"), home.out());
    let ask = vft::merge::MergeAsk {
        base: &base,
        adapter: &adapter,
        out: &out,
        replace: false,
        base_weights: BaseWeights::Original,
        tied_head: TiedHead::Untie,
        shard_bytes: 1,
        stop: &stop,
    };
    assert!(vft::merge::merge(&ask).unwrap_err().to_string().contains("signal"));
    assert_eq!(home.entries(), 0);
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let home = Home::new();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/smoke/model");
    let error = merge_with(&home.out(), &base, &fixture("tied/adapter"), |_| ()).unwrap_err();
    assert!(error.to_string().contains("belongs to another base model"), "{error}");
}

#[test]
fn an_adapter_of_more_layers_is_refused() {
    let home = Home::new();
    let base = home.path("base");
    copy(&fixture("tied"), &base, &["model.safetensors"]);
    let text = fs::read_to_string(fixture("tied/config.json")).unwrap();
    let fewer = text.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    assert_ne!(fewer, text);
    fs::write(base.join("config.json"), fewer).unwrap();
    let error = merge_with(&home.out(), &base, &fixture("tied/adapter"), |_| ()).unwrap_err();
    assert!(error.to_string().contains("`model.layers.1."), "{error}");
}

/// An adapter of the head alone, left out, would be a copy of the base under another name.
#[test]
fn nothing_to_merge_is_refused() {
    let (home, adapter) = (Home::new(), tempfile::tempdir().unwrap());
    let from = fixture("tied/adapter-head");
    copy(&from, adapter.path(), &["adapter_config.json"]);
    let bytes = fs::read(from.join("adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let head = tensors.tensors().into_iter().filter(|(name, _)| name.contains("lm_head"));
    let file = adapter.path().join("adapter_model.safetensors");
    safetensors::serialize_to_file(head, None, &file).unwrap();
    let drop = |ask: &mut vft::merge::MergeAsk<'_>| ask.tied_head = TiedHead::Drop;
    let error = merge_with(&home.out(), &fixture("tied"), adapter.path(), drop).unwrap_err();
    assert!(error.to_string().contains("nothing to merge"), "{error}");
}
