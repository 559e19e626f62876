//! Rust's tokens, and among them what a reader tells apart: types, functions, macros, and the commands to evcxr.

use ra_ap_rustc_lexer as rustc_lexer;
use ra_ap_syntax::{Edition, SyntaxKind};
use rustc_lexer::{FrontmatterAllowed, LiteralKind, TokenKind as Rustc};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TokenKind {
    Space,
    Comment,
    /// A literal in quotes of any kind.
    Text,
    Number,
    Keyword,
    Type,
    Function,
    /// With its `!`.
    Macro,
    Lifetime,
    /// A line that evcxr reads, as `:dep`.
    Command,
    Name,
    Punctuation,
}

const PRIMITIVE_TYPES: [&str; 17] = [
    "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "str", "u8", "u16", "u32",
    "u64", "u128", "usize",
];

/// The tokens of the code, all of it: joined they are the code again.
pub fn lex(code: &str) -> Vec<(TokenKind, &str)> {
    let mut tokens = Vec::new();
    let mut start = 0;
    while start < code.len() {
        let rest = &code[start..];
        let begins_line = start == 0 || code[..start].ends_with('\n');
        let command = if begins_line { command_length(rest) } else { None };
        let (kind, length) = command.map_or_else(|| token(rest), |length| (TokenKind::Command, length));
        tokens.push((kind, &rest[..length]));
        start += length;
    }
    tokens
}

/// The tokens without what stands between them.
pub fn lex_code(code: &str) -> impl Iterator<Item = (TokenKind, &str)> {
    lex(code).into_iter().filter(|(kind, _)| !matches!(kind, TokenKind::Space | TokenKind::Comment))
}

fn command_length(text: &str) -> Option<usize> {
    let line = text.lines().next()?;
    let is_command = line.strip_prefix(':')?.starts_with(|c: char| c.is_ascii_lowercase());
    is_command.then_some(line.len())
}

/// The kind and the length of the first token.
fn token(text: &str) -> (TokenKind, usize) {
    let Some(first) = rustc_lexer::tokenize(text, FrontmatterAllowed::No).next() else {
        return (TokenKind::Space, text.len());
    };
    let length = first.len as usize;
    let kind = match first.kind {
        Rustc::Whitespace => TokenKind::Space,
        Rustc::LineComment { .. } | Rustc::BlockComment { .. } => TokenKind::Comment,
        Rustc::Literal { kind: LiteralKind::Int { .. } | LiteralKind::Float { .. }, .. } => TokenKind::Number,
        Rustc::Literal { .. } => TokenKind::Text,
        Rustc::Lifetime { .. } | Rustc::RawLifetime | Rustc::UnknownPrefixLifetime => TokenKind::Lifetime,
        Rustc::Ident | Rustc::InvalidIdent | Rustc::RawIdent | Rustc::UnknownPrefix => {
            let (name, after) = text.split_at(length);
            name_kind(name, after)
        }
        _ => TokenKind::Punctuation,
    };
    (kind, length + usize::from(kind == TokenKind::Macro))
}

fn name_kind(name: &str, after: &str) -> TokenKind {
    let is_camel_case = name.starts_with(char::is_uppercase) && name.chars().any(char::is_lowercase);
    if SyntaxKind::from_keyword(name, Edition::Edition2024).is_some() {
        TokenKind::Keyword
    } else if PRIMITIVE_TYPES.contains(&name) || is_camel_case {
        TokenKind::Type
    } else if after.starts_with('!') && !after.starts_with("!=") {
        TokenKind::Macro
    } else if after.starts_with('(') || after.starts_with("::<") {
        TokenKind::Function
    } else {
        TokenKind::Name
    }
}

/// Where the code of a cell begins, behind commands to evcxr. For evcxr a comment with spaces before it is code already, which
/// makes no other Rust of it.
pub fn code_start(code: &str) -> usize {
    let mut start = 0;
    for line in code.split_inclusive('\n') {
        let is_command = line.starts_with('!') || line.trim_start_matches(' ').starts_with(':');
        let text = line.trim();
        if !(is_command || text.starts_with("//") || text.is_empty()) {
            break;
        }
        start += line.len();
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_their_kinds() {
        use TokenKind::{Command, Comment, Function, Keyword, Lifetime, Macro, Name, Number, Text, Type};
        for (code, kinds) in [
            ("let x = 1;", &[("let", Keyword), ("x", Name), ("1", Number)][..]),
            (
                "1.5e-3_f32 1..2 1.max(2)",
                &[
                    ("1.5e-3_f32", Number),
                    ("1", Number),
                    ("2", Number),
                    ("1", Number),
                    ("max", Function),
                    ("2", Number),
                ],
            ),
            ("0x1F-2", &[("0x1F", Number), ("2", Number)]),
            (
                "\"a \\\" b\" r#\"c\"d\"# b\"e\" b'f'",
                &[("\"a \\\" b\"", Text), ("r#\"c\"d\"#", Text), ("b\"e\"", Text), ("b'f'", Text)],
            ),
            (
                "'a' '\\'' '\\u{1f}' &'a str",
                &[("'a'", Text), ("'\\''", Text), ("'\\u{1f}'", Text), ("'a", Lifetime), ("str", Type)],
            ),
            ("// x \"\n/* /* */ */y", &[("// x \"", Comment), ("/* /* */ */", Comment), ("y", Name)]),
            ("println!(\"\")", &[("println!", Macro), ("\"\"", Text)]),
            ("a!=b r#type", &[("a", Name), ("b", Name), ("r#type", Name)]),
            (":dep x = \"1\nVec::<T>", &[(":dep x = \"1", Command), ("Vec", Type), ("T", Name)]),
            ("a ? b :dep", &[("a", Name), ("b", Name), ("dep", Name)]),
        ] {
            let is_seen =
                |(kind, _): &(TokenKind, &str)| !matches!(kind, TokenKind::Space | TokenKind::Punctuation);
            let tokens: Vec<_> =
                lex(code).into_iter().filter(is_seen).map(|(kind, text)| (text, kind)).collect();
            assert_eq!(tokens, kinds, "of {code:?}");
        }
    }

    #[test]
    fn code_begins_behind_commands() {
        for (before, code) in [
            ("", ""),
            ("", "let a = 1;\n:dep x"),
            (":dep x\n  :vars\n!ls\n\n// A comment.\n  // Another.\n", "1"),
            (":dep x", ""),
            (":dep x\r\n\r\n", "a\r\n"),
            ("\n", "  !a\n:dep x"),
            ("", "\t:dep x"),
            ("", "/* A comment. */\n:dep x"),
        ] {
            assert_eq!(code_start(&format!("{before}{code}")), before.len(), "{before:?}, {code:?}");
        }
    }

    #[test]
    fn any_text_is_lexed_whole() {
        let odd = "'\"\\/*r#\"é本'\\'b\"#![\n:x\n0x.e+'🦀 r##\"\"#";
        let characters: Vec<char> = odd.chars().collect();
        for start in 0..characters.len() {
            for end in start..=characters.len() {
                let code: String = characters[start..end].iter().collect();
                assert_eq!(lex(&code).iter().map(|(_, text)| *text).collect::<String>(), code);
            }
        }
    }
}
