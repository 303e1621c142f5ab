//! A loopback server that speaks the Hub's HTTP as far as huggingface_hub and vft use it, and misbehaves as told.

use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use vft::hex::hex;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// First byte of `Range: bytes=N-`.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What is answered.
#[derive(Clone, Default)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
    chunked: bool,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// Sets a header, in place of one of the same name.
    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Closes the connection after `bytes` bytes of the body.
    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// Sends the body in chunks, without a length.
    pub(crate) fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    fn send(self, stream: &mut TcpStream, head: bool) -> std::io::Result<()> {
        let mut text = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if self.chunked {
            text += "transfer-encoding: chunked\r\n";
        } else if !self.headers.iter().any(|(n, _)| n == "content-length") {
            text += &format!("content-length: {}\r\n", self.body.len());
        }
        stream.write_all(format!("{text}\r\n").as_bytes())?;
        if head {
            return Ok(());
        }
        let body = self.cut.and_then(|n| self.body.get(..n)).unwrap_or(&self.body);
        if self.chunked {
            for chunk in body.chunks(1000) {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            }
            return stream.write_all(b"0\r\n\r\n");
        }
        stream.write_all(body)
    }
}

/// A server on a port of its own, for as long as the test runs.
pub(crate) struct Server {
    pub(crate) url: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers with `answer`, which gets the request and how often its method and path were asked before.
    pub(crate) fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (answer, kept) = (Arc::new(answer), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, log) = (answer.clone(), kept.clone());
                std::thread::spawn(move || serve(stream.unwrap(), answer.as_ref(), &log));
            }
        });
        Self { url, log }
    }

    /// All that was asked.
    pub(crate) fn log(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// `GET /path` of all that was asked.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.log().iter().map(|r| format!("{} {}", r.method, r.path)).collect()
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &dyn Fn(&Request, usize) -> Reply,
    log: &Mutex<Vec<Request>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let request = Request { method, path, headers };
    let before = {
        let mut log = log.lock().unwrap();
        let same = |r: &&Request| r.method == request.method && r.path == request.path;
        let before = log.iter().filter(same).count();
        log.push(request.clone());
        before
    };
    // A client that goes away is part of what is tested.
    let _ = answer(&request, before).send(&mut stream, request.method == "HEAD");
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read(&mut [0; 1]);
}

/// The etag of contents: 64 digits of SHA-256 for large files, 40 digits for others.
pub(crate) fn etag(body: &[u8], large: bool) -> String {
    let hash = hex(&Sha256::digest(body));
    if large { hash } else { hash[..40].to_owned() }
}

/// A part of `body` from where the request wants it.
pub(crate) fn bytes(request: &Request, body: &[u8]) -> Reply {
    let reply = Reply::status(200).header("accept-ranges", "bytes");
    match request.from() {
        None => reply.body(body),
        Some(from) if from < body.len() => {
            let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
            Reply { status: 206, ..reply }.header("content-range", range).body(&body[from..])
        }
        Some(_) => Reply::status(416),
    }
}

/// A repo with one commit; large files are redirected to `cdn`.
#[derive(Clone)]
pub(crate) struct Repo {
    pub(crate) api: &'static str,
    pub(crate) address: &'static str,
    pub(crate) commit: &'static str,
    pub(crate) files: Vec<(&'static str, Vec<u8>, bool)>,
    pub(crate) cdn: Option<String>,
}

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl Repo {
    /// The model `org/tiny` with small files.
    pub(crate) fn model(files: &[(&'static str, &[u8])]) -> Self {
        let files = files.iter().map(|(n, b)| (*n, b.to_vec(), false)).collect();
        Self { api: "/api/models/org/tiny", address: "/org/tiny", commit: COMMIT, files, cdn: None }
    }

    /// The dataset `org/rows` with small files.
    pub(crate) fn dataset(files: &[(&'static str, &[u8])]) -> Self {
        let model = Self::model(files);
        Self { api: "/api/datasets/org/rows", address: "/datasets/org/rows", ..model }
    }

    /// With a large file besides, whose etag is its SHA-256.
    pub(crate) fn large(mut self, name: &'static str, body: &[u8]) -> Self {
        self.files.push((name, body.to_vec(), true));
        self
    }

    /// With large files at another server.
    pub(crate) fn cdn(mut self, cdn: &Server) -> Self {
        self.cdn = Some(cdn.url.clone());
        self
    }

    fn listing(&self) -> Reply {
        let siblings: Vec<_> = self
            .files
            .iter()
            .map(|(name, body, large)| {
                let mut file = serde_json::json!({"rfilename": name, "size": body.len()});
                if *large {
                    file["lfs"] =
                        serde_json::json!({"sha256": etag(body, true), "size": body.len(), "pointerSize": 134});
                }
                file
            })
            .collect();
        let json = serde_json::json!({"id": "org/tiny", "sha": self.commit, "siblings": siblings});
        Reply::status(200)
            .header("content-type", "application/json")
            .body(json.to_string().as_bytes())
    }

    /// What the Hub answers.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap();
        if let Some(revision) = path.strip_prefix(&format!("{}/revision/", self.api)) {
            return match revision {
                "main" | "v1" | COMMIT => self.listing(),
                _ => Reply::status(404).header("x-error-code", "RevisionNotFound"),
            };
        }
        let resolve = format!("{}/resolve/{}/", self.address, self.commit);
        let Some(name) = path.strip_prefix(&resolve) else {
            return Reply::status(if path.starts_with("/api/") { 401 } else { 404 })
                .header("x-error-code", "RepoNotFound");
        };
        let Some((name, body, large)) = self.files.iter().find(|(n, _, _)| *n == name) else {
            return Reply::status(404).header("x-error-code", "EntryNotFound");
        };
        let tag = format!("\"{}\"", etag(body, *large));
        match (&self.cdn, large) {
            (Some(cdn), true) => Reply::status(302)
                .header("location", format!("{cdn}/{name}?signature=s3cret"))
                .header("x-linked-etag", tag)
                .header("x-linked-size", body.len())
                .header("x-repo-commit", self.commit),
            _ => bytes(request, body).header("etag", tag).header("x-repo-commit", self.commit),
        }
    }

    /// A server for this repo that behaves.
    pub(crate) fn serve(self) -> Server {
        Server::start(move |request, _| self.answer(request))
    }
}
