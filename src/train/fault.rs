//! A loss that is no number, in words: where it comes from and what to do.

use crate::error::{Problem, UserError};

/// The error for `what` being `value` at `step`; `module` is the first whose output is not finite, `untrained` says that no update
/// has been made yet.
pub fn loss(
    what: &str,
    value: f64,
    step: usize,
    module: Option<String>,
    untrained: bool,
) -> UserError {
    let from = module.map_or_else(
        || "every layer's output is finite, the loss itself is not".to_owned(),
        |m| format!("the first output that is not finite is that of `{m}`"),
    );
    let hint = if untrained {
        "nothing has been trained yet: the base model or the adapter to start from gives this; check its weights, or try \
         `precision: 32-true`"
    } else {
        "lower optimizer.init_args.lr, or set train.max_norm: 1.0"
    };
    Problem::new(format!("the {what} is {value} at step {step}: {from}")).hint(hint).into()
}
