//! Google Compute Engine: whether the instance is being preempted.

use super::metadata::Metadata;

const PREEMPTED: &str = "/computeMetadata/v1/instance/preempted";

/// `TRUE` from the moment on in which the instance has 30 s left.
pub(super) fn look(metadata: &Metadata) -> Result<Option<String>, String> {
    let (status, text) = metadata.get(PREEMPTED, ("metadata-flavor", "Google"))?;
    match (status, text.trim()) {
        (200, "TRUE") => Ok(Some("GCP: the instance is preempted".into())),
        (200, "FALSE") => Ok(None),
        (200, _) => Err(format!("{PREEMPTED} answers neither TRUE nor FALSE")),
        _ => Err(format!("{PREEMPTED} answers {status}")),
    }
}
