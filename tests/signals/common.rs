//! A run that is watched line by line, and what comes of it.

use crate::left::records;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// A process whose standard error is read as it comes.
pub(crate) struct Watched {
    child: Child,
    lines: Receiver<(Instant, String)>,
    /// What was read, and when.
    pub(crate) seen: Vec<(Instant, String)>,
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
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in errors.lines() {
                // Who no longer listens has seen enough.
                let _ = send.send((Instant::now(), line.unwrap()));
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// Reads on until a line holds `text`: when that was, or `None` if the process ended without it.
    pub(crate) fn until(&mut self, text: &str) -> Option<Instant> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok((when, line)) => {
                    let found = line.contains(text).then_some(when);
                    self.seen.push((when, line));
                    if found.is_some() {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("waited for `{text}`:\n{}", self.text()),
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Reads to the end: the exit code, if it was no signal that ended it.
    pub(crate) fn end(&mut self) -> Option<i32> {
        while self.until("\0").is_some() {}
        self.child.wait().unwrap().code()
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.seen.iter().any(|(_, line)| line.contains(text))
    }

    /// Whether a line came before a moment.
    pub(crate) fn had(&self, text: &str, moment: Instant) -> bool {
        self.seen.iter().any(|(when, line)| *when < moment && line.contains(text))
    }

    pub(crate) fn text(&self) -> String {
        self.seen.iter().map(|(_, line)| format!("{line}\n")).collect()
    }
}

/// What a run leaves: the bytes of its adapter and of its merged model, and its records without the times in them.
#[derive(Debug, PartialEq)]
pub(crate) struct Left {
    adapter: Vec<u8>,
    merged: Option<Vec<u8>>,
    records: Vec<serde_json::Value>,
}

pub(crate) fn left(out: &Path) -> Left {
    let (adapter, mut all) = crate::left::left(out);
    let samples = std::fs::read_to_string(out.join("samples.jsonl")).unwrap_or_default();
    all.extend(records(&samples));
    let merged = std::fs::read(out.join("merged/model.safetensors")).ok();
    Left { adapter, merged, records: all }
}

/// Names in a directory that begin with a dot: what is not whole.
pub(crate) fn hidden(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with('.')).collect()
}
