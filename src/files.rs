//! Files: written whole or not at all, and read if they are of a sane size.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Writes a file whole or not at all: beside the target, then renamed.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_by(path, |beside| File::create(beside)?.write_all(bytes))
}

/// As [`write`], for what writes to a path itself.
pub(crate) fn write_by(path: &Path, produce: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}-{}.part", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let beside = PathBuf::from(beside);
    let written = File::create(&beside)
        .and_then(|file| file.metadata())
        .and_then(|made| {
            produce(&beside)?;
            // The safetensors library replaces the file by one that only its owner may read.
            fs::set_permissions(&beside, made.permissions())?;
            File::open(&beside)?.sync_all()
        })
        .and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        // What is left of a failed attempt goes too; that it cannot is no further news.
        let _ = fs::remove_file(&beside);
        Error::new(ErrorKind::File, format!("cannot write {}", path.display()))
            .caused_by(error)
            .help("check that its folder exists and may be written to")
    })
}

/// A text file of a sane size.
pub(crate) fn read_text(path: &Path, help: &str) -> Result<String> {
    const LIMIT: u64 = 256 << 20;
    let failed = |error: io::Error| {
        Error::new(ErrorKind::File, format!("cannot read {}", path.display())).caused_by(error).help(help)
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    // A pipe would be waited for.
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::File, format!("{} is not a file", path.display())).help(help));
    }
    let len = metadata.len();
    if len > LIMIT {
        return Err(Error::new(ErrorKind::File, format!("{} has {len} bytes", path.display()))
            .help(format!("at most {LIMIT} are read: it cannot be the file of a model")));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(LIMIT).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}
