//! The power goes after any call of a run: what a resume finds is the last checkpoint that the run counted on, or the one that it was writing.
//!
//! A few fates of what is not certain for each call; `VFT_FATES=200` for more, and for every thing lost or kept alone.

use crate::dice::Dice;
use crate::disk::{Call, Model, Recorder, Tree, lay_out};
use crate::run::{CARD, METRICS, record, records, save, scratch, step_name, step_of, tokenizer};
use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use vft::checkpoint::atomic::{recover, write_file};
use vft::checkpoint::disk::{Disk, make_dirs};
use vft::checkpoint::find;
use vft::checkpoint::room::rotate;

/// What a run counts on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stand {
    newest: Option<usize>,
    best: Option<usize>,
    finished: bool,
}

/// The calls of a run, and what it counts on after each part of it.
struct Trace {
    calls: Vec<Call>,
    stands: Vec<Stand>,
}

/// Six steps with a checkpoint after each second and the best after each third; those of steps 2 and 6 are written twice.
fn trace() -> Trace {
    let home = scratch();
    let model = tokenizer(home.path());
    let root = home.path().join("root");
    fs::create_dir(&root).unwrap();
    let (disk, out) = (Recorder::new(&root), root.join("runs/a"));
    make_dirs(&disk, &out).unwrap();
    let mut stands = vec![Stand::default()];
    let mut stand = Stand::default();
    let mut done = |stand: Stand| {
        stands.push(stand);
        disk.note(Call::Done(stands.len() - 1));
    };
    for step in 1..=6 {
        disk.append(&out.join(METRICS), record(step).as_bytes());
        if step % 2 == 0 {
            for _ in 0..step / 2 % 2 + 1 {
                disk.sync(&out.join(METRICS)).unwrap();
                save(&disk, &out, &model, &step_name(step), step).unwrap();
                stand.newest = Some(step);
                done(stand);
                rotate(&disk, &out, step, 1, &[]);
            }
        }
        if step % 3 == 0 {
            disk.sync(&out.join(METRICS)).unwrap();
            save(&disk, &out, &model, "best", step).unwrap();
            stand.best = Some(step);
            done(stand);
        }
    }
    save(&disk, &out, &model, "final", 6).unwrap();
    write_file(&disk, &out.join("final/README.md"), CARD.as_bytes()).unwrap();
    stand.finished = true;
    done(stand);
    Trace { calls: disk.calls.into_inner(), stands }
}

/// What is wrong with what a crash left, if anything, once it is put in order; the run stood between `before` and `after`.
fn judge(out: &Path, before: Stand, after: Stand) -> Result<(), String> {
    let found = find::newest(out);
    if let Some((dir, why)) = found.damaged.first() {
        return Err(format!("{} is damaged: {why}", dir.display()));
    }
    for (_, dir) in find::steps(out) {
        step_of(&dir).map_err(|why| format!("{} is left half: {why}", dir.display()))?;
    }
    let newest = found.good.as_ref().map(|(dir, _)| step_of(dir)).transpose()?;
    if newest != before.newest && newest != after.newest {
        return Err(format!("found {newest:?}"));
    }
    if let Some((_, state)) = &found.good {
        let counted = state.bytes[METRICS] as usize;
        let there = fs::read(out.join(METRICS)).map_err(|e| format!("{METRICS}: {e}"))?;
        if there.get(..counted) != Some(&records(state.step)[..]) {
            return Err(format!("records of step {} are missing", state.step));
        }
    }
    let best = out.join("best").exists().then(|| step_of(&out.join("best"))).transpose()?;
    if best != before.best && best != after.best {
        return Err(format!("best is {best:?}"));
    }
    match fs::read_to_string(out.join("final/README.md")) {
        Ok(text) if text != CARD => return Err(format!("the card holds {text:?}")),
        Err(_) if before.finished => return Err("the card is lost".into()),
        _ => {}
    }
    let hidden = |e: fs::DirEntry| e.file_name().to_string_lossy().starts_with('.');
    for dir in [out, &out.join("final")] {
        if fs::read_dir(dir).into_iter().flatten().flatten().any(hidden) {
            return Err(format!("something hidden is left in {}", dir.display()));
        }
    }
    Ok(())
}

