//! Escape sequences of terminals in a text.

/// The escape sequence that text begins with, and what follows it.
pub fn split_escape(text: &str) -> Option<(&str, &str)> {
    let after = text.strip_prefix('\u{1b}')?;
    let length = if let Some(parameters) = after.strip_prefix('[') {
        let end = parameters.find(|c: char| ('\u{40}'..='\u{7e}').contains(&c));
        // One that was cut off: it ends with the line.
        let cut = || parameters.find('\n').unwrap_or(parameters.len());
        1 + end.map_or_else(cut, |end| end + 1)
    } else if let Some(command) = after.strip_prefix(']') {
        let bell = command.find('\u{7}').map(|end| end + 1);
        let string = command.find("\u{1b}\\").map(|end| end + 2);
        1 + bell.into_iter().chain(string).min().unwrap_or(command.len())
    } else {
        after.chars().next().map_or(0, char::len_utf8)
    };
    Some(text.split_at(1 + length))
}

/// The text without its colours and other sequences.
pub fn strip_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('\u{1b}') {
        plain.push_str(&rest[..start]);
        rest = split_escape(&rest[start..]).map_or("", |(_, after)| after);
    }
    plain + rest
}
