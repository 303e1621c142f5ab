//! A LoRA adapter as PEFT reads and writes it: `adapter_model.safetensors` and `adapter_config.json`.
//!
//! PEFT 0.21 `utils/save_and_load.py`, `tuners/lora/config.py`

use super::atomic::io_problem;
use super::disk::Disk;
use super::tensors;
use crate::adapters::LoraConfig;
use crate::adapters::names::module_of;
use crate::error::{Problem, Result};
use crate::hub::safetensors::Checkpoint;
use crate::optim::Arena;
use crate::small_file::{self, DESCRIPTION};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The model that an adapter was trained on.
pub struct Base<'a> {
    /// Its directory, or its id on the Hub.
    pub name: &'a str,
    /// The branch, tag or commit that was asked for.
    pub revision: Option<&'a str>,
}
/// The tensors' file.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// The file that says what they are.
pub(super) const CONFIG: &str = "adapter_config.json";

/// Writes the adapter in `arena` into the directory `dir`; `paths` are the adapted modules, `modules` all that could be.
///
/// # Errors
/// When a value is not finite or a file cannot be written.
pub fn write(
    disk: &dyn Disk,
    dir: &Path,
    arena: &Arena,
    lora: &LoraConfig,
    paths: &[String],
    modules: &[String],
    base: &Base<'_>,
) -> anyhow::Result<()> {
    let mut views = Vec::new();
    for slice in arena.slices() {
        let values = arena.param(slice);
        anyhow::ensure!(values.iter().all(|v| v.is_finite()), "`{}` is not finite", slice.name);
        let view = TensorView::new(Dtype::F32, slice.shape.to_vec(), bytemuck::cast_slice(values))?;
        views.push((slice.name.clone(), view));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    tensors::write(disk, &dir.join(WEIGHTS), views, Some(metadata))?;
    let file = dir.join(CONFIG);
    let text = serde_json::to_string_pretty(&config_json(lora, paths, modules, base))? + "\n";
    disk.write(&file, text.as_bytes()).map_err(|e| io_problem(&file, &e))?;
    Ok(())
}

/// `adapter_config.json` with the fields that PEFT writes.
fn config_json(lora: &LoraConfig, paths: &[String], modules: &[String], base: &Base<'_>) -> Value {
    let alpha =
        if lora.alpha.fract() == 0.0 { json!(lora.alpha as i64) } else { json!(lora.alpha) };
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base.name,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": alpha,
        "lora_bias": false,
        "lora_dropout": lora.dropout,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.r,
        "rank_pattern": {},
        "revision": base.revision,
        "target_modules": target_modules(paths, modules),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    })
}

/// Leaf names where they name exactly the adapted modules, full paths otherwise.
fn target_modules(paths: &[String], modules: &[String]) -> Vec<String> {
    let leaf = |p: &String| p.rsplit('.').next().unwrap_or(p).to_owned();
    let mut names: Vec<String> = paths.iter().map(leaf).collect();
    names.sort();
    names.dedup();
    let exact = modules.iter().all(|m| paths.contains(m) == names.contains(&leaf(m)));
    if exact { names } else { paths.to_vec() }
}

/// A (R, in) and B (out, R) by module path.
pub type Tensors = BTreeMap<String, (Vec<f32>, Vec<f32>)>;

/// An adapter read from disk.
pub struct AdapterFile {
    /// Rank, alpha, dropout.
    pub lora: LoraConfig,
    /// A (R, in) and B (out, R) by module path.
    pub tensors: Tensors,
}

/// Reads a PEFT adapter directory.
///
/// # Errors
/// When a file is missing or damaged, or the adapter uses what vft does not know.
pub fn read(dir: &Path) -> Result<AdapterFile> {
    let path = dir.join(CONFIG);
    let text = small_file::text(&path, DESCRIPTION).map_err(|e| {
        let hint = "an adapter directory holds adapter_config.json and adapter_model.safetensors";
        Problem::in_file(&path, format!("cannot be read: {e}")).hint(hint)
    })?;
    let json: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|e| Problem::at(&path, e.line(), e.column(), format!("is no valid JSON: {e}")))?;
    let lora = lora_config(&path, &json)?;
    let file = dir.join(WEIGHTS);
    if !file.exists() && dir.join("adapter_model.bin").exists() {
        let message =
            "has pickled weights only (adapter_model.bin), which can run code when they are read";
        let hint = "save it once with PEFT: `model.save_pretrained(DIR, safe_serialization=True)`";
        return Err(Problem::in_file(dir, message).hint(hint).into());
    }
    let tensors = read_tensors(&file, lora.r)?;
    if tensors.is_empty() {
        return Err(Problem::in_file(&file, "holds no adapter tensors").into());
    }
    Ok(AdapterFile { lora, tensors })
}

/// Keys of `adapter_config.json` that do not change what the tensors mean, or that are read elsewhere.
const NEUTRAL: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

