//! The newest checkpoint of a real run is changed in some way: that is seen, said by name, and the one before is taken.
//!
//! 300 changes; `VFT_MUTATIONS=10000` for more. Every hundredth goes through the binary to the end of the run.

use crate::binary::{copy, finetune, number, stderr};
use crate::checkpoint::taken_up;
use crate::dice::Dice;
use crate::left::left;
use crate::run::scratch;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use vft::checkpoint::find;

const NEWEST: &str = "step-00000012";
const BEFORE: &str = "step-00000009";
const MANIFEST: &str = "manifest.json";

/// Does something to the checkpoint in a directory.
type Change = fn(&Path, &mut Dice);

/// What can happen to a checkpoint.
const KINDS: &[(&str, Change)] = &[
    ("a bit flipped", flip),
    ("a few bytes overwritten", overwrite),
    ("a block of zeros", zeros),
    ("a file truncated", truncate),
    ("a file emptied", |dir, dice| fs::write(any(dir, dice), b"").unwrap()),
    ("a file extended", extend),
    ("a file missing", |dir, dice| fs::remove_file(any(dir, dice)).unwrap()),
    ("a directory in a file's place", in_its_place),
    ("two files swapped", swap),
    ("a file of the checkpoint before", older),
    ("a manifest that lies", lie),
    ("the checkpoint before under its name", whole),
];

/// Any file of a checkpoint.
fn any(dir: &Path, dice: &mut Dice) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.swap_remove(dice.below(files.len()))
}

/// Does `change` to the bytes of any file.
fn edit(dir: &Path, dice: &mut Dice, change: impl FnOnce(&mut Vec<u8>, &mut Dice)) {
    let file = any(dir, dice);
    let before = fs::read(&file).unwrap();
    let mut bytes = before.clone();
    change(&mut bytes, dice);
    if bytes == before {
        // Zeros where zeros were are no change.
        bytes[0] ^= 1;
    }
    fs::write(&file, bytes).unwrap();
}

