//! What ends a command before its work is done: a signal, `train.max_time`, a notice that the machine is taken away.
//!
//! While there is nothing to save, the process ends at once, wherever it is: in a download, between rows, in the middle of a weight that
//! is quantised. What came of a download stays for the next start, what was half written beside its place is taken away. To ask a flag in
//! each of these phases would be slower to end, and would forget the next one. Once there is something to save, only a flag is set, which
//! steps, evaluations, answers and merges look at. A second signal ends the process at once, in its handler.

use crate::checkpoint::out_dir::Claim;
use crate::report;
use crate::scratch;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag::{register, register_conditional_shutdown};
use signal_hook::iterator::Signals;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Exit code of what ended before it was done, to be started again: BSD's EX_TEMPFAIL.
pub(super) const UNFINISHED: i32 = 75;

/// Exit code after a second signal: the shell's 128 + SIGINT.
pub(super) const KILLED: i32 = 130;

/// Signals within this time are one: some senders signal a process and then its group, and scripts pass on what both got.
const ONE_WISH: Duration = Duration::from_millis(250);

/// Why a command is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// SIGTERM, SIGINT, SIGHUP.
    Signal,
    /// `train.max_time`.
    Time,
    /// The machine is to be taken away.
    Notice(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal => f.write_str("stopped by a signal"),
            Self::Time => f.write_str("train.max_time is over"),
            // `scripts/batch.sh` looks for this word: nothing more is begun on a machine that goes.
            Self::Notice(notice) => write!(f, "preempted ({notice})"),
        }
    }
}

/// What happens when the command is to end.
struct Manner {
    /// Whether the process ends by itself once it has seen the flag.
    saves: bool,
    /// The exit code if it does not.
    code: i32,
    /// The directory that is given back then.
    claim: Option<Claim>,
}

/// The wish to end, of which there is one a process.
pub(super) struct Stop {
    flag: LazyLock<Arc<AtomicBool>>,
    why: OnceLock<Why>,
    /// Whoever ends the process holds it for good: it ends once.
    manner: Mutex<Manner>,
}

static STOP: Stop = Stop {
    flag: LazyLock::new(Arc::default),
    why: OnceLock::new(),
    manner: Mutex::new(Manner { saves: false, code: UNFINISHED, claim: None }),
};

/// Listens to signals from now on; until [`Stop::hold`] they end the process at once.
///
/// # Errors
/// When the system has no more threads or pipes.
pub(super) fn listen() -> Result<&'static Stop> {
    let mut all = vec![SIGTERM, SIGINT];
    if !ignores_hangup() {
        all.push(SIGHUP);
    }
    let at_once = Arc::new(AtomicBool::new(false));
    let listening = || "cannot listen to signals";
    for signal in &all {
        register_conditional_shutdown(*signal, KILLED, at_once.clone()).with_context(listening)?;
        // On a busy machine the thread below may wait for its turn; a step that is short does not wait for it.
        register(*signal, STOP.flag.clone()).with_context(listening)?;
    }
    let mut signals = Signals::new(all).with_context(listening)?;
    let listen = move || {
        for _ in signals.forever() {
            let armed = at_once.clone();
            let arm = move || {
                std::thread::sleep(ONE_WISH);
                armed.store(true, Ordering::SeqCst);
            };
            if std::thread::Builder::new().spawn(arm).is_err() {
                at_once.store(true, Ordering::SeqCst);
            }
            STOP.wish(Why::Signal);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).with_context(listening)?;
    Ok(&STOP)
}

/// A file that would grow beyond what the process may write (`ulimit -f`) is an error of the write, as on a full disk; the signal that comes with
/// it would end the process before it can say so.
pub(super) fn outlive_limits_of_files() {
    // Where the system refuses even this, the signal ends the process as it always did.
    let _ = register(SIGXFSZ, Arc::default());
}

/// Whether the process was started by `nohup`: then it lives on when its terminal goes.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
    mask.is_some_and(|m| m >> (SIGHUP - 1) & 1 == 1)
}

impl Stop {
    /// What long work looks at.
    pub(super) fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// Why the command is to end, once it is.
    pub(super) fn why(&self) -> Option<&Why> {
        // A signal's handler has no words.
        let why = || self.why.get_or_init(|| Why::Signal);
        self.flag.load(Ordering::SeqCst).then(why)
    }

    /// Ends the command; the first reason is the one that is told.
    pub(super) fn wish(&self, why: Why) {
        let why = self.why.get_or_init(|| why);
        self.flag.store(true, Ordering::SeqCst);
        let manner = self.manner();
        if manner.saves {
            return;
        }
        if let Some(claim) = &manner.claim {
            claim.give_up();
        }
        scratch::remove_all();
        report::print_note(format_args!("{why}; there was nothing to save"));
        std::process::exit(manner.code)
    }

    /// Ends the command after so many seconds.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub(super) fn after(&'static self, seconds: f64) -> Result<()> {
        let wait = move || {
            std::thread::sleep(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
            self.wish(Why::Time);
        };
        std::thread::Builder::new().name("max_time".into()).spawn(wait).context("no clock")?;
        Ok(())
    }

    /// The directory that is given back when nothing has come of the run.
    pub(super) fn gives_up(&self, claim: Claim) {
        self.manner().claim = Some(claim);
    }

    /// From now on there is something to save: who looks at the flag ends the work.
    pub(super) fn hold(&self) {
        self.manner().saves = true;
    }

    /// From now on the process ends at once again, with `code`.
    pub(super) fn release(&self, code: i32) {
        *self.manner() = Manner { saves: false, code, claim: None };
    }

    fn manner(&self) -> MutexGuard<'_, Manner> {
        self.manner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command is done: nothing else ends the process any more. Waits for good if something is about to.
pub(super) fn done() {
    std::mem::forget(STOP.manner());
}
