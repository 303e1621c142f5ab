//! What the user is told when the Hub refuses, is busy, silent or away.

use crate::home::{GO, Home, model, refusal, tiny};
use crate::server::{Reply, Server};
use std::fs;
use std::time::{Duration, Instant};
use vft::hub::remote::{Hub, Patience, is_repo_id};

fn answers(status: u16, code: &'static str) -> Server {
    Server::start(move |_, _| match code {
        "" => Reply::status(status),
        code => Reply::status(status).header("x-error-code", code),
    })
}

#[test]
fn refusals_say_what_to_do() {
    let table = [
        (401, "", "needs a token, or does not exist (401)", "set HF_TOKEN"),
        (401, "GatedRepo", "is gated (401)", "/org/tiny"),
        (403, "GatedRepo", "is gated (403)", "accept the licence at http://127.0.0.1"),
        (403, "", "access to model `org/tiny` is denied (403)", "set HF_TOKEN"),
        (
            404,
            "RepoNotFound",
            "there is no model `org/tiny`",
            "check the spelling; a private one looks the same without a token",
        ),
        (
            404,
            "RevisionNotFound",
            "model `org/tiny` has no revision `main`",
            "a branch, a tag or a commit",
        ),
        (500, "", "the Hub answers 500", "try again later"),
    ];
    for (status, code, message, hint) in table {
        let (home, server) = (Home::new(), answers(status, code));
        let error = refusal(model(&home.hub(&server)));
        let (said, way_out) = error.split_once("hint: ").unwrap();
        assert!(said.contains(message), "{error}");
        assert!(way_out.contains(hint), "{error}");
    }
}

#[test]
fn too_many_requests_are_waited_for() {
    let repo = tiny();
    let server = Server::start(move |request, before| {
        let busy = before == 0 && request.path.starts_with("/api/");
        if busy { Reply::status(429).header("retry-after", 1) } else { repo.answer(request) }
    });
    let (home, start) = (Home::new(), Instant::now());
    assert_eq!(model(&home.hub(&server)), Ok(home.snapshot()));
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_wait_beyond_the_bound_is_an_error() {
    let server = Server::start(|_, _| Reply::status(429).header("retry-after", 3600));
    let home = Home::new();
    let error = refusal(model(&home.hub(&server)));
    assert!(error.contains("(429)"), "{error}");
    assert!(error.contains("it asks to wait for 3600 s"), "{error}");
    assert_eq!(server.log().len(), 1);
}

#[test]
fn too_many_requests_again_and_again_end() {
    let server = Server::start(|_, _| Reply::status(429).header("retry-after", 0));
    let home = Home::new();
    let error = refusal(model(&home.hub(&server)));
    assert!(error.contains("`too many requests` (429) again and again"), "{error}");
    assert_eq!(server.log().len(), 4);
}

#[test]
fn a_hub_that_cannot_be_reached_names_mirror_and_cache() {
    let home = Home::new();
    for endpoint in ["http://127.0.0.1:9", "http://no-such-host.invalid"] {
        let error = refusal(model(&home.hub_with(endpoint, &[])));
        assert!(error.contains("HF_ENDPOINT names a mirror; HF_HUB_OFFLINE=1"), "{error}");
    }
}

#[test]
fn a_silent_server_is_given_up() {
    let server = Server::start(|_, _| {
        std::thread::sleep(Duration::from_secs(60));
        Reply::status(200)
    });
    let home = Home::new();
    let patience = Patience {
        tries: 2,
        first_wait: Duration::ZERO,
        longest_wait: Duration::ZERO,
        silence: Duration::from_millis(200),
    };
    let path = home.dir.path().to_str().unwrap();
    let var = |name: &str| match name {
        "HF_HOME" => Some(path.to_owned()),
        "HF_ENDPOINT" => Some(server.url.clone()),
        _ => None,
    };
    let error = refusal(model(&Hub::from_vars(None, &var, patience).unwrap()));
    assert!(error.contains("`127.0.0.1` does not answer"), "{error}");
}

#[test]
fn offline_uses_the_cache_alone_and_names_what_it_lacks() {
    let (home, server) = (Home::new(), tiny().serve());
    let error = refusal(model(&home.offline()));
    assert!(error.starts_with("model `org/tiny` at `main` is not in the cache"), "{error}");
    let dir = model(&home.hub(&server)).unwrap();
    assert_eq!(model(&home.offline()).unwrap(), dir);
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let error = refusal(model(&home.offline()));
    assert!(error.starts_with("model `org/tiny`: the cache lacks `model.safetensors`"), "{error}");
    assert!(error.contains("HF_HUB_OFFLINE is set"), "{error}");
    let to = home.dir.path().join("rows.json");
    let error = refusal(home.offline().url_file("https://host.example/rows.json", &to, &(), &GO));
    assert!(error.contains("rows.json: is not there"), "{error}");
}

#[test]
fn no_repo_id_and_no_revision_reach_the_disk() {
    let home = Home::new();
    assert!(refusal(home.offline().model("../x", None, &(), &GO)).contains("is no repo id"));
    assert!(
        refusal(home.offline().model("a/b", Some("../../x"), &(), &GO)).contains("is no revision")
    );
    assert!(!is_repo_id("../x"));
}