fn flip(dir: &Path, dice: &mut Dice) {
    edit(dir, dice, |bytes, dice| {
        let bit = dice.below(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    });
}

fn overwrite(dir: &Path, dice: &mut Dice) {
    edit(dir, dice, |bytes, dice| {
        let at = dice.below(bytes.len());
        let end = bytes.len().min(at + 1 + dice.below(16));
        bytes[at..end].fill_with(|| dice.below(256) as u8);
    });
}

fn zeros(dir: &Path, dice: &mut Dice) {
    edit(dir, dice, |bytes, dice| {
        let at = dice.below(bytes.len()) / 512 * 512;
        let end = bytes.len().min(at + 512);
        bytes[at..end].fill(0);
    });
}

fn truncate(dir: &Path, dice: &mut Dice) {
    edit(dir, dice, |bytes, dice| bytes.truncate(dice.below(bytes.len())));
}

fn extend(dir: &Path, dice: &mut Dice) {
    edit(dir, dice, |bytes, dice| {
        // White space among them: what changes nothing in a text is a change all the same.
        let more = [&b"\n"[..], b" ", b"\0", b"}\n", b"garbage"];
        bytes.extend(more[dice.below(more.len())].repeat(1 + dice.below(3)));
    });
}

fn in_its_place(dir: &Path, dice: &mut Dice) {
    let file = any(dir, dice);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
}

fn swap(dir: &Path, dice: &mut Dice) {
    let (one, mut other) = (any(dir, dice), any(dir, dice));
    while other == one {
        other = any(dir, dice);
    }
    let aside = dir.join("aside");
    fs::rename(&one, &aside).unwrap();
    fs::rename(&other, &one).unwrap();
    fs::rename(&aside, &other).unwrap();
}

fn older(dir: &Path, dice: &mut Dice) {
    let before = dir.with_file_name(BEFORE);
    let differs = |file: &PathBuf| {
        let name = file.file_name().unwrap();
        fs::read(before.join(name)).unwrap() != fs::read(file).unwrap()
    };
    let mut file = any(dir, dice);
    while !differs(&file) {
        file = any(dir, dice);
    }
    fs::copy(before.join(file.file_name().unwrap()), &file).unwrap();
}

fn whole(dir: &Path, _: &mut Dice) {
    fs::remove_dir_all(dir).unwrap();
    copy(&dir.with_file_name(BEFORE), dir);
}

/// Changes an entry of the manifest, and often the file with it; the manifest looks as if it were written so.
fn lie(dir: &Path, dice: &mut Dice) {
    let path = dir.join(MANIFEST);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let files: &mut Map<String, Value> = manifest["files"].as_object_mut().unwrap();
    let names: Vec<String> = files.keys().cloned().collect();
    let name = &names[dice.below(names.len())];
    let other = names.iter().find(|n| *n != name).unwrap();
    match dice.below(8) {
        0 => drop(files.shift_remove(name)),
        1 => {
            // A file that no manifest knows may hold anything.
            files.shift_remove(name);
            fs::write(dir.join(name), b"anything").unwrap();
        }
        2 => {
            let entry = files[name]["bytes"].as_u64().unwrap();
            files[name]["bytes"] = json!(entry + 1);
        }
        3 => files[name]["sha256"] = files[other]["sha256"].clone(),
        4 => drop(files.insert("zzz".into(), files[other].clone())),
        5 => {
            let entry = files.shift_remove(name).unwrap();
            files.insert(format!("../{BEFORE}/{name}"), entry);
        }
        6 => {
            files.shift_remove("optimizer.safetensors");
            fs::remove_file(dir.join("optimizer.safetensors")).unwrap();
        }
        _ => manifest["version"] = json!(2),
    }
    // Names in their order, as they are written.
    let files: BTreeMap<&String, &Value> = manifest["files"].as_object().unwrap().iter().collect();
    let text = json!({"version": manifest["version"], "files": files});
    fs::write(&path, serde_json::to_string_pretty(&text).unwrap() + "\n").unwrap();
}

#[test]
fn a_checkpoint_that_was_changed_is_passed_over_by_name() {
    let home = scratch();
    let out = home.path().join("whole");
    assert!(finetune(&out).output().unwrap().status.success());
    let expected = left(&out);
    // As a crash leaves the run after its last checkpoint.
    fs::remove_dir_all(out.join("final")).unwrap();
    assert_eq!(find::newest(&out).good.map(|(dir, _)| dir), Some(out.join(NEWEST)));
    let kept = home.path().join("kept");
    fs::rename(out.join(NEWEST), &kept).unwrap();

    let (mutations, mut dice) = (number("VFT_MUTATIONS", 300), Dice(11));
    let mut runs = 0;
    for n in 0..mutations {
        let (kind, change) = KINDS[n % KINDS.len()];
        copy(&kept, &out.join(NEWEST));
        change(&out.join(NEWEST), &mut dice);
        let found = find::newest(&out);
        let good = found.good.map(|(dir, _)| dir);
        assert_eq!(good, Some(out.join(BEFORE)), "{n}: {kind} is not seen, {:?}", found.unknown);
        let named: Vec<_> = found.damaged.iter().map(|(dir, _)| dir.clone()).collect();
        assert_eq!(named, [out.join(NEWEST)], "{n}: {kind}");
        if n % 101 == 100 {
            let resumed = home.path().join("resumed");
            copy(&out, &resumed);
            let output = finetune(&resumed).output().unwrap();
            let told = format!("{NEWEST} is damaged and passed over: {}", found.damaged[0].1);
            assert!(stderr(&output).contains(&told), "{n}: {kind}: {}", stderr(&output));
            assert_eq!(taken_up(&stderr(&output)), Some(9), "{n}: {kind}");
            assert_eq!(left(&resumed), expected, "{n}: {kind}");
            fs::remove_dir_all(&resumed).unwrap();
            runs += 1;
        }
        fs::remove_dir_all(out.join(NEWEST)).unwrap();
    }
    println!(
        "{mutations} changes: all seen, all fall back; {runs} runs end as the undisturbed one"
    );
}

#[test]
fn records_that_are_missing_are_told_and_half_a_line_goes() {
    let home = scratch();
    let out = home.path().join("out");
    assert!(finetune(&out).output().unwrap().status.success());
    for dir in ["final", "step-00000012"] {
        fs::remove_dir_all(out.join(dir)).unwrap();
    }
    let records = fs::read(out.join("metrics.jsonl")).unwrap();
    let line = records.iter().position(|b| *b == b'\n').unwrap() + 1;
    fs::write(out.join("metrics.jsonl"), &records[..line + 10]).unwrap();
    let output = finetune(&out).output().unwrap();
    let told = stderr(&output);
    assert!(told.contains(&format!("metrics.jsonl has {} of the ", line + 10)), "{told}");
    let steps: Vec<_> = left(&out).1.iter().map(|r| r["step"].clone()).collect();
    assert_eq!(steps, [0, 10, 10, 11, 12, 12]);
}
