//! Whole runs on file systems that are too small: from the start, or because something else fills them while the run is at work. Nothing is half
//! there, nothing panics, the exit code says what to do, and with more room the run ends as one that nothing happened to.
//!
//! The file systems are tmpfs in a mount namespace of their own, for which Linux asks for no rights where users may have namespaces. 2 sizes,
//! each both ways; `VFT_SMALL_DISKS=40` for more. A machine that refuses namespaces leaves these tests out with a line, unless the variable is set; what a
//! full disk does to a save is tested everywhere (`full.rs`).

use crate::binary::{finetune, number, stderr};
use crate::checkpoint::{newest, taken_up};
use crate::left::left;
use crate::run::scratch;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use vft::checkpoint::find;

/// `$1` bytes of disk; `$2` bytes that are left of it once the run has begun, or `all`; `$3` where it is mounted; `$4` where results go; then the
/// command.
const SCRIPT: &str = r#"
size=$1 room=$2 disk=$3 kept=$4
shift 4
mount -t tmpfs -o size="$size" none "$disk" || exit 111
"$@" 2> "$kept/first.err" &
run=$!
if [ "$room" != all ]; then
    while [ ! -s "$disk/out/metrics.jsonl" ] && kill -0 $run 2> /dev/null; do sleep 0.01; done
    free=$(df --output=avail -B1 "$disk" | tail -n 1)
    [ "$free" -gt "$room" ] && head -c $((free - room)) /dev/zero > "$disk/filler"
fi
wait $run
echo $? > "$kept/first.code"
[ -d "$disk/out" ] && cp -a "$disk/out" "$kept/first"
rm -f "$disk/filler"
mount -o remount,size=64m "$disk" || exit 112
"$@" 2> "$kept/second.err"
echo $? > "$kept/second.code"
cp -a "$disk/out" "$kept/second"
"#;

/// `$1` bytes of disk at `$2`; then the command.
const CACHE: &str = r#"
mount -t tmpfs -o size="$1" none "$2" || exit 111
shift 2
exec "$@"
"#;

/// What the two runs left: one on the small disk, one with more room.
struct Kept(PathBuf);

impl Kept {
    fn code(&self, run: &str) -> i32 {
        fs::read_to_string(self.0.join(format!("{run}.code"))).unwrap().trim().parse().unwrap()
    }

    fn told(&self, run: &str) -> String {
        fs::read_to_string(self.0.join(format!("{run}.err"))).unwrap()
    }

    fn out(&self, run: &str) -> PathBuf {
        self.0.join(run)
    }
}

fn on_a_small_disk(home: &Path, size: usize, room: Option<usize>) -> Kept {
    let (disk, kept) = (home.join("disk"), home.join("kept"));
    for dir in [&disk, &kept] {
        fs::create_dir(dir).unwrap();
    }
    let run = finetune(&disk.join("out"));
    let room = room.map_or_else(|| "all".to_owned(), |room| room.to_string());
    let paths = [&disk, &kept].map(|p| p.to_string_lossy().into_owned());
    let output = in_a_namespace(SCRIPT, &[&size.to_string(), &room, &paths[0], &paths[1]], &run);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Kept(kept)
}

/// Runs `script` with its arguments and a command, where it may mount.
fn in_a_namespace(script: &str, args: &[&str], run: &Command) -> Output {
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args(args)
        .arg(run.get_program())
        .args(run.get_args())
        .envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(run.get_current_dir().unwrap())
        .output();
    output.unwrap()
}

/// How many sizes to try, or why no small disk can be made.
fn sizes() -> Result<usize, String> {
    let mount = ["--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"];
    let mounted = Command::new("unshare").args(mount).output();
    let can = mounted.as_ref().is_ok_and(|o| o.status.success());
    let asked = std::env::var_os("VFT_SMALL_DISKS").is_some();
    assert!(can || !asked, "no small disk can be made here: {mounted:?}");
    if can {
        Ok(number("VFT_SMALL_DISKS", 2))
    } else {
        Err(format!("left out, no small disk can be made here: {mounted:?}"))
    }
}

/// What is visible of a run is whole.
fn assert_whole(out: &Path) {
    for entry in fs::read_dir(out).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("step-") || name == "best" || name == "final" {
            assert_eq!(find::check(&path).map(drop), Ok(()), "{}", path.display());
            let card = fs::read_to_string(path.join("README.md")).unwrap_or_else(|_| "\n".into());
            assert!(card.ends_with('\n'), "{} has half a card", path.display());
        } else if path.extension().is_some_and(|e| e == "jsonl") {
            let text = fs::read_to_string(&path).unwrap();
            let is_record = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
            assert!(text.lines().all(is_record), "{}: {text}", path.display());
        } else {
            let is_known =
                [".vft.lock", "logs"].contains(&&*name) || name.contains(".jsonl.set-aside-");
            assert!(is_known, "{} is left", path.display());
        }
    }
}

