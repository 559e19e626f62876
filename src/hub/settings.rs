//! What the environment says of the hub, as Python's `huggingface_hub` reads it.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use crate::error::{Error, ErrorKind, Result};

/// Where the hub is, where its files are kept, and how long to wait for it.
pub(crate) struct Settings {
    pub(crate) cache: PathBuf,
    pub(super) endpoint: String,
    pub(super) token: Option<String>,
    pub(super) is_offline: bool,
    pub(super) answer: Duration,
    pub(super) data: Duration,
}

impl Settings {
    pub(crate) fn from_env() -> Result<Settings> {
        let home = match (path("HF_HOME"), path("XDG_CACHE_HOME"), env::home_dir()) {
            (Some(home), _, _) => Some(home),
            (None, Some(cache), _) => Some(cache.join("huggingface")),
            (None, None, home) => home.map(|home| home.join(".cache/huggingface")),
        };
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| home.as_ref().map(|home| home.join("hub"))).ok_or_else(|| {
            Error::new(
                ErrorKind::File,
                "there is no home folder, which would hold the models that are fetched",
            )
            .help("set HF_HOME to a folder for them")
        })?;
        let is_on = |name| {
            text(name).is_some_and(|said| ["1", "ON", "YES", "TRUE"].contains(&said.to_uppercase().as_str()))
        };
        let seconds = |name| Duration::from_secs(text(name).and_then(|said| said.parse().ok()).unwrap_or(10));
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let file = path("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token")))?;
            Some(fs::read_to_string(file).ok()?.trim().to_string())
        });
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::new(ErrorKind::Hub, format!("HF_ENDPOINT is `{endpoint}`"))
                .help("it is the address of a hub, as https://huggingface.co"));
        }
        Ok(Settings {
            cache,
            endpoint: endpoint.trim_end_matches('/').to_string(),
            token: token.filter(|token| !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic())),
            is_offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            answer: seconds("HF_HUB_ETAG_TIMEOUT"),
            data: seconds("HF_HUB_DOWNLOAD_TIMEOUT"),
        })
    }

    /// Where a repository's files are kept.
    pub(crate) fn folder(&self, repo: &str) -> PathBuf {
        self.cache.join(folder_name(repo))
    }
}

pub(super) fn folder_name(repo: &str) -> String {
    format!("models--{}", repo.replace('/', "--"))
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().map(|said| said.trim().to_string()).filter(|said| !said.is_empty())
}

fn path(name: &str) -> Option<PathBuf> {
    let said = env::var_os(name).filter(|said| !said.is_empty()).map(PathBuf::from)?;
    match (said.strip_prefix("~"), env::home_dir()) {
        (Ok(rest), Some(home)) => Some(home.join(rest)),
        _ => Some(said),
    }
}
