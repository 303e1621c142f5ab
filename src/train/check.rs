//! What a run asks for against what its model, its rows and its plan have: checked before weights load.

use super::plan::RunPlan;
use crate::config::{EvaluateExample, RunConfig, TiedHead};
use crate::error::{Result, UserError};

/// What looks at validation rows, of which there are `rows`.
///
/// # Errors
/// When something looks at rows that are not there; all of them at once.
pub(super) fn validation(config: &RunConfig, rows: usize) -> Result<()> {
    let t = &config.train;
    let mut problems = Vec::new();
    if let EvaluateExample::Index(i) = config.eval.evaluate_example
        && i >= rows
    {
        let message = format!("there is no validation row {i}; there are {rows}, counted from 0");
        problems.push(config.problem("eval.evaluate_example", message));
    }
    if t.save_best && rows == 0 {
        let message = "there are no validation rows, so no loss to compare";
        problems.push(config.problem("train.save_best", message));
    }
    if t.early_stopping_patience.is_some() && rows == 0 {
        let message = "there are no validation rows, so no loss to wait for";
        problems.push(config.problem("train.early_stopping_patience", message));
    }
    UserError::check(problems)
}

/// Whether the run can merge at its end; `tied_adapter` says that the head is adapted and is the embedding.
///
/// # Errors
/// When the config refuses such a merge.
pub(super) fn merge(config: &RunConfig, tied_adapter: bool) -> Result<()> {
    if config.save_merged && tied_adapter && config.merge.tied_head == TiedHead::Error {
        let message = "lm_head is adapted and is the embedding of this model";
        let problem = config.problem("merge.tied_head", message);
        return Err(problem.hint("write `untie` or `drop`").into());
    }
    Ok(())
}

/// What to tell of a plan that takes more than there is.
///
/// # Errors
/// When it takes more than the config allows.
pub(super) fn memory(config: &RunConfig, plan: &RunPlan) -> Result<Option<String>> {
    if plan.fits() {
        return Ok(None);
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (planned, limit) = (mib(plan.memory.peak()), mib(plan.limit.unwrap_or(0)));
    if config.train.max_memory.is_some() {
        let message = format!("the leanest plan takes {planned:.0} MiB, not {limit:.0}");
        let problem = config.problem("train.max_memory", message);
        let hint = "lower train.micro_batch_size or train.max_seq_length, or allow more";
        return Err(problem.hint(hint).into());
    }
    let leaner = if plan.keep.is_leanest(plan.layers) {
        ""
    } else {
        ", or set train.gradient_checkpointing to full"
    };
    Ok(Some(format!(
        "the plan takes {planned:.0} MiB, and {limit:.0} are free; lower train.micro_batch_size or train.max_seq_length{leaner}"
    )))
}
