//! Redirects, and whom the token meets.

use crate::home::{BIG, GO, Home, TOKEN, model, noise, refusal, tiny};
use crate::server::{Reply, Server, bytes};
use std::fs;
use vft::hub::remote::Secret;

#[test]
fn the_token_goes_to_the_endpoint_alone() {
    let cdn = Server::start(|request, _| bytes(request, &noise(BIG)));
    let server = tiny().cdn(&cdn).serve();
    let home = Home::new();
    let dir = model(&home.hub_with(&server.url, &[("HF_TOKEN", TOKEN)])).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), noise(BIG));
    let bearer = format!("Bearer {TOKEN}");
    assert!(server.log().iter().all(|r| r.header("authorization") == Some(bearer.as_str())));
    assert_eq!(cdn.lines(), ["GET /model.safetensors?signature=s3cret"]);
    assert_eq!(cdn.log()[0].header("authorization"), None);
}

#[test]
fn a_token_file_is_the_token() {
    let (home, server) = (Home::new(), tiny().serve());
    fs::write(home.dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
    model(&home.hub(&server)).unwrap();
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(server.log()[0].header("authorization"), Some(bearer.as_str()));
}

#[test]
fn a_renamed_repo_is_followed_on_its_own_host() {
    let repo = tiny();
    let server = Server::start(move |request, _| match request.path.strip_prefix("/old/") {
        Some(rest) => Reply::status(307).header("location", format!("/org/{rest}")),
        None if request.path.starts_with("/api/models/old/") => {
            Reply::status(307).header("location", request.path.replace("/old/", "/org/"))
        }
        None => repo.answer(request),
    });
    let home = Home::new();
    let hub = home.hub_with(&server.url, &[("HF_TOKEN", TOKEN)]);
    let dir = hub.model("old/tiny", None, &(), &GO).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), noise(BIG));
}

#[test]
fn redirects_lead_to_http_and_end() {
    for to in ["file:///etc/passwd", "ftp://host/x", "data:text/plain,x"] {
        let server = Server::start(move |_, _| Reply::status(302).header("location", to));
        let error = refusal(model(&Home::new().hub(&server)));
        assert!(error.contains("redirects to no address of http or https"), "{to}: {error}");
    }
    let server = Server::start(|_, _| Reply::status(302));
    let error = refusal(model(&Home::new().hub(&server)));
    assert!(error.contains("redirects to no address of http or https"), "{error}");
    let server =
        Server::start(|request, _| Reply::status(302).header("location", request.path.clone()));
    assert!(refusal(model(&Home::new().hub(&server))).contains("redirects without end"));
}

#[test]
fn neither_token_nor_signature_is_ever_shown() {
    assert_eq!(format!("{} {:?}", Secret::new(TOKEN), Secret::new(TOKEN)), "[redacted] [redacted]");
    // A server that echoes what it is sent.
    for status in [400, 401, 403, 404, 418, 429, 500] {
        let server = Server::start(move |request, _| {
            let echo = request.header("authorization").unwrap_or_default().to_owned();
            Reply::status(status)
                .header("x-error-message", &echo)
                .header("x-error-code", &echo)
                .header("retry-after", 0)
                .body(echo.as_bytes())
        });
        let error = refusal(model(&Home::new().hub_with(&server.url, &[("HF_TOKEN", TOKEN)])));
        assert!(!error.contains(TOKEN), "{error}");
    }
    let cdn = Server::start(|_, _| Reply::status(403));
    let server = tiny().cdn(&cdn).serve();
    let error = refusal(model(&Home::new().hub_with(&server.url, &[("HF_TOKEN", TOKEN)])));
    assert!(error.contains("(403)"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    let home = Home::new();
    let url = server.url.replace("//", "//user:pass@") + "/x.json?key=s3cret";
    let error = refusal(home.hub(&server).url_file(&url, &home.dir.path().join("x"), &(), &GO));
    assert!(error.starts_with("http://127.0.0.1/x.json: the server answers 404"), "{error}");
}
