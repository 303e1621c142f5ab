//! Names of shards that lead elsewhere: what is opened lies in the model's directory, or for a model of the Hub among its blobs.
//!
//! A file outside holds a tensor called `outside`: an index that gets at it is an escape, whatever its name. `VFT_SHARD_PATHS=1000000` for more names.
use crate::alone;
use crate::dice::Dice;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use vft::hub::remote::{Hub, Patience, Progress};
use vft::hub::safetensors::Checkpoint;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const INDEX: &str = "model.safetensors.index.json";

fn weights(tensor: &str) -> Vec<u8> {
    let header = format!(r#"{{"{tensor}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), b"x"].concat()
}

struct Silent;
impl Progress for Silent {}

/// A model in a directory, one in the Hub's cache, and files round them that belong to neither.
struct Place {
    _home: tempfile::TempDir,
    models: [PathBuf; 2],
    hub: Hub,
}

fn link(to: impl AsRef<Path>, from: PathBuf) {
    std::os::unix::fs::symlink(to, from).unwrap();
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        let (plain, repo) = (root.join("model"), root.join("hub/models--org--tiny"));
        let snapshot = repo.join("snapshots").join(COMMIT);
        let outside = [
            root.clone(),
            root.join("hub"),
            root.join("hub/models--org--other"),
            repo.clone(),
            repo.join("snapshots"),
            repo.join("snapshots/other"),
            root.join("model-other"),
        ];
        for dir in
            outside.iter().chain([&plain, &snapshot, &repo.join("blobs"), &repo.join("refs")])
        {
            std::fs::create_dir_all(dir).unwrap();
        }
        for dir in &outside {
            for name in ["outside", "a.safetensors", "outside.safetensors"] {
                std::fs::write(dir.join(name), weights("outside")).unwrap();
            }
        }
        for dir in [&plain, &snapshot] {
            for name in ["inside.safetensors", "outside", "%2e%2e", "..a", "a b"] {
                std::fs::write(dir.join(name), weights("inside")).unwrap();
            }
            std::fs::create_dir(dir.join("folder.safetensors")).unwrap();
            std::fs::write(dir.join("folder.safetensors/inner"), weights("inside")).unwrap();
            link("inside.safetensors", dir.join("link-in.safetensors"));
            link(root.join("outside.safetensors"), dir.join("link-out.safetensors"));
            link("../outside.safetensors", dir.join("link-up.safetensors"));
            link(&root, dir.join("link-root"));
            link("link-out.safetensors", dir.join("link-link.safetensors"));
            link("link-circle", dir.join("link-circle"));
            link(root.join("model-other/a.safetensors"), dir.join("link-prefix.safetensors"));
        }
        std::fs::write(repo.join("blobs/blob"), weights("inside")).unwrap();
        link("../../blobs/blob", snapshot.join("link-blob.safetensors"));
        link("../../blobs/../outside", snapshot.join("link-past-blobs.safetensors"));
        for name in ["config.json", "tokenizer.json"] {
            std::fs::write(snapshot.join(name), "{}").unwrap();
        }
        std::fs::write(repo.join("refs/main"), COMMIT).unwrap();
        let cache = root.to_string_lossy().into_owned();
        let var = |name: &str| match name {
            "HF_HOME" => Some(cache.clone()),
            "HF_HUB_OFFLINE" => Some("1".to_owned()),
            _ => None,
        };
        let hub = Hub::from_vars(None, &var, Patience::default()).unwrap();
        Self { _home: home, models: [plain, snapshot], hub }
    }

    /// Opens an index that names `shard`; what it read, if it did.
    fn open(&self, dir: &Path, shard: &str) -> Option<bool> {
        let index = serde_json::json!({"weight_map": {"t": shard}});
        std::fs::write(dir.join(INDEX), index.to_string()).unwrap();
        let read = Checkpoint::open(dir).ok()?;
        assert!(read.tensor("outside").is_none(), "`{shard}` escapes {}", dir.display());
        Some(read.tensor("inside").is_some())
    }

    /// The same of the Hub's model and of a data set's file.
    fn of_the_hub(&self, shard: &str) {
        let go = AtomicBool::new(false);
        if self.hub.model("org/tiny", None, &Silent, &go).is_ok() {
            assert!(
                self.open(&self.models[1], shard).is_some(),
                "`{shard}` is offered and refused"
            );
        }
    }
}

/// What names are made of.
const PARTS: &[&str] = &[
    "..",
    ".",
    "/",
    "\\",
    "//",
    "../",
    "..\\",
    "\0",
    "%2e%2e",
    "%2f",
    "%00",
    "․․",
    "．．",
    "／",
    "∕",
    "⧵",
    "\u{202e}",
    "\u{feff}",
    "\u{301}",
    ":",
    "C:",
    "~",
    "$HOME",
    "outside",
    "outside.safetensors",
    "a.safetensors",
    "inside.safetensors",
    "INSIDE.safetensors",
    "inner",
    "folder.safetensors",
    "link-in.safetensors",
    "link-out.safetensors",
    "link-up.safetensors",
    "link-link.safetensors",
    "link-prefix.safetensors",
    "link-blob.safetensors",
    "link-past-blobs.safetensors",
    "link-root",
    "link-circle",
    "blobs",
    "snapshots",
    "model-other",
    "model",
    "hub",
    "/etc/passwd",
    "/proc/self/environ",
    "file://",
    "con",
    "a b",
    " ",
    "\n",
    "\t",
    "'",
    "\"",
    "*",
    "?",
    ".safetensors",
    "..a",
    "é",
    "\u{10ffff}",
];

fn name(dice: &mut Dice, root: &Path) -> String {
    let mut name = String::new();
    for _ in 0..1 + dice.below(5) {
        match dice.below(20) {
            0 => name += &root.to_string_lossy(),
            1 => name.extend(char::from_u32(dice.below(0x3000) as u32)),
            2 => name += &"a".repeat(dice.below(400)),
            _ => name += PARTS[dice.below(PARTS.len())],
        }
    }
    name
}

#[test]
fn no_name_of_a_shard_leads_out_of_the_model() {
    let _alone = alone();
    let names: usize =
        std::env::var("VFT_SHARD_PATHS").ok().and_then(|v| v.parse().ok()).unwrap_or(3000);
    let place = Place::new();
    let mut dice = Dice(5);
    let mut read = 0;
    for i in 0..names {
        // Names by themselves first.
        let root = place.models[0].parent().unwrap();
        let shard = match PARTS.get(i) {
            Some(part) => (*part).to_owned(),
            None => name(&mut dice, root),
        };
        for dir in &place.models {
            read += usize::from(place.open(dir, &shard) == Some(true));
        }
        place.of_the_hub(&shard);
    }
    println!("{names} names in 2 places: {read} read a shard of the model, 0 anything else");
    assert!(read > 0);
}

#[test]
fn links_to_blobs_are_followed_and_links_past_them_are_not() {
    let _alone = alone();
    let place = Place::new();
    let opens = |name: &str| place.open(&place.models[1], name).is_some();
    assert!(opens("link-blob.safetensors"));
    assert!(!opens("link-past-blobs.safetensors"));
}
