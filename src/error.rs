//! The one error type that a user is meant to mend: what is wrong, where, and the way out.
//!
//! Rendered as `error: FILE:LINE:COLUMN: MESSAGE` and, on lines of their own, `hint: …`. Messages are lower case, without a
//! full stop, with backticks round values. Several problems of one file are reported together.
//!
//! Tensor code uses [`candle_core::Result`]; the binary joins both under [`anyhow`].

use crate::terminal::indented;
use std::fmt;
use std::path::{Path, PathBuf};

/// A result whose error is for the user to mend.
pub type Result<T, E = UserError> = std::result::Result<T, E>;

/// Where in a file a problem lies. Lines and columns count from 1; 0 means unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as the user named it.
    pub path: PathBuf,
    /// Line from 1, or 0 when the problem concerns the whole file.
    pub line: usize,
    /// Column from 1 in characters, or 0 when the problem concerns the whole line.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if self.column > 0 {
                write!(f, ":{}", self.column)?;
            }
        }
        Ok(())
    }
}

/// One problem: a message, the place it was found at, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place, when the problem lies in a file.
    pub place: Option<Place>,
    /// What is wrong, lower case, no full stop.
    pub message: String,
    /// The way out, when there is one to name.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a place.
    pub fn new(message: impl Into<String>) -> Self {
        Self { place: None, message: message.into(), hint: None }
    }

    /// A problem that concerns a whole file.
    pub fn in_file(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::at(path, 0, 0, message)
    }

    /// A problem at a line and column (both from 1, 0 for unknown).
    pub fn at(
        path: impl AsRef<Path>,
        line: usize,
        column: usize,
        message: impl Into<String>,
    ) -> Self {
        let place = Place { path: path.as_ref().to_path_buf(), line, column };
        Self { place: Some(place), message: message.into(), hint: None }
    }

    /// The same problem in a file, where it has no place yet.
    #[must_use]
    pub fn found_in(mut self, path: impl AsRef<Path>) -> Self {
        self.place.get_or_insert_with(|| Place {
            path: path.as_ref().to_path_buf(),
            line: 0,
            column: 0,
        });
        self
    }

    /// The same problem with a way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What it quotes may have lines that look like the next problem, or like its hint.
        if let Some(place) = &self.place {
            write!(f, "{}: ", indented(&place.to_string()))?;
        }
        write!(f, "{}", indented(&self.message))?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {}", indented(hint))?;
        }
        Ok(())
    }
}

/// One or more problems that the user can mend: exit code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserError {
    /// Every problem found, in the order of the file.
    pub problems: Vec<Problem>,
}

impl UserError {
    /// All problems of a check together, or nothing when there are none.
    ///
    /// # Errors
    /// When `problems` is not empty.
    pub fn check(problems: Vec<Problem>) -> Result<()> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }
}

impl UserError {
    /// The same problems, those without a place in the file `path`.
    #[must_use]
    pub fn found_in(self, path: impl AsRef<Path>) -> Self {
        let problems = self.problems.into_iter().map(|p| p.found_in(&path)).collect();
        Self { problems }
    }
}

impl From<Problem> for UserError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\nerror: ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for UserError {}

/// A problem keeps only the system's words, and its number: ENOSPC, EDQUOT, EFBIG.
const FULL: [&str; 3] =
    ["No space left on device", "Disk quota exceeded", "File too large (os error 27)"];

/// Whether more room on the disk would help: it is full, or a quota is. A limit of one file's length is another matter.
pub fn wants_room(error: &anyhow::Error) -> bool {
    is_disk_full(error) && {
        let mut causes = error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>());
        !causes.any(|e| e.kind() == std::io::ErrorKind::FileTooLarge)
            && !format!("{error:#}").contains(FULL[2])
    }
}

/// Whether an error comes from a disk, a quota or a limit of files (`ulimit -f`) without room.
pub fn is_disk_full(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let mut causes = error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>());
    let text = format!("{error:#}");
    causes.any(|e| match e.kind() {
        StorageFull | QuotaExceeded => true,
        // A file that is too long to be read has this kind too, and no number.
        FileTooLarge => e.raw_os_error().is_some(),
        _ => false,
    }) || FULL.iter().any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_full_disk_a_spent_quota_and_a_limit_are_known_by_their_words() {
        for code in [28, 122, 27] {
            let problem = Problem::new(io::Error::from_raw_os_error(code).to_string());
            assert!(is_disk_full(&UserError::from(problem).into()), "{code}");
        }
    }

    #[test]
    fn a_quoted_line_is_not_taken_for_a_problem_or_a_hint() {
        let problem = Problem::in_file("a\nb", "x\nerror: y\n  hint: z").hint("h");
        let shown = "a\n    b: x\n    error: y\n      hint: z\n  hint: h";
        assert_eq!(UserError::from(problem).to_string(), shown);
    }

    #[test]
    fn a_full_disk_is_known_by_its_kind() {
        assert!(is_disk_full(&io::Error::from(io::ErrorKind::QuotaExceeded).into()));
    }

    #[test]
    fn a_limit_of_files_is_a_full_disk_and_a_long_file_is_none() {
        assert!(is_disk_full(&io::Error::from_raw_os_error(27).into()));
        assert!(!is_disk_full(&io::Error::new(io::ErrorKind::FileTooLarge, "long").into()));
    }

    #[test]
    fn a_disk_that_cannot_be_written_is_not_full() {
        assert!(!is_disk_full(&io::Error::from_raw_os_error(30).into()));
    }
}
