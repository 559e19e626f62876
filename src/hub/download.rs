//! Fetching one file: what the hub says of it, its bytes, and whether they are the right ones.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::error::{Error, ErrorKind, Result};
use crate::hub::cache::cannot_write;
use crate::hub::http;
use crate::hub::http::{FetchError, Http};
use crate::hub::names::is_hex;
use crate::progress;
use crate::progress::{Progress, bytes};

/// What the hub says of a file before it is fetched.
pub(super) struct RemoteFile {
    pub(super) commit: String,
    pub(super) etag: String,
    pub(super) size: u64,
}

/// Asks for a file's name and size; nothing if the repository has no such file.
pub(super) fn about(
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
pub(super) fn download(
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
