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
    TextFile::open(path, help)?.read()
}

/// A file of a sane size, of text mostly, to be read later: what becomes of its path meanwhile changes nothing.
pub(crate) struct TextFile {
    path: PathBuf,
    file: File,
    help: String,
}

impl TextFile {
    const LIMIT: u64 = 256 << 20;

    /// Fails if it cannot be read, or is too large; `help` says what such a file is for.
    pub(crate) fn open(path: &Path, help: &str) -> Result<TextFile> {
        let failed = |error: io::Error| unreadable(path, error, help);
        let metadata = fs::metadata(path).map_err(failed)?;
        // A pipe would be waited for.
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::File, format!("{} is not a file", path.display())).help(help));
        }
        let (len, limit) = (metadata.len(), TextFile::LIMIT);
        if len > limit {
            return Err(Error::new(ErrorKind::File, format!("{} has {len} bytes", path.display()))
                .help(format!("at most {limit} are read: it cannot be the file of a model")));
        }
        let file = File::open(path).map_err(failed)?;
        Ok(TextFile { path: path.into(), file, help: help.into() })
    }

    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub(crate) fn read_bytes(self) -> Result<Vec<u8>> {
        let TextFile { path, file, help } = self;
        let mut bytes = Vec::new();
        match file.take(TextFile::LIMIT).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(unreadable(&path, error, &help)),
        }
    }

    pub(crate) fn read(self) -> Result<String> {
        let TextFile { path, file, help } = self;
        let mut text = String::new();
        match file.take(TextFile::LIMIT).read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(error) => Err(unreadable(&path, error, &help)),
        }
    }
}

fn unreadable(path: &Path, error: io::Error, help: &str) -> Error {
    Error::new(ErrorKind::File, format!("cannot read {}", path.display())).caused_by(error).help(help)
}
