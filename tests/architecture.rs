//! The house holds: imports point down only, and no file grows beyond one idea.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::path::{Path, PathBuf};

/// In a rule: all that `selftest` may use, and `error`.
const BELOW: &str = "what selftest may use";

/// What each folder may use besides itself.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "cli",
        &["train", "merge", "selftest", "checkpoint", "data", "config", "report", "scratch", BELOW],
    ),
    ("train", &["merge", "checkpoint", "data", "config", "report", BELOW]),
    // Reads adapters, writes whole models and runs them: above checkpoint, and a run may end with it.
    ("merge", &["config", "checkpoint", BELOW]),
    (
        "selftest",
        &[
            "optim",
            "model",
            "adapters",
            "ops",
            "gpu",
            "quant",
            "hub",
            "secret",
            "small_file",
            "hex",
            "terminal",
            "error",
        ],
    ),
    ("checkpoint", &["optim", "adapters", "hub", "small_file", "hex", "error"]),
    ("model", &["optim", "adapters", "ops", "quant", "hub", "error"]),
    ("optim", &["ops", "quant", "gpu", "error"]),
    ("adapters", &["ops", "error"]),
    ("ops", &["quant", "gpu", "error"]),
    ("gpu", &["error"]),
    ("quant", &["error"]),
    ("hub", &["secret", "small_file", "hex", "error"]),
    ("data", &["config", "scratch", "budget", "small_file", "terminal", "error"]),
    ("config", &["secret", "small_file", "error"]),
    ("report", &["secret", "terminal", "error"]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn src() -> (PathBuf, Vec<PathBuf>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    (root, files)
}

fn may_use(allowed: &[&str], name: &str) -> bool {
    let below = || MAY_USE.iter().any(|(f, uses)| *f == "selftest" && uses.contains(&name));
    allowed.contains(&name) || (allowed.contains(&BELOW) && below())
}

#[test]
fn imports_point_down_only() {
    let (root, files) = src();
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let folder =
            relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let Some((_, allowed)) = MAY_USE.iter().find(|(f, _)| *f == folder) else { continue };
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (i, line) in code.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"))
        {
            for used in line.split("crate::").skip(1) {
                let name: String =
                    used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if name != folder && !may_use(allowed, &name) {
                    wrong.push(format!(
                        "src/{}:{}: {folder} uses {name}",
                        relative.display(),
                        i + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_folder_has_its_rule() {
    let (root, files) = src();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap().to_path_buf();
        if relative.components().count() > 1 {
            let folder =
                relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
            assert!(MAY_USE.iter().any(|(f, _)| *f == folder), "{folder} has no rule");
        }
    }
}

#[test]
fn no_file_is_longer_than_500_lines() {
    for file in src().1 {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 500, "{} has {lines} lines", file.display());
    }
}

#[test]
fn nothing_is_started() {
    let starts = [
        "process::Command",
        "Command::new",
        "libc::exec",
        "libc::fork",
        "libc::system",
        "posix_spawn",
    ];
    let mut wrong = Vec::new();
    for file in src().1 {
        let text = std::fs::read_to_string(&file).unwrap();
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"))
        {
            if starts.iter().any(|s| line.contains(s)) {
                wrong.push(format!("{}:{}", file.display(), i + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
