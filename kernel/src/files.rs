//! Files written whole or not at all.

use std::io::Write;
use std::path::Path;

use crate::Result;

/// Writes the file. One that is there keeps its permissions.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // As any new file; temporary ones are usually their owner's alone.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder
        .tempfile_in(folder)
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    file.write_all(content)?;
    if let Ok(existing) = std::fs::metadata(path) {
        file.as_file().set_permissions(existing.permissions())?;
    }
    file.persist(path).map_err(|error| format!("{} cannot be written: {}", path.display(), error.error))?;
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn permissions_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        write_whole(&path, b"1").unwrap();
        assert_eq!(mode() & 0o600, 0o600);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        write_whole(&path, b"2").unwrap();
        assert_eq!((mode(), std::fs::read(&path).unwrap()), (0o640, b"2".to_vec()));
    }
}
