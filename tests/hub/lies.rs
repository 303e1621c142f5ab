//! Servers that announce one thing and send another.

use crate::home::{BIG, Home, model, noise, refusal, tiny, weights};
use crate::server::{Reply, Request, Server, bytes, etag};

#[test]
fn what_differs_from_the_announcement_never_gets_its_name() {
    type Answer = fn(&Request, usize, &[u8]) -> Reply;
    let table: [(&str, Answer); 5] = [
        ("sent would be 100", |r, _, body| bytes(r, &body[..100])),
        ("sent would be 3145729", |r, _, body| bytes(r, &[body, b"x"].concat())),
        ("more than the announced 3145728 bytes come", |_, _, body| {
            Reply::status(200).body(&[body, b"x"].concat()).chunked()
        }),
        ("its SHA-256 is", |r, _, body| bytes(r, &vec![0; body.len()])),
        ("sent would be 9999999", |r, before, body| match before {
            0 => bytes(r, body).cut(1000),
            _ => bytes(r, body).header("content-range", "bytes 1000-9999998/9999999"),
        }),
    ];
    for (why, answer) in table {
        let (home, server) = (Home::new(), weights(answer));
        let error = refusal(model(&home.hub(&server)));
        assert!(
            error.contains("`model.safetensors` is not what was announced and was removed"),
            "{error}"
        );
        assert!(error.contains(why), "{error}");
        assert!(!home.snapshot().join("model.safetensors").exists(), "{why}");
        let rest: Vec<_> = home
            .names("blobs")
            .into_iter()
            .filter(|n| n.starts_with(&etag(&noise(BIG), true)))
            .collect();
        assert_eq!(rest, [""; 0], "{why}");
    }
}

#[test]
fn a_length_that_never_comes_whole_is_a_cut() {
    let server =
        weights(|_, _, body| Reply::status(200).header("content-length", BIG).body(body).cut(5000));
    let home = Home::new();
    let error = refusal(model(&home.hub(&server)));
    assert!(error.contains("5000 bytes stay in"), "{error}");
}

#[test]
fn listing_and_headers_must_agree() {
    let table = [
        ("x-linked-size", "7", "the file's headers 7"),
        (
            "x-linked-etag",
            "\"0000000000000000000000000000000000000000000000000000000000000000\"",
            "another SHA-256",
        ),
    ];
    for (header, value, why) in table {
        let repo = tiny();
        let server = Server::start(move |request, _| {
            let reply = repo.answer(request);
            if request.method == "HEAD" && request.path.ends_with("model.safetensors") {
                reply.header(header, value)
            } else {
                reply
            }
        });
        let home = Home::new();
        let error = refusal(model(&home.hub(&server)));
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_listing_that_is_none_is_told() {
    for body in ["<html>", "{\"sha\": \"../../etc\", \"siblings\": []}", "{}"] {
        let server = Server::start(|_, _| Reply::status(200).body(body.as_bytes()));
        let error = refusal(model(&Home::new().hub(&server)));
        assert!(error.starts_with("the listing of model `org/tiny`"), "{body}: {error}");
    }
}
