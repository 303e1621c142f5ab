//! Requests: redirects, the token, and trying again.
//!
//! Redirects are followed here and not by the HTTP crate, because of what rides along: the token goes to the endpoint's own scheme,
//! host and port only, never to the storage that large files are redirected to. A redirect must lead to http or https, and not from
//! https to http. `Accept-Encoding: identity` keeps lengths and ranges those of the file.
//!
//! 429 and 5xx are tried again after `Retry-After` (RFC 9110, seconds or a date) or the `t` of the Hub's `RateLimit` header, else after
//! growing pauses.

use super::error::{HubError, Result, Subject};
use super::progress::Call;
use super::vars::Vars;
use crate::error::Problem;
use crate::secret::Secret;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use std::io::ErrorKind;
use std::time::Duration;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

/// How long to wait and how often to try.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Tries of a request, and of a cut download that does not get on.
    pub tries: u32,
    /// The first pause between tries; each further one is twice as long.
    pub first_wait: Duration,
    /// The longest pause that a server may ask for.
    pub longest_wait: Duration,
    /// How long a connection may stay silent.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        // The Hub counts requests in windows of five minutes.
        Self {
            tries: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(300),
            silence: Duration::from_secs(10),
        }
    }
}

impl Patience {
    /// The pause after try `n`, from 1.
    pub(super) fn pause(&self, n: u32) -> Duration {
        (self.first_wait * (1 << n.saturating_sub(1).min(6))).min(self.longest_wait)
    }
}

/// The verb of a request.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Verb {
    Head,
    Get,
}

/// What redirects a request follows.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Follow {
    /// Only those on the same host: what a file is, its own host tells.
    SameHost,
    /// All.
    Anywhere,
}

/// Sends requests to an endpoint.
pub(super) struct Http {
    agent: Agent,
    endpoint: Uri,
    token: Option<Secret>,
    pub(super) patience: Patience,
}

const REDIRECTS: usize = 10;
const USER_AGENT: &str = concat!("vft/", env!("CARGO_PKG_VERSION"));

impl Http {
    pub(super) fn new(vars: &Vars, patience: Patience) -> Result<Self> {
        let endpoint: Uri = vars
            .endpoint
            .parse()
            .map_err(|_| HubError::from(Problem::new("HF_ENDPOINT is no address of a Hub")))?;
        let mut config = Agent::config_builder()
            .user_agent(USER_AGENT)
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(patience.silence))
            .timeout_connect(Some(patience.silence))
            .timeout_recv_response(Some(patience.silence))
            .timeout_per_read(Some(patience.silence));
        if matches!(endpoint.host(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            config = config.proxy(None);
        }
        if let Some(file) = &vars.certificates {
            let problem = |why: &dyn std::fmt::Display| {
                Problem::in_file(file, format!("{why}"))
                    .hint("SSL_CERT_FILE names the certificates to trust, in PEM")
            };
            let pem = std::fs::read(file).map_err(|e| problem(&format!("cannot be read: {e}")))?;
            let certificates: Vec<_> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(c)) => Some(c),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                return Err(problem(&"holds no certificate").into());
            }
            let roots = RootCerts::new_with_certs(&certificates);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let agent = config.build().into();
        Ok(Self { agent, endpoint, token: vars.token.clone(), patience })
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The answer to a request, whatever its status but those that are worth another try.
    pub(super) fn send(
        &self,
        verb: Verb,
        url: &str,
        headers: &[(&str, String)],
        follow: Follow,
        about: &Subject<'_>,
        call: Call<'_>,
    ) -> Result<Response<Body>> {
        let mut tries = 1;
        loop {
            call.go_on()?;
            let done = self.follow(verb, url, headers, follow, about);
            let (why, asked) = match &done {
                Ok(answer) => match answer.status().as_u16() {
                    status @ (408 | 429 | 500 | 502 | 503 | 504) => {
                        (format!("the server answers {status}"), retry_after(answer.headers()))
                    }
                    _ => return done.map_err(|(problem, _)| problem.into()),
                },
                Err((_, Again::Yes)) => ("the connection was lost".to_owned(), None),
                Err((problem, Again::No)) => return Err(problem.clone().into()),
            };
            let pause = asked.unwrap_or_else(|| self.patience.pause(tries));
            if tries >= self.patience.tries || pause > self.patience.longest_wait {
                let mut problem = match done {
                    Ok(answer) => about.refused(answer.status().as_u16(), answer.headers()),
                    Err((problem, _)) => problem,
                };
                if pause > self.patience.longest_wait {
                    problem.message += &format!("; it asks to wait for {} s", pause.as_secs());
                }
                return Err(problem.into());
            }
            call.progress.note(&format!("{why}; tries again in {:.1} s", pause.as_secs_f64()));
            call.wait(pause)?;
            tries += 1;
        }
    }

