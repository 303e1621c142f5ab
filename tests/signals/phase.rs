//! A phase of a run, and signals until so many came within it.
//!
//! A signal came within the phase if the mark that ends it was not there yet when the signal had been sent. Only those are counted; what comes
//! of the others must be in order too.

use crate::checkpoint::{first_step, newest, taken_up};
use crate::common::{Left, Watched, checkpoints, hidden, left, vft};
use crate::dice::Dice;
use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, Instant};
use vft::checkpoint::find;

/// A run and the part of it that is meant.
pub(crate) struct Phase<'a> {
    pub(crate) name: &'a str,
    /// The line on standard error with which the phase begins.
    pub(crate) begins: &'a str,
    pub(crate) ends: End<'a>,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(&'a str, String)>,
}

/// What is there as soon as a phase is over.
#[derive(Clone, Copy)]
pub(crate) enum End<'a> {
    /// A line on standard error, with work left after it.
    Line(&'a str),
    /// A checkpoint under its name, with work left after it.
    Name(&'a str),
    /// The merged model under its name. Nothing comes after it: a signal that comes when the weights are written finds nothing left to stop.
    Merged,
}

/// What came of a signal.
pub(crate) struct Sent {
    pub(crate) within: bool,
    /// The exit code, and whether it may be 0.
    pub(crate) code: Option<i32>,
    pub(crate) may_be_done: bool,
    /// From the signal to the end of the process.
    pub(crate) took: Duration,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|v| v.parse().ok())
}

/// Sends signals at random moments of a phase of some length until so many as asked for came within it; each of those ends the process with
/// 75, or with 0 where that is said to be right.
pub(crate) fn signals(
    name: &str,
    length: Duration,
    mut send: impl FnMut(Duration, Signal) -> Sent,
) {
    let wanted = number("VFT_SIGNALS").unwrap_or(2);
    let mut dice = Dice(number("VFT_SIGNAL_SEED").unwrap_or(7));
    let (mut all, mut within, mut done, mut slowest) = (0, 0, 0, Duration::ZERO);
    // What was measured on a machine that was busier then is too long.
    let mut reach = length;
    while within < wanted {
        assert!(
            all < 10 * wanted + 20,
            "{name}: of {all} signals only {within} came within the phase, which takes {} ms",
            length.as_millis()
        );
        let share = dice.below(1 << 31) as f64 / f64::from(1u32 << 31);
        let signal = if all % 2 == 0 { Signal::TERM } else { Signal::INT };
        let sent = send(reach.mul_f64(share), signal);
        all += 1;
        let what = format!("{name}, {signal:?} at {share:.3}");
        if !sent.within {
            assert!(matches!(sent.code, Some(75 | 0)), "{what}, too late: {:?}", sent.code);
            reach = reach.mul_f64(0.9);
            continue;
        }
        reach = length.min(reach.mul_f64(1.1));
        if !(sent.may_be_done && sent.code == Some(0)) {
            assert_eq!(sent.code, Some(75), "{what}");
        }
        within += 1;
        done += u64::from(sent.code == Some(0));
        slowest = slowest.max(sent.took);
    }
    println!(
        "| {name} | {} | {all} | {within} | {} | {done} | {} |",
        length.as_millis(),
        within - done,
        slowest.as_millis()
    );
}

/// The last step in a run's records.
pub(crate) fn last_step(out: &Path) -> Option<u64> {
    let records = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
    let last = records.lines().rfind(|line| line.contains("grad_norm") && line.ends_with('}'))?;
    serde_json::from_str::<serde_json::Value>(last).unwrap()["step"].as_u64()
}

/// Whether the weights of the merged model `name` in `dir` are all but written by the process `pid`: nine tenths of `bytes`, as the signal is
/// seen a little later than it is sent.
pub(crate) fn is_all_written(dir: &Path, name: &str, pid: u32, bytes: u64) -> bool {
    let weights = dir.join(format!(".{name}.tmp-{pid}/model.safetensors"));
    let written = weights.metadata().map_or(0, |m| m.len());
    dir.join(name).exists() || written >= bytes / 10 * 9
}

