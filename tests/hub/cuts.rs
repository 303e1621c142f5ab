//! Connections that end too early, and downloads that a signal ends.

use crate::home::{BIG, Home, model, noise, refusal, tiny, weights};
use crate::server::{Reply, Request, Server, bytes, etag};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vft::hub::remote::{HubError, Progress};

#[test]
fn a_cut_connection_is_resumed_where_it_ended() {
    let server = weights(|request, before, body| {
        let reply = bytes(request, body);
        if before == 0 { reply.cut(BIG / 3) } else { reply }
    });
    let home = Home::new();
    let dir = model(&home.hub(&server)).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), noise(BIG));
    let ranges: Vec<_> = server
        .log()
        .iter()
        .filter(|r| r.method == "GET" && r.path.ends_with("model.safetensors"))
        .map(Request::from)
        .collect();
    assert_eq!(ranges, [None, Some(BIG / 3)]);
}

#[test]
fn a_connection_that_is_always_cut_leaves_its_partial_for_next_time() {
    // A few bytes at a time, and then none.
    let server = weights(|request, before, body| {
        bytes(request, body).cut(if before < 2 { 1000 } else { 0 })
    });
    let home = Home::new();
    let error = refusal(model(&home.hub(&server)));
    let partial = home.repo().join(format!("blobs/{}.incomplete", etag(&noise(BIG), true)));
    assert!(error.contains("did not come whole in 4 tries"), "{error}");
    assert!(error.contains(&format!("2000 bytes stay in {}", partial.display())), "{error}");
    assert_eq!(fs::read(&partial).unwrap(), noise(BIG)[..2000]);
    assert!(!home.snapshot().join("model.safetensors").exists());
    let healthy = tiny().serve();
    let dir = model(&home.hub(&healthy)).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), noise(BIG));
    let get = healthy
        .log()
        .into_iter()
        .find(|r| r.method == "GET" && r.path.ends_with("model.safetensors"));
    assert_eq!(get.unwrap().from(), Some(2000));
    assert!(!partial.exists());
}

#[test]
fn a_server_that_knows_no_ranges_begins_anew() {
    let server = weights(|_, before, body| {
        let reply = Reply::status(200).body(body);
        if before == 0 { reply.cut(1000) } else { reply }
    });
    let home = Home::new();
    let dir = model(&home.hub(&server)).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), noise(BIG));
}

#[test]
fn a_server_that_sends_another_part_is_not_believed() {
    let server = weights(|request, before, body| match before {
        0 => bytes(request, body).cut(1000),
        1 => Reply::status(206)
            .header("content-range", format!("bytes 0-{}/{BIG}", BIG - 1))
            .body(body),
        _ => bytes(request, body),
    });
    let home = Home::new();
    let dir = model(&home.hub(&server)).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), noise(BIG));
}

#[test]
fn a_partial_that_the_disk_damaged_is_fetched_anew() {
    let (home, server) = (Home::new(), tiny().serve());
    let blobs = home.repo().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", etag(&noise(BIG), true))), [0; 5000]).unwrap();
    let dir = model(&home.hub(&server)).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), noise(BIG));
}

#[test]
fn a_signal_ends_between_chunks_and_the_partial_goes_on() {
    struct StopAt<'a>(&'a AtomicBool);
    impl Progress for StopAt<'_> {
        fn at(&self, bytes: u64) {
            if bytes >= 1 << 20 {
                self.0.store(true, Ordering::Relaxed);
            }
        }
    }
    let (home, server, stop) = (Home::new(), tiny().serve(), AtomicBool::new(false));
    let ended = home.hub(&server).model("org/tiny", None, &StopAt(&stop), &stop);
    assert_eq!(ended, Err(HubError::Interrupted));
    let partial = home.repo().join(format!("blobs/{}.incomplete", etag(&noise(BIG), true)));
    let len = fs::metadata(&partial).unwrap().len() as usize;
    assert!((1 << 20..BIG).contains(&len), "{len}");
    let dir = model(&home.hub(&server)).unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), noise(BIG));
    let last = server.log().pop().unwrap();
    assert_eq!(last.from(), Some(len));
}

#[test]
fn a_signal_ends_a_wait() {
    let server = Server::start(|_, _| Reply::status(429).header("retry-after", 2));
    let (home, stop) = (Home::new(), AtomicBool::new(false));
    let start = Instant::now();
    let ended = std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            stop.store(true, Ordering::Relaxed);
        });
        home.hub(&server).model("org/tiny", None, &(), &stop)
    });
    assert_eq!(ended, Err(HubError::Interrupted));
    assert!(start.elapsed() < Duration::from_secs(1));
}
