//! What the adapter is added to, and why: asked for, or read from the run that trained it.

use super::super::trained;
use super::Args;
use crate::config::Precision;
use crate::error::{Problem, UserError};
use crate::merge::BaseWeights;
use crate::model::load::Nf4;
use crate::train::device;
use anyhow::Result;
use candle_core::DType;

/// `--base-weights`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Asked {
    /// The weights as they lie in the base's files.
    Original,
    /// The weights after the NF4 round trip that training saw.
    Dequant,
}

/// What a merge adds the adapter to.
pub(super) struct Choice {
    pub(super) base_weights: BaseWeights,
    /// What the adapter was trained on, if that was quantised.
    pub(super) trained_on: Option<(Nf4, DType)>,
    /// The precision of the run.
    pub(super) precision: Precision,
    /// In words.
    pub(super) reason: String,
}

pub(super) fn choose(args: &Args) -> Result<Choice> {
    let all_said = args.quantize.is_some() && args.precision.is_some();
    let plain = args.base_weights == Some(Asked::Original) && !args.verify;
    if plain && (args.quantize.is_some() || args.precision.is_some()) {
        let message =
            "`--quantize` and `--precision` change nothing with `--base-weights original`";
        let hint = "leave them out, or let `--verify` compare with the base that they describe";
        return Err(UserError::from(Problem::new(message).hint(hint)).into());
    }
    let run = if all_said || plain { None } else { trained::run_of(&args.adapter)? };
    let of_run = run.as_ref().map(|(_, r)| (r.quantize, r.precision));
    let quantize = args.quantize.or(of_run.and_then(|r| r.0));
    let precision = args.precision.or(of_run.map(|r| r.1)).unwrap_or(Precision::Bf16);
    trained::check(quantize, precision)?;
    let trained_on = quantize.map(|q| (device::nf4(q), device::products(precision)));
    let source = match (&args.quantize, &run) {
        (None, Some((file, _))) => format!("{} says", file.display()),
        _ => "`--quantize` says".to_owned(),
    };
    let why = match (args.base_weights, quantize) {
        (Some(_), _) => "as asked".to_owned(),
        (None, Some(kind)) => format!("the adapter was trained on {kind}, {source}"),
        (None, None) if run.is_some() => {
            format!("the adapter was trained on them, {source}")
        }
        (None, None) => {
            "nothing says that the adapter was trained on a quantised base; `--quantize bnb.nf4` would".to_owned()
        }
    };
    let dequant = args.base_weights.map_or(quantize.is_some(), |a| a == Asked::Dequant);
    let (base_weights, reason) = match (dequant, trained_on, quantize) {
        (false, ..) => (BaseWeights::Original, format!("original ({why})")),
        (true, Some((nf4, compute)), Some(kind)) => {
            let reason = format!("dequant, {kind} rounded to {precision} ({why})");
            (BaseWeights::Dequant { nf4, compute }, reason)
        }
        _ => {
            let message = "`--base-weights dequant` needs to know what the adapter was trained on";
            let hint = "give `--quantize bnb.nf4` or `--quantize bnb.nf4-dq`";
            return Err(UserError::from(Problem::new(message).hint(hint)).into());
        }
    };
    Ok(Choice { base_weights, trained_on, precision, reason })
}
