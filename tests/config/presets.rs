//! The configs that are shipped.
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use vft::config::RunConfig;
use vft::config::keys::KEYS;

pub(crate) fn shipped() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "yml" || e == "yaml") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_shipped_config_loads() {
    let broken: Vec<String> = shipped()
        .iter()
        .filter_map(|p| RunConfig::load(Some(p), &[]).err().map(|e| e.to_string()))
        .collect();
    assert_eq!(broken, [""; 0]);
}

/// Every way to leave out, double, replace or swap a letter of a key.
fn typos(key: &str) -> Vec<String> {
    let letters: Vec<char> = key.chars().collect();
    let mut typos = Vec::new();
    for i in 0..letters.len() {
        let mut change = |f: &dyn Fn(&mut Vec<char>)| {
            let mut changed = letters.clone();
            f(&mut changed);
            typos.push(changed.into_iter().collect::<String>());
        };
        change(&|l| {
            l.remove(i);
        });
        change(&|l| l.insert(i, l[i]));
        change(&|l| l[i] = if l[i] == 'x' { 'y' } else { 'x' });
        if i + 1 < letters.len() && letters[i] != letters[i + 1] {
            change(&|l| l.swap(i, i + 1));
        }
    }
    typos.retain(|t| t != key && !t.is_empty());
    typos.sort();
    typos.dedup();
    typos
}

/// Each `(line, key)` of a config.
fn keys_of(text: &str) -> Vec<(usize, String)> {
    let key = |(i, line): (usize, &str)| {
        let (key, _) = line.split('#').next()?.split_once(':')?;
        let key = key.trim_start_matches(['-', ' ']);
        (!key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
            .then(|| (i, key.to_owned()))
    };
    text.lines().enumerate().filter_map(key).collect()
}

/// What becomes of the typos of one config: those that pass, those that the hint mends, all.
fn sweep(path: &Path) -> (Vec<String>, usize, usize) {
    let (mut ignored, mut mended, mut all) = (Vec::new(), 0, 0);
    let text = std::fs::read_to_string(path).unwrap();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("run.yml");
    for (line, key) in keys_of(&text) {
        for typo in typos(&key) {
            let of_ours = |name: &str| name == typo || name.ends_with(&format!(".{typo}"));
            if KEYS.iter().any(|k| of_ours(k.name)) {
                continue;
            }
            let changed: Vec<String> = text
                .lines()
                .enumerate()
                .map(|(i, l)| if i == line { l.replacen(&key, &typo, 1) } else { l.to_owned() })
                .collect();
            std::fs::write(&file, changed.join("\n")).unwrap();
            all += 1;
            match RunConfig::load(Some(&file), &[]) {
                Ok(_) => ignored.push(format!("{} {key} -> {typo}", path.display())),
                Err(e) => {
                    let text = e.to_string();
                    let hint = |end: &str| text.contains(&format!("{key}{end}"));
                    let named = hint("`?") || hint(".");
                    mended += usize::from(text.contains("did you mean") && named);
                }
            }
        }
    }
    (ignored, mended, all)
}

#[test]
fn typos_in_shipped_configs_are_seen_and_mended() {
    let found: Vec<_> = shipped().par_iter().map(|path| sweep(path)).collect();
    let ignored: Vec<&String> = found.iter().flat_map(|f| &f.0).collect();
    let sum = |of: fn(&(Vec<String>, usize, usize)) -> usize| found.iter().map(of).sum::<usize>();
    let (mended, all) = (sum(|f| f.1), sum(|f| f.2));
    assert!(ignored.is_empty(), "{ignored:?}");
    assert!(mended * 100 >= all * 95, "{mended} of {all} typos are mended by the hint");
}
