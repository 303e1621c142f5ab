//! Where the Hub is, where its cache lies, who asks: huggingface_hub's environment variables.
//!
//! | variable | meaning | else |
//! |---|---|---|
//! | `HF_ENDPOINT` | the Hub or a mirror | `https://huggingface.co` |
//! | `HF_HOME` | the home of cache and token | `$XDG_CACHE_HOME/huggingface`, `~/.cache/huggingface` |
//! | `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE` | the cache | `$HF_HOME/hub` |
//! | `HF_TOKEN` | the token | the file `$HF_TOKEN_PATH`, `$HF_HOME/token` |
//! | `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE` | true: the cache alone | false |
//! | `SSL_CERT_FILE` | trusted certificates, PEM | Mozilla's roots |
//!
//! huggingface_hub `constants.py` and `utils/_auth.py`, 2.4.0.

use super::error::Result;
use crate::error::Problem;
use crate::secret::Secret;
use std::path::{Path, PathBuf};
use ureq::http::Uri;

/// What the variables say.
pub(super) struct Vars {
    pub(super) endpoint: String,
    pub(super) cache: PathBuf,
    pub(super) token: Option<Secret>,
    pub(super) offline: bool,
    pub(super) certificates: Option<PathBuf>,
}

impl Vars {
    /// Reads them through `var`; `token` goes before all others.
    pub(super) fn read(
        token: Option<Secret>,
        var: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        // An empty variable is one that is not set.
        let var = |name: &str| var(name).filter(|v| !v.trim().is_empty());
        let user = var("HOME").or_else(|| var("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| var(name).map(|v| expand(&v, user.as_deref()));
        let cache_home =
            || path("XDG_CACHE_HOME").or_else(|| user.as_ref().map(|u| u.join(".cache")));
        let home = path("HF_HOME").or_else(|| cache_home().map(|c| c.join("huggingface")));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home.as_ref().map(|h| h.join("hub")))
            .ok_or_else(|| {
                Problem::new(
                    "there is no place for the Hub's cache: neither HF_HOME nor HOME is set",
                )
                .hint("set HF_HOME to a directory")
            })?;
        let file = path("HF_TOKEN_PATH").or_else(|| home.map(|h| h.join("token")));
        let (token, from) = match (token, var("HF_TOKEN")) {
            (Some(token), _) => (Some(token), "the access token".to_owned()),
            (None, Some(token)) => (Some(Secret::new(&token)), "HF_TOKEN".to_owned()),
            (None, None) => match file {
                Some(file) => (token_file(&file)?, file.display().to_string()),
                None => (None, String::new()),
            },
        };
        let token = token.filter(|t| !t.expose().is_empty());
        if token.as_ref().is_some_and(|t| !t.expose().bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Problem::new(format!("{from} holds characters that no token has"))
                .hint("a token reads `hf_…`, in one line without quotes")
                .into());
        }
        Ok(Self {
            endpoint: endpoint(var("HF_ENDPOINT"))?,
            cache,
            token,
            offline: flag("HF_HUB_OFFLINE", var("HF_HUB_OFFLINE"))?
                || flag("TRANSFORMERS_OFFLINE", var("TRANSFORMERS_OFFLINE"))?,
            certificates: path("SSL_CERT_FILE"),
        })
    }
}

fn expand(text: &str, home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_path_buf(),
        (Some(rest), Some(home)) if rest.starts_with('/') => {
            home.join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(text),
    }
}

fn token_file(file: &Path) -> Result<Option<Secret>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(Secret::new(&text))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Problem::in_file(file, format!("the token cannot be read: {e}"))
            .hint("set HF_TOKEN, or write the file anew")
            .into()),
    }
}

fn endpoint(value: Option<String>) -> Result<String> {
    let text = value.unwrap_or_else(|| "https://huggingface.co".into());
    let text = text.trim().trim_end_matches('/');
    let uri: Option<Uri> = text.parse().ok();
    let plain = uri.is_some_and(|u| {
        matches!(u.scheme_str(), Some("http" | "https"))
            && u.host().is_some_and(|h| !h.is_empty())
            && u.query().is_none()
            && u.authority().is_some_and(|a| !a.as_str().contains('@'))
    });
    if plain {
        return Ok(text.to_owned());
    }
    // Not repeated: it may hold a password.
    Err(Problem::new("HF_ENDPOINT is no address of a Hub")
        .hint("it reads `https://host`, without user, password and query")
        .into())
}

fn flag(name: &str, value: Option<String>) -> Result<bool> {
    match value.as_deref().map(|v| v.trim().to_ascii_lowercase()).as_deref() {
        None | Some("0" | "false" | "no" | "off") => Ok(false),
        Some("1" | "true" | "yes" | "on") => Ok(true),
        Some(_) => Err(Problem::new(format!("{name} is neither true nor false"))
            .hint(format!("write {name}=1"))
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Vars> {
        let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Vars::read(None, &var)
    }

    #[test]
    fn the_cache_lies_where_huggingface_hub_puts_it() {
        let table: &[(&[(&str, &str)], &str)] = &[
            (&[("HOME", "/u")], "/u/.cache/huggingface/hub"),
            (&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/u"), ("HF_HOME", "/h")], "/h/hub"),
            (&[("HOME", "/u"), ("HF_HOME", "~/h")], "/u/h/hub"),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "")], "/h/hub"),
            (&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
        ];
        for (vars, cache) in table {
            assert_eq!(read(vars).unwrap().cache, Path::new(cache), "{vars:?}");
        }
    }

    #[test]
    fn offline_is_true_or_false() {
        for (text, offline) in
            [("1", true), ("true", true), ("YES", true), ("on", true), ("0", false), ("no", false)]
        {
            assert_eq!(
                read(&[("HOME", "/u"), ("HF_HUB_OFFLINE", text)]).unwrap().offline,
                offline,
                "{text}"
            );
        }
        assert!(read(&[("HOME", "/u"), ("HF_HUB_OFFLINE", "maybe")]).is_err());
    }

    #[test]
    fn the_token_is_the_given_one_then_the_variable_then_the_file() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let home = home.path().to_str().unwrap();
        let token = |given: Option<Secret>, vars: &[(&str, &str)]| {
            let var =
                |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            Vars::read(given, &var).unwrap().token.unwrap()
        };
        assert_eq!(token(None, &[("HF_HOME", home)]).expose(), "hf_file");
        assert_eq!(token(None, &[("HF_HOME", home), ("HF_TOKEN", "hf_var")]).expose(), "hf_var");
        let given = Some(Secret::new("hf_given"));
        assert_eq!(token(given, &[("HF_HOME", home), ("HF_TOKEN", "hf_var")]).expose(), "hf_given");
    }

    #[test]
    fn a_token_of_two_lines_is_refused_without_being_shown() {
        let error =
            read(&[("HOME", "/u"), ("HF_TOKEN", "hf_a\nX-Evil: b")]).err().unwrap().to_string();
        assert!(error.contains("HF_TOKEN holds characters"), "{error}");
        assert!(!error.contains("hf_a"), "{error}");
    }

    #[test]
    fn an_endpoint_is_http() {
        for bad in [
            "file:///etc",
            "huggingface.co",
            "ftp://x",
            "https://u:p@x",
            "https://x?y=1",
            "https://",
        ] {
            assert!(read(&[("HOME", "/u"), ("HF_ENDPOINT", bad)]).is_err(), "{bad}");
        }
        let vars = read(&[("HOME", "/u"), ("HF_ENDPOINT", "https://mirror.example/hub/")]).unwrap();
        assert_eq!(vars.endpoint, "https://mirror.example/hub");
    }
}
