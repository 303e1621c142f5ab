//! A disk that fails: at any call of a run, or because it has room for so many bytes only.

use crate::run::{METRICS, record, save, scratch, step_name, step_of, tokenizer};
use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use vft::checkpoint::atomic::recover;
use vft::checkpoint::disk::{Disk, Real};
use vft::checkpoint::find;
use vft::checkpoint::room::{rotate, with_room};
use vft::error::is_disk_full;

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
const EIO: i32 = 5;

/// A disk whose calls may be refused.
struct Failing<F: Fn(Ask<'_>) -> io::Result<()>>(F);

/// What is asked: to write so many bytes to a file, to make a directory, or something that takes no room.
enum Ask<'a> {
    Write(&'a Path, usize),
    MakeDir,
    Else,
}

impl<F: Fn(Ask<'_>) -> io::Result<()>> Disk for Failing<F> {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        (self.0)(Ask::MakeDir)?;
        Real.make_dir(dir)
    }

    fn write_parts(&self, file: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let bytes = parts.concat();
        if let Err(e) = (self.0)(Ask::Write(file, bytes.len())) {
            // As far as it went.
            Real.write(file, &bytes[..bytes.len() / 2])?;
            return Err(e);
        }
        Real.write(file, &bytes)
    }

    fn sync(&self, _: &Path) -> io::Result<()> {
        (self.0)(Ask::Else)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.0)(Ask::Else)?;
        Real.rename(from, to)
    }

    fn remove_file(&self, file: &Path) -> io::Result<()> {
        (self.0)(Ask::Else)?;
        Real.remove_file(file)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        (self.0)(Ask::Else)?;
        Real.remove_dir(dir)
    }
}

/// The directories of a run.
struct Home {
    _home: tempfile::TempDir,
    model: PathBuf,
    out: PathBuf,
}

impl Home {
    fn new() -> Self {
        let home = scratch();
        let (model, out) = (tokenizer(home.path()), home.path().join("out"));
        fs::create_dir(&out).unwrap();
        Self { _home: home, model, out }
    }

