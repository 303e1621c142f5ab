//! `vft selftest`: tables of errors and rates, a verdict, an exit code.

use crate::config::{Device, Precision};
use crate::error::{Problem, UserError};
use crate::ops::Cx;
use crate::report;
use crate::selftest;
use crate::train::device::{self, Opened};
use anyhow::Result;

/// Arguments of `vft selftest`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Only this precision: 32-true, bf16-true, bf16-mixed or, on CUDA, 16-true or 16-mixed.
    #[arg(long)]
    precision: Option<Precision>,
    /// Seed of the random inputs; a new one each time if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Check only, do not measure speed.
    #[arg(long)]
    quick: bool,
}

pub(super) fn run(args: &Args) -> Result<i32> {
    let seed = args.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |t| t.subsec_nanos().into())
    });
    let all = [
        Precision::F32,
        Precision::Bf16,
        Precision::Bf16Mixed,
        Precision::F16,
        Precision::F16Mixed,
    ];
    let wanted = |p: &Precision| args.precision.is_none_or(|only| only == *p);
    let (mut wrong, mut first) = (0, None);
    for precision in all.into_iter().filter(wanted) {
        if let Some(missing) = first.as_ref().and_then(|cx| lacks(cx, precision)) {
            report::print_out(&format!("{precision} is left out: {missing}\n\n"))?;
            continue;
        }
        let Opened { cx, notes, .. } = device::open(args.device, Some(precision), 0)?;
        for note in notes.into_iter().filter(|_| first.is_none()) {
            report::print_note(format_args!("note: {note}"));
        }
        let found = selftest::run(&cx, seed, !args.quick)?;
        let header = format!("{}, {precision}, seed {seed}\n\n", device::describe(&cx));
        report::print_out(&(header + &found.table() + "\n"))?;
        wrong += found.lines.iter().filter(|l| !l.passes()).count();
        first.get_or_insert(cx);
    }
    if wrong > 0 {
        let problem = Problem::new(format!("{wrong} checks are outside their limits"));
        let hint = "do not train on this device; report the table with card and driver";
        return Err(UserError::from(problem.hint(hint)).into());
    }
    let device = first.as_ref().map(device::describe).unwrap_or_default();
    report::print_out(&format!("verdict: this device computes what it should: {device}\n"))?;
    Ok(0)
}

/// Why a device does not have a precision that was not asked for by name.
fn lacks(first: &Cx, precision: Precision) -> Option<&'static str> {
    match (first.gpu(), precision) {
        (None, Precision::F16 | Precision::F16Mixed) => Some("it is computed on CUDA only"),
        (Some(gpu), Precision::Bf16 | Precision::Bf16Mixed) if !device::has_bf16(gpu) => {
            Some("this card has no bf16 products")
        }
        _ => None,
    }
}
