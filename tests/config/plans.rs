//! Every shipped config planned on its real model, of which only the shape is here (`tests/fixtures/models`): parameters against
//! transformers' and PEFT's counts (`scripts/fixtures/models.py`). A model's weights are a header and a hole in a file.

use super::presets::shipped;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use vft::adapters::Targets;
use vft::config::{Device, RunConfig, TargetModules};
use vft::data::tokenizer::Tokenizer;
use vft::hub::config::HfConfig;
use vft::model::{DecoderSpec, families};
use vft::train::optimizer::optimizer;
use vft::train::plan::{Ask, RunPlan};
use vft::train::{device, sources};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

fn expected() -> Value {
    let file = root().join("tests/fixtures/models/expected.json");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// A directory with the model's config.json and weights that are all header.
fn model(home: &Path, name: &str) -> (PathBuf, DecoderSpec) {
    let dir = home.join(name);
    fs::create_dir_all(&dir).unwrap();
    let config = root().join(format!("tests/fixtures/models/{name}.json"));
    let text = fs::read_to_string(config).unwrap();
    fs::write(dir.join("config.json"), &text).unwrap();
    let spec = families::spec(&HfConfig::load(&dir).unwrap()).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let (dtype, size) = match json["torch_dtype"].as_str().unwrap() {
        "float32" => ("F32", 4),
        "float16" => ("F16", 2),
        _ => ("BF16", 2),
    };
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![spec.vocab, spec.hidden])];
    for path in spec.linear_paths() {
        if path == "lm_head" && spec.tied_head {
            continue;
        }
        let [out, input] = spec.linear_shape(&path);
        let qkv = ["q_proj", "k_proj", "v_proj"].iter().any(|p| path.ends_with(p));
        if spec.qkv_bias && qkv {
            shapes.push((format!("{path}.bias"), vec![out]));
        }
        shapes.push((format!("{path}.weight"), vec![out, input]));
    }
    let norms = (0..spec.layers).flat_map(|i| {
        ["input_layernorm", "post_attention_layernorm"]
            .map(|n| format!("model.layers.{i}.{n}.weight"))
    });
    let norms = norms.chain(["model.norm.weight".to_owned()]);
    shapes.extend(norms.map(|name| (name, vec![spec.hidden])));
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in shapes {
        let start = end;
        end += shape.iter().product::<usize>() * size;
        header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::from(header).to_string();
    let mut file = File::create(dir.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    (dir, spec)
}

/// Rows that fill the longest sequence, twice as many as a step takes.
fn rows(home: &Path, config: &RunConfig) -> PathBuf {
    let length = config.train.max_seq_length.unwrap();
    let row = json!({"input_ids": vec![5; length], "labels": vec![5; length]}).to_string() + "\n";
    let file = home.join("rows.jsonl");
    fs::write(&file, row.repeat(2 * config.train.global_batch_size)).unwrap();
    file
}

/// A planned config.
struct Planned {
    plan: RunPlan,
    config: RunConfig,
    modules: usize,
    trainable: usize,
}

/// The plan of a config on the CPU.
fn planned(file: &Path) -> Planned {
    let home = tempfile::tempdir().unwrap();
    let shipped = RunConfig::load(Some(file), &[]).unwrap();
    let name = shipped.checkpoint_dir.file_name().unwrap().to_str().unwrap();
    let (model, spec) = model(home.path(), name);
    let rows = rows(home.path(), &shipped);
    let arguments = [
        "--checkpoint_dir",
        model.to_str().unwrap(),
        "--data",
        "JSON",
        "--data.path",
        rows.to_str().unwrap(),
        // The same for all, whatever is free on the machine.
        "--train.gradient_checkpointing",
        "full",
    ];
    let config = RunConfig::load(Some(file), &arguments.map(str::to_owned)).unwrap();
    let targets = match config.lora.targets.clone() {
        TargetModules::Names(names) => Targets::Names(names),
        TargetModules::Regex(regex) => Targets::Regex(regex),
        TargetModules::AllLinear => Targets::AllLinear,
    };
    let paths = targets.select(&spec.linear_paths()).unwrap();
    let trainable =
        paths.iter().map(|p| config.lora.r * spec.linear_shape(p).iter().sum::<usize>()).sum();
    let cx = device::open(Device::Cpu, Some(config.precision), 1).unwrap().cx;
    let tokenizer = Tokenizer::load(&root().join("configs/smoke/model")).unwrap();
    let data = sources::load(&config, &tokenizer, &spec).unwrap().data;
    let longest = data.census().longest;
    let plan = RunPlan::new(&Ask {
        config: &config,
        model: &model,
        cx: &cx,
        spec: &spec,
        data: &data,
        longest,
        positions: longest + config.eval.max_new_tokens,
        optimizer: optimizer(&config.optimizer),
        steps: 2,
        rank: config.lora.r,
        dropout: config.lora.dropout > 0.0,
        paths: &paths,
    });
    Planned { plan: plan.unwrap(), modules: paths.len(), trainable, config }
}

#[test]
fn every_shipped_config_is_planned() {
    let expected = expected();
    let count = |name: &str, what: &str| expected[name][what].as_u64().unwrap();
    let mut peaks = BTreeMap::new();
    for file in shipped() {
        let name = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        // Its model is in the repository: tests/cli runs it.
        if name == "configs/smoke.yml" {
            continue;
        }
        let Planned { plan, config, modules, trainable } = planned(&file);
        assert_eq!(trainable as u64, count(&name, "trainable"), "{name}");
        // A parameter, its gradient and two moments in f32; each factor starts at a multiple of 256.
        let padding = plan.memory.trainable - 16 * trainable as u64;
        assert!(padding < 16 * 256 * 2 * modules as u64, "{name}: {padding}");
        let [micro, longest] =
            [config.train.micro_batch_size, config.train.max_seq_length.unwrap()];
        assert_eq!(plan.tokens, micro * longest, "{name}");
        let dense = 2 * count(&name, "parameters");
        if config.quantize.is_none() {
            assert_eq!(plan.memory.weights, dense, "{name}");
        } else {
            assert!(plan.memory.weights < dense / 2, "{name}: {} of {dense}", plan.memory.weights);
        }
        peaks.insert(name, plan.memory.peak());
    }
    let pairs: Vec<_> = peaks
        .iter()
        .filter_map(|(name, peak)| {
            let dense = peaks.get(&name.replace("-qlora", "-lora"))?;
            name.contains("-qlora").then_some((name, peak, dense))
        })
        .collect();
    assert_eq!(pairs.len(), 6);
    for (name, packed, dense) in pairs {
        assert!(packed < dense, "{name}: {packed} bytes, {dense} without NF4");
    }
}