    fn follow(
        &self,
        verb: Verb,
        url: &str,
        headers: &[(&str, String)],
        follow: Follow,
        about: &Subject<'_>,
    ) -> Result<Response<Body>, (Problem, Again)> {
        let fault = |why: &str| (Problem::new(format!("{}: {why}", about.what)), Again::No);
        let mut uri: Uri = url.parse().map_err(|_| fault("the address cannot be read"))?;
        for _ in 0..=REDIRECTS {
            let mut request = match verb {
                Verb::Head => self.agent.head(uri.clone()),
                Verb::Get => self.agent.get(uri.clone()),
            };
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            if let Some(token) = self.token.as_ref().filter(|_| same_origin(&uri, &self.endpoint)) {
                request = request.header("authorization", format!("Bearer {}", token.expose()));
            }
            let answer = request.call().map_err(|e| (about.unreached(&uri, &e), again(&e)))?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer.headers().get("location").and_then(|l| l.to_str().ok());
            let next = next_hop(&uri, location).map_err(fault)?;
            if follow == Follow::SameHost && !same_origin(&uri, &next) {
                return Ok(answer);
            }
            uri = next;
        }
        Err(fault("the server redirects without end"))
    }
}

/// Whether a request that got no answer is worth another try.
enum Again {
    Yes,
    No,
}

fn again(error: &ureq::Error) -> Again {
    match error {
        // rustls tells an untrusted certificate as invalid data.
        ureq::Error::Io(e)
            if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::InvalidData) =>
        {
            Again::No
        }
        ureq::Error::Io(_) => Again::Yes,
        ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => Again::Yes,
        _ => Again::No,
    }
}

/// Whether two addresses share scheme, host and port.
fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |u: &Uri| {
        u.port_u16().or(if u.scheme_str() == Some("https") { Some(443) } else { Some(80) })
    };
    let host = |u: &Uri| u.host().map(str::to_ascii_lowercase);
    a.scheme_str() == b.scheme_str() && host(a) == host(b) && port(a) == port(b)
}

/// Where a redirect from `from` leads, if it may lead there.
fn next_hop(from: &Uri, location: Option<&str>) -> Result<Uri, &'static str> {
    let next = location
        .and_then(|l| resolve(from, l))
        .ok_or("the server redirects to no address of http or https")?;
    if from.scheme_str() == Some("https") && next.scheme_str() == Some("http") {
        return Err("the server redirects from https to http");
    }
    Ok(next)
}

/// The target of a redirect (RFC 3986, 5.2), if it is of http or https.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (base.scheme_str()?, base.authority()?.as_str());
    let location = location.split('#').next().unwrap_or_default();
    let has_scheme = location.split_once(':').is_some_and(|(s, _)| {
        !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let text = if has_scheme {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let uri: Uri = text.parse().ok()?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    (web && uri.host().is_some_and(|h| !h.is_empty())).then_some(uri)
}

/// How long the server asks to wait.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let seconds = |t: &str| t.parse::<u64>().ok().map(Duration::from_secs);
    let date = |t: &str| {
        let at = rfc2822::parse(t).ok()?.timestamp();
        Some(Duration::from_secs(
            u64::try_from(at.as_second() - Timestamp::now().as_second()).unwrap_or(0),
        ))
    };
    let asked = text("retry-after").and_then(|t| seconds(t).or_else(|| date(t)));
    asked.or_else(|| {
        let reset = text("ratelimit")?.split(';').find_map(|p| p.trim().strip_prefix("t="))?;
        seconds(reset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_resolve_to_http_alone() {
        let base: Uri = "https://hub.example/a/b?x=1".parse().unwrap();
        let to = |l: &str| resolve(&base, l).map(|u| u.to_string());
        assert_eq!(to("/c?d=e").as_deref(), Some("https://hub.example/c?d=e"));
        assert_eq!(to("//cdn.example/c").as_deref(), Some("https://cdn.example/c"));
        assert_eq!(to("https://cdn.example/c#f").as_deref(), Some("https://cdn.example/c"));
        assert_eq!(to("c").as_deref(), Some("https://hub.example/a/c"));
        for bad in [
            "file:///etc/passwd",
            "FILE:/etc/passwd",
            "ftp://x/y",
            "data:,x",
            "javascript:1",
            "https://",
        ] {
            assert_eq!(to(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_redirect_stays_encrypted() {
        let hop = |from: &str, to: &str| {
            next_hop(&from.parse().unwrap(), Some(to)).map(|u| u.to_string())
        };
        assert_eq!(
            hop("https://a.b/x", "http://a.b/x"),
            Err("the server redirects from https to http")
        );
        assert_eq!(hop("http://a.b/x", "https://a.b/x"), Ok("https://a.b/x".into()));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://a.b/x", "https://A.B:443/y"));
        for (a, b) in [
            ("https://a.b/", "http://a.b/"),
            ("https://a.b/", "https://a.b:8443/"),
            ("https://a.b/", "https://c.a.b/"),
            ("https://a.b/", "https://a.b.c/"),
        ] {
            assert!(!same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn waits_are_read_from_three_spellings() {
        let wait = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(wait("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("ratelimit", "\"api\";r=0;t=55"), Some(Duration::from_secs(55)));
        assert_eq!(wait("retry-after", "soon"), None);
    }
}
