//! Rotary parameters in `config.json`, in both of transformers' spellings.

use super::config::Reader;
use crate::error::Result;
use serde_json::Value;

/// How rotary frequencies are stretched; fields as in `config.json`.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "fields carry the names of transformers' rope parameters")]
pub enum RopeScaling {
    /// Plain frequencies.
    Default,
    /// All frequencies divided by the factor.
    Linear { factor: f64 },
    /// Llama 3.1's: long wavelengths divided, short ones kept, smooth between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// YaRN, arXiv:2309.00071.
    Yarn {
        factor: f64,
        original_max_position_embeddings: usize,
        beta_fast: f64,
        beta_slow: f64,
        attention_factor: Option<f64>,
        mscale: Option<f64>,
        mscale_all_dim: Option<f64>,
        truncate: bool,
    },
}

/// Whether the file says that an older transformers wrote it.
fn written_before(r: &Reader<'_>, major: u64, minor: u64) -> bool {
    let version = r.get("transformers_version").and_then(Value::as_str).unwrap_or_default();
    let mut parts = version.split('.').map(|p| p.parse::<u64>().ok());
    matches!((parts.next(), parts.next()), (Some(Some(a)), Some(Some(b))) if (a, b) < (major, minor))
}

/// The base θ and the stretching; `context` is the model's own.
pub(super) fn read(top: &Reader<'_>, context: usize) -> Result<(f64, RopeScaling)> {
    let null = Value::Null;
    let nested = top.get("rope_parameters");
    let scaling = nested.or_else(|| top.get("rope_scaling"));
    let r = Reader { path: top.path, json: scaling.unwrap_or(&null) };
    let theta = match (r.opt_number("rope_theta")?, top.opt_number("rope_theta")?) {
        (Some(x), _) | (None, Some(x)) if x > 1.0 => x,
        // Before 4.33 Llama's base was fixed and not written down.
        (None, None) if written_before(top, 4, 33) => 10_000.0,
        (None, None) => {
            let hint = "add it as the model's authors give it, for example 10000.0";
            let message = "`rope_theta` is missing, at the top level and in `rope_parameters`";
            return Err(top.problem(message.into()).hint(hint).into());
        }
        (x, y) => {
            let x = x.or(y).unwrap_or_default();
            return Err(top.problem(format!("`rope_theta` is {x}; expected > 1")).into());
        }
    };
    if scaling.is_none() {
        return Ok((theta, RopeScaling::Default));
    }
    let name = |key| r.opt(key, "a name", |v: &Value| v.as_str().map(str::to_owned));
    let kind = name("rope_type")?.or(name("type")?).unwrap_or_else(|| "default".into());
    let original = r.opt_size("original_max_position_embeddings")?;
    if r.opt_number("partial_rotary_factor")?
        .or(top.opt_number("partial_rotary_factor")?)
        .is_some_and(|f| f != 1.0)
    {
        return Err(top
            .problem("`partial_rotary_factor` other than 1 is not supported".into())
            .into());
    }
    let scaling = match kind.as_str() {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: r.positive("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: r.positive("factor")?,
            low_freq_factor: r.positive("low_freq_factor")?,
            high_freq_factor: r.positive("high_freq_factor")?,
            original_max_position_embeddings: r.size("original_max_position_embeddings")?,
        },
        "yarn" => RopeScaling::Yarn {
            factor: r.positive("factor")?,
            original_max_position_embeddings: original.unwrap_or(context),
            beta_fast: r.opt_number("beta_fast")?.unwrap_or(32.0),
            beta_slow: r.opt_number("beta_slow")?.unwrap_or(1.0),
            attention_factor: r.opt_number("attention_factor")?,
            mscale: r.opt_number("mscale")?,
            mscale_all_dim: r.opt_number("mscale_all_dim")?,
            truncate: r.flag("truncate", true)?,
        },
        other => {
            let message = format!("rope type `{other}` is not supported");
            let hint = "supported are default, linear, llama3 and yarn";
            return Err(top.problem(message).hint(hint).into());
        }
    };
    Ok((theta, scaling))
}
