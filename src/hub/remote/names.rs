//! Names from outside: repo ids, revisions, file names, commits, etags. Each becomes part of a path, so each is checked first.
//!
//! Repo ids follow huggingface_hub's `validate_repo_id`, revisions git's rules for refs (`git check-ref-format`).

use crate::error::Problem;
use std::path::Path;

/// Files that run code when they are read: Python, and what is or may be a pickle.
const CODE: &[&str] = &[
    "py", "pyc", "pyd", "so", "dll", "sh", "ipynb", "pkl", "pickle", "pt", "pth", "ckpt", "bin",
    "joblib", "dill", "npy", "npz", "h5", "keras",
];

/// Whether `text` names a repo of the Hub: `org/name` or `name`, and nothing that lies on this disk.
pub fn is_repo_id(text: &str) -> bool {
    repo_fault(text).is_none() && !Path::new(text).exists()
}

fn repo_fault(text: &str) -> Option<&'static str> {
    let part = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if text.matches('/').count() > 1 {
        Some("has more than one `/`")
    } else if text.len() > 96 {
        Some("is longer than 96 characters")
    } else if !text.split('/').all(part) {
        Some("is not `org/name` of letters, digits and `-_.`")
    } else if text.contains("--") || text.contains("..") || text.ends_with(".git") {
        Some("holds `--` or `..` or ends with `.git`")
    } else {
        None
    }
}

/// Refuses what is no repo id.
pub(super) fn check_repo(text: &str) -> Result<(), Problem> {
    match repo_fault(text) {
        None => Ok(()),
        Some(why) => Err(Problem::new(format!("`{}` is no repo id: it {why}", shown(text)))
            .hint("a repo id reads `org/name`, such as `HuggingFaceTB/SmolLM2-135M`")),
    }
}

/// Refuses what is no branch, tag or commit; what passes needs no encoding in an address but of `/`.
pub(super) fn check_revision(text: &str) -> Result<(), Problem> {
    let part = |p: &str| {
        !p.is_empty() && !p.starts_with('.') && !p.ends_with('.') && !p.ends_with(".lock")
    };
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/+@=".contains(c));
    if text.len() <= 255 && plain && !text.contains("..") && text.split('/').all(part) {
        return Ok(());
    }
    Err(Problem::new(format!("`{}` is no revision", shown(text)))
        .hint("a revision is a branch, a tag or a commit, such as `main`"))
}

/// Whether `text` is the whole name of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether `text` is the SHA-256 of a file, as the etags of large files are.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The name of a blob: an etag without `W/` and quotes, if it is a plain name.
pub(super) fn blob_name(etag: &str) -> Option<String> {
    let name = etag.trim_start_matches("W/").trim_matches('"');
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    (plain && !name.is_empty() && name.len() <= 128 && !name.starts_with('.'))
        .then(|| name.to_owned())
}

/// Why the file name `name` of a repo may not become a path below a directory.
pub(super) fn file_fault(name: &str) -> Option<&'static str> {
    if name.contains('\\') {
        Some("holds a backslash")
    } else if name.chars().any(char::is_control) {
        Some("holds a control character")
    } else if name.starts_with('/') || name.as_bytes().get(1) == Some(&b':') {
        Some("is absolute")
    } else if name.len() > 1024 || name.split('/').any(|part| part.len() > 255) {
        Some("is too long")
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("has an empty, `.` or `..` part")
    } else {
        None
    }
}

/// Refuses a file name that may not become a path.
pub(super) fn check_file(name: &str) -> Result<(), Problem> {
    match file_fault(name) {
        None => Ok(()),
        Some(why) => Err(Problem::new(format!("the file name `{}` {why}", shown(name)))
            .hint("such a name is no file of a repo: nothing of it is downloaded")),
    }
}

/// Refuses files that are or may hold code.
pub(super) fn check_harmless(name: &str) -> Result<(), Problem> {
    let file = name.rsplit('/').next().unwrap_or(name);
    let packed = |e: &&str| !matches!(*e, "gz" | "zst" | "xz" | "bz2" | "zip" | "lz4");
    let lower = file.to_ascii_lowercase();
    let extension = lower.split('.').skip(1).filter(packed).last();
    if !extension.is_some_and(|e| CODE.contains(&e)) {
        return Ok(());
    }
    Err(Problem::new(format!("`{}` is or may hold code and is not downloaded", shown(name)))
        .hint("rows are read from .json, .jsonl, .csv and .parquet, weights from .safetensors"))
}

/// A name from outside for a message: escaped, and cut where it is long.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(120).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    let clean: String = short
        .chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect();
    format!("{clean}{dots}")
}

/// A file name as the path of an address (RFC 3986: all but unreserved characters and `/` are encoded).
pub(super) fn encoded(name: &str) -> String {
    let byte = |b: u8| {
        if b.is_ascii_alphanumeric() || b"-_.~/".contains(&b) {
            char::from(b).to_string()
        } else {
            format!("%{b:02X}")
        }
    };
    name.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repo_ids_are_told_from_paths() {
        for id in ["gpt2", "HuggingFaceTB/SmolLM2-135M", "a/b.c_d", "mistralai/Mistral-7B-v0.1"] {
            assert!(is_repo_id(id), "{id}");
        }
        for path in [
            "",
            "./model",
            "../model",
            "~/model",
            "/model",
            "a/b/c",
            "a/",
            "/b",
            "a//b",
            ".hidden",
            "a/.b",
            "a\\b",
            "C:model",
            "a--b/c",
            "a..b",
            "x/y.git",
            "-a/b",
            "a/b-",
            "org/naïve",
            "src",
            "src/hub",
        ] {
            assert!(!is_repo_id(path), "{path}");
        }
    }

    #[test]
    fn revisions_are_refs() {
        for ok in
            ["main", "v1.0", "refs/pr/1", "0123456789abcdef0123456789abcdef01234567", "feature/x+y"]
        {
            assert_eq!(check_revision(ok), Ok(()), "{ok}");
        }
        for bad in [
            "", "..", "a/../b", "/main", "main/", "a//b", ".x", "a b", "a\0", "a\\b", "x.lock",
            "ma%2fin", "a?b",
        ] {
            assert!(check_revision(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn etags_are_plain_names() {
        assert_eq!(blob_name("\"abc123\"").as_deref(), Some("abc123"));
        assert_eq!(blob_name("W/\"abc-1\"").as_deref(), Some("abc-1"));
        for bad in ["", "\"\"", "\"../x\"", "\"a/b\"", "\".x\"", "\"a b\""] {
            assert_eq!(blob_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(encoded("a b/ü?#%.json"), "a%20b/%C3%BC%3F%23%25.json");
    }

    #[test]
    fn code_is_recognised_behind_any_case_and_compression() {
        for bad in ["a.py", "x/Y.PY", "data.pkl", "data.pkl.gz", "pytorch_model.bin", "model.pt"] {
            assert!(check_harmless(bad).is_err(), "{bad}");
        }
        for good in ["train.jsonl", "a/b.parquet", "py/train.json", "model.safetensors"] {
            assert_eq!(check_harmless(good), Ok(()), "{good}");
        }
    }
}
