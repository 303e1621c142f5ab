//! The directory of a run: made if needed, writable, and not another run's.

use super::atomic::io_problem;
use crate::error::{Problem, Result};
use std::fs;
use std::path::Path;

/// Creates `dir` and makes sure that a run may write into it.
///
/// # Errors
/// When it cannot be written or holds a run already.
pub fn claim(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| io_problem(dir, &e))?;
    for entry in fs::read_dir(dir).map_err(|e| io_problem(dir, &e))? {
        let name = entry.map_err(|e| io_problem(dir, &e))?.file_name();
        let name = name.to_string_lossy();
        if name == "metrics.jsonl" || name == "final" || name.starts_with("step-") {
            let message = format!("holds a run already (`{name}`)");
            let hint = "choose another `out_dir`, or move this one away; nothing in it was changed";
            return Err(Problem::in_file(dir, message).hint(hint).into());
        }
    }
    tempfile::Builder::new().prefix(".probe").tempfile_in(dir).map_err(|e| io_problem(dir, &e))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_a_run_is_refused() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("metrics.jsonl"), b"").unwrap();
        assert!(claim(home.path()).unwrap_err().to_string().contains("metrics.jsonl"));
    }

    #[test]
    fn a_claim_leaves_an_empty_directory() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/b");
        claim(&dir).unwrap();
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    }
}
