//! The directory of a run: made if needed, writable, and not another run's.

use super::atomic::io_problem;
use crate::error::{Problem, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A claimed directory.
#[derive(Debug, Clone)]
pub struct Claim {
    dir: PathBuf,
    made: bool,
}

impl Claim {
    /// Takes the directory away again if the claim made it and nothing was written.
    pub fn give_up(&self) {
        if self.made {
            // A directory that is not empty stays.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

/// Creates `dir` and makes sure that a run may write into it; it must be none of `inputs`.
///
/// # Errors
/// When it cannot be written, holds a run already, or is read by the run.
pub fn claim(dir: &Path, inputs: &[&Path]) -> Result<Claim> {
    let made = !dir.exists();
    fs::create_dir_all(dir).map_err(|e| io_problem(dir, &e))?;
    let claim = Claim { dir: dir.to_path_buf(), made };
    check(dir, inputs).inspect_err(|_| claim.give_up())?;
    Ok(claim)
}

fn check(dir: &Path, inputs: &[&Path]) -> Result<()> {
    let real = dir.canonicalize().ok();
    if inputs.iter().any(|i| i.canonicalize().ok() == real) {
        let message = "`out_dir` is the directory that the run reads its model or adapter from";
        return Err(Problem::in_file(dir, message).hint("choose another `out_dir`").into());
    }
    for entry in fs::read_dir(dir).map_err(|e| io_problem(dir, &e))? {
        let name = entry.map_err(|e| io_problem(dir, &e))?.file_name();
        let name = name.to_string_lossy();
        if name == "metrics.jsonl" || name == "final" || name.starts_with("step-") {
            return Err(taken(dir, &name).into());
        }
    }
    tempfile::Builder::new().prefix(".probe").tempfile_in(dir).map_err(|e| io_problem(dir, &e))?;
    Ok(())
}

/// The problem of a directory that holds the file `name` of a run.
fn taken(dir: &Path, name: &str) -> Problem {
    let hint = "choose another `out_dir`, or move this one away; nothing in it was changed";
    Problem::in_file(dir, format!("holds a run already (`{name}`)")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_a_run_is_refused() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("metrics.jsonl"), b"").unwrap();
        assert!(claim(home.path(), &[]).unwrap_err().to_string().contains("metrics.jsonl"));
    }

    #[test]
    fn a_claim_leaves_an_empty_directory() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/b");
        claim(&dir, &[]).unwrap();
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    }

    #[test]
    fn a_claim_given_up_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a");
        claim(&dir, &[]).unwrap().give_up();
        assert!(!dir.exists());
    }

    #[test]
    fn a_directory_that_was_there_is_kept() {
        let home = tempfile::tempdir().unwrap();
        claim(home.path(), &[]).unwrap().give_up();
        assert!(home.path().exists());
    }

    #[test]
    fn the_model_itself_is_no_out_dir() {
        let home = tempfile::tempdir().unwrap();
        let error = claim(home.path(), &[&home.path().join(".")]).unwrap_err().to_string();
        assert!(error.contains("choose another `out_dir`"), "{error}");
    }
}
