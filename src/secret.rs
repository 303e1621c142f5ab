//! Tokens that no error, log, file or dump can show.
//!
//! A token is a [`Secret`] from where it is read on. What is printed besides goes through [`scrub`], because a secret may stand where nobody
//! expects one: under a misspelt key, in the user and password or the signature of an address, in the words of a library. What is
//! written into files goes through [`public_url`].

use std::borrow::Cow;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// What stands in a secret's place.
const REDACTED: &str = "[redacted]";
/// Shorter texts are not looked for: they would be found in any word.
const SHORT: usize = 8;
/// What the Hub's tokens begin with, and the signs besides letters and digits that follow: those of users, of organisations, and of apps, which are
/// JSON web tokens.
const PREFIXES: &[(&str, &str)] = &[("hf_oauth_", "-_."), ("api_org_", ""), ("hf_", "")];
/// Letters behind a prefix that make it a token; the Hub's have 34 and more.
const TOKEN: usize = 16;
/// What an e-mail address follows as a user follows a scheme: `mailto:a@b`.
const MAIL: &[&str] = &["mailto", "mail", "email", "e-mail", "contact"];
/// Variables that hold tokens.
const VARIABLES: &[&str] = &["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
/// Parameters of an address that hold no key.
const PLAIN: &[&str] = &["download", "raw", "ref", "revision", "version", "format", "blobs"];

/// The secrets that this process has met.
static KNOWN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A token. `Debug` and `Display` write `[redacted]`; only the request's header reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The token, without white space around it; from now on [`scrub`] knows it.
    pub fn new(token: &str) -> Self {
        remember(token.trim());
        Self(token.trim().to_owned())
    }

    /// The token itself, for the one who must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Knows the tokens of the environment from here on.
pub fn remember_environment() {
    for name in VARIABLES {
        if let Some(token) = std::env::var_os(name) {
            remember(token.to_string_lossy().trim());
        }
    }
}

fn remember(token: &str) {
    if token.len() < SHORT {
        return;
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if !known.iter().any(|k| k == token) {
        known.push(token.to_owned());
        forbid_core_dumps();
    }
}

/// A process that holds a token leaves no picture of its memory behind.
fn forbid_core_dumps() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Core);
        // Of 0 bytes the kernel still pipes a dump to a program that waits for it; 1 is the value that it takes for a no (core(5)).
        limit.current = Some(limit.maximum.map_or(1, |most| most.min(1)));
        // Where it is forbidden to forbid, the system's own limit stands.
        let _ = setrlimit(Resource::Core, limit);
    }
}

/// A text without the tokens that this process knows.
pub fn scrub_known(text: &str) -> Cow<'_, str> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = Cow::Borrowed(text);
    for token in known.iter() {
        if out.contains(token.as_str()) {
            out = Cow::Owned(out.replace(token.as_str(), REDACTED));
        }
    }
    out
}

/// A text without known tokens, without what has the shape of one, and without the keys of addresses.
pub fn scrub(text: &str) -> String {
    bare_addresses(&addresses(&tokens(&scrub_known(text)), REDACTED))
}

/// Whether a text holds a token, or an address with keys. What only might be an address, such as a date before `@`, is scrubbed, not refused.
pub fn is_secret(text: &str) -> bool {
    addresses(&tokens(&scrub_known(text)), REDACTED) != text
}

/// An address without user, password and the values of parameters that may be keys; it remains an address.
pub fn public_url(url: &str) -> String {
    addresses(url, "redacted")
}

/// Replaces `hf_…` and its like.
fn tokens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let found = |rest: &str| {
        let places = PREFIXES.iter().filter_map(|p| Some((rest.find(p.0)?, p)));
        // The first, and of those in one place the longest.
        places.min_by_key(|(at, p)| (*at, usize::MAX - p.0.len()))
    };
    while let Some((at, (prefix, signs))) = found(rest) {
        let (before, from) = rest.split_at(at);
        let body = &from[prefix.len()..];
        let long = body.find(|c: char| !c.is_ascii_alphanumeric() && !signs.contains(c));
        // A sentence's own stop is none of the token's.
        let body = body[..long.unwrap_or(body.len())].trim_end_matches('.');
        out += before;
        if body.len() >= TOKEN {
            out += REDACTED;
        } else {
            out += &from[..prefix.len() + body.len()];
        }
        rest = &from[prefix.len() + body.len()..];
    }
    out + rest
}

/// What an address ends before.
fn ends(c: char) -> bool {
    c.is_whitespace() || matches!(c, '`' | '"' | '\'' | '<' | '>')
}

/// Replaces user, password and parameters behind each `://`, and behind `https:/` where the other stroke was forgotten.
fn addresses(text: &str, by: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(":/") {
        let (before, from) = rest.split_at(at + 2);
        out += before;
        rest = from;
        if let Some(from) = rest.strip_prefix('/') {
            out.push('/');
            rest = from;
        } else if !["http:/", "https:/"].iter().any(|s| before.ends_with(s)) {
            continue;
        }
        let (address, after) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        address_to(&mut out, address, by);
        rest = after;
    }
    out + rest
}

