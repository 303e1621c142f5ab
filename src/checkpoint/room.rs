//! Which checkpoints stay: the newest, as many as are asked for; and which give way when the disk is full.

use super::atomic::discard;
use super::disk::Disk;
use super::find;
use super::manifest::Fault;
use crate::error::{Problem, UserError, wants_room};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Removes the oldest checkpoints beyond `most`. That of step `saved`, which has just been written, always stays; those that are known to be
/// `damaged` go first.
pub fn rotate(disk: &dyn Disk, out_dir: &Path, saved: usize, most: usize, damaged: &[PathBuf]) {
    let others = find::steps(out_dir).into_iter().filter(|(step, _)| *step != saved);
    let (bad, good): (Vec<_>, Vec<_>) = others.partition(|(_, dir)| damaged.contains(dir));
    for (_, dir) in good.into_iter().skip(most.max(1) - 1).chain(bad) {
        // What cannot be removed now gives way next time.
        let _ = discard(disk, &dir);
    }
}

/// Does `write`; while the disk is full, a checkpoint of the run in `out_dir` gives way, `tell` is told, and it is tried again.
///
/// # Errors
/// When it fails in another way, or when nothing is left to give way but the last good checkpoint, which stays.
pub fn with_room<T>(
    disk: &dyn Disk,
    out_dir: &Path,
    tell: &dyn Fn(&str),
    mut write: impl FnMut() -> Result<T>,
) -> Result<T> {
    loop {
        let error = match write() {
            Err(e) if wants_room(&e) => e,
            done => return done,
        };
        let Some(gone) = give_way(disk, out_dir) else { return Err(with_way_out(error, out_dir)) };
        tell(&format!("note: the disk is full: {} gave way", gone.display()));
    }
}

/// Removes one checkpoint: a damaged one, else the oldest; never the newest good one.
fn give_way(disk: &dyn Disk, out_dir: &Path) -> Option<PathBuf> {
    let mut last_good = None;
    let (mut good, mut damaged) = (Vec::new(), Vec::new());
    for (_, dir) in find::steps(out_dir) {
        match find::check(&dir) {
            Ok(_) if last_good.is_none() => last_good = Some(dir),
            Ok(_) => good.push(dir),
            Err(Fault::Damaged(_)) => damaged.push(dir),
            Err(Fault::Unknown(_)) => {}
        }
    }
    // One that cannot be removed is not asked again: the next in turn is.
    let mut in_turn = damaged.into_iter().rev().chain(good.into_iter().rev());
    in_turn.find(|dir| discard(disk, dir).is_ok())
}

fn with_way_out(error: anyhow::Error, out_dir: &Path) -> anyhow::Error {
    let hint = if find::newest(out_dir).good.is_some() {
        "free some space, then `--resume auto` goes on from the last checkpoint, which is whole"
    } else {
        "free some space, then `--resume auto` begins anew: there is no checkpoint yet"
    };
    match error.downcast::<UserError>() {
        Ok(UserError { problems }) => {
            let hinted = |p: Problem| if p.hint.is_none() { p.hint(hint) } else { p };
            UserError { problems: problems.into_iter().map(hinted).collect() }.into()
        }
        Err(error) => error,
    }
}
