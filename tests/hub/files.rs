//! Datasets, and files at plain addresses.

use crate::home::{BIG, GO, Home, noise, refusal};
use crate::server::{COMMIT, Reply, Repo, Server, bytes, etag};
use std::fs;
use std::path::Path;

#[test]
fn a_dataset_lists_its_files_and_brings_those_asked_for() {
    let repo = Repo::dataset(&[
        ("README.md", b"---\nconfigs: []\n---"),
        ("data/train-0.parquet", b"PAR1"),
        ("data/test-0.parquet", b"T"),
    ]);
    let (home, server) = (Home::new(), repo.serve());
    let hub = home.hub(&server);
    let files = hub.dataset_files("org/rows", None, &(), &GO).unwrap();
    assert_eq!(files.commit, COMMIT);
    assert_eq!(files.names, ["README.md", "data/train-0.parquet", "data/test-0.parquet"]);
    assert_eq!(files.readme.as_deref(), Some("---\nconfigs: []\n---"));
    let wanted = ["data/train-0.parquet".to_owned()];
    let paths = hub.dataset("org/rows", Some(&files.commit), &wanted, &(), &GO).unwrap();
    let folder = home.dir.path().join("hub/datasets--org--rows/snapshots").join(COMMIT);
    assert_eq!(paths, [folder.join("data/train-0.parquet")]);
    assert_eq!(fs::read(&paths[0]).unwrap(), b"PAR1");
    assert_eq!(
        fs::read_link(&paths[0]).unwrap(),
        Path::new("../../../blobs").join(etag(b"PAR1", false))
    );
    let before = server.lines().len();
    assert_eq!(hub.dataset("org/rows", Some(COMMIT), &wanted, &(), &GO).unwrap(), paths);
    assert_eq!(server.lines().len(), before);
    assert_eq!(home.offline().dataset("org/rows", None, &wanted, &(), &GO).unwrap(), paths);
    let cached = home.offline().dataset_files("org/rows", None, &(), &GO).unwrap();
    assert_eq!(cached.names, ["README.md", "data/train-0.parquet"]);
    assert_eq!(cached.readme, files.readme);
}

#[test]
fn names_of_files_are_encoded_in_addresses() {
    let server = Server::start(|request, _| match request.path.as_str() {
        "/api/datasets/org/rows/revision/main?blobs=true" => {
            Repo::dataset(&[("câu hỏi #1.json", b"[]")]).answer(request)
        }
        path if path
            == format!(
                "/datasets/org/rows/resolve/{COMMIT}/c%C3%A2u%20h%E1%BB%8Fi%20%231.json"
            ) =>
        {
            bytes(request, b"[]").header("etag", "\"abc\"").header("x-repo-commit", COMMIT)
        }
        _ => Reply::status(404),
    });
    let home = Home::new();
    let paths =
        home.hub(&server).dataset("org/rows", None, &["câu hỏi #1.json".into()], &(), &GO).unwrap();
    assert_eq!(fs::read(&paths[0]).unwrap(), b"[]");
}

#[test]
fn code_in_a_dataset_is_never_asked_for() {
    let repo = Repo::dataset(&[("rows.py", b"import os"), ("rows.pkl", b"p")]);
    let (home, server) = (Home::new(), repo.serve());
    for name in ["rows.py", "rows.pkl"] {
        let error = refusal(home.hub(&server).dataset("org/rows", None, &[name.into()], &(), &GO));
        assert!(
            error.starts_with(&format!("`{name}` is or may hold code and is not downloaded")),
            "{error}"
        );
    }
    assert_eq!(server.lines(), [""; 0]);
}

#[test]
fn a_missing_file_is_named() {
    let (home, server) = (Home::new(), Repo::dataset(&[]).serve());
    let error =
        refusal(home.hub(&server).dataset("org/rows", None, &["trian.json".into()], &(), &GO));
    assert!(
        error.starts_with("there is no `trian.json` of dataset `org/rows` at `main`"),
        "{error}"
    );
}

#[test]
fn a_plain_address_gives_a_whole_file_and_keeps_one_that_is_there() {
    let server = Server::start(|request, before| {
        let reply = bytes(request, &noise(BIG)).header("etag", "\"v1\"");
        // Asked for its size, cut, then resumed.
        if before == 1 { reply.cut(BIG / 2) } else { reply }
    });
    let (home, url) = (Home::new(), format!("{}/alpaca.json", server.url));
    let to = home.dir.path().join("data/alpaca.json");
    home.hub(&server).url_file(&url, &to, &(), &GO).unwrap();
    assert_eq!(fs::read(&to).unwrap(), noise(BIG));
    assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1);
    let last = server.log().pop().unwrap();
    assert_eq!((last.from(), last.header("if-range")), (Some(BIG / 2), Some("\"v1\"")));
    fs::write(&to, "mine").unwrap();
    home.hub(&server).url_file(&url, &to, &(), &GO).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"mine");
}

#[test]
fn a_plain_file_that_changed_is_fetched_anew() {
    let server = Server::start(|request, before| match before {
        0 => bytes(request, &noise(BIG)).header("etag", "\"v1\""),
        1 => bytes(request, &noise(BIG)).header("etag", "\"v1\"").cut(BIG / 2),
        // What `If-Range` asks for: the whole, since the tag is another.
        _ => Reply::status(200).header("etag", "\"v2\"").body(&vec![7; BIG]),
    });
    let home = Home::new();
    let to = home.dir.path().join("rows.json");
    home.hub(&server).url_file(&format!("{}/rows.json", server.url), &to, &(), &GO).unwrap();
    assert_eq!(fs::read(&to).unwrap(), vec![7; BIG]);
}

#[test]
fn a_plain_address_is_http() {
    let home = Home::new();
    let to = home.dir.path().join("x");
    for url in ["file:///etc/passwd", "/etc/passwd", "ftp://host/x", "rows.json"] {
        let error = refusal(home.offline().url_file(url, &to, &(), &GO));
        assert!(error.contains("none of http or https"), "{url}: {error}");
    }
}