/// Bytes of all files below a directory, in blocks of a memory's page.
fn used(dir: &Path) -> usize {
    let of = |path: PathBuf| {
        if path.is_dir() {
            used(&path)
        } else {
            (fs::metadata(&path).unwrap().len() as usize).next_multiple_of(4096)
        }
    };
    fs::read_dir(dir).unwrap().map(|e| of(e.unwrap().path())).sum()
}

#[test]
fn runs_on_small_disks_end_well_and_are_taken_up() {
    let sizes = match sizes() {
        Ok(sizes) => sizes,
        Err(why) => return println!("{why}"),
    };
    let home = scratch();
    let whole = home.path().join("whole");
    assert!(finetune(&whole).output().unwrap().status.success());
    let (expected, need) = (left(&whole), used(&whole));
    let mut codes = std::collections::BTreeMap::new();
    for n in 0..sizes {
        // From nothing to what a finished run leaves; on its way it needs more, so that all in all at most 5 / 2 of that are checked for.
        let share = need * (2 * n + 1) / (2 * sizes);
        let pages = |bytes: usize| bytes.next_multiple_of(4096);
        let small = ("small", pages(share * 5 / 2), None);
        let filled = ("filled", 64 << 20, Some(pages(share)));
        for (way, size, room) in [small, filled] {
            let bytes = room.unwrap_or(size);
            let home = scratch();
            let kept = on_a_small_disk(home.path(), size, room);
            let (code, told) = (kept.code("first"), kept.told("first"));
            // What is checked at the start is enough, unless something else takes the room.
            let codes_of_way = if way == "small" { [0, 2] } else { [0, 74] };
            assert!(codes_of_way.contains(&code), "{way}, {bytes} bytes: {code}: {told}");
            let ways_out = match code {
                2 => ["the run may write", "or choose another `out_dir`"],
                74 => ["No space left on device", "hint: free some space"],
                _ => ["", ""],
            };
            for words in ways_out {
                assert!(told.contains(words), "{way}, {bytes} bytes: `{words}` is not in {told}");
            }
            for run in ["first", "second"] {
                let told = kept.told(run);
                assert!(!told.contains("internal fault"), "{way}, {bytes} bytes: {told}");
                assert_whole(&kept.out(run));
            }
            assert_eq!(kept.code("second"), 0, "{way}, {bytes} bytes: {}", kept.told("second"));
            let (before, again) = (newest(&kept.out("first")), kept.told("second"));
            assert_eq!(
                again.contains("the run is finished"),
                code == 0,
                "{way}, {bytes} bytes: {again}"
            );
            let from = before.filter(|_| code != 0);
            assert_eq!(taken_up(&again), from, "{way}, {bytes} bytes: {again}");
            assert_eq!(left(&kept.out("second")), expected, "{way}, {bytes} bytes");
            *codes.entry((way, code)).or_insert(0) += 1;
        }
    }
    println!(
        "{sizes} sizes up to {} bytes from the start, {need} bytes while at work:",
        need * 5 / 2
    );
    for ((way, code), runs) in codes {
        println!("  {way}: {runs} end with {code}");
    }
}

#[test]
fn a_full_cache_of_rows_names_the_way_out() {
    if let Err(why) = sizes() {
        return println!("{why}");
    }
    let home = scratch();
    let (cache, rows) = (home.path().join("cache"), home.path().join("rows.jsonl"));
    fs::create_dir(&cache).unwrap();
    // Sets of 4 MiB and more are kept.
    let row = format!("{{\"instruction\": \"{}\", \"output\": \"a\"}}\n", "trăng sao ".repeat(40));
    fs::write(&rows, row.repeat((5 << 20) / row.len())).unwrap();
    let mut run = finetune(&home.path().join("out"));
    run.args(["--data.path", &rows.to_string_lossy()]).env("VFT_CACHE", &cache);
    let output = in_a_namespace(CACHE, &["65536", &cache.to_string_lossy()], &run);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(74), "{told}");
    assert!(told.contains("set VFT_CACHE to a directory on another disk"), "{told}");
    assert!(!home.path().join("out").exists(), "the run has not begun");
}