/// The run that nobody disturbs.
struct Whole {
    left: Left,
    /// The names of its checkpoints.
    names: Vec<String>,
    merged: u64,
    /// How long the phase takes.
    length: Duration,
}

impl Phase<'_> {
    pub(crate) fn start(&self, home: &Path, resume: &str) -> Watched {
        let mut command = vft(home);
        command.arg("finetune").args(&self.args).args(["--resume", resume]);
        command.args(["--out_dir", &home.join("out").to_string_lossy()]);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        Watched::start(command)
    }

    fn whole(&self) -> Whole {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let mut run = self.start(home.path(), "false");
        let from = run.until(self.begins).unwrap();
        let to = match self.ends {
            End::Line(text) => run.until(text).unwrap(),
            End::Name(name) => run.until_there(&out.join(name)),
            End::Merged => run.until_there(&out.join("merged")),
        };
        assert_eq!(run.end(), Some(0), "{}", run.text());
        let names = checkpoints(&out);
        let merged = out.join("merged/model.safetensors").metadata().map_or(0, |m| m.len());
        Whole { left: left(&out, &names), names, merged, length: to - from }
    }

    /// Sends signals; each time the run is taken up and becomes the one that nobody disturbs.
    pub(crate) fn disturb(&self) {
        let whole = self.whole();
        signals(self.name, whole.length, |after, signal| self.attempt(&whole, after, signal));
    }

    fn attempt(&self, whole: &Whole, after: Duration, signal: Signal) -> Sent {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("out");
        let mut run = self.start(home.path(), "false");
        run.until(self.begins).unwrap();
        std::thread::sleep(after);
        let before = if run.is_running() { run.signal(signal) } else { Instant::now() };
        let over = match self.ends {
            End::Line(text) => run.has(text),
            End::Name(name) => out.join(name).exists(),
            End::Merged => out.join("merged").exists(),
        };
        let merging = matches!(self.ends, End::Merged);
        let may_be_done = merging && is_all_written(&out, "merged", run.pid(), whole.merged);
        let code = run.end();
        let took = before.elapsed();
        let what = format!("{}, {signal:?}, over: {over}, {code:?}:\n{}", self.name, run.text());
        self.is_in_order(home.path(), code, &what);
        self.take_up(home.path(), code, &what);
        assert!(left(&out, &whole.names) == whole.left, "another run came of {what}");
        Sent { within: !over, code, may_be_done, took }
    }

    /// Nothing is half written, and all that was trained is on the disk: the newest checkpoint is of the last step in the records. Where the
    /// process says that it is done, it is.
    fn is_in_order(&self, home: &Path, code: Option<i32>, what: &str) {
        let out = home.join("out");
        assert_eq!(hidden(&home.join("cache/data")), [""; 0], "{what}");
        assert!(hidden(&out).iter().all(|name| name == ".vft.lock"), "{:?} {what}", hidden(&out));
        assert_eq!(hidden(&out.join("final")), [""; 0], "{what}");
        let found = find::newest(&out);
        assert!(found.damaged.is_empty(), "{:?} {what}", found.damaged);
        assert_eq!(found.good.map(|(_, state)| state.step as u64), last_step(&out), "{what}");
        if code == Some(0) {
            assert!(out.join("final/README.md").is_file(), "{what}");
            let merges = self.args.iter().any(|a| a == "--save_merged");
            assert_eq!(out.join("merged").is_dir(), merges, "{what}");
        }
    }

    /// The next start goes on after the newest checkpoint; it begins anew only where there is none, and does nothing where the run is done.
    fn take_up(&self, home: &Path, code: Option<i32>, what: &str) {
        let out = home.join("out");
        let (before, trained) = (newest(&out), out.join("final").is_dir());
        let mut again = self.start(home, "auto");
        assert_eq!(again.end(), Some(0), "{what}\nthen\n{}", again.text());
        let told = again.text();
        assert_eq!(told.contains("the run is finished"), code == Some(0), "{what}\nthen\n{told}");
        let expected = before.filter(|_| code != Some(0));
        assert_eq!(taken_up(&told), expected, "{what}\nthen\n{told}");
        let next = Some(before.unwrap_or(0) + 1).filter(|_| !trained);
        assert_eq!(first_step(&told), next, "{what}\nthen\n{told}");
    }
}
