//! The loss on the validation examples.

use super::fault;
use super::objective;
use super::prepare::Run;
use crate::data::batch::Batch;
use crate::ops::rope;
use crate::report::metrics::EvalRecord;
use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};

/// Token-weighted loss over at most `max_iters` micro-batches; `None` when there are no examples or `stop` was set meanwhile.
///
/// # Errors
/// When the loss is not finite or the device fails.
pub fn validate(
    run: &mut Run,
    rope: &rope::Table,
    max_iters: usize,
    micro_batch_size: usize,
    step: usize,
    stop: &AtomicBool,
) -> Result<Option<EvalRecord>> {
    let (mut sum, mut count) = (0.0, 0);
    let Run { cx, decoder, arena, data, .. } = run;
    let rows: Vec<usize> = (0..data.val_len()).collect();
    for rows in rows.chunks(micro_batch_size).take(max_iters) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let batch = Batch::collate(rows.iter().map(|r| (data.val(*r), 0)));
        let (tokens, labels) = (objective::tokens(&batch), objective::labels(&batch, 1.0, 1.0));
        let nll = cx.install(|| decoder.eval_pass(cx, arena, rope, &tokens, &labels))?;
        let part = nll.iter().map(|n| f64::from(*n)).sum::<f64>();
        if !part.is_finite() {
            let module = cx.install(|| decoder.first_not_finite(cx, arena, rope, &tokens))?;
            return Err(fault::loss("validation loss", part, step, module, step == 0).into());
        }
        sum += part;
        count += nll.len();
    }
    let val_loss = sum / count.max(1) as f64;
    Ok((count > 0).then_some(EvalRecord { step, val_loss, val_ppl: val_loss.exp() }))
}
