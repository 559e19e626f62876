//! Whether code is nested too deep to be parsed.

use crate::cell::lex::{TokenKind, lex};

/// Deeper than anybody writes; parsers of Rust call themselves for each level.
pub const MAX_DEPTH: usize = 256;

/// Whether code is nested so deep that parsing it would end the kernel. What is in texts and comments does not count.
pub fn is_too_deep(code: &str) -> bool {
    // For each bracket that is open, how many generics are open in it: a comparison begins one that never closes.
    let mut open = vec![0usize];
    let mut generics = 0usize;
    // Signs and keywords in a row, as in `!!!x`: each may hold all that follows.
    let mut prefixes = 0usize;
    let (mut before, mut spaced, mut opened) = ((TokenKind::Punctuation, ""), false, false);
    for (kind, text) in lex(code) {
        match kind {
            TokenKind::Space | TokenKind::Comment => {}
            TokenKind::Keyword => prefixes += 1,
            TokenKind::Punctuation if matches!(text, "!" | "-" | "*" | "&" | "|") => prefixes += 1,
            _ => prefixes = 0,
        }
        let is_punctuation = kind == TokenKind::Punctuation;
        for c in text.chars().filter(|_| is_punctuation) {
            let here = open.last_mut();
            match (c, here) {
                ('{', Some(here)) => {
                    generics -= std::mem::take(here);
                    open.push(0);
                }
                ('(' | '[', _) => open.push(0),
                (')' | ']' | '}', Some(here)) => {
                    generics -= std::mem::take(here);
                    if open.len() > 1 {
                        open.pop();
                    }
                }
                (';', Some(here)) => generics -= std::mem::take(here),
                ('<', Some(here)) => {
                    opened = match before {
                        (TokenKind::Punctuation, "<") => opened,
                        (TokenKind::Punctuation, ")" | "]" | "}" | "?") => false,
                        (TokenKind::Keyword | TokenKind::Punctuation, _) => true,
                        // With a space before it, `<` compares.
                        (TokenKind::Type | TokenKind::Name, name) => {
                            !spaced && name.starts_with(char::is_uppercase)
                        }
                        _ => false,
                    };
                    *here += usize::from(opened);
                    generics += usize::from(opened);
                }
                ('>', Some(here)) if *here > 0 && !matches!(before, (TokenKind::Punctuation, "-" | "=")) => {
                    *here -= 1;
                    generics -= 1;
                }
                _ => {}
            }
        }
        if open.len() - 1 + generics > MAX_DEPTH || prefixes > MAX_DEPTH {
            return true;
        }
        spaced = matches!(kind, TokenKind::Space | TokenKind::Comment);
        if !spaced {
            before = (kind, text);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_nested_is_too_deep() {
        let many = |text: &str| text.repeat(MAX_DEPTH + 50);
        let within = |open: &str, close: &str| format!("{}x{}", many(open), many(close));
        for code in [
            many("{}"),
            format!("let p = \"{}\";", many("(")),
            format!("let p = r#\"{}\"#;", many("[\"")),
            format!("let p = b\"{}\";", many("{")),
            format!("// {}\n/* {} */ 1", many("("), many("(")),
            format!("let p = [{}];", many("'(', ")),
            format!("let p = [{}];", many("a < b, ")),
            format!("let p = [{}];", many("a<b, ")),
            format!("let p = [{}];", many("1<<2, ")),
            format!("let p = [{}];", many("a <= b, ")),
            format!("let p = {} true;", many("f(a) < 3 && ")),
            format!("let p = {} true;", many("f(a)<3 && x[i]<4 && f()?<5 && ")),
            many("if A<B { f() }\n"),
            many("let x = a < B;\n"),
            many("fn f<T>(x: &'static T) -> Vec<T> { g(|_| 1) }\n"),
            format!("match x {{ {} }}", many("1 => 2, ")),
            format!("let v = vec![{}];", many("-1, &x, !y, ")),
            many("#[allow(dead_code)]\n"),
            format!("let v = vec![{}];", many("Vec::<Vec<u8>>::new(), ")),
        ] {
            assert!(!is_too_deep(&code), "{}", &code[..60.min(code.len())]);
        }
        for code in [
            many("{"),
            within("(", ")"),
            within("[", "]"),
            within("f(", ")"),
            within("{ ", " }"),
            format!("let x: {} = y;", within("Vec<", ">")),
            format!("f::<{}>()", within("Vec::<", ">")),
            format!("let x = {}T{}::X", many("<"), many(" as A>::B")),
            many("!"),
            many("- "),
            many("&"),
            many("return "),
            format!("#[{}", many("(")),
            format!("f(\"{}\", {}", many("("), many("(")),
        ] {
            assert!(is_too_deep(&code), "{}", &code[..60.min(code.len())]);
        }
    }
}