/// Replaces user and password where no scheme stands before them, or a broken one: `user:password@host`. An e-mail address has no password.
fn bare_addresses(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for part in text.split_inclusive(|c| ends(c) || matches!(c, '/' | '?' | '#')) {
        let secret = part.rsplit_once('@').and_then(|(keys, host)| {
            let (user, password) = keys.split_once(':')?;
            let is_user = !user.is_empty() && user.chars().all(|c| c.is_ascii_graphic());
            let is_mail = MAIL.iter().any(|m| user.eq_ignore_ascii_case(m));
            let is_host = host.starts_with(|c: char| c.is_alphanumeric() || c == '[');
            (is_user && !is_mail && !password.is_empty() && is_host).then_some(host)
        });
        match secret {
            Some(host) => out += &format!("{REDACTED}@{host}"),
            None => out += part,
        }
    }
    out
}

fn address_to(out: &mut String, address: &str, by: &str) {
    let (host, path) = address.split_at(address.find(['/', '?', '#']).unwrap_or(address.len()));
    match host.rsplit_once('@') {
        Some((_, host)) => *out += &format!("{by}@{host}"),
        None => *out += host,
    }
    let (path, query) = path.split_at(path.find(['?', '#']).unwrap_or(path.len()));
    *out += path;
    let mut rest = query;
    while let Some(mark) = rest.chars().next() {
        let (part, after) =
            rest[1..].split_at(rest[1..].find(['?', '#', '&']).unwrap_or(rest.len() - 1));
        out.push(mark);
        match part.split_once('=') {
            Some((name, _)) if !PLAIN.contains(&name) => *out += &format!("{name}={by}"),
            _ => *out += part,
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "hf_CanaryCanaryCanaryCanaryCanary";

    #[test]
    fn a_token_is_scrubbed_by_its_shape() {
        assert_eq!(scrub(&format!("`{CANARY}` is no number")), "`[redacted]` is no number");
    }

    #[test]
    fn other_names_with_the_same_start_are_left_alone() {
        for text in ["hf_hub_download", "hf_", "my_hf_models/x", "hf"] {
            assert_eq!(scrub(text), text);
        }
    }

    #[test]
    fn a_token_of_any_shape_is_scrubbed_once_it_is_known() {
        assert_eq!(scrub("key canary.of-another/shape"), "key canary.of-another/shape");
        Secret::new(" canary.of-another/shape\n");
        assert_eq!(scrub("key canary.of-another/shape"), "key [redacted]");
    }

    #[test]
    fn addresses_lose_their_keys_and_keep_the_rest() {
        for (url, public) in [
            (
                "https://u:p@host:1/a?X-Amz-Signature=s&download=true#t",
                "https://redacted@host:1/a?X-Amz-Signature=redacted&download=true#t",
            ),
            ("https://host/a/b.json", "https://host/a/b.json"),
            ("https://host/a@b", "https://host/a@b"),
            ("https://host?token=s", "https://host?token=redacted"),
            ("https://u@v:p@host", "https://redacted@host"),
        ] {
            assert_eq!(public_url(url), public);
        }
    }

    #[test]
    fn addresses_are_found_in_a_sentence() {
        assert_eq!(
            scrub("a `https://h/x?sig=s`: and https://u:p@h/y it"),
            "a `https://h/x?sig=[redacted]`: and https://[redacted]@h/y it"
        );
    }

    #[test]
    fn tokens_of_apps_and_organisations_are_scrubbed() {
        let app = "hf_oauth_eyJhbGciOiJFZERTQSJ9.eyJzY29wZSI6WyJvcGVuaWQi.c2lnbmF0dXJl_Zw-x";
        assert_eq!(scrub(&format!("not {app}.")), "not [redacted].");
        assert_eq!(scrub("api_org_CanaryCanaryCanaryCanary, no"), "[redacted], no");
        for text in ["hf_oauth_app", "api_org_name", "hf_oauth_"] {
            assert_eq!(scrub(text), text);
        }
    }

    #[test]
    fn broken_addresses_lose_their_keys() {
        for (text, public) in [
            ("`https:/u:pw@h/x`", "`https:/[redacted]@h/x`"),
            ("https:/token@h?sig=s", "https:/[redacted]@h?sig=[redacted]"),
            ("https:///u:pw@h", "https:///[redacted]@h"),
            ("https:u:pw@h", "[redacted]@h"),
            ("//u:pw@h", "//[redacted]@h"),
            ("proxy u:pw@host:8080.", "proxy [redacted]@host:8080."),
            ("u:p:w@x@h", "[redacted]@h"),
        ] {
            assert_eq!(scrub(text), public, "{text}");
        }
    }

    #[test]
    fn texts_without_a_password_are_left_alone() {
        for text in [
            "a@b",
            "an@example.org",
            "mailto:an@example.org",
            "Email:an@example.org",
            "git@github.com:org/repo",
            "rows.jsonl:1:7: `a@b`",
            "to: a@b",
            "time 12:30 @home",
            "Liên hệ:an@example.org",
            "file:/a@b/c",
            "a:/b@c",
            ":@",
            "a:@b",
        ] {
            assert_eq!(scrub(text), text);
        }
    }

    #[test]
    fn odd_texts_are_no_trouble() {
        for text in [
            "://",
            "://?",
            "://#&=",
            "hf_é",
            "hf_oauth_....",
            "a:b@[",
            ":/",
            "https:/",
            "a:b@c:d@e",
            "://é?é=é&é",
            "x://?a=b?c=d#e=f",
        ] {
            let once = scrub(text);
            assert_eq!(scrub(&once), once, "{text}");
        }
    }
}
