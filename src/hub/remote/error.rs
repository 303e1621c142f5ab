//! Why a download ended without its file, and the way out.
//!
//! The server's own words are not repeated: a server may echo the token that it was sent. Addresses are shown without user, password
//! and query, where signed addresses carry their key.

use super::names::shown;
use crate::error::{Problem, UserError};
use std::fmt;
use std::io;
use std::path::Path;
use ureq::http::{HeaderMap, Uri};

/// A result of the Hub.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// Why nothing was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubError {
    /// The user's signal; what is on disk stays, and the next call goes on from there.
    Interrupted,
    /// For the user to mend.
    User(UserError),
}

impl fmt::Display for HubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str(
                "the download was interrupted\n  hint: the same command goes on where it ended",
            ),
            Self::User(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for HubError {}

impl From<Problem> for HubError {
    fn from(problem: Problem) -> Self {
        Self::User(problem.into())
    }
}

impl From<HubError> for UserError {
    fn from(error: HubError) -> Self {
        match error {
            HubError::Interrupted => Problem::new("the download was interrupted")
                .hint("the same command goes on where it ended")
                .into(),
            HubError::User(e) => e,
        }
    }
}

/// What a request is about, for the words of its errors.
pub(super) struct Subject<'a> {
    /// Such as ``model `org/name` ``.
    pub(super) what: String,
    /// Its page, where a licence is accepted; none for plain addresses.
    pub(super) page: Option<String>,
    /// The branch, tag or commit that was asked for.
    pub(super) revision: &'a str,
    /// The file that was asked for.
    pub(super) file: Option<&'a str>,
    /// Whether a token is at hand.
    pub(super) has_token: bool,
}

impl Subject<'_> {
    fn named(&self) -> String {
        match self.file {
            Some(file) => format!("`{}` of {}", shown(file), self.what),
            None => self.what.clone(),
        }
    }

    fn token(&self) -> String {
        let page = self.page.as_deref().unwrap_or_default();
        if self.has_token {
            format!(
                "the token that was sent has no right to it: accept the licence at {page} with the token's account, or set \
                 HF_TOKEN to a token that may read it"
            )
        } else {
            format!(
                "set HF_TOKEN to a token that may read it; accept the licence at {page} if it has one"
            )
        }
    }

    /// The answer `status` as an error.
    pub(super) fn refused(&self, status: u16, headers: &HeaderMap) -> Problem {
        let code = headers.get("x-error-code").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let named = self.named();
        if self.page.is_none() {
            return Problem::new(format!("{named}: the server answers {status}"))
                .hint("check the address; a file in its place is used without a download");
        }
        match (status, code) {
            (_, "RevisionNotFound") => {
                Problem::new(format!("{} has no revision `{}`", self.what, self.revision))
                    .hint("a revision is a branch, a tag or a commit; check the spelling")
            }
            (_, "EntryNotFound") => {
                Problem::new(format!("there is no {named} at `{}`", self.revision))
                    .hint("check the file's spelling and the revision")
            }
            (_, "GatedRepo") => {
                Problem::new(format!("{named} is gated ({status})")).hint(self.token())
            }
            (401, _) => {
                let token = self.token();
                Problem::new(format!("{named} needs a token, or does not exist (401)"))
                    .hint(format!("check the spelling; {token}"))
            }
            (403, _) => {
                Problem::new(format!("access to {named} is denied (403)")).hint(self.token())
            }
            (404, _) => {
                let private = if self.has_token {
                    "a private one that the token may not read looks the same"
                } else {
                    "a private one looks the same without a token: set HF_TOKEN"
                };
                let problem = match self.file {
                    Some(_) => format!("there is no {named} at `{}`", self.revision),
                    None => {
                        format!("there is no {named}, or it has no revision `{}`", self.revision)
                    }
                };
                Problem::new(format!("{problem} (404)"))
                    .hint(format!("check the spelling; {private}"))
            }
            (429, _) => Problem::new(format!(
                "{named}: the Hub answers `too many requests` (429) again and again"
            ))
            .hint(
                "try again in some minutes; requests with a token (HF_TOKEN) have a higher limit",
            ),
            _ => Problem::new(format!("{named}: the Hub answers {status}"))
                .hint("try again later, or name a mirror in HF_ENDPOINT"),
        }
    }

    /// A request that got no answer from `uri`.
    pub(super) fn unreached(&self, uri: &Uri, error: &ureq::Error) -> Problem {
        let host = uri.host().unwrap_or_default();
        let hint = match self.page {
            Some(_) => {
                "check the connection; HF_ENDPOINT names a mirror; HF_HUB_OFFLINE=1 uses only what is in the cache"
            }
            None => {
                "check the address and the connection; a file in its place is used without a download"
            }
        };
        let named = self.named();
        let problem = |why: &str| Problem::new(format!("{named}: {why}"));
        let untrusted = |e: &dyn fmt::Display| {
            problem(&format!("no trusted connection to `{host}`: {e}")).hint(
                "a proxy or mirror with certificates of its own: name them (PEM) in SSL_CERT_FILE",
            )
        };
        match error {
            ureq::Error::HostNotFound => {
                problem(&format!("the host `{host}` is not known")).hint(hint)
            }
            ureq::Error::Timeout(_) => problem(&format!("`{host}` does not answer")).hint(hint),
            ureq::Error::Rustls(e) => untrusted(e),
            ureq::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => untrusted(e),
            e => problem(&format!("`{host}` cannot be reached: {e}")).hint(hint),
        }
    }
}

/// A file of the cache that cannot be written or read; the system's own words tell a full disk.
pub(super) fn disk(path: &Path, error: &io::Error) -> HubError {
    let problem = Problem::in_file(path, format!("cannot be written: {error}"));
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => problem
            .hint("free some space or set HF_HOME to another disk; what is there stays, and the next call goes on from it")
            .into(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            problem.hint("set HF_HOME to a directory that can be written").into()
        }
        _ => problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_names_the_way_out() {
        // ENOSPC, whose words the exit code is read from.
        let error = disk(Path::new("blob"), &io::Error::from_raw_os_error(28)).to_string();
        assert!(error.starts_with("blob: cannot be written: No space left on device"), "{error}");
        assert!(error.contains("hint: free some space or set HF_HOME"), "{error}");
    }
}
