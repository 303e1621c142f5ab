//! SHA-256 of the files that a run read, computed while it trains and remembered.
//!
//! Shards of 16 GiB take ten seconds to hash. So one thread of the lowest priority does it beside the training, when the files have just been read and lie in
//! memory; and what a file was hashed to is kept in vft's cache under its place, size, inode and times of change. The time of the
//! inode's last change (`ctime`) is among them, which no program can set: a file that was written to is hashed again even if its size and date were put
//! back. That the Hub's cache names large files by their SHA-256 is not taken for an answer: it says what was announced once, not
//! what lies on the disk today; where the two differ, [`misnamed`] tells.

use crate::checkpoint::run_manifest::FileSum;
use crate::data::store::cache;
use crate::error::{Problem, Result};
use crate::hex::hex;
use crate::small_file;
use sha2::{Digest, Sha256};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Smaller files are hashed in the time that it takes to look them up.
const SMALL: u64 = 16 << 20;
/// Time between looks at whether the work is done or unwanted.
const GLANCE: Duration = Duration::from_millis(5);
/// A file may be written to within the tick of its clock: what changed this many seconds ago is not remembered.
const FRESH: i64 = 2;

/// Files that are being hashed.
pub struct Sums {
    thread: Option<JoinHandle<Result<Vec<FileSum>>>>,
    stop: Arc<AtomicBool>,
}

impl Sums {
    /// Begins to hash files, in a thread that gives way to all others.
    pub fn start(paths: Vec<PathBuf>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let work = move || {
            #[cfg(target_os = "linux")]
            {
                // On Linux a priority is a thread's own. Without it the work is done all the same.
                let _ = rustix::process::setpriority_process(None, 19);
            }
            paths.iter().map(|path| sum(path, &seen)).collect()
        };
        let thread = std::thread::Builder::new().name("sums".into()).spawn(work).ok();
        Self { thread, stop }
    }

    /// Whether [`Self::finish`] would wait.
    pub fn is_busy(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Waits for the sums, in the order of the files.
    ///
    /// # Errors
    /// When a file cannot be read, or `stop` came first.
    pub fn finish(mut self, stop: &AtomicBool) -> Result<Vec<FileSum>> {
        let lost = || Problem::new("the files that were read cannot be hashed");
        let thread = self.thread.take().ok_or_else(lost)?;
        while !thread.is_finished() {
            if stop.load(Ordering::Relaxed) {
                self.stop.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(GLANCE);
        }
        thread.join().map_err(|_| lost())?
    }
}

impl Drop for Sums {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The sum of a file, remembered or computed; `stop` ends the computation.
///
/// # Errors
/// When the file cannot be read.
pub fn sum(path: &Path, stop: &AtomicBool) -> Result<FileSum> {
    let failed = |e: io::Error| Problem::in_file(path, format!("cannot be read: {e}"));
    small_file::expect_regular(path).map_err(failed)?;
    let mut file = File::open(path).map_err(failed)?;
    let before = file.metadata().map_err(failed)?;
    let place = Some(&before).filter(|m| m.len() >= SMALL).and_then(|m| place(path, m));
    let known = place.as_ref().and_then(|p| fs::read_to_string(p).ok());
    if let Some(sha256) = known.filter(|s| s.len() == 64) {
        return Ok(FileSum { path: path.into(), bytes: before.len(), sha256 });
    }
    let (sha256, bytes) = hash(&mut file, stop).map_err(failed)?;
    let after = file.metadata().map_err(failed)?;
    if let Some(place) = place
        && bytes == before.len()
        && is_settled(&before, &after)
    {
        // Who cannot remember computes again.
        let _ = remember(&place, &sha256);
    }
    Ok(FileSum { path: path.into(), bytes, sha256 })
}

fn hash(file: &mut File, stop: &AtomicBool) -> io::Result<(String, u64)> {
    let (mut hash, mut bytes, mut block) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(ErrorKind::Interrupted.into());
        }
        match file.read(&mut block) {
            Ok(0) => return Ok((hex(&hash.finalize()), bytes)),
            Ok(n) => {
                hash.update(&block[..n]);
                bytes += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Where the sum of a file in this state is kept.
#[cfg(unix)]
fn place(path: &Path, m: &Metadata) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let mut name = blake3::Hasher::new();
    name.update(path.canonicalize().ok()?.as_os_str().as_encoded_bytes());
    for number in [m.dev(), m.ino(), m.len()] {
        name.update(&number.to_le_bytes());
    }
    for number in [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()] {
        name.update(&number.to_le_bytes());
    }
    Some(cache::root()?.join("sha256").join(name.finalize().to_hex().as_str()))
}

#[cfg(not(unix))]
fn place(_: &Path, _: &Metadata) -> Option<PathBuf> {
    None
}

/// Whether a file did not change while it was read, nor shortly before.
#[cfg(unix)]
fn is_settled(before: &Metadata, after: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let state = |m: &Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |t| t.as_secs() as i64);
    state(before) == state(after) && before.ctime() + FRESH < now
}

#[cfg(not(unix))]
fn is_settled(_: &Metadata, _: &Metadata) -> bool {
    false
}

fn remember(place: &Path, sha256: &str) -> io::Result<()> {
    let dir = place.parent().ok_or(ErrorKind::NotFound)?;
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(sha256.as_bytes())?;
    file.persist(place)?;
    Ok(())
}

/// What the Hub's cache names by another SHA-256 than it has: a download that is damaged or was written to.
pub fn misnamed(sum: &FileSum) -> Option<String> {
    let real = sum.path.canonicalize().ok()?;
    let name = real.file_name()?.to_str()?;
    let is_sum = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let in_blobs = real.parent().is_some_and(|p| p.ends_with("blobs"));
    (is_sum && in_blobs && name != sum.sha256).then(|| {
        format!(
            "{}: its SHA-256 is {}, the Hub's was {name}: remove {} to have it downloaded again",
            sum.path.display(),
            sum.sha256,
            real.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    #[test]
    fn the_sum_is_that_of_sha256sum() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        fs::write(&path, b"abc").unwrap();
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let found = sum(&path, &GO).unwrap();
        assert_eq!((found.bytes, found.sha256.as_str()), (3, want));
    }

    #[test]
    fn a_blob_with_other_contents_than_its_name_says_is_told() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("blobs");
        fs::create_dir(&dir).unwrap();
        let path = dir.join("0".repeat(64));
        fs::write(&path, b"abc").unwrap();
        assert!(misnamed(&sum(&path, &GO).unwrap()).unwrap().contains("the Hub's was 000"));
        let right = dir.join("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        fs::rename(&path, &right).unwrap();
        assert_eq!(misnamed(&sum(&right, &GO).unwrap()), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_was_written_to_has_another_place_even_with_its_old_date() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        fs::write(&path, b"abc").unwrap();
        let before = fs::metadata(&path).unwrap();
        let first = place(&path, &before);
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, b"abd").unwrap();
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(before.modified().unwrap())
            .unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!(after.modified().unwrap(), before.modified().unwrap());
        assert_ne!(place(&path, &after), first);
    }

    #[test]
    fn a_stop_ends_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        fs::write(&path, b"abc").unwrap();
        assert!(sum(&path, &AtomicBool::new(true)).is_err());
    }
}
