//! The fuzz targets without a fuzzer: their seeds, and every input that was ever found to break one (`fuzz/found`).
use crate::alone;
use crate::dice::Dice;
use crate::targets::{TARGETS, memory};
use std::path::{Path, PathBuf};

fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// Gives each input to its target: no panic, and no more memory than a fuzzer allows.
fn replay(kind: &str, more: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> usize {
    let home = tempfile::tempdir().unwrap();
    let mut replayed = 0;
    for (name, run) in TARGETS {
        let dir = home.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        for path in inputs(kind, name) {
            for bytes in more(&std::fs::read(&path).unwrap()) {
                let ((), peak) = memory::peak_of(|| run(&dir, &bytes));
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]);
                assert!(peak < memory::CAP, "{} takes {peak} bytes:\n{text}", path.display());
                replayed += 1;
            }
        }
    }
    replayed
}

#[test]
fn every_target_has_a_file_and_seeds() {
    for (name, _) in TARGETS {
        let file = format!("{}/fuzz/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(&format!("vft_fuzz::target!(\"{name}\")")), "{file}");
        assert_ne!(inputs("seeds", name).len(), 0, "{name}");
    }
}

#[test]
fn inputs_that_were_found_are_answered() {
    let _alone = alone();
    replay("found", |bytes| vec![bytes.to_vec()]);
}

#[test]
fn seeds_and_what_is_near_them_are_answered() {
    let _alone = alone();
    let changed = |bytes: &[u8]| {
        let mut dice = Dice(bytes.len() as u64);
        let mut all = vec![bytes.to_vec()];
        for _ in 0..12 {
            let mut other = bytes.to_vec();
            for _ in 0..1 + dice.below(3) {
                let at = dice.below(other.len().max(1)).min(other.len().saturating_sub(1));
                match dice.below(4) {
                    0 => other.truncate(at),
                    1 if !other.is_empty() => other[at] ^= 1 << dice.below(8),
                    2 => {
                        other.splice(at..at, bytes[..at.min(bytes.len())].iter().copied());
                    }
                    _ => other.insert(at, dice.below(256) as u8),
                }
            }
            all.push(other);
        }
        all
    };
    assert!(replay("seeds", changed) > 1000);
}