    /// Goes on to step 8 with a checkpoint after each second, three of which are kept; the best after step 3 and 5. Counts in `counted` the step
    /// of the last checkpoint that was written without an error.
    fn go_on(&self, disk: &dyn Disk, counted: &Cell<usize>) -> anyhow::Result<()> {
        let out = &self.out;
        let found = find::newest(out).good.map_or(0, |(_, state)| state.step);
        // Records after the checkpoint are written again.
        let kept: String = (1..=found).map(record).collect();
        fs::write(out.join(METRICS), kept)?;
        let save = |name: &str, step| {
            with_room(disk, out, &|_| (), || save(disk, out, &self.model, name, step))
        };
        for step in found + 1..=8 {
            let file = fs::File::options().append(true).open(out.join(METRICS))?;
            io::Write::write_all(&mut &file, record(step).as_bytes())?;
            match step {
                3 | 5 => save("best", step)?,
                2 | 4 | 6 => {
                    save(&step_name(step), step)?;
                    counted.set(step);
                    rotate(disk, out, step, 3, &[]);
                }
                8 => {
                    save("final", step)?;
                    counted.set(step);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The newest good checkpoint, once a start has put things in order; all that is visible is whole.
    fn found(&self) -> Option<usize> {
        recover(&Real, &self.out);
        let visible = fs::read_dir(&self.out).unwrap().map(|e| e.unwrap().path());
        for dir in visible.filter(|p| p.is_dir()) {
            assert_eq!(step_of(&dir).map(drop), Ok(()), "{}", dir.display());
        }
        find::newest(&self.out).good.map(|(_, state)| state.step)
    }

    /// Takes the run up on a sound disk: it ends as one that nothing happened to.
    fn finish(&self) {
        self.go_on(&Real, &Cell::new(0)).unwrap();
        assert_eq!(step_of(&self.out.join("final")), Ok(8));
        let all: String = (1..=8).map(record).collect();
        assert_eq!(fs::read_to_string(self.out.join(METRICS)).unwrap(), all);
    }
}

#[test]
fn any_call_may_fail_once() {
    let mut runs = 0;
    for code in [ENOSPC, EDQUOT, EIO] {
        for failing in 0.. {
            let (home, calls, counted) = (Home::new(), Cell::new(0), Cell::new(0));
            let disk = Failing(|_| {
                calls.set(calls.get() + 1);
                let fails = calls.get() == failing + 1;
                if fails { Err(io::Error::from_raw_os_error(code)) } else { Ok(()) }
            });
            let done = home.go_on(&disk, &counted);
            if calls.get() <= failing {
                break;
            }
            let found = home.found().unwrap_or(0);
            assert!(found >= counted.get(), "call {failing}, error {code}: {found} of {counted:?}");
            if done.is_err() {
                home.finish();
            }
            runs += 1;
        }
    }
    println!("{runs} runs with a call that fails: none lost");
}

#[test]
fn a_full_disk_keeps_the_last_good_checkpoint() {
    for step in [2, 4, 6] {
        let (home, full, counted) = (Home::new(), Cell::new(false), Cell::new(0));
        let disk = Failing(|ask| {
            full.set(full.get() || counted.get() == step);
            let refused = full.get() && !matches!(ask, Ask::Else);
            if refused { Err(io::Error::from_raw_os_error(ENOSPC)) } else { Ok(()) }
        });
        let error = home.go_on(&disk, &counted).unwrap_err();
        assert!(is_disk_full(&error), "{error:#}");
        assert!(error.to_string().contains("`--resume auto` goes on"), "{error:#}");
        let steps: Vec<usize> = find::steps(&home.out).into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [step], "the older ones gave way");
        assert_eq!(home.found(), Some(step));
        home.finish();
    }
}

#[test]
fn the_oldest_checkpoint_gives_way_and_the_run_goes_on() {
    let (home, refused) = (Home::new(), Cell::new(0));
    // Once, in the save of step 6: steps 2 and 4 are there.
    let disk = Failing(|ask| match ask {
        Ask::Write(file, _)
            if file.to_string_lossy().contains("00000006") && refused.get() == 0 =>
        {
            refused.set(1);
            Err(io::Error::from_raw_os_error(EDQUOT))
        }
        _ => Ok(()),
    });
    home.go_on(&disk, &Cell::new(0)).unwrap();
    let steps: Vec<usize> = find::steps(&home.out).into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [6, 4]);
}

#[test]
fn a_damaged_checkpoint_gives_way_before_a_good_one() {
    let home = Home::new();
    for step in [2, 4, 6] {
        save(&Real, &home.out, &home.model, &step_name(step), step).unwrap();
    }
    fs::write(home.out.join(step_name(6)).join("vft.yaml"), "rotten").unwrap();
    let tries = Cell::new(0);
    with_room(&Real, &home.out, &|_| (), || {
        tries.set(tries.get() + 1);
        if tries.get() == 1 { Err(io::Error::from_raw_os_error(ENOSPC).into()) } else { Ok(()) }
    })
    .unwrap();
    assert!(!home.out.join(step_name(6)).exists());
    assert_eq!(home.found(), Some(4));
}

#[test]
fn a_damaged_checkpoint_does_not_count_among_those_that_stay() {
    let home = Home::new();
    for step in [2, 4, 6] {
        save(&Real, &home.out, &home.model, &step_name(step), step).unwrap();
    }
    rotate(&Real, &home.out, 6, 2, &[home.out.join(step_name(4))]);
    let steps: Vec<usize> = find::steps(&home.out).into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [6, 2]);
}

#[test]
fn what_was_just_saved_stays_beside_newer_ones() {
    let home = Home::new();
    for step in [2, 8] {
        save(&Real, &home.out, &home.model, &step_name(step), step).unwrap();
    }
    rotate(&Real, &home.out, 2, 1, &[]);
    assert_eq!(home.found(), Some(2));
}

/// Bytes of all files below a directory.
fn used(dir: &Path) -> usize {
    let of = |path: PathBuf| {
        if path.is_dir() { used(&path) } else { fs::metadata(&path).unwrap().len() as usize }
    };
    fs::read_dir(dir).unwrap().map(|e| of(e.unwrap().path())).sum()
}

#[test]
fn a_disk_of_any_size_is_left_whole() {
    let need = {
        let home = Home::new();
        home.go_on(&Real, &Cell::new(0)).unwrap();
        used(&home.out)
    };
    let (mut finished, mut full) = (0, 0);
    for n in 0..40 {
        let (home, counted) = (Home::new(), Cell::new(0));
        let disk = Failing(|ask| match ask {
            Ask::Write(_, bytes) if used(&home.out) + bytes > need * n / 30 => {
                Err(io::Error::from_raw_os_error(ENOSPC))
            }
            _ => Ok(()),
        });
        match home.go_on(&disk, &counted) {
            Ok(()) => finished += 1,
            Err(e) => {
                assert!(is_disk_full(&e), "{e:#}");
                full += 1;
            }
        }
        assert_eq!(home.found().unwrap_or(0), counted.get(), "{n} / 30 of the room");
        home.finish();
    }
    println!(
        "{finished} sizes suffice, {full} do not: nothing half there, all finish with more room"
    );
}
