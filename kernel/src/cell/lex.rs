//! Rust taken apart into words, for colours and for finding definitions. It need not understand what it reads.

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Space,
    Comment,
    Text,
    Number,
    Keyword,
    Type,
    Function,
    Macro,
    Lifetime,
    Attribute,
    /// A line that evcxr reads, as `:dep`.
    Command,
    Name,
    Punctuation,
}

impl Kind {
    /// The class that a page gives it, if it has a colour.
    pub fn class(self) -> Option<&'static str> {
        Some(match self {
            Kind::Comment => "c",
            Kind::Text => "s",
            Kind::Number => "n",
            Kind::Keyword => "k",
            Kind::Type => "t",
            Kind::Function => "f",
            Kind::Macro => "m",
            Kind::Lifetime => "l",
            Kind::Attribute => "a",
            Kind::Command => "d",
            Kind::Space | Kind::Name | Kind::Punctuation => return None,
        })
    }
}

const KEYWORDS: [&str; 39] = [
    "as", "async", "await", "break", "const", "continue", "crate", "dyn", "else", "enum", "extern", "false",
    "fn", "for", "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return",
    "self", "Self", "static", "struct", "super", "trait", "true", "type", "union", "unsafe", "use", "where",
    "while",
];
const PLAIN_TYPES: [&str; 17] = [
    "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "str", "u8", "u16", "u32",
    "u64", "u128", "usize",
];

/// The words of the code, all of it: joined they are the code again.
pub fn words(code: &str) -> Vec<(Kind, &str)> {
    let mut words: Vec<(Kind, &str)> = Vec::new();
    let mut rest = code;
    while !rest.is_empty() {
        let begins_line = words
            .iter()
            .rev()
            .find(|(_, word)| !word.is_empty())
            .is_none_or(|(_, word)| word.ends_with('\n'));
        let (kind, length) = match command(rest).filter(|_| begins_line) {
            Some(length) => (Kind::Command, length),
            None => word(rest),
        };
        let (this, after) = rest.split_at(length);
        words.push((kind, this));
        rest = after;
    }
    words
}

fn command(text: &str) -> Option<usize> {
    let line = text.lines().next()?;
    let named = line.strip_prefix(':')?.starts_with(|c: char| c.is_ascii_lowercase());
    named.then_some(line.len())
}

fn word(text: &str) -> (Kind, usize) {
    let Some(first) = text.chars().next() else { return (Kind::Space, 0) };
    if first.is_whitespace() {
        // A line end ends a word, so that one sees where lines begin.
        let end = text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len());
        return (Kind::Space, text.find('\n').map_or(end, |newline| end.min(newline + 1)));
    }
    if text.starts_with("//") {
        return (Kind::Comment, text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return (Kind::Comment, block_comment(text));
    }
    if let Some(length) = string(text) {
        return (Kind::Text, length);
    }
    if first == '\'' {
        return quote(text);
    }
    if first.is_ascii_digit() {
        return (Kind::Number, number(text));
    }
    if first == '#' && (text.starts_with("#[") || text.starts_with("#![")) {
        let end = text.find(']').map_or(text.len(), |end| end + 1);
        return (Kind::Attribute, text.find('\n').map_or(end, |newline| end.min(newline)));
    }
    let length = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
    if length == 0 {
        return (Kind::Punctuation, first.len_utf8());
    }
    let (name, after) = text.split_at(length);
    let kind = if KEYWORDS.contains(&name) {
        Kind::Keyword
    } else if PLAIN_TYPES.contains(&name) || (first.is_uppercase() && name.chars().any(char::is_lowercase)) {
        Kind::Type
    } else if after.starts_with('!') && !after.starts_with("!=") {
        Kind::Macro
    } else if after.starts_with('(') || after.starts_with("::<") {
        Kind::Function
    } else {
        Kind::Name
    };
    // The mark belongs to the macro's name.
    (kind, length + usize::from(kind == Kind::Macro))
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of a string literal of any kind; one that does not end goes on to the end.
fn string(text: &str) -> Option<usize> {
    let prefix = ["b", "c", ""].into_iter().find(|prefix| text.starts_with(prefix))?;
    let after = &text[prefix.len()..];
    if let Some(raw) = after.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = text.len() - raw.len() + hashes + 1;
            return Some(text[start..].find(&end).map_or(text.len(), |at| start + at + end.len()));
        }
    }
    if !after.starts_with('"') {
        return None;
    }
    let mut escaped = false;
    for (at, c) in after.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(prefix.len() + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// A character, or a lifetime.
fn quote(text: &str) -> (Kind, usize) {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => {
            characters.next();
            let end = characters.find(|(_, c)| matches!(c, '\'' | '\n'));
            (Kind::Text, end.map_or(text.len(), |(at, c)| at + usize::from(c == '\'')))
        }
        Some((_, first)) => match characters.next() {
            Some((at, '\'')) => (Kind::Text, at + 1),
            _ if is_word(first) => {
                let end = text[1..].find(|c: char| !is_word(c)).map_or(text.len(), |end| end + 1);
                (Kind::Lifetime, end)
            }
            _ => (Kind::Punctuation, 1),
        },
        None => (Kind::Punctuation, 1),
    }
}

