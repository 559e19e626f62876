//! Models of the Hugging Face hub, by way of the cache that Python's libraries share.
//!
//! The layout: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>. A file's bytes lie in `blobs`, under
//! the hub's name for them; `snapshots/COMMIT/FILE` points there; `refs/REVISION` names a commit.

mod http;

use std::env;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::{Error, ErrorKind, Result};
use crate::progress::{Progress, bytes};
use crate::{files, progress};
use http::{FetchError, Http};

/// What the environment says of the hub, as Python's `huggingface_hub` reads it.
pub(crate) struct Settings {
    pub cache: PathBuf,
    endpoint: String,
    token: Option<String>,
    is_offline: bool,
    answer: Duration,
    data: Duration,
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

fn folder_name(repo: &str) -> String {
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

/// Whether a text can be an `owner/name` of the hub; a few old names have no owner.
pub(crate) fn is_repo(name: &str) -> bool {
    let is_part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (1..=96).contains(&part.len())
            && part.chars().all(allowed)
            && part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && !part.contains("..")
    };
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() <= 2 && parts.into_iter().all(is_part)
}

fn is_revision(revision: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    (1..=200).contains(&revision.len())
        && revision.chars().all(allowed)
        && revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains(".."))
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What of an address stands as it is (RFC 3986, section 2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A part of an address.
fn encoded(part: &str) -> String {
    utf8_percent_encode(part, UNRESERVED).to_string()
}

/// The commit that a revision was when it was last looked up.
fn commit_of(folder: &Path, revision: &str) -> Option<String> {
    if is_hex(revision, 40) && folder.join("snapshots").join(revision).is_dir() {
        return Some(revision.to_string());
    }
    let commit = fs::read_to_string(folder.join("refs").join(revision)).ok()?.trim().to_string();
    is_hex(&commit, 40).then_some(commit)
}

/// The folder of a repository's files as of its main revision, if there is one.
pub(crate) fn snapshot(settings: &Settings, repo: &str) -> Option<PathBuf> {
    let folder = settings.folder(repo);
    Some(folder.join("snapshots").join(commit_of(&folder, "main")?)).filter(|snapshot| snapshot.is_dir())
}

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

/// What the hub says of a file before it is fetched.
struct RemoteFile {
    commit: String,
    etag: String,
    size: u64,
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

fn is_complete(blob: &Path, size: u64) -> bool {
    fs::metadata(blob).is_ok_and(|found| found.is_file() && found.len() == size)
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::File, format!("cannot write {}", path.display()))
        .caused_by(error)
        .help("check that the disk has room and the folder may be written to, or set HF_HOME to another one")
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| cannot_write(path, error))
}

/// Waits until no other process fetches the same file. The lock goes with its file's handle.
fn lock(path: &Path, file: &str) -> Result<File> {
    let failed = |error| cannot_write(path, error);
    let lock = File::options().create(true).append(true).open(path).map_err(failed)?;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        progress::check(&format!("waiting for another process that fetches {file}"))?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Asks for a file's name and size; nothing if the repository has no such file.
fn about(
    http: &Http,
    url: &str,
    repo: &str,
    at: &str,
) -> std::result::Result<Option<RemoteFile>, FetchError> {
    let answer = http.head(url)?;
    let wrong = |what: String| {
        FetchError::Failed(
            Error::new(ErrorKind::Hub, format!("{url} is not answered as by a hub: {what}")).help(
                "HF_ENDPOINT names the hub; a network that asks for a login answers in its place as well",
            ),
        )
    };
    match answer.status {
        200..400 => {}
        404 if answer.header("x-error-code") == Some("EntryNotFound") => return Ok(None),
        status => return Err(FetchError::Failed(http::status_error(status, &answer, url, repo, at))),
    }
    let commit = answer.header("x-repo-commit").unwrap_or(at).to_string();
    if !is_hex(&commit, 40) {
        return Err(wrong("it names no commit".into()));
    }
    let etag = answer.header("x-linked-etag").or_else(|| answer.header("etag")).unwrap_or_default();
    let etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !(1..=128).contains(&etag.len()) || !etag.bytes().all(allowed) {
        return Err(wrong("it names no ETag".into()));
    }
    let size = answer.header("x-linked-size").or_else(|| answer.header("content-length"));
    let size = size.and_then(|size| size.parse().ok()).ok_or_else(|| wrong("it gives no size".into()))?;
    Ok(Some(RemoteFile { commit, etag, size }))
}

/// Fetches a file beside its place, goes on where an earlier attempt broke off, checks it, and moves it there.
fn download(
    http: &Http,
    url: &str,
    about: &RemoteFile,
    file: &str,
    repo: &str,
    blob: &Path,
) -> std::result::Result<(), FetchError> {
    let mut part = blob.as_os_str().to_owned();
    part.push(".incomplete");
    let part = PathBuf::from(part);
    let failed = |error| FetchError::Failed(cannot_write(&part, error));
    let mut out = File::options().create(true).append(true).read(true).open(&part).map_err(failed)?;
    let mut have = out.metadata().map_err(failed)?.len();
    if have > about.size {
        out.set_len(0).map_err(failed)?;
        have = 0;
    }
    let work = Progress::of_bytes(&format!("fetching {file} of {repo}"), about.size as usize);
    work.begin_at(have as usize);
    let mut fruitless = 0;
    while have < about.size {
        let before = have;
        let mut take = |from: u64, chunk: &[u8]| -> Result<()> {
            // A server that cannot go on begins anew.
            if from != have {
                out.set_len(from).map_err(|error| cannot_write(&part, error))?;
                work.begin_at(from as usize);
                have = from;
            }
            let room = (about.size - have).min(chunk.len() as u64) as usize;
            out.write_all(&chunk[..room]).map_err(|error| cannot_write(&part, error))?;
            have += room as u64;
            work.advance(room)
        };
        let ended = http.get(url, before, repo, &mut take);
        match ended {
            Ok(()) if have >= about.size => break,
            Err(FetchError::Failed(error)) => return Err(FetchError::Failed(error)),
            Ok(()) | Err(FetchError::Unreachable(_)) => {}
        }
        fruitless = if have > before { 0 } else { fruitless + 1 };
        if fruitless > 2 {
            let why = ended.err().map_or_else(|| "it ended early".to_string(), |trouble| trouble.to_string());
            let (have, all) = (bytes(have as f64), bytes(about.size as f64));
            return Err(FetchError::Failed(
                Error::new(
                    ErrorKind::Hub,
                    format!("fetching {file} of `{repo}` broke off after {have} of {all}: {why}"),
                )
                .help("what is there is kept: call it again to go on from there"),
            ));
        }
        http::pause(Duration::from_millis(500 * fruitless), "the download")?;
    }
    drop(work);
    out.sync_all().map_err(failed)?;
    if let Some(found) = hash_mismatch(&mut out, &part, about)? {
        let _ = fs::remove_file(&part);
        return Err(FetchError::Failed(
            Error::new(
                ErrorKind::Hub,
                format!("{file} of `{repo}` came damaged: its hash is {found}, and should be {}", about.etag),
            )
            .help(
                "it was thrown away: call it again; if that does not help, something on the way changes it",
            ),
        ));
    }
    fs::rename(&part, blob).map_err(failed)?;
    Ok(())
}

/// The hash of a file, where it is not the hub's name for it: the SHA-256 of large files, Git's SHA-1 of small ones. Other
/// names say nothing.
fn hash_mismatch(file: &mut File, path: &Path, about: &RemoteFile) -> Result<Option<String>> {
    let mut hash = match about.etag.len() {
        64 if is_hex(&about.etag, 64) => Context::new(&SHA256),
        40 if is_hex(&about.etag, 40) => {
            let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            hash.update(format!("blob {}\0", about.size).as_bytes());
            hash
        }
        _ => return Ok(None),
    };
    let failed = |error| cannot_write(path, error);
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        progress::check("checking what was fetched")?;
        match file.read(&mut chunk).map_err(failed)? {
            0 => break,
            len => hash.update(&chunk[..len]),
        }
    }
    let found: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(found).filter(|found| !found.eq_ignore_ascii_case(&about.etag)))
}

/// Makes a snapshot's file point to its bytes, in one step.
#[cfg(unix)]
fn link_blob(path: &Path, _: &Path, etag: &str) -> Result<()> {
    let beside = path.with_file_name(format!(".{etag}.{}.link", std::process::id()));
    let _ = fs::remove_file(&beside);
    std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), &beside)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|error| cannot_write(path, error))
}

/// Where links need a privilege, the file is there itself, as Python's library does it.
#[cfg(not(unix))]
fn link_blob(path: &Path, blob: &Path, _: &str) -> Result<()> {
    match path.exists() {
        true => Ok(()),
        false => fs::rename(blob, path).map_err(|error| cannot_write(path, error)),
    }
}
