//! Reading JSON that a person may have written: an error names the entry that is wrong.

use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};

/// As much of an entry as an error shows, in characters.
pub(crate) const LONGEST_SHOWN: usize = 80;

/// Reads JSON. An error names the entry that is wrong.
pub(crate) fn parse<T: DeserializeOwned>(path: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let at = entry_at(text, error.line(), error.column());
        let (at, mend) = match at.is_empty() {
            true => (at, ""),
            false => (format!(", at `{at}`"), "mend that entry, or "),
        };
        Error::new(ErrorKind::Config, format!("{path} is not what it should be{at}"))
            .caused_by(error)
            .help(format!("{mend}take the file that came with the model"))
    })
}

/// The entry of a JSON text that holds a place, where the place is inside one: serde's errors name no field.
fn entry_at(text: &str, line: usize, column: usize) -> String {
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().as_bytes();
    let (before, after) = line.split_at(column.saturating_sub(1).min(line.len()));
    let bounds = |byte: &u8| matches!(byte, b',' | b'{' | b'}');
    let start = before.iter().rposition(bounds).map_or(0, |at| at + 1);
    let end = before.len() + after.iter().position(bounds).unwrap_or(after.len());
    String::from_utf8_lossy(&line[start..end]).trim().chars().take(LONGEST_SHOWN).collect()
}