fn lora_config(path: &Path, json: &Map<String, Value>) -> Result<LoraConfig> {
    let problem = |message: String| Problem::in_file(path, message);
    let empty = |v: &Value| match v {
        Value::Null | Value::Bool(false) => true,
        Value::Object(m) => m.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::String(s) => s == "none",
        _ => false,
    };
    let mut problems = Vec::new();
    if json.get("peft_type") != Some(&json!("LORA")) {
        let kind = json.get("peft_type").unwrap_or(&Value::Null);
        problems.push(problem(format!("`peft_type` is {kind}; vft reads LORA")));
    }
    for (key, value) in json.iter().filter(|(k, v)| !NEUTRAL.contains(&k.as_str()) && !empty(v)) {
        let usual = match key.as_str() {
            // How A and B began; with other names the base was changed as well.
            "init_lora_weights" => *value == json!(true) || *value == json!("gaussian"),
            "peft_type" => true,
            _ => false,
        };
        if !usual {
            problems.push(problem(format!("`{key}` is {value}, which vft does not support yet")));
        }
    }
    // The ranges of `lora_r`, `lora_alpha` and `lora_dropout`.
    let mut number = |key: &str, missing: Option<f64>, range: &str, fits: fn(f64) -> bool| {
        let value = json.get(key).filter(|v| !v.is_null());
        match value.map_or(missing, Value::as_f64).filter(|x| fits(*x)) {
            Some(x) => x,
            None => {
                let value = value.map_or("missing".into(), Value::to_string);
                problems.push(problem(format!("`{key}` is {value}; expected {range}")));
                0.0
            }
        }
    };
    let r = number("r", None, "a whole number from 1 to 65536", |r| {
        (1.0..=65_536.0).contains(&r) && r.fract() == 0.0
    });
    let alpha = number("lora_alpha", None, "a number above 0 and below 1000000000", |alpha| {
        (1e-30..1e9).contains(&alpha)
    });
    let dropout = number("lora_dropout", Some(0.0), "a number at least 0 and below 1", |dropout| {
        (0.0..1.0).contains(&dropout)
    });
    crate::error::UserError::check(problems)?;
    Ok(LoraConfig { r: r as usize, alpha, dropout })
}

fn read_tensors(file: &Path, r: usize) -> Result<Tensors> {
    let problem = |message: String| Problem::in_file(file, message);
    let checkpoint = Checkpoint::open_file(file)?;
    let mut halves: BTreeMap<String, [Option<Vec<f32>>; 2]> = BTreeMap::new();
    for key in checkpoint.names() {
        let (module, is_b) =
            module_of(key).ok_or_else(|| problem(format!("`{key}` is no LoRA tensor's name")))?;
        let shape = checkpoint.tensor(key).map(|t| t.shape.clone()).unwrap_or_default();
        let fits = shape.len() == 2 && shape[usize::from(is_b)] == r;
        if !fits {
            return Err(problem(format!(
                "`{key}` has shape {shape:?}, which does not fit r = {r}"
            ))
            .into());
        }
        let values = checkpoint.expect(key, &shape)?.to_f32_vec();
        if values.iter().any(|v| !v.is_finite()) {
            return Err(problem(format!("`{key}` holds values that are not finite")).into());
        }
        let half = halves.entry(module.to_owned()).or_default();
        half[usize::from(is_b)] = Some(values);
    }
    let whole = |(module, half): (String, [Option<Vec<f32>>; 2])| match half {
        [Some(a), Some(b)] => Ok((module, (a, b))),
        _ => Err(problem(format!("`{module}` has only one of lora_A and lora_B")).into()),
    };
    halves.into_iter().map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn leaf_names_stand_for_whole_families_of_modules() {
        let modules = strings(&["a.0.q", "a.1.q", "a.0.v"]);
        assert_eq!(target_modules(&strings(&["a.0.q", "a.1.q"]), &modules), ["q"]);
    }

    #[test]
    fn a_part_of_a_family_is_written_as_paths() {
        let modules = strings(&["a.0.q", "a.1.q"]);
        assert_eq!(target_modules(&strings(&["a.1.q"]), &modules), ["a.1.q"]);
    }

    #[test]
    fn numbers_outside_of_the_configs_ranges_are_refused() {
        let path = Path::new("adapter_config.json");
        let read = |r: Value, alpha: Value, dropout: Value| {
            let json =
                json!({"peft_type": "LORA", "r": r, "lora_alpha": alpha, "lora_dropout": dropout});
            lora_config(path, json.as_object().unwrap()).map_err(|e| e.to_string())
        };
        assert_eq!(read(4.into(), json!(0.5), Value::Null).unwrap().dropout, 0.0);
        let error = read(json!(0), json!(-1), json!(2)).unwrap_err();
        for line in [
            "adapter_config.json: `r` is 0; expected a whole number from 1 to 65536",
            "adapter_config.json: `lora_alpha` is -1; expected a number above 0 and below 1000000000",
            "adapter_config.json: `lora_dropout` is 2; expected a number at least 0 and below 1",
        ] {
            assert!(error.contains(line), "{error}");
        }
        for (r, alpha, dropout) in [
            (json!(1.5), json!(1), json!(0)),
            (json!(65_537), json!(1), json!(0)),
            (json!("4"), json!(1), json!(0)),
            (json!(4), json!(0), json!(0)),
            (json!(4), json!(1e10), json!(0)),
            (json!(4), Value::Null, json!(0)),
            (json!(4), json!(1), json!(1)),
            (json!(4), json!(1), json!(-0.1)),
            (json!(4), json!(1), json!("0.1")),
        ] {
            assert!(
                read(r.clone(), alpha.clone(), dropout.clone()).is_err(),
                "{r} {alpha} {dropout}"
            );
        }
    }

    #[test]
    fn an_adapter_survives_the_disk() {
        let home = tempfile::tempdir().unwrap();
        let (mut arena, lora) = (Arena::default(), LoraConfig { r: 1, alpha: 2.5, dropout: 0.1 });
        let (a, b) = crate::adapters::names::peft_keys("x");
        arena.push(a, [1, 2], &[1.0, 2.0]);
        arena.push(b, [3, 1], &[3.0, 4.0, 5.0]);
        let paths = strings(&["x"]);
        let base = Base { name: "/base", revision: None };
        write(&super::super::disk::Real, home.path(), &arena, &lora, &paths, &paths, &base)
            .unwrap();
        let back = read(home.path()).unwrap();
        assert_eq!(back.tensors["x"], (vec![1.0, 2.0], vec![3.0, 4.0, 5.0]));
        assert_eq!(back.lora, lora);
    }
}
