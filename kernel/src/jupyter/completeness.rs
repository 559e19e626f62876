//! Whether a cell could run as it stands, needs more lines, or cannot become right by adding any.

use ra_ap_syntax::{Edition, NodeOrToken, SourceFile, SyntaxKind};
use serde_json::{Value, json};

use crate::cell::body::CellBody;
use crate::cell::lex::code_start;
use crate::cell::nesting::is_too_deep;

#[derive(Clone, Debug, PartialEq)]
pub enum Completeness {
    Complete,
    Incomplete { indent: String },
    Invalid,
}

impl Completeness {
    pub fn reply(&self) -> Value {
        match self {
            Completeness::Complete => json!({"status": "complete"}),
            Completeness::Incomplete { indent } => json!({"status": "incomplete", "indent": indent}),
            Completeness::Invalid => json!({"status": "invalid"}),
        }
    }
}

pub fn check(code: &str) -> Completeness {
    let rust = &code[code_start(code)..];
    if is_too_deep(rust) {
        return Completeness::Invalid;
    }
    if rust.trim().is_empty() {
        return Completeness::Complete;
    }
    let Some(depth) = depth(rust) else { return Completeness::Invalid };
    if depth > 0 {
        return Completeness::Incomplete { indent: "    ".repeat(depth) };
    }
    let end = code.trim_end().len();
    let unfinished = |message: &str| message.contains("Missing trailing") || message.contains("unterminated");
    match CellBody::parse(code).first_error() {
        None => Completeness::Complete,
        Some((at, message)) if at >= end || unfinished(&message) => {
            Completeness::Incomplete { indent: String::new() }
        }
        Some(_) => Completeness::Invalid,
    }
}

/// How many brackets are open at the end; none if they do not match.
fn depth(code: &str) -> Option<usize> {
    let parsed = SourceFile::parse(code, Edition::Edition2024);
    let mut open = Vec::new();
    let tokens = parsed.syntax_node().descendants_with_tokens().filter_map(NodeOrToken::into_token);
    for token in tokens {
        let closes = match token.kind() {
            kind @ (SyntaxKind::L_CURLY | SyntaxKind::L_PAREN | SyntaxKind::L_BRACK) => {
                open.push(kind);
                continue;
            }
            SyntaxKind::R_CURLY => SyntaxKind::L_CURLY,
            SyntaxKind::R_PAREN => SyntaxKind::L_PAREN,
            SyntaxKind::R_BRACK => SyntaxKind::L_BRACK,
            _ => continue,
        };
        if open.pop() != Some(closes) {
            return None;
        }
    }
    Some(open.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_complete_or_not() {
        for code in [
            "",
            "1 + 1",
            "let x = 1;",
            "fn f() -> i32 {\n    1\n}",
            "for i in 0..3 { println!(\"{i}\"); }",
            ":dep ndarray = \"0.16\"\nlet x = 1;",
            "println!(\"(\");",
            "use headlight::prelude::*;",
            "model.run_with_cache(\"the cat\")?",
            "// a comment (",
            "let x =\n    !y;",
            "let s = \"\n:dep x\n\";",
        ] {
            assert_eq!(check(code), Completeness::Complete, "{code}");
        }
        for (code, indent) in [
            ("fn f() {", 4),
            ("let x = vec![", 4),
            ("if a {\n    g(", 8),
            ("let x =", 0),
            ("let x = 1", 0),
            ("1 +", 0),
            ("let s = \"abc", 0),
            ("/* a comment", 0),
            ("model.", 0),
        ] {
            assert_eq!(check(code), Completeness::Incomplete { indent: " ".repeat(indent) }, "{code}");
        }
        for code in ["}", "let = 3;", "f(]", "fn 3() {}", "let x = );", "let x = 1;\n:dep y"] {
            assert_eq!(check(code), Completeness::Invalid, "{code}");
        }
    }
}