/// How many fates: 0 for a few.
fn wanted() -> usize {
    std::env::var("VFT_FATES").ok().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Trees that a crash may leave, each once.
struct Crashes {
    seen: HashSet<u64>,
    dice: Dice,
}

impl Crashes {
    fn new() -> Self {
        Self { seen: HashSet::new(), dice: Dice(7) }
    }

    /// Those of `model` that did not come before, between two stands.
    fn of(&mut self, model: &Model, stand: usize, few: usize) -> Vec<Tree> {
        let open = model.open();
        let mut trees = vec![model.after_crash(&mut || 0), model.after_crash(&mut || 1)];
        let more = wanted();
        if more > 0 {
            for alone in 0..open {
                for (one, others) in [(0, 1), (1, 0), (2, 1), (3, 1)] {
                    let mut at = 0;
                    trees.push(model.after_crash(&mut || {
                        at += 1;
                        if at == alone + 1 { one } else { others }
                    }));
                }
            }
        }
        for _ in 0..more.max(few).min(1 << open.min(16)) {
            trees.push(model.after_crash(&mut || self.dice.below(4) as u8));
        }
        trees.retain(|tree| {
            let mut hash = DefaultHasher::new();
            (stand, tree).hash(&mut hash);
            self.seen.insert(hash.finish())
        });
        trees
    }
}

/// Lays out what a crash left, puts it in order, and judges; the calls that put it in order.
fn start_again(tree: &Tree, before: Stand, after: Stand) -> (Vec<Call>, Result<(), String>) {
    let home = scratch();
    lay_out(tree, home.path());
    let (disk, out) = (Recorder::new(home.path()), home.path().join("runs/a"));
    recover(&disk, &out);
    recover(&disk, &out.join("final"));
    (disk.calls.into_inner(), judge(&out, before, after))
}

#[test]
fn any_call_may_be_the_last_before_the_power_goes() {
    let Trace { calls, stands } = trace();
    let (mut model, mut crashes, mut stand, mut count) = (Model::new(), Crashes::new(), 0, 0);
    for (n, call) in calls.iter().enumerate() {
        model.apply(call);
        if let Call::Done(at) = call {
            stand = *at;
        }
        let (before, after) = (stands[stand], stands[(stand + 1).min(stands.len() - 1)]);
        for tree in crashes.of(&model, stand, 4) {
            let (_, verdict) = start_again(&tree, before, after);
            let left: Vec<_> = tree.keys().collect();
            assert_eq!(verdict, Ok(()), "after call {n}, {call:?}: {left:#?}");
            count += 1;
        }
    }
    println!(
        "{} calls, {count} states after a loss of power: each is the old or the new",
        calls.len()
    );
}

#[test]
fn the_power_may_go_again_while_a_start_puts_things_in_order() {
    let Trace { calls, stands } = trace();
    let (mut model, mut crashes, mut stand, mut count) = (Model::new(), Crashes::new(), 0, 0);
    for call in &calls {
        model.apply(call);
        if let Call::Done(at) = call {
            stand = *at;
        }
        let (before, after) = (stands[stand], stands[(stand + 1).min(stands.len() - 1)]);
        // The process was killed: all is there, but not certain; or the power went: what is left is certain.
        let killed = model.after_crash(&mut || 1);
        let lost = model.after_crash(&mut || crashes.dice.below(4) as u8);
        for (tree, base) in [(&killed, model.clone()), (&lost, Model::of(&lost))] {
            let hidden =
                |path: &PathBuf| path.file_name().is_some_and(|n| n.as_encoded_bytes()[0] == b'.');
            if !tree.keys().any(hidden) {
                continue;
            }
            let (order, _) = start_again(tree, before, after);
            let mut again = base;
            for (n, call) in order.iter().enumerate() {
                again.apply(call);
                for tree in crashes.of(&again, stand, 1) {
                    let (_, verdict) = start_again(&tree, before, after);
                    assert_eq!(verdict, Ok(()), "after call {n}, {call:?}, of a start");
                    count += 1;
                }
            }
        }
    }
    println!("{count} states after a second loss of power: each is the old or the new");
}
