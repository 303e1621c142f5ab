//! A file at a plain address, as LitGPT's `file_url` names them.
//!
//! There is no etag to name the partial by before the first answer: the partial's name carries a hash of what the server says of the file,
//! and `If-Range` keeps a changed file from being continued.

use super::error::{HubError, Result, Subject, disk};
use super::http::{Follow, Http, Verb};
use super::names::{check_harmless, shown};
use super::progress::Call;
use super::transfer::{self, Source, number};
use crate::error::Problem;
use crate::hex::hex;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use ureq::http::{HeaderMap, Uri};

/// Fetches `url` as the file `to`; one that is there and not empty is kept.
pub(super) fn fetch(
    http: &Http,
    offline: bool,
    url: &str,
    to: &Path,
    call: Call<'_>,
) -> Result<()> {
    if to.metadata().is_ok_and(|m| m.is_file() && m.len() > 0) {
        return Ok(());
    }
    let uri: Option<Uri> = url.parse().ok();
    let web = |u: &Uri| {
        matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some_and(|h| !h.is_empty())
    };
    let uri = uri.filter(web).ok_or_else(|| {
        HubError::from(
            Problem::new("the address of a file to download is none of http or https")
                .hint("it reads `https://host/file`; a file on this disk goes into `path`"),
        )
    })?;
    // Without user, password and query: they may hold a key.
    let clean = format!(
        "{}://{}{}",
        uri.scheme_str().unwrap_or("https"),
        uri.host().unwrap_or_default(),
        uri.path()
    );
    check_harmless(uri.path())?;
    if offline {
        return Err(Problem::in_file(
            to,
            format!("is not there, and {} is not asked for it", shown(&clean)),
        )
        .hint("HF_HUB_OFFLINE is set: put the file there, or run once without it")
        .into());
    }
    let about =
        Subject { what: shown(&clean), page: None, revision: "", file: None, has_token: false };
    let answer = http.send(Verb::Get, url, &[], Follow::Anywhere, &about, call)?;
    if answer.status().as_u16() != 200 {
        return Err(about.refused(answer.status().as_u16(), answer.headers()).into());
    }
    let size = number(answer.headers(), "content-length");
    let unchanged = validator(answer.headers());
    drop(answer);
    let name = to.file_name().and_then(|n| n.to_str()).unwrap_or("file").to_owned();
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| disk(folder, &e))?;
    let mark = format!("{url}\n{size:?}\n{unchanged:?}");
    let mark = hex(&Sha256::digest(mark.as_bytes())[..6]);
    let partial = folder.join(format!("{name}.{mark}.incomplete"));
    if unchanged.is_none() {
        // Nothing tells whether what lies there is a part of today's file.
        match fs::remove_file(&partial) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(disk(&partial, &e)),
            _ => {}
        }
    }
    call.progress.plan(1, size);
    let source = Source { url, name: &name, size, sha256: None, unchanged: unchanged.as_deref() };
    transfer::fetch(http, &source, &partial, to, &about, call)
}

/// What names this very state of the file: a strong etag, else its date (RFC 9110, 13.1.5).
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let etag = text("etag").filter(|e| !e.starts_with("W/"));
    etag.or_else(|| text("last-modified")).map(str::to_owned)
}
