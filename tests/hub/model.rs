//! Which files of a model come, and where they lie.

use crate::home::{BIG, GO, Home, bones, model, noise, refusal, tiny};
use crate::server::{COMMIT, Repo, etag};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use vft::hub::remote::Progress;

#[test]
fn a_model_lies_in_the_cache_as_huggingface_hub_lays_it() {
    let (home, server) = (Home::new(), tiny().serve());
    let dir = model(&home.hub(&server)).unwrap();
    assert_eq!(dir, home.snapshot());
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), noise(BIG));
    assert_eq!(fs::read_to_string(home.repo().join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(dir.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(etag(&noise(BIG), true)));
    let mut blobs = vec![etag(b"{}", false), etag(b"{\"t\": 1}", false), etag(&noise(BIG), true)];
    blobs.sort();
    assert_eq!(home.names("blobs"), blobs);
}

#[test]
fn a_model_is_what_is_read_and_never_code() {
    let repo = Repo::model(&[
        ("config.json", b"{}"),
        ("generation_config.json", b"{\"g\": 1}"),
        ("tokenizer.json", b"{\"t\": 1}"),
        ("tokenizer_config.json", b"{\"c\": 1}"),
        ("chat_template.jinja", b"x"),
        ("model.safetensors", b"m"),
        ("consolidated.safetensors", b"c"),
        ("pytorch_model.bin", b"p"),
        ("modeling_tiny.py", b"import os"),
        ("training_args.pt", b"t"),
        ("onnx/model.onnx", b"o"),
        ("README.md", b"r"),
    ]);
    let (home, server) = (Home::new(), repo.serve());
    model(&home.hub(&server)).unwrap();
    let fetched: Vec<_> = server
        .lines()
        .iter()
        .filter_map(|l| Some(l.strip_prefix("GET /org/tiny/resolve/")?[41..].to_owned()))
        .collect();
    let all = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
    ];
    assert_eq!(fetched, all);
}

#[test]
fn of_shards_only_those_come_that_the_index_lists() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;
    let repo = bones()
        .large("model-1.safetensors", b"one")
        .large("model-2.safetensors", b"two")
        .large("model-3.safetensors", b"old");
    let mut repo = repo.large("model.safetensors", b"whole");
    repo.files.push(("model.safetensors.index.json", index.to_vec(), false));
    let (home, server) = (Home::new(), repo.serve());
    model(&home.hub(&server)).unwrap();
    let names = home.names(&format!("snapshots/{COMMIT}"));
    let all = [
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(names, all);
}

#[test]
fn what_the_cache_has_is_not_fetched_again() {
    let (home, server) = (Home::new(), tiny().serve());
    model(&home.hub(&server)).unwrap();
    let before = server.lines().len();
    model(&home.hub(&server)).unwrap();
    assert_eq!(server.lines()[before..], ["GET /api/models/org/tiny/revision/main?blobs=true"]);
}

#[test]
fn a_blob_of_another_commit_is_linked_and_not_fetched() {
    let (home, server) = (Home::new(), tiny().serve());
    let blobs = home.repo().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(etag(&noise(BIG), true)), noise(BIG)).unwrap();
    model(&home.hub(&server)).unwrap();
    let gets = server
        .lines()
        .iter()
        .filter(|l| l.starts_with("GET") && l.ends_with("model.safetensors"))
        .count();
    assert_eq!(gets, 0);
}

#[test]
fn a_revision_is_a_tag_or_a_commit_too() {
    let (home, server) = (Home::new(), tiny().serve());
    let hub = home.hub(&server);
    assert_eq!(hub.model("org/tiny", Some("v1"), &(), &GO).unwrap(), home.snapshot());
    assert_eq!(fs::read_to_string(home.repo().join("refs/v1")).unwrap(), COMMIT);
    assert_eq!(hub.model("org/tiny", Some(COMMIT), &(), &GO).unwrap(), home.snapshot());
    assert_eq!(home.names("refs"), ["v1"]);
}

#[test]
fn two_processes_fetch_a_file_once() {
    let (home, server) = (Home::new(), tiny().serve());
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| model(&home.hub(&server)).unwrap());
        }
    });
    let gets = server
        .lines()
        .iter()
        .filter(|l| l.starts_with("GET") && l.ends_with("model.safetensors"))
        .count();
    assert_eq!(gets, 1);
}

#[test]
fn an_empty_file_is_a_file() {
    let mut repo = tiny();
    repo.files.push(("merges.txt", Vec::new(), false));
    let (home, server) = (Home::new(), repo.serve());
    let dir = model(&home.hub(&server)).unwrap();
    assert_eq!(fs::read(dir.join("merges.txt")).unwrap(), b"");
}

#[test]
fn progress_hears_of_every_byte() {
    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);
    impl Progress for Heard {
        fn plan(&self, files: usize, bytes: Option<u64>) {
            self.0.lock().unwrap().push(format!("plan {files} {bytes:?}"));
        }
        fn file(&self, name: &str, bytes: Option<u64>) {
            self.0.lock().unwrap().push(format!("file {name} {bytes:?}"));
        }
        fn at(&self, bytes: u64) {
            let mut heard = self.0.lock().unwrap();
            if heard.last().unwrap().starts_with("at") {
                heard.pop();
            }
            heard.push(format!("at {bytes}"));
        }
        fn done(&self, name: &str) {
            self.0.lock().unwrap().push(format!("done {name}"));
        }
    }
    let (home, server, heard) = (Home::new(), tiny().serve(), Heard::default());
    home.hub(&server).model("org/tiny", None, &heard, &GO).unwrap();
    let story = [
        format!("plan 3 Some({})", 2 + 8 + BIG),
        "file config.json Some(2)".into(),
        "at 2".into(),
        "done config.json".into(),
        "file tokenizer.json Some(8)".into(),
        "at 8".into(),
        "done tokenizer.json".into(),
        format!("file model.safetensors Some({BIG})"),
        format!("at {BIG}"),
        "done model.safetensors".into(),
    ];
    assert_eq!(heard.0.into_inner().unwrap(), story);
}

#[test]
fn pickled_weights_are_refused_with_a_way_out() {
    let repo = Repo::model(&[("config.json", b"{}"), ("pytorch_model-00001-of-00002.bin", b"p")]);
    let (home, server) = (Home::new(), repo.serve());
    let error = refusal(model(&home.hub(&server)));
    assert!(error.starts_with("model `org/tiny` has pickled weights only"), "{error}");
    assert!(error.contains("save_pretrained"), "{error}");
}

#[test]
fn an_adapter_is_no_model() {
    let repo = Repo::model(&[("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"a")]);
    let (home, server) = (Home::new(), repo.serve());
    assert!(refusal(model(&home.hub(&server))).contains("is an adapter, not a model"));
}
