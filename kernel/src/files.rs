//! Files written whole or not at all.

use std::io::Write;
use std::path::Path;

use crate::Result;

pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    file.write_all(content)?;
    file.persist(path).map_err(|error| format!("{} cannot be written: {}", path.display(), error.error))?;
    Ok(())
}
