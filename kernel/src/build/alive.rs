//! Which sessions of a template are alive: each holds a lock on its folder as long as its kernel lives.

use std::fs::{self, File};
use std::path::Path;

fn is_alive(session: &Path) -> bool {
    match File::open(session.join("lock")) {
        Ok(file) => file.try_lock().is_err(),
        Err(_) => false,
    }
}

pub fn any_is_alive(sessions: &Path) -> bool {
    fs::read_dir(sessions).is_ok_and(|entries| entries.flatten().any(|entry| is_alive(&entry.path())))
}

/// Removes the folders of kernels that were killed.
pub fn remove_dead(sessions: &Path) {
    for entry in fs::read_dir(sessions).into_iter().flatten().flatten() {
        // One that is being made has no lock yet.
        let is_old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > 60));
        if is_old && !is_alive(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
