//! `vft selftest`: tables of errors and rates, a verdict, an exit code.

use crate::config::{Device, Precision};
use crate::error::{Problem, UserError};
use crate::report;
use crate::selftest;
use crate::train::device;
use anyhow::Result;

/// Arguments of `vft selftest`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Only this precision: 32-true, bf16-true or, on CUDA, 16-true.
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
    let all = [Precision::F32, Precision::Bf16, Precision::F16];
    let wanted = |p: &Precision| args.precision.is_none_or(|only| only == *p);
    let (mut wrong, mut ran) = (0, 0);
    for precision in all.into_iter().filter(wanted) {
        let (cx, note) = match device::open(args.device, precision, 0) {
            Ok(opened) => opened,
            // A precision that this device does not have is left out, unless it was asked for.
            Err(e) if args.precision.is_some() || ran == 0 => return Err(e),
            Err(_) => continue,
        };
        if let Some(note) = note.filter(|_| ran == 0) {
            report::print_note(format_args!("note: {note}"));
        }
        ran += 1;
        let found = selftest::run(&cx, seed, !args.quick)?;
        let header = format!("{}, {precision}, seed {seed}\n\n", device::describe(&cx));
        report::print_out(&(header + &found.table() + "\n"));
        wrong += found.lines.iter().filter(|l| !l.passes()).count();
    }
    if wrong > 0 {
        let problem = Problem::new(format!("{wrong} checks are outside their limits"));
        let hint = "do not train on this device; report the table with card and driver";
        return Err(UserError::from(problem.hint(hint)).into());
    }
    report::print_out("verdict: this device computes what it should\n");
    Ok(0)
}
