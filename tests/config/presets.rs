//! The configs that are shipped.
use std::path::PathBuf;
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

#[test]
fn typos_in_shipped_configs_are_seen_and_mended() {
    let (mut ignored, mut mended, mut all) = (Vec::new(), 0, 0);
    for path in shipped() {
        let text = std::fs::read_to_string(&path).unwrap();
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
                        mended +=
                            usize::from(text.contains("did you mean") && (hint("`?") || hint(".")));
                    }
                }
            }
        }
    }
    assert_eq!(ignored, [""; 0]);
    assert!(mended * 100 >= all * 95, "{mended} of {all} typos are mended by the hint");
}
