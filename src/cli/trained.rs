//! What an adapter was trained on and in: its own files say it, and the command line wins.

use crate::config::{Device, Precision, Quantize, RunConfig, goes_with};
use crate::error::{Problem, UserError};
use crate::merge::base_of;
use crate::report;
use crate::train::device::{self, Opened};
use crate::train::remote::Remote;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The directory of the base that is named, or else of the one that the adapter names.
pub(super) fn base(
    base: Option<&Path>,
    revision: Option<&str>,
    adapter: Option<&Path>,
) -> Result<PathBuf> {
    let (base, of_adapter) = match (base, adapter) {
        (Some(base), _) => (base.to_path_buf(), None),
        (None, Some(adapter)) => {
            let (base, revision) = base_of(adapter)?;
            report::print_note(format_args!("base: {}, as the adapter says", base.display()));
            (base, revision)
        }
        (None, None) => {
            let problem = Problem::new("`--base` is missing");
            let hint = "name a model, or with `--adapter` an adapter, which names its base";
            return Err(UserError::from(problem.hint(hint)).into());
        }
    };
    Ok(Remote::new(None).model(&base, revision.or(of_adapter.as_deref()))?)
}

/// The config of the run that made an adapter, where it lies beside it.
pub(super) fn run_of(adapter: &Path) -> Result<Option<(PathBuf, RunConfig)>> {
    let file = adapter.join("vft.yaml");
    if !file.is_file() {
        return Ok(None);
    }
    let run = RunConfig::load(Some(&file), &[])?;
    Ok(Some((file, run)))
}

/// Refuses a packed base in a precision that cannot compute with it.
pub(super) fn check(quantize: Option<Quantize>, precision: Precision) -> Result<()> {
    let problem = |message| Problem::new(format!("`quantize`: {message}"));
    Ok(goes_with(quantize, precision).map_err(|message| UserError::from(problem(message)))?)
}

/// A context in the precision of a run, which may have had another device: f16 becomes f32 where there is no CUDA device. `what` is
/// done with it.
pub(super) fn open(
    device: Device,
    precision: Precision,
    threads: usize,
    what: &str,
) -> Result<Opened> {
    let f16 = matches!(precision, Precision::F16 | Precision::F16Mixed);
    match device::open(device, Some(precision), threads) {
        Err(_) if f16 && !matches!(device, Device::Cuda(_)) => {
            report::print_note(format_args!(
                "note: {precision} needs a CUDA device; {what} in 32-true"
            ));
            device::open(device, Some(Precision::F32), threads)
        }
        opened => opened,
    }
}
