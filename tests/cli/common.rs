//! The real binary with a home of its own.
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");

pub(crate) fn vft(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vft"));
    // What is not here is not asked for elsewhere.
    command.args(args).current_dir(ROOT).env("HF_HUB_OFFLINE", "1").output().unwrap()
}

/// A command that is ended after a minute, with exit code 124.
pub(crate) fn vft_in_time(args: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_vft")]).args(args).current_dir(ROOT);
    command.env("HF_HUB_OFFLINE", "1").output().unwrap()
}

pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), text).unwrap();
        self.text(name)
    }

    /// A pipe without a writer in the place of a file.
    pub(crate) fn pipe(&self, name: &str) {
        let path = self.path(name);
        let _ = std::fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    }

    /// A copy of the bundled model, to be damaged.
    pub(crate) fn model(&self) -> PathBuf {
        let to = self.path("model");
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(Path::new(ROOT).join("configs/smoke/model")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        to
    }

    /// The smoke run into this home, with more arguments.
    pub(crate) fn smoke(&self, more: &[&str]) -> Output {
        let out = self.text("out");
        let mut args = vec!["finetune", "--config", "configs/smoke.yml", "--out_dir", &out];
        args.extend(more);
        vft(&args)
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit code 2 and every given part in the error text.
pub(crate) fn assert_refused(output: &Output, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

pub(crate) fn edit(home: &Home, file: &str, from: &str, to: &str) {
    let path = home.model().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} does not hold {from}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
}
