//! What was run, in this session and in earlier ones: a file with one line of JSON for each cell.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// As much of the file is read as anybody looks through.
const MAX_READ: u64 = 4 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub session: i32,
    pub line: usize,
    pub input: String,
    pub output: Option<String>,
}

pub struct History {
    file: Option<PathBuf>,
    session: i32,
    entries: Mutex<Vec<Entry>>,
}

impl History {
    /// The user's history; without a place for it, one that ends with the session.
    pub fn open() -> History {
        let folder = std::env::var_os("HEADLIGHT_DATA")
            .map(PathBuf::from)
            .or_else(|| dirs::data_dir().map(|folder| folder.join("headlight")));
        History::load(
            folder
                .filter(|folder| fs::create_dir_all(folder).is_ok())
                .map(|folder| folder.join("history.jsonl")),
        )
    }

    fn load(file: Option<PathBuf>) -> History {
        let entries: Vec<Entry> = file.as_ref().map(read).unwrap_or_default();
        let session = entries.iter().map(|entry| entry.session).max().unwrap_or(0) + 1;
        History { file, session, entries: Mutex::new(entries) }
    }

    pub fn add(&self, line: usize, input: &str, output: Option<String>) {
        let entry = Entry { session: self.session, line, input: input.to_string(), output };
        if let (Some(file), Ok(mut text)) = (&self.file, serde_json::to_string(&entry)) {
            text.push('\n');
            // One write of a whole line: kernels share the file.
            let opened = File::options().create(true).append(true).open(file);
            let _ = opened.and_then(|mut file| file.write_all(text.as_bytes()));
        }
        self.entries().push(entry);
    }

    pub fn tail(&self, n: usize) -> Vec<Entry> {
        let entries = self.entries();
        entries[entries.len().saturating_sub(n)..].to_vec()
    }

    /// The cells from `start` to before `stop` of a session: 0 is this one, -1 the one before.
    pub fn range(&self, session: i32, start: usize, stop: i32) -> Vec<Entry> {
        let session = if session > 0 { session } else { self.session + session };
        let stop = usize::try_from(stop).ok().filter(|stop| *stop > 0).unwrap_or(usize::MAX);
        let is_in_range = |entry: &&Entry| entry.session == session && (start..stop).contains(&entry.line);
        self.entries().iter().filter(is_in_range).cloned().collect()
    }

    /// The last `n` cells that match a pattern with `*` and `?`.
    pub fn search(&self, pattern: &str, unique: bool, n: usize) -> Vec<Entry> {
        let pattern: Vec<char> = pattern.chars().collect();
        let mut matching: Vec<Entry> = Vec::new();
        for entry in self.entries().iter().rev() {
            let input: Vec<char> = entry.input.chars().collect();
            let is_known = unique && matching.iter().any(|other| other.input == entry.input);
            if !is_known && matches(&pattern, &input) {
                matching.push(entry.clone());
            }
            if n > 0 && matching.len() == n {
                break;
            }
        }
        matching.reverse();
        matching
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        crate::sync::lock(&self.entries)
    }
}

fn read(file: &PathBuf) -> Vec<Entry> {
    let tail = || -> std::io::Result<String> {
        let mut file = File::open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MAX_READ)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = tail().unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Wildcards, in time that is at most the product of the lengths.
fn matches(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some('?') => (p, t) = (p + 1, t + 1),
            Some(c) if *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_over_sessions() {
        let folder = tempfile::tempdir().unwrap();
        let file = Some(folder.path().join("history.jsonl"));
        let first = History::load(file.clone());
        first.add(1, "let a = 1;", None);
        first.add(2, "a", Some("1".to_string()));
        fs::write(
            folder.path().join("history.jsonl"),
            [fs::read(file.clone().unwrap()).unwrap(), b"{broken\n".to_vec()].concat(),
        )
        .unwrap();
        let second = History::load(file);
        second.add(1, "let b = 2;", None);
        second.add(2, "a", Some("1".to_string()));
        let inputs = |entries: Vec<Entry>| -> Vec<(i32, usize)> {
            entries.iter().map(|entry| (entry.session, entry.line)).collect()
        };
        assert_eq!(inputs(second.tail(3)), [(1, 2), (2, 1), (2, 2)]);
        assert_eq!(inputs(second.range(0, 1, 2)), [(2, 1)]);
        assert_eq!(inputs(second.range(-1, 1, 9)), [(1, 1), (1, 2)]);
        assert_eq!(inputs(second.search("let ?*", false, 0)), [(1, 1), (2, 1)]);
        assert_eq!(inputs(second.search("a", true, 5)), [(2, 2)]);
        assert_eq!(inputs(second.search("*", false, 1)), [(2, 2)]);
        assert_eq!(inputs(second.search("nothing*", false, 1)), []);
    }
}
