//! The bytes of one file: from where they ended, as often as it takes, checked against what was announced.
//!
//! A cut connection is resumed with `Range: bytes=N-` (RFC 9110, 14.2). What the server says of the size must agree everywhere: the
//! listing, the file's own headers, `Content-Length` and `Content-Range`, the bytes that came. The etag of a large file is its SHA-256. What
//! disagrees is removed and never gets the final name; what is only incomplete stays as `<etag>.incomplete` for the next time.

use super::error::{HubError, Result, Subject};
use super::http::{Follow, Http, Verb};
use super::names::shown;
use super::partial::{CHUNK, Partial};
use super::progress::Call;
use crate::error::Problem;
use std::io::Read;
use std::path::Path;
use ureq::http::HeaderMap;

/// Bytes that make a try count as one that got on.
const GOT_ON: u64 = 1 << 20;

/// A file to fetch.
pub(super) struct Source<'a> {
    pub(super) url: &'a str,
    /// Its name, for messages.
    pub(super) name: &'a str,
    /// Its size, where announced.
    pub(super) size: Option<u64>,
    /// Its SHA-256, where announced.
    pub(super) sha256: Option<&'a str>,
    /// What must not have changed for a resumption (`If-Range`), where the partial's name does not say it.
    pub(super) unchanged: Option<&'a str>,
}

enum Try {
    Whole,
    Cut(String),
    Lie(String),
}

/// Fetches a file into `partial` and then calls it `to`.
pub(super) fn fetch(
    http: &Http,
    source: &Source<'_>,
    partial: &Path,
    to: &Path,
    about: &Subject<'_>,
    call: Call<'_>,
) -> Result<()> {
    let mut file = Partial::open(partial, call)?;
    if source.size.is_some_and(|size| file.len > size) {
        file.restart()?;
    }
    // Bytes of an earlier run may have been lost with the machine; a wrong hash is then no lie of the server's.
    let mut old = file.len > 0;
    call.progress.file(source.name, source.size);
    call.progress.at(file.len);
    let (mut tries, mut mark) = (1, file.len);
    loop {
        match attempt(http, source, &mut file, about, call)? {
            Try::Whole => {
                let sha256 = file.sha256();
                match source.sha256 {
                    Some(announced) if announced != sha256 => {
                        if !old {
                            let why = format!("its SHA-256 is {sha256}, announced is {announced}");
                            return Err(lie(source, file, &why));
                        }
                        file.restart()?;
                        (old, tries, mark) = (false, 1, 0);
                    }
                    _ => {
                        file.finish(to)?;
                        call.progress.done(source.name);
                        return Ok(());
                    }
                }
            }
            Try::Lie(why) => return Err(lie(source, file, &why)),
            Try::Cut(why) => {
                if file.len >= mark.saturating_add(GOT_ON) {
                    (tries, mark) = (1, file.len);
                }
                if tries >= http.patience.tries {
                    return Err(cut(source, &file, tries, &why));
                }
                let pause = http.patience.pause(tries);
                let name = shown(source.name);
                let seconds = pause.as_secs_f64();
                call.progress.note(&format!(
                    "`{name}`: {why}; goes on at byte {} in {seconds:.1} s",
                    file.len
                ));
                call.wait(pause)?;
                tries += 1;
            }
        }
    }
}

fn attempt(
    http: &Http,
    source: &Source<'_>,
    file: &mut Partial,
    about: &Subject<'_>,
    call: Call<'_>,
) -> Result<Try> {
    if source.size == Some(file.len) {
        return Ok(Try::Whole);
    }
    let mut headers = Vec::new();
    if file.len > 0 {
        headers.push(("range", format!("bytes={}-", file.len)));
        headers.extend(source.unchanged.map(|tag| ("if-range", tag.to_owned())));
    }
    let answer = http.send(Verb::Get, source.url, &headers, Follow::Anywhere, about, call)?;
    match answer.status().as_u16() {
        200 => {
            if file.len > 0 {
                file.restart()?;
                call.progress.at(0);
            }
        }
        206 => {
            let (start, total) = content_range(answer.headers());
            if total.is_some() && source.size.is_some() && total != source.size {
                return Ok(Try::Lie(sizes(source.size, total)));
            }
            if start != Some(file.len) {
                file.restart()?;
                return Ok(Try::Cut("the server sends another part than it was asked for".into()));
            }
        }
        416 if file.len > 0 => {
            file.restart()?;
            return Ok(Try::Cut("the server does not resume".into()));
        }
        status => return Err(about.refused(status, answer.headers()).into()),
    }
    let length = number(answer.headers(), "content-length");
    if let (Some(length), Some(size)) = (length, source.size)
        && file.len.checked_add(length) != Some(size)
    {
        return Ok(Try::Lie(sizes(source.size, file.len.checked_add(length))));
    }
    let mut body = answer.into_body().into_reader();
    let mut chunk = vec![0; CHUNK];
    loop {
        call.go_on()?;
        let read = match body.read(&mut chunk) {
            Ok(n) => chunk.get(..n).unwrap_or_default(),
            Err(e) => return Ok(Try::Cut(format!("the connection was cut ({e})"))),
        };
        let after = file.len + read.len() as u64;
        if source.size.is_some_and(|size| after > size) {
            return Ok(Try::Lie(format!(
                "more than the announced {} bytes come",
                source.size.unwrap_or(0)
            )));
        }
        if read.is_empty() {
            return Ok(match source.size {
                Some(size) if file.len < size => {
                    Try::Cut(format!("the connection ended at {} of {size} bytes", file.len))
                }
                _ => Try::Whole,
            });
        }
        file.write(read)?;
        call.progress.at(file.len);
    }
}

fn lie(source: &Source<'_>, file: Partial, why: &str) -> HubError {
    file.remove();
    Problem::new(format!("`{}` is not what was announced and was removed: {why}", shown(source.name)))
        .hint("try again; if it stays so, the server or a proxy on the way changes files: see HF_ENDPOINT and the proxy's settings")
        .into()
}

fn cut(source: &Source<'_>, file: &Partial, tries: u32, why: &str) -> HubError {
    let path = &file.path;
    let name = shown(source.name);
    Problem::new(format!("`{name}` did not come whole in {tries} tries: {why}"))
        .hint(format!(
            "{} bytes stay in {}; the same command goes on from there",
            file.len,
            path.display()
        ))
        .into()
}

fn sizes(announced: Option<u64>, sent: Option<u64>) -> String {
    let words = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    format!("announced are {} bytes, sent would be {}", words(announced), words(sent))
}

/// A header that is a number.
pub(super) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// First byte and size of the whole in `Content-Range: bytes FIRST-LAST/SIZE`.
fn content_range(headers: &HeaderMap) -> (Option<u64>, Option<u64>) {
    let text = headers.get("content-range").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (part, total) = text.trim_start_matches("bytes ").split_once('/').unwrap_or_default();
    (part.split('-').next().and_then(|s| s.parse().ok()), total.parse().ok())
}
