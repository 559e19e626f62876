//! A repository of the hub, file by file: from the cache where it is there, else fetched into it.

use std::fs::{self, File};
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::hub::cache::{commit_of, is_complete, link_blob, lock, make_folder};
use crate::hub::download::{about, download};
use crate::hub::http::{FetchError, Http};
use crate::hub::names::{encoded, is_revision};
use crate::hub::settings::{Settings, folder_name};

/// One repository at one revision.
pub(crate) struct Hub {
    settings: Settings,
    /// The repository's name; older names that the cache may know it by come after it.
    names: Vec<String>,
    revision: String,
    /// The repository and the commit that all files are taken from, once one was.
    commit: Option<(String, String)>,
    http: Option<Http>,
    unreachable: Option<String>,
}

impl Hub {
    pub(crate) fn new(names: &[&str], revision: Option<&str>) -> Result<Hub> {
        let revision = revision.unwrap_or("main");
        if !is_revision(revision) {
            return Err(Error::new(ErrorKind::Hub, format!("`{revision}` cannot be a revision"))
                .help("after @ stands a branch, a tag or a commit of the repository"));
        }
        let mut hub = Hub {
            settings: Settings::from_env()?,
            names: names.iter().map(|name| name.to_string()).collect(),
            revision: revision.to_string(),
            commit: None,
            http: None,
            unreachable: None,
        };
        let known =
            |name: &String| Some((name.clone(), commit_of(&hub.settings.folder(name), &hub.revision)?));
        let all: Vec<(String, String)> = hub.names.iter().filter_map(known).collect();
        // Of several names, the one whose files are there.
        let whole = all.iter().position(|(name, commit)| {
            hub.settings.folder(name).join("snapshots").join(commit).join("config.json").exists()
        });
        hub.commit = all.get(whole.unwrap_or(0)).cloned();
        Ok(hub)
    }

    /// The file in the cache.
    pub(crate) fn cached(&self, file: &str) -> Option<PathBuf> {
        let (name, commit) = self.commit.as_ref()?;
        let path = self.settings.folder(name).join("snapshots").join(commit).join(file);
        path.is_file().then_some(path)
    }

    /// The file, fetched if it is not in the cache; nothing if the repository has none, or if the hub cannot be asked,
    /// which [`require`](Hub::require) tells apart.
    pub(crate) fn find(&mut self, file: &str) -> Result<Option<PathBuf>> {
        if let Some(path) = self.cached(file) {
            return Ok(Some(path));
        }
        if let Some((name, commit)) = &self.commit
            && self.settings.folder(name).join(".no_exist").join(commit).join(file).exists()
        {
            return Ok(None);
        }
        if self.settings.is_offline {
            self.unreachable = Some("HF_HUB_OFFLINE is set".into());
        }
        if self.unreachable.is_some() {
            return Ok(None);
        }
        match self.fetch(file) {
            Ok(path) => Ok(path),
            Err(FetchError::Unreachable(why)) => {
                self.unreachable = Some(why);
                Ok(None)
            }
            Err(FetchError::Failed(error)) => Err(error),
        }
    }

    /// Whether the hub has been asked and answers.
    pub(crate) fn is_fetching(&self) -> bool {
        self.http.is_some() && self.unreachable.is_none()
    }

    /// The file, which the repository must have.
    pub(crate) fn require(&mut self, file: &str) -> Result<PathBuf> {
        if let Some(path) = self.find(file)? {
            return Ok(path);
        }
        let places: Vec<String> =
            self.names.iter().map(|name| self.settings.folder(name).display().to_string()).collect();
        let repo = self.repo();
        Err(match &self.unreachable {
            Some(why) => Error::new(
                ErrorKind::Hub,
                format!("{file} of `{repo}` is not in the cache, and the hub cannot be asked: {why}"),
            )
            .help(format!(
                "it was looked for in {}; with a network it would be fetched from {}. A folder or a GGUF file opens by \
                 its path, and `built-in` needs nothing",
                places.join(" and "),
                self.settings.endpoint,
            )),
            None => Error::new(ErrorKind::Hub, format!("the repository `{repo}` has no {file}"))
                .help("a model's repository holds config.json and model.safetensors, or pytorch_model.bin"),
        })
    }

    fn repo(&self) -> &str {
        match &self.commit {
            Some((name, _)) => name,
            None => &self.names[0],
        }
    }

    fn fetch(&mut self, file: &str) -> std::result::Result<Option<PathBuf>, FetchError> {
        let repo = self.repo().to_string();
        let at = self.commit.as_ref().map_or(self.revision.as_str(), |(_, commit)| commit).to_string();
        let url = format!("{}/{repo}/resolve/{}/{}", self.settings.endpoint, encoded(&at), encoded(file));
        let http = match &self.http {
            Some(http) => http,
            None => self.http.insert(Http::new(&self.settings)?),
        };
        let Some(about) = about(http, &url, &repo, &at)? else {
            if let Some((_, commit)) = &self.commit {
                // As Python's library notes it, so that nobody asks again; if it cannot be noted, they do.
                let note = self.settings.folder(&repo).join(".no_exist").join(commit).join(file);
                if fs::create_dir_all(note.parent().unwrap_or(&note)).is_ok() {
                    let _ = File::create(note);
                }
            }
            return Ok(None);
        };
        let folder = self.settings.folder(&repo);
        let blob = folder.join("blobs").join(&about.etag);
        make_folder(&folder.join("blobs"))?;
        if !is_complete(&blob, about.size) {
            let locks = self.settings.cache.join(".locks").join(folder_name(&repo));
            make_folder(&locks)?;
            let _lock = lock(&locks.join(format!("{}.lock", about.etag)), file)?;
            // Another process may have fetched it meanwhile.
            if !is_complete(&blob, about.size) {
                download(http, &url, &about, file, &repo, &blob)?;
            }
        }
        let snapshot = folder.join("snapshots").join(&about.commit);
        make_folder(&snapshot)?;
        let path = snapshot.join(file);
        link_blob(&path, &blob, &about.etag)?;
        if self.revision != about.commit {
            let reference = folder.join("refs").join(&self.revision);
            make_folder(reference.parent().unwrap_or(&folder))?;
            files::write(&reference, about.commit.as_bytes())?;
        }
        self.commit = Some((repo, about.commit));
        Ok(Some(path))
    }
}
