//! Splits by the files' names: rules 2 to 4 of `super`.

use super::{Splits, base, first_of};
use std::collections::{BTreeMap, BTreeSet};

/// Words that name a split; `datasets` 5.2 `data_files.py`.
const WORDS: &[(&str, &[&str])] = &[
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The split in `data/<split>-00000-of-00003<…>.<ext>`.
fn sharded(name: &str) -> Option<&str> {
    let file = name.strip_prefix("data/").filter(|f| !f.contains('/'))?;
    let digits = |t: &str| t.len() >= 5 && t.as_bytes()[..5].iter().all(u8::is_ascii_digit);
    file.match_indices('-').find_map(|(at, _)| {
        let rest = &file[at + 1..];
        let of = digits(rest).then(|| &rest[5..])?.strip_prefix("-of-")?;
        (at > 0 && digits(of)).then(|| &file[..at])
    })
}

/// How `part` holds `word`, set off by characters that are no letters: alone 0, first 1, last 2, in between 3.
fn has_word(part: &str, word: &str) -> Option<usize> {
    let off = |c: char| "-._ ".contains(c) || c.is_ascii_digit();
    let place = |(at, _): (usize, &str)| {
        let before = part[..at].chars().next_back();
        let after = part[at + word.len()..].chars().next();
        let apart = before.is_none_or(off) && after.is_none_or(off);
        apart.then(|| 2 * usize::from(before.is_some()) + usize::from(after.is_some()))
    };
    part.match_indices(word).filter_map(place).min()
}

/// The split that one of `parts` names, and the place among its files that this way of naming has.
fn named<'a>(parts: impl Iterator<Item = &'a str> + Clone) -> Option<(String, usize)> {
    let how = |word: &str| parts.clone().filter_map(|p| has_word(&p.to_lowercase(), word)).min();
    let place = |words: &[&str]| {
        words.iter().enumerate().find_map(|(i, word)| how(word).map(|how| 4 * i + how))
    };
    WORDS.iter().find_map(|(split, words)| Some(((*split).to_owned(), place(words)?)))
}

/// The splits that names tell, by the first rule that fits any; what is passed over is noted.
pub(super) fn by_names(data: &[&str], notes: &mut Vec<String>) -> Splits<String> {
    type Rule<'a> = &'a dyn Fn(&str) -> Option<(String, usize)>;
    let group = |rule: Rule<'_>| {
        let mut splits: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
        for name in data {
            if let Some((split, place)) = rule(name) {
                splits.entry(split).or_default().push((place, (*name).to_owned()));
            }
        }
        splits.values_mut().for_each(|files| files.sort());
        let names = |files: Vec<(usize, String)>| files.into_iter().map(|(_, name)| name).collect();
        splits.into_iter().map(|(split, files)| (split, names(files))).collect::<Splits<String>>()
    };
    let rules: [Rule<'_>; 4] = [
        &|name| sharded(name).map(|split| (split.to_owned(), 0)),
        &|name| named(name.rsplit_once('/')?.0.split('/')),
        &|name| named(std::iter::once(base(name))),
        &|_| Some(("train".into(), 0)),
    ];
    let splits =
        rules.iter().map(|rule| group(rule)).find(|splits| !splits.is_empty()).unwrap_or_default();
    let read: BTreeSet<&str> = splits.values().flatten().map(String::as_str).collect();
    let rest: Vec<&str> = data.iter().copied().filter(|name| !read.contains(name)).collect();
    if !rest.is_empty() {
        notes.push(format!(
            "passed over, as other names tell a split and these do not: {}",
            first_of(&rest)
        ));
    }
    splits
}
