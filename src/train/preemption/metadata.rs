//! A cloud's metadata service: small answers over plain HTTP at a link-local address.
//!
//! No proxy is asked, no redirect followed, and neither time nor bytes are without bound: whatever listens there is no part of the run.

use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body};

/// The address that all three clouds use.
const LINK_LOCAL: &str = "http://169.254.169.254";

/// A request with its answer takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of an answer at most.
const LIMIT: u64 = 64 << 10;

/// The service.
pub(super) struct Metadata {
    agent: Agent,
    address: String,
}

/// A status and a text.
pub(super) type Answer = Result<(u16, String), String>;

impl Metadata {
    pub(super) fn new(address: Option<&str>) -> Self {
        let config = Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build();
        let address = address.unwrap_or(LINK_LOCAL).trim_end_matches('/').to_owned();
        Self { agent: config.into(), address }
    }

    pub(super) fn get(&self, path: &str, header: (&str, &str)) -> Answer {
        let url = format!("{}{path}", self.address);
        answer(self.agent.get(url).header(header.0, header.1).call())
    }

    pub(super) fn put(&self, path: &str, header: (&str, &str)) -> Answer {
        let url = format!("{}{path}", self.address);
        answer(self.agent.put(url).header(header.0, header.1).send_empty())
    }
}

fn answer(sent: Result<Response<Body>, ureq::Error>) -> Answer {
    let mut answer = sent.map_err(|e| words(&e))?;
    let body = answer.body_mut().with_config().limit(LIMIT).lossy_utf8(true).read_to_string();
    Ok((answer.status().as_u16(), body.map_err(|e| words(&e))?))
}

fn words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        ureq::Error::BodyExceedsLimit(_) => format!("an answer of more than {LIMIT} bytes"),
        other => other.to_string(),
    }
}
