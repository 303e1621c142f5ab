//! Directories and configs, rule by rule.
use super::*;

fn splits(
    names: &[&str],
    readme: Option<&str>,
    config: Option<&str>,
) -> Result<Splits<String>, String> {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    Ok(split_files(&names, readme, config)?.splits)
}

/// What is passed over in a directory of files.
fn passed_over(names: &[&str]) -> Vec<String> {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    split_files(&names, None, None).unwrap().notes
}

/// Splits as `name: file file; …`.
fn shown(names: &[&str]) -> String {
    let splits = splits(names, None, None).unwrap();
    splits.iter().map(|(s, f)| format!("{s}: {}", f.join(" "))).collect::<Vec<_>>().join("; ")
}

const TWO: &str = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n- config_name: socratic\n  data_files: socratic/*\n---\n";

#[test]
fn litgpts_directory_has_a_val_file() {
    assert_eq!(shown(&["val.json", "train.jsonl"]), "train: train.jsonl; validation: val.json");
}

#[test]
fn capital_letters_name_a_split_too() {
    assert_eq!(shown(&["Train.csv", "Dev.csv"]), "train: Train.csv; validation: Dev.csv");
}

#[test]
fn a_word_inside_a_word_names_no_split() {
    assert_eq!(shown(&["constraint.csv", "latest.csv"]), "train: constraint.csv latest.csv");
}

#[test]
fn a_file_lies_in_one_split_only() {
    assert_eq!(shown(&["train_test.csv", "test.csv"]), "test: test.csv; train: train_test.csv");
}

#[test]
fn a_licence_is_no_data() {
    assert_eq!(shown(&["LICENSE.txt", "NOTICE.txt", "rows.jsonl"]), "train: rows.jsonl");
}

#[test]
fn each_split_has_its_own_format() {
    for names in [["train.jsonl", "val.csv"], ["train.csv", "val.jsonl"]] {
        let [train, val] = names;
        assert_eq!(shown(&names), format!("train: {train}; validation: {val}"));
        assert_eq!(passed_over(&names), [""; 0]);
    }
}

#[test]
fn files_in_another_format_than_most_are_named() {
    let names = ["a.jsonl", "b.csv", "c.csv"];
    assert_eq!(shown(&names), "train: b.csv c.csv");
    let [note] = &passed_over(&names)[..] else { panic!() };
    assert!(note.ends_with("`train` in that of b.csv: a.jsonl"), "{note}");
}

#[test]
fn files_that_tell_no_split_beside_others_that_do_are_named() {
    let extra: Vec<String> = (0..7).map(|i| format!("{i}.jsonl")).collect();
    let names: Vec<&str> = extra.iter().map(String::as_str).chain(["train.jsonl"]).collect();
    let [note] = &passed_over(&names)[..] else { panic!() };
    let named = "these do not: 0.jsonl, 1.jsonl, 2.jsonl, 3.jsonl, 4.jsonl and 2 more";
    assert!(note.ends_with(named), "{note}");
}

#[test]
fn several_configs_must_be_named() {
    let error = splits(&["main/train-0.csv"], Some(TWO), None).unwrap_err();
    assert_eq!(error, "has several configs, of which one must be named (main, socratic)");
}

#[test]
fn an_unknown_config_lists_the_known() {
    let error = splits(&["main/train-0.csv"], Some(TWO), Some("x")).unwrap_err();
    assert_eq!(error, "has no config `x` (it has main, socratic)");
}

#[test]
fn a_config_without_its_files_is_an_error() {
    let error = splits(&["socratic/a.csv"], Some(TWO), Some("main")).unwrap_err();
    assert!(error.contains("`main` names the files `main/train-*`"), "{error}");
}

#[test]
fn without_a_readme_a_config_is_a_directory() {
    let found = splits(&["vie/train.csv", "fra/train.csv"], None, Some("vie")).unwrap();
    assert_eq!(found["train"], ["vie/train.csv"]);
}

#[test]
fn a_loading_script_is_refused() {
    assert!(splits(&["set.py"], None, None).unwrap_err().contains("loading script"));
}

#[test]
fn a_link_in_a_circle_repeats_nothing() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("train.csv"), "a\n1\n").unwrap();
    std::os::unix::fs::symlink(home.path(), home.path().join("loop")).unwrap();
    assert_eq!(discover(home.path(), None).unwrap().splits["train"].len(), 1);
}
