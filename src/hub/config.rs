//! `config.json` of a Hugging Face model.
//!
//! transformers writes the rotary parameters in two spellings: `rope_theta` and `rope_scaling` at the top level (before 5.0), or
//! all of them inside `rope_parameters`. Both are read; a model with neither is refused, because a guessed base would train a
//! different model without a word.

use super::rope::{self, RopeScaling};
use crate::error::{Problem, Result};
use crate::small_file::{self, DESCRIPTION};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The part of `config.json` that a decoder is built from; fields carry the file's names.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "fields carry the names of config.json's keys")]
pub struct HfConfig {
    /// The file itself.
    pub path: PathBuf,
    /// First entry of `architectures`.
    pub architecture: String,
    /// Whether the repository brings Python code for its model (`auto_map`); it is never run.
    pub has_code: bool,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
    pub sliding_window: Option<usize>,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub hidden_act: String,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
}

/// Above this no size of a model is plausible, and products of two cannot overflow.
const LARGEST: u64 = 1 << 28;

/// Far above any model; each layer costs names before a single tensor is looked up.
const MOST_LAYERS: usize = 4096;

pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) json: &'a Value,
}

impl Reader<'_> {
    pub(super) fn problem(&self, message: String) -> Problem {
        Problem::in_file(self.path, message)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn opt<T>(
        &self,
        key: &str,
        want: &str,
        f: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let read = |v| f(v).ok_or_else(|| self.problem(format!("`{key}` is {v}; expected {want}")));
        Ok(self.get(key).map(read).transpose()?)
    }

    pub(super) fn opt_size(&self, key: &str) -> Result<Option<usize>> {
        let size = |v: &Value| v.as_u64().filter(|n| (1..=LARGEST).contains(n)).map(|n| n as usize);
        self.opt(key, "a positive integer of plausible size", size)
    }

    pub(super) fn size(&self, key: &str) -> Result<usize> {
        Ok(self.opt_size(key)?.ok_or_else(|| self.problem(format!("`{key}` is missing")))?)
    }

    pub(super) fn opt_number(&self, key: &str) -> Result<Option<f64>> {
        self.opt(key, "a finite number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    pub(super) fn positive(&self, key: &str) -> Result<f64> {
        let x = self.opt_number(key)?;
        let x = x.ok_or_else(|| self.problem(format!("`{key}` is missing")))?;
        if x > 0.0 {
            Ok(x)
        } else {
            Err(self.problem(format!("`{key}` is {x}; expected > 0")).into())
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.opt(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }
}

impl HfConfig {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// When the file is missing, is no JSON, or lacks or contradicts what a decoder needs.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = small_file::text(&path, DESCRIPTION).map_err(|e| {
            let hint = "a model directory holds config.json, *.safetensors and tokenizer.json";
            Problem::in_file(&path, format!("cannot be read: {e}")).hint(hint)
        })?;
        let json: Value = serde_json::from_str(&text).map_err(|e| {
            Problem::at(&path, e.line(), e.column(), format!("is no valid JSON: {e}"))
        })?;
        Self::parse(&path, &json)
    }

    /// Reads a parsed `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(path: &Path, json: &Value) -> Result<Self> {
        let r = Reader { path, json };
        let first = |v: &Value| v.get(0).and_then(Value::as_str).map(str::to_owned);
        let architecture = r
            .opt("architectures", "a list with one name", first)?
            .ok_or_else(|| r.problem("`architectures` is missing".into()))?;
        if json.get("quantization_config").is_some_and(|v| !v.is_null()) {
            let hint =
                "use the original checkpoint and let `quantize: bnb.nf4` pack it while loading";
            return Err(r.problem("the checkpoint is quantised already".into()).hint(hint).into());
        }
        let (hidden_size, heads) = (r.size("hidden_size")?, r.size("num_attention_heads")?);
        let kv_heads = r.opt_size("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = match r.opt_size("head_dim")? {
            Some(d) => d,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                let message =
                    format!("`hidden_size` {hidden_size} is no multiple of {heads} heads");
                return Err(r.problem(message).into());
            }
        };
        if !heads.is_multiple_of(kv_heads) {
            let message = format!(
                "`num_attention_heads` {heads} is no multiple of `num_key_value_heads` {kv_heads}"
            );
            return Err(r.problem(message).into());
        }
        if !head_dim.is_multiple_of(2) || head_dim > 1024 {
            return Err(r.problem(format!("head size {head_dim} is odd or too large")).into());
        }
        let context = r.size("max_position_embeddings")?;
        let layers = r.size("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(r
                .problem(format!("`num_hidden_layers` is {layers}; at most {MOST_LAYERS}"))
                .into());
        }
        let (rope_theta, rope_scaling) = rope::read(&r, context)?;
        // Qwen2 has the window off unless it says otherwise.
        let windowed = r.flag("use_sliding_window", architecture != "Qwen2ForCausalLM")?;
        Ok(Self {
            path: path.to_path_buf(),
            architecture,
            has_code: json.get("auto_map").is_some_and(|v| !v.is_null()),
            vocab_size: r.size("vocab_size")?,
            hidden_size,
            intermediate_size: r.size("intermediate_size")?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            rms_norm_eps: r.positive("rms_norm_eps")?,
            max_position_embeddings: context,
            tie_word_embeddings: r.flag("tie_word_embeddings", false)?,
            sliding_window: if windowed { r.opt_size("sliding_window")? } else { None },
            attention_bias: r.flag("attention_bias", false)?,
            mlp_bias: r.flag("mlp_bias", false)?,
            hidden_act: r
                .opt("hidden_act", "a name", |v| v.as_str().map(str::to_owned))?
                .unwrap_or_else(|| "silu".into()),
            rope_theta,
            rope_scaling,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({"architectures": ["LlamaForCausalLM"], "vocab_size": 8, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 1, "num_attention_heads": 4, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
            "rope_theta": 10000.0})
    }

    fn parse(change: impl Fn(&mut Value)) -> Result<HfConfig> {
        let mut json = base();
        change(&mut json);
        HfConfig::parse(Path::new("config.json"), &json)
    }

    fn error(change: impl Fn(&mut Value)) -> String {
        parse(change).unwrap_err().to_string()
    }

    #[test]
    fn key_value_heads_default_to_heads() {
        assert_eq!(parse(|_| ()).unwrap().num_key_value_heads, 4);
    }

    #[test]
    fn nested_rope_parameters_are_read() {
        let config = parse(|j| {
            j.as_object_mut().unwrap().remove("rope_theta");
            j["rope_parameters"] = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5});
        });
        let config = config.unwrap();
        assert_eq!(
            (config.rope_theta, config.rope_scaling),
            (5e5, RopeScaling::Linear { factor: 2.0 })
        );
    }

    #[test]
    fn old_spelling_of_the_type_is_read() {
        let config =
            parse(|j| j["rope_scaling"] = json!({"type": "linear", "factor": 4.0})).unwrap();
        assert_eq!(config.rope_scaling, RopeScaling::Linear { factor: 4.0 });
    }

    #[test]
    fn no_rope_theta_is_an_error() {
        assert!(error(|j| j["rope_theta"] = Value::Null).contains("`rope_theta` is missing"));
    }

    #[test]
    fn an_old_file_without_rope_theta_has_llamas_base() {
        let config = parse(|j| {
            j["rope_theta"] = Value::Null;
            j["transformers_version"] = json!("4.31.0.dev0");
        });
        assert_eq!(config.unwrap().rope_theta, 10_000.0);
    }

    #[test]
    fn qwen2_has_no_window_unless_it_says_so() {
        let config = parse(|j| {
            j["architectures"] = json!(["Qwen2ForCausalLM"]);
            j["sliding_window"] = json!(8);
        });
        assert_eq!(config.unwrap().sliding_window, None);
    }

    #[test]
    fn unknown_rope_types_are_named() {
        assert!(
            error(|j| j["rope_scaling"] = json!({"rope_type": "longrope"})).contains("`longrope`")
        );
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert!(error(|j| j["vocab_size"] = json!(1u64 << 40)).contains("`vocab_size`"));
    }

    #[test]
    fn absurd_layer_counts_are_refused() {
        assert!(error(|j| j["num_hidden_layers"] = json!(1 << 20)).contains("at most 4096"));
    }

    #[test]
    fn qwen_with_the_window_off_has_none() {
        let config = parse(|j| {
            j["sliding_window"] = json!(8);
            j["use_sliding_window"] = json!(false);
        });
        assert_eq!(config.unwrap().sliding_window, None);
    }
}
