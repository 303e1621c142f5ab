//! A cache of its own for each test, and repos to fill it from.

use crate::server::{COMMIT, Reply, Repo, Request, Server};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tempfile::TempDir;
use vft::hub::remote::{Hub, HubError, Patience};

pub(crate) static GO: AtomicBool = AtomicBool::new(false);
pub(crate) const TOKEN: &str = "hf_CanaryCanaryCanary";
pub(crate) const BIG: usize = 3 << 20;

/// A cache of its own and a Hub that looks there.
pub(crate) struct Home {
    pub(crate) dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub(crate) fn hub_with(&self, endpoint: &str, more: &[(&str, &str)]) -> Hub {
        let home = self.dir.path().to_str().unwrap();
        let var = |name: &str| match name {
            "HF_HOME" => Some(home.to_owned()),
            "HF_ENDPOINT" => Some(endpoint.to_owned()),
            _ => more.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()),
        };
        let patience = Patience {
            tries: 4,
            first_wait: Duration::from_millis(5),
            longest_wait: Duration::from_secs(2),
            silence: Duration::from_secs(2),
        };
        Hub::from_vars(None, &var, patience).unwrap()
    }

    pub(crate) fn hub(&self, server: &Server) -> Hub {
        self.hub_with(&server.url, &[])
    }

    pub(crate) fn offline(&self) -> Hub {
        // Nobody listens there: a request would fail.
        self.hub_with("http://127.0.0.1:9", &[("HF_HUB_OFFLINE", "1")])
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.dir.path().join("hub/models--org--tiny")
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }

    /// Names in a folder of the repo's cache, sorted; none where there is no folder.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.repo().join(folder)).into_iter().flatten();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) fn model(hub: &Hub) -> Result<PathBuf, HubError> {
    hub.model("org/tiny", None, &(), &GO)
}

pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, HubError>) -> String {
    match result.unwrap_err() {
        HubError::User(e) => e.to_string(),
        HubError::Interrupted => panic!("interrupted"),
    }
}

pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut x = 1_u32;
    let next = |_| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..len).map(next).collect()
}

/// A small model without weights.
pub(crate) fn bones() -> Repo {
    Repo::model(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"t\": 1}"),
        ("README.md", b"# tiny"),
    ])
}

pub(crate) fn tiny() -> Repo {
    bones().large("model.safetensors", &noise(BIG))
}

/// `tiny` behind a server that answers the downloads of the weights with `answer`.
pub(crate) fn weights(
    answer: impl Fn(&Request, usize, &[u8]) -> Reply + Send + Sync + 'static,
) -> Server {
    let (repo, body) = (tiny(), noise(BIG));
    Server::start(move |request, before| {
        let is_weights = request.method == "GET" && request.path.ends_with("model.safetensors");
        if is_weights { answer(request, before, &body) } else { repo.answer(request) }
    })
}
