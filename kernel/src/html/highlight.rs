//! Rust code with colours, as HTML.

use crate::cell::lex::{TokenKind, lex};
use crate::html::ansi::escape_html;

/// The code, escaped, its tokens in spans of the classes that the page has colours for.
pub fn html(code: &str) -> String {
    let tokens = lex(code);
    let mut out = String::new();
    let mut rest = &tokens[..];
    while let Some((kind, _)) = rest.first() {
        let (class, length) = match attribute_length(rest) {
            Some(length) => (Some("a"), length),
            None => (class(*kind), 1),
        };
        let text: String = rest[..length].iter().map(|(_, text)| escape_html(text)).collect();
        match class {
            Some(class) => out += &format!("<span class=\"{class}\">{text}</span>"),
            None => out += &text,
        }
        rest = &rest[length..];
    }
    out
}

fn class(kind: TokenKind) -> Option<&'static str> {
    Some(match kind {
        TokenKind::Comment => "c",
        TokenKind::Text => "s",
        TokenKind::Number => "n",
        TokenKind::Keyword => "k",
        TokenKind::Type => "t",
        TokenKind::Function => "f",
        TokenKind::Macro => "m",
        TokenKind::Lifetime => "l",
        TokenKind::Command => "d",
        TokenKind::Space | TokenKind::Name | TokenKind::Punctuation => return None,
    })
}

/// How many tokens the attribute has that they begin with, if they begin with one.
fn attribute_length(tokens: &[(TokenKind, &str)]) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map(|(_, text)| *text);
    let open = if text(1) == Some("!") { 2 } else { 1 };
    if text(0) != Some("#") || text(open) != Some("[") {
        return None;
    }
    let mut depth = 0;
    let close = tokens[open..].iter().position(|(_, text)| {
        match *text {
            "[" => depth += 1,
            "]" => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    close.map(|close| open + close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_gets_colours() {
        for (code, page) in [
            (
                "let a = f(1);",
                "<span class=\"k\">let</span> a = <span class=\"f\">f</span>(<span class=\"n\">1</span>);",
            ),
            ("\"<b>\"", "<span class=\"s\">&quot;&lt;b&gt;&quot;</span>"),
            ("#[derive(Debug)]\nX", "<span class=\"a\">#[derive(Debug)]</span>\nX"),
            (
                "#![doc = \"]\"]x[0]",
                "<span class=\"a\">#![doc = &quot;]&quot;]</span>x[<span class=\"n\">0</span>]",
            ),
            ("#[open", "#[open"),
            (":dep x\n'a", "<span class=\"d\">:dep x</span>\n<span class=\"l\">'a</span>"),
        ] {
            assert_eq!(html(code), page.replace("'", "&#39;"), "of {code:?}");
        }
    }
}