fn number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let hexadecimal = text.starts_with("0x");
    let mut at = 0;
    while at < bytes.len() {
        let next = bytes.get(at + 1);
        let goes_on = match bytes[at] {
            b'_' => true,
            byte if byte.is_ascii_alphanumeric() => true,
            // Not a range, nor a method of an integer.
            b'.' => {
                !text[..at].contains('.')
                    && next.is_none_or(|next| *next != b'.' && *next != b'_' && !next.is_ascii_alphabetic())
            }
            b'+' | b'-' => !hexadecimal && at > 0 && matches!(bytes[at - 1], b'e' | b'E'),
            _ => false,
        };
        if !goes_on {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_their_kinds() {
        for (code, kinds) in [
            ("let x = 1;", vec![("let", Kind::Keyword), ("x", Kind::Name), ("1", Kind::Number)]),
            (
                "1.5e-3_f32 1..2 1.max(2)",
                vec![
                    ("1.5e-3_f32", Kind::Number),
                    ("1", Kind::Number),
                    ("2", Kind::Number),
                    ("1", Kind::Number),
                    ("max", Kind::Function),
                    ("2", Kind::Number),
                ],
            ),
            ("0x1F-2", vec![("0x1F", Kind::Number), ("2", Kind::Number)]),
            (
                "\"a \\\" b\" r#\"c\"d\"# b\"e\"",
                vec![("\"a \\\" b\"", Kind::Text), ("r#\"c\"d\"#", Kind::Text), ("b\"e\"", Kind::Text)],
            ),
            (
                "'a' '\\'' '\\u{1f}' &'a str",
                vec![
                    ("'a'", Kind::Text),
                    ("'\\''", Kind::Text),
                    ("'\\u{1f}'", Kind::Text),
                    ("'a", Kind::Lifetime),
                    ("str", Kind::Type),
                ],
            ),
            (
                "// x \"\n/* /* */ */y",
                vec![("// x \"", Kind::Comment), ("/* /* */ */", Kind::Comment), ("y", Kind::Name)],
            ),
            ("println!(\"\")", vec![("println!", Kind::Macro), ("\"\"", Kind::Text)]),
            ("a!=b", vec![("a", Kind::Name), ("b", Kind::Name)]),
            (
                ":dep x = \"1\"\nVec::<T>",
                vec![(":dep x = \"1\"", Kind::Command), ("Vec", Kind::Type), ("T", Kind::Name)],
            ),
            ("a ? b :dep", vec![("a", Kind::Name), ("b", Kind::Name), ("dep", Kind::Name)]),
            (
                "#[derive(Debug)]\nstruct X;",
                vec![("#[derive(Debug)]", Kind::Attribute), ("struct", Kind::Keyword), ("X", Kind::Name)],
            ),
        ] {
            let plain = |(kind, _): &(Kind, &str)| !matches!(kind, Kind::Space | Kind::Punctuation);
            let found: Vec<_> =
                words(code).into_iter().filter(plain).map(|(kind, word)| (word, kind)).collect();
            assert_eq!(found, kinds, "of {code:?}");
        }
    }

    #[test]
    fn any_text_is_taken_apart_whole() {
        let odd = "'\"\\/*r#\"é本'\\'b\"#![\n:x\n0x.e+'🦀 r##\"\"#";
        let characters: Vec<char> = odd.chars().collect();
        for start in 0..characters.len() {
            for end in start..=characters.len() {
                let code: String = characters[start..end].iter().collect();
                assert_eq!(words(&code).iter().map(|(_, word)| *word).collect::<String>(), code);
            }
        }
    }
}
