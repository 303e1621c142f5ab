//! Names and links that would leave the cache.

use crate::home::{BIG, GO, Home, bones, model, noise, refusal, tiny};
use crate::server::{Repo, Server, etag};
use std::fs;
use tempfile::TempDir;

#[test]
fn no_name_leaves_the_cache() {
    let long: &'static str = Box::leak("x".repeat(256).into_boxed_str());
    let names = [
        "../evil",
        "a/../../evil",
        "..",
        ".",
        "",
        "a//b",
        "/etc/evil",
        "a/",
        "..\\evil",
        "a\\b",
        "C:\\evil",
        "C:evil",
        "a\0b",
        "a\nb",
        long,
    ];
    for name in names {
        let (home, server) = (Home::new(), Repo::dataset(&[(name, b"x")]).serve());
        let error = refusal(home.hub(&server).dataset_files("org/rows", None, &(), &GO));
        assert!(error.starts_with("the file name `"), "{name:?}: {error}");
        assert_eq!(fs::read_dir(home.dir.path()).unwrap().count(), 0, "{name:?}");
        let error = refusal(home.hub(&server).dataset("org/rows", None, &[name.into()], &(), &GO));
        assert!(error.starts_with("the file name `"), "{name:?}: {error}");
    }
}

#[test]
fn no_shard_leaves_the_directory() {
    for shard in [
        "../evil.safetensors",
        "/etc/evil.safetensors",
        "sub/evil.safetensors",
        "evil.bin",
        "evil.py",
    ] {
        let mut repo = bones();
        let index = format!("{{\"weight_map\": {{\"w\": \"{shard}\"}}}}");
        repo.files.push(("model.safetensors.index.json", index.into_bytes(), false));
        let (home, server) = (Home::new(), repo.serve());
        let error = refusal(model(&home.hub(&server)));
        assert!(error.contains("evil"), "{error}");
        assert!(!server.lines().iter().any(|l| l.contains("evil")), "{shard}");
    }
}

#[test]
fn an_etag_that_is_no_plain_name_is_refused() {
    for tag in ["\"../../evil\"", "\"/etc/evil\"", "\"\"", "\".hidden\""] {
        let repo = tiny();
        let server = Server::start(move |request, _| repo.answer(request).header("etag", tag));
        let error = refusal(model(&Home::new().hub(&server)));
        assert!(error.contains("ETag is no plain name"), "{tag}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn links_in_the_cache_are_not_followed_out_of_it() {
    use std::os::unix::fs::symlink;
    let outside = TempDir::new().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "mine").unwrap();
    let server = tiny().serve();

    let home = Home::new();
    fs::create_dir_all(home.repo()).unwrap();
    symlink(outside.path(), home.repo().join("snapshots")).unwrap();
    assert!(refusal(model(&home.hub(&server))).contains("is a link where the cache has folders"));

    let home = Home::new();
    fs::create_dir_all(home.repo().join("blobs")).unwrap();
    symlink(&secret, home.repo().join(format!("blobs/{}.incomplete", etag(b"{}", false)))).unwrap();
    assert!(refusal(model(&home.hub(&server))).contains("is no regular file"));

    let home = Home::new();
    fs::create_dir_all(home.snapshot()).unwrap();
    symlink(&secret, home.snapshot().join("config.json")).unwrap();
    assert!(refusal(model(&home.hub(&server))).contains("is a link that leaves the cache"));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "mine");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn blobs_that_huggingface_hub_shares_between_repos_are_found() {
    use std::os::unix::fs::symlink;
    let (home, server) = (Home::new(), tiny().serve());
    let shared = home.dir.path().join("hub/blobs/ab");
    fs::create_dir_all(&shared).unwrap();
    fs::create_dir_all(home.repo().join("blobs")).unwrap();
    fs::write(shared.join("abcd"), noise(BIG)).unwrap();
    symlink("../../blobs/ab/abcd", home.repo().join("blobs").join(etag(&noise(BIG), true)))
        .unwrap();
    let dir = model(&home.hub(&server)).unwrap();
    assert_eq!(
        dir.join("model.safetensors").canonicalize().unwrap(),
        shared.join("abcd").canonicalize().unwrap()
    );
    assert_eq!(model(&home.offline()).unwrap(), dir);
}
