//! A run that is watched line by line, and what comes of it.

use crate::checkpoint::{Kept, kept};
use crate::left::records;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often is looked.
const LOOK: Duration = Duration::from_micros(200);

/// A process whose standard error is read as it comes. It is a file, not a pipe: what the process has said is there at once.
pub(crate) struct Watched {
    child: Child,
    told: File,
    /// What was read of the last line.
    rest: Vec<u8>,
    bytes: u64,
    /// The lines, and when they were read.
    seen: Vec<(Instant, String)>,
    /// Lines that were passed on the way to those that were waited for.
    passed: usize,
}

/// The binary, with a home of its own: cache, downloads, marks of the phases on standard error.
pub(crate) fn vft(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vft"));
    command
        .current_dir(ROOT)
        .env("VFT_LOG", "vft=debug")
        .env("VFT_CACHE", home.join("cache"))
        .env("HF_HOME", home.join("hf"))
        .env_remove("HF_TOKEN")
        .env_remove("VFT_METADATA_URL");
    command
}

impl Watched {
    pub(crate) fn start(mut command: Command) -> Self {
        let told = tempfile::tempfile().unwrap();
        command.stdout(Stdio::null()).stderr(told.try_clone().unwrap());
        let child = command.spawn().unwrap();
        Self { child, told, rest: Vec::new(), bytes: 0, seen: Vec::new(), passed: 0 }
    }

    /// Reads what the process has said.
    fn read(&mut self) {
        let mut part = [0; 1 << 16];
        loop {
            let count = self.told.read_at(&mut part, self.bytes).unwrap();
            let (now, part) = (Instant::now(), &part[..count]);
            self.bytes += count as u64;
            self.rest.extend(part);
            while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                self.seen.push((now, String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if count == 0 {
                return;
            }
        }
    }

    /// Reads on until a line holds `text`: when that was, or `None` if the process ended without it.
    pub(crate) fn until(&mut self, text: &str) -> Option<Instant> {
        let began = Instant::now();
        loop {
            // What is said before the end is there after it.
            let ended = !self.is_running();
            self.read();
            while let Some((when, line)) = self.seen.get(self.passed) {
                self.passed += 1;
                if line.contains(text) {
                    return Some(*when);
                }
            }
            if ended {
                return None;
            }
            assert!(began.elapsed() < PATIENCE, "waited for `{text}`:\n{}", self.text());
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until `path` is there: when that was.
    pub(crate) fn until_there(&mut self, path: &Path) -> Instant {
        while !path.exists() {
            assert!(self.is_running(), "{} never came", path.display());
            std::thread::sleep(LOOK);
        }
        Instant::now()
    }

    /// Sends a signal: the moment before.
    pub(crate) fn signal(&self, signal: Signal) -> Instant {
        let before = Instant::now();
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        before
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Reads to the end: the exit code, if it was no signal that ended it.
    pub(crate) fn end(&mut self) -> Option<i32> {
        while self.until("\0").is_some() {}
        self.child.wait().unwrap().code()
    }

    /// Whether a line that was said by now, whole or not, holds `text`.
    pub(crate) fn has(&mut self, text: &str) -> bool {
        self.read();
        self.lines().any(|line| line.contains(text))
            || String::from_utf8_lossy(&self.rest).contains(text)
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.seen.iter().map(|(_, line)| line.as_str())
    }

    pub(crate) fn text(&self) -> String {
        self.lines().map(|line| format!("{line}\n")).collect()
    }
}

/// What a run leaves: the bytes of its adapter and of its merged model, its records without the times in them, its checkpoints.
#[derive(Debug, PartialEq)]
pub(crate) struct Left {
    adapter: Vec<u8>,
    merged: Option<Vec<u8>>,
    records: Vec<serde_json::Value>,
    kept: Vec<Kept>,
}

/// With the checkpoints `names`; a run that was interrupted has others besides.
pub(crate) fn left(out: &Path, names: &[String]) -> Left {
    let (adapter, mut all) = crate::left::left(out);
    let samples = std::fs::read_to_string(out.join("samples.jsonl")).unwrap_or_default();
    all.extend(records(&samples));
    let merged = std::fs::read(out.join("merged/model.safetensors")).ok();
    let kept = names.iter().map(|name| kept(&out.join(name))).collect();
    Left { adapter, merged, records: all, kept }
}

/// The names of a run's checkpoints, the finished adapter among them.
pub(crate) fn checkpoints(out: &Path) -> Vec<String> {
    let is_one = |name: &String| name == "final" || name.starts_with("step-");
    let mut names: Vec<String> = names(out).filter(is_one).collect();
    names.sort();
    names
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned())
}

/// Names in a directory that begin with a dot: what is not whole.
pub(crate) fn hidden(dir: &Path) -> Vec<String> {
    names(dir).filter(|name| name.starts_with('.')).collect()
}
