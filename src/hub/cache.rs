//! The cache that Python's libraries share.
//!
//! The layout: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>. A file's bytes lie in `blobs`, under
//! the hub's name for them; `snapshots/COMMIT/FILE` points there; `refs/REVISION` names a commit.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::hub::names::is_hex;
use crate::hub::settings::Settings;
use crate::progress;

/// The commit that a revision was when it was last looked up.
pub(super) fn commit_of(folder: &Path, revision: &str) -> Option<String> {
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

pub(super) fn is_complete(blob: &Path, size: u64) -> bool {
    fs::metadata(blob).is_ok_and(|found| found.is_file() && found.len() == size)
}

pub(super) fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::File, format!("cannot write {}", path.display()))
        .caused_by(error)
        .help("check that the disk has room and the folder may be written to, or set HF_HOME to another one")
}

pub(super) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| cannot_write(path, error))
}

/// Waits until no other process fetches the same file. The lock goes with its file's handle.
pub(super) fn lock(path: &Path, file: &str) -> Result<File> {
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

/// Makes a snapshot's file point to its bytes, in one step.
#[cfg(unix)]
pub(super) fn link_blob(path: &Path, _: &Path, etag: &str) -> Result<()> {
    let beside = path.with_file_name(format!(".{etag}.{}.link", std::process::id()));
    let _ = fs::remove_file(&beside);
    std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), &beside)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|error| cannot_write(path, error))
}

/// Where links need a privilege, the file is there itself, as Python's library does it.
#[cfg(not(unix))]
pub(super) fn link_blob(path: &Path, blob: &Path, _: &str) -> Result<()> {
    match path.exists() {
        true => Ok(()),
        false => fs::rename(blob, path).map_err(|error| cannot_write(path, error)),
    }
}
